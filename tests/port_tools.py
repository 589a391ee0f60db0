"""Ports for processes that a test starts."""

import pathlib
import random
import socket

RANGE = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000


def free_port() -> int:
    """A port that is free, and so is the next one, at which the processes of a run
    meet.

    The system itself gives neither to another program meanwhile, as it does with a port
    that was bound to 0 and closed. Test processes choose at random, so that two of them
    hardly have the same.
    """
    end = int(RANGE.read_text().split()[0]) if RANGE.exists() else 32_768
    draw = random.SystemRandom()
    for _ in range(1000):
        port = draw.randrange(min(LOWEST, end // 2), end - 1)
        if _is_free(port) and _is_free(port + 1):
            return port
    raise OSError(f"no two ports below {end} are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
