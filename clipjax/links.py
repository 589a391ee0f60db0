"""Connections that carry JSON lines between two processes; sending never blocks."""

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
      closed: called there once, after the other end closed.
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
        for target in (self._read, self._write):
            threading.Thread(target=target, name="clipjax-link", daemon=True).start()

    def send(self, message: Message) -> None:
        """Queues a message; it is lost if the other process has ended."""
        self._out.put(encode(message))

    def flush(self, seconds: float) -> None:
        """Waits until all queued messages are sent, `seconds` at most."""
        self._out.put(None)
        self._sent.wait(seconds)

    def _read(self) -> None:
        try:
            for line in self._reader:
                self._received(json.loads(line))
        except (OSError, ValueError):
            pass  # `closed` reports it
        self._closed()

    def _write(self) -> None:
        while (data := self._out.get()) is not None:
            try:
                self._connection.sendall(data)
            except OSError:
                break  # the reading thread reports it
        self._sent.set()


def encode(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"
