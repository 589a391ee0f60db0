"""A relay to jax's coordination service that stays open when the service is lost.

A client that loses its connection to the service ends its process by a C++ abort.
Behind a relay it waits instead, and `clipjax.peers` reports in one line which process
is lost.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_CHUNK = 1 << 16


def start(address: tuple[str, int]) -> int:
    """Relays connections to `address`; returns the port on this host to connect to."""
    server = socket.create_server(("127.0.0.1", 0))
    _thread(_accept, server, address)
    return server.getsockname()[1]


def _accept(server: socket.socket, address: tuple[str, int]) -> None:
    while True:
        client, _ = server.accept()
        _thread(_open, client, address)


def _open(client: socket.socket, address: tuple[str, int]) -> None:
    while True:
        try:
            service = socket.create_connection(address, timeout=5)
            break
        except OSError:
            time.sleep(0.1)  # process 0 starts it only after joining the others
    for connection in (client, service):
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _thread(_copy, client, service, True)
    # The client's connection stays open if the service closes its own.
    _copy(service, client, False)


def _copy(source: socket.socket, target: socket.socket, close: bool) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    if close:
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _thread(work, *arguments) -> None:
    threading.Thread(
        target=work, args=arguments, name="clipjax-relay", daemon=True
    ).start()
