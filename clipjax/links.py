"""A connection between two processes that carries JSON lines; sending never blocks."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]


class Link:
    """One end of a connection; a thread reads and another writes.

    Args:
      received: called in the reading thread with each message.
      closed: called there once, when the other end is gone.
    """

    def __init__(
        self,
        connection: socket.socket,
        received: Callable[[Message], None],
        closed: Callable[[], None],
        reader: Any,
    ):
        connection.settimeout(None)
        self._connection = connection
        self._reader = reader
        self._received, self._closed = received, closed
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sent = threading.Event()

    def start(self) -> None:
        for work in (self._read, self._write):
            threading.Thread(target=work, name="clipjax-link", daemon=True).start()

    def send(self, message: Message) -> None:
        """Queues a message; one to a process that is gone is lost."""
        self._out.put(encoded(message))

    def flush(self, seconds: float) -> None:
        """Returns when what was queued is sent, after `seconds` at the latest."""
        self._out.put(None)
        self._sent.wait(seconds)

    def _read(self) -> None:
        try:
            for line in self._reader:
                self._received(json.loads(line))
        except (OSError, ValueError):
            pass  # told by `closed`
        self._closed()

    def _write(self) -> None:
        while (data := self._out.get()) is not None:
            try:
                self._connection.sendall(data)
            except OSError:
                break  # the reading thread sees it too
        self._sent.set()


def encoded(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"
