"""The processes of one run: they connect, exchange texts and watch each other.

jax's coordination service ends a process by a C++ abort when another one has ended, and
names none. Therefore each process also connects to process 0, and a dead, stopped or
absent process is named in one line. A process makes progress while it reports steps,
encoded batches or saved bytes, compiles, or waits for a batch.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from clipjax.links import Link, Message, encode
from clipjax.pulse import pulse
from clipjax.types import UserError

STATUS = 1  # exit status of a process that ends because of another
GREETING = "clipjax peers 1"
_FLUSH_SECONDS = 2.0


class Peers:
    """This process's connections to the others.

    Args:
      address: (host, port) at which process 0 listens.
      timeout: seconds that a process may be absent, silent or without progress; 0: no
        limit.

    Raises UserError if not all of them connect in time.
    """

    def __init__(
        self, address: tuple[str, int], index: int, count: int, timeout: float
    ):
        self.index, self.count = index, count
        self.timeout = timeout or math.inf
        self.last_saved: Callable[[], str] = lambda: ""
        self.ending: Callable[[str], None] = lambda why: None
        self._address = address
        self._change = threading.Condition()
        self._links: dict[int, Link] = {}
        self._names = {index: _own_name()}
        self._beats: dict[int, tuple[float, Message]] = {}
        self._texts: dict[int, dict[int, str]] = {}  # exchange -> process -> text
        self._exchanges = 0
        self._finished: set[int] = set()  # processes that called finish
        self._over = False
        self._ending = threading.RLock()  # whose thread says why this process ends
        deadline = time.monotonic() + self.timeout
        if index == 0:
            self._listen(deadline)
        else:
            self._connect(deadline)
        now = time.monotonic()
        self._beats = {i: (now, {"idle": 0.0, "step": 0}) for i in range(count)}
        for link in self._links.values():
            link.start()
        threading.Thread(target=self._watch, name="clipjax-watch", daemon=True).start()

    def gather(self, text: str) -> list[str]:
        """The texts of all processes, in their order; every process must call it."""
        self._exchanges += 1
        number = self._exchanges
        if self.index:
            self._links[0].send({"kind": "text", "number": number, "text": text})
        else:
            self._store(number, 0, text)
        with self._change:
            self._change.wait_for(
                lambda: len(self._texts.get(number, ())) == self.count
            )
            by_process = self._texts.pop(number)
        texts = [by_process[i] for i in range(self.count)]
        if self.index == 0:
            self._send_all({"kind": "texts", "number": number, "texts": texts})
        pulse.beat()
        return texts

    def finish(self) -> None:
        """Waits until every process has called it; then any may end."""
        if self._over:
            return
        if self.index:
            self._links[0].send({"kind": "bye"})
        with self._change:
            self._finished.add(self.index)
            if self.index == 0:
                self._change.wait_for(lambda: len(self._finished) == self.count)
            else:
                self._change.wait_for(lambda: 0 in self._finished)
            self._over = True
        if self.index == 0:
            self._send_all({"kind": "bye"})
            for link in self._links.values():
                link.flush(_FLUSH_SECONDS)

    def claim_ending(self) -> None:
        """From now on only the caller's thread says why this process ends.

        If another thread is saying so, this call never returns. Processes that agree on
        an error raise it at once, and each would name the other after its own line.
        """
        self._ending.acquire()

    def fail(self, message: str, status: int) -> NoReturn:
        """Ends this process, after its own message, and tells the others the reason."""
        self.claim_ending()
        self._send_all({"kind": "failed", "process": self.index, "why": message})
        self._exit(status)

    def _listen(self, deadline: float) -> None:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        try:
            server = socket.create_server(
                ("", self._address[1]), family=family, dualstack_ipv6=dual
            )
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen on port {self._address[1]}, one above the "
                f"coordinator's ({error.strerror}): give another coordinator port"
            ) from error
        waiting: list[socket.socket] = []
        with server:
            while len(self._links) < self.count - 1:
                server.settimeout(_left(deadline))
                try:
                    connection, _ = server.accept()
                    connection.settimeout(5)
                    hello, reader = _first_message(connection)
                except (TimeoutError, BlockingIOError):
                    absent = set(range(self.count)) - {0, *self._links}
                    listed = ", ".join(map(str, sorted(absent)))
                    why = (
                        f"process {listed} of {self.count} has not connected within "
                        f"{self.timeout:g} s (mesh.timeout): start it too"
                    )
                    self._refuse(waiting, why)
                except (OSError, ValueError):
                    continue  # another program connected to this port
                if hello.get("greeting") != GREETING:
                    connection.close()
                    continue
                waiting.append(connection)
                other = hello["process"]
                if hello["count"] != self.count or other in {0, *self._links}:
                    self._refuse(
                        waiting,
                        f"{hello['name']} connected as process {other} of "
                        f"{hello['count']}: processes 0 to {self.count - 1} of "
                        f"{self.count} must connect, each once",
                    )
                self._names[other] = hello["name"]
                self._links[other] = self._link(connection, other, reader)
        for connection in waiting:
            connection.sendall(encode({"names": sorted(self._names.items())}))

    def _refuse(self, waiting: list[socket.socket], why: str) -> NoReturn:
        for connection in waiting:
            with contextlib.suppress(OSError):
                connection.sendall(encode({"refused": why}))
        raise UserError(why)

    def _connect(self, deadline: float) -> None:
        host, port = self._address
        absent = f"process 0 at {host}:{port} has not answered for {self.timeout:g} s"
        while True:
            try:
                connection = socket.create_connection(self._address, timeout=5)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(f"{absent} (mesh.timeout): {error}") from error
                time.sleep(0.2)
        me = {
            "process": self.index,
            "count": self.count,
            "name": self._names[self.index],
        }
        try:
            connection.sendall(encode({"greeting": GREETING, **me}))
            connection.settimeout(
                _left(deadline + 5)
            )  # process 0 names the missing one in time
            answer, reader = _first_message(connection)
        except (OSError, ValueError) as error:
            raise UserError(f"{absent} (mesh.timeout), or ended: {error}") from error
        if "refused" in answer:
            raise UserError(answer["refused"])
        self._names = dict(answer["names"])
        self._links[0] = self._link(connection, 0, reader)

    def _link(self, connection: socket.socket, other: int, reader) -> Link:
        def received(message: Message) -> None:
            self._receive(other, message)

        def closed() -> None:
            with self._change:
                expected = self._over or other in self._finished
            if not expected:
                self._end(f"{self._name(other)} ended without a word")

        return Link(connection, received, closed, reader)

    def _receive(self, other: int, message: Message) -> None:
        kind = message["kind"]
        if kind == "beat":
            self._beats[other] = (time.monotonic(), message)
        elif kind == "text":
            self._store(message["number"], other, message["text"])
        elif kind == "texts":
            for i, text in enumerate(message["texts"]):
                self._store(message["number"], i, text)
        elif kind == "bye":
            with self._change:
                self._finished.add(other)
                self._change.notify_all()
        elif kind == "failed":
            name = self._name(message["process"])
            self._end(f"{name} ended: {message['why']}")
        elif kind == "end":
            self._end(message["why"])

    def _store(self, number: int, process: int, text: str) -> None:
        with self._change:
            self._texts.setdefault(number, {})[process] = text
            self._change.notify_all()

    def _send_all(self, message: Message) -> None:
        for link in self._links.values():
            link.send(message)

    def _name(self, process: int) -> str:
        return f"process {process} of {self.count} ({self._names[process]})"

    def _watch(self) -> None:
        period = min(1.0, self.timeout / 4)
        while not self._over:
            time.sleep(period)
            now = time.monotonic()
            own = {"kind": "beat", "idle": pulse.idle(now), "step": pulse.step}
            self._beats[self.index] = (now, own)
            self._send_all(own)
            if why := self._verdict(now, 5 * period):
                self._end(why)

    def _verdict(self, now: float, quiet: float) -> str:
        """The fault and its process, if one is silent or none progresses; else ""."""
        others = self._links
        silence = {
            i: now - self._beats[i][0] for i in others if i not in self._finished
        }
        worst = max(silence, key=silence.__getitem__, default=None)
        if worst is not None and silence[worst] > self.timeout:
            return (
                f"{self._name(worst)} has not answered for {self.timeout:g} s "
                "(mesh.timeout)"
            )
        # A stopped process is silent; it is named once its silence is long enough.
        if self.index or any(gap > quiet for gap in silence.values()):
            return ""
        beats = {i: beat for i, (_, beat) in self._beats.items()}
        if min(beat["idle"] for beat in beats.values()) <= self.timeout:
            return ""
        steps = {i: beat["step"] for i, beat in beats.items()}
        first = min(steps.values())
        behind = [i for i, step in steps.items() if step == first]
        if len(behind) == self.count:
            return (
                f"none of the {self.count} processes has made progress for "
                f"{self.timeout:g} s (mesh.timeout), at step {first}"
            )
        return (
            f"{self._name(behind[0])} has made no progress for {self.timeout:g} s "
            f"(mesh.timeout), at step {first}"
        )

    def _end(self, why: str) -> NoReturn:
        """Ends this process because of another; only the first reason is printed."""
        self.claim_ending()
        if self.index == 0:
            self._send_all({"kind": "end", "why": why})
        saved = ""
        with contextlib.suppress(Exception):  # the reason is printed in any case
            saved = self.last_saved()
        with contextlib.suppress(Exception):
            self.ending(why)
        line = f"error: {why}{saved and '; '}{saved}. Start all processes again\n"
        sys.stdout.flush()
        os.write(2, line.encode("utf-8", "backslashreplace"))
        self._exit(STATUS)

    def _exit(self, status: int) -> NoReturn:
        for link in self._links.values():
            link.flush(_FLUSH_SECONDS)
        # Not sys.exit: jax's barrier at exit would wait for the process that ended.
        os._exit(status)


_group: Peers | None = None


def join(address: tuple[str, int], index: int, count: int, timeout: float) -> Peers:
    """Connects to the other processes; call it once per process."""
    global _group
    _group = Peers(address, index, count, timeout)
    return _group


def group() -> Peers | None:
    """The processes of this run; None if there is only this one."""
    return _group


def _own_name() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"


def _left(deadline: float) -> float | None:
    """Seconds to a deadline, for a socket; None for no limit."""
    if deadline == math.inf:
        return None
    return max(deadline - time.monotonic(), 1e-3)


def _first_message(connection: socket.socket) -> tuple[Message, object]:
    """The first message of a connection, and the reader of later ones."""
    reader = connection.makefile("rb")
    line = reader.readline(1 << 16)
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("no message")
    return message, reader
