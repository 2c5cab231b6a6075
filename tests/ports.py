"""Ports for servers of tests: the one place that gives any away, and none twice.

A number that was only looked for may be somebody else's when the server starts: another test process found it at the
same moment, or the system gave it to an outgoing connection. So each number is claimed in a file that all test
processes of a user share, those of another suite on this machine too, and none is of the range that the system gives
away by itself. A server that can bind port 0, and keep what it got, needs nothing from here.
"""

import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path

_FIRST = 10_000
"""Below are the ports that programs have by habit."""
CLUSTER_BUS = 10_000
"""How far above its port a node of a Redis cluster takes another one."""


def room() -> range:
    """The ports that are given: below those that the system gives by itself, where that leaves enough of them."""
    try:
        ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except OSError:
        ephemeral = 32_768
    return range(_FIRST, ephemeral if ephemeral >= _FIRST + CLUSTER_BUS + 2_000 else 32_768)


class _Ports:
    """A lock on byte N of the file is a claim on port N. The system gives it back when the process ends, however it
    ends, and no child inherits it."""

    def __init__(self) -> None:
        path = Path(tempfile.gettempdir()) / f"grafter-test-ports-{os.getuid()}"
        # Never closed: closing any descriptor of the file would end all claims of this process.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._room = room()
        # From anywhere on, so that processes seldom get into each other's way.
        self._at = random.randrange(len(self._room))
        self._gone: set[int] = set()
        self._one_thread = threading.Lock()

    def draw(self, above: int) -> int:
        with self._one_thread:
            for at in range(self._at, self._at + len(self._room)):
                port = self._room[at % len(self._room)]
                if self._claim({port, port + above}):
                    # Who wants two passes over what others can still have.
                    self._at = self._at if above else at + 1
                    return port
        raise AssertionError(f"no port is left between {self._room.start} and {self._room.stop}")

    def _claim(self, ports: set[int]) -> bool:
        """All of them, or none: what is claimed in vain would be kept from everybody else."""
        if not all(port in self._room for port in ports) or ports & self._gone:
            return False
        claimed = []
        try:
            for port in ports:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                claimed.append(port)
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            for port in claimed:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, port)
            return False
        self._gone |= ports
        return True


_ports = _Ports()


def free_port(*, above: int = 0) -> int:
    """A port at which nobody listens, on any address of IPv4, and that no other draw on this machine gives while this
    process lives. With ``above`` the one that many above it is its owner's too."""
    return _ports.draw(above)


def free_ports(count: int) -> list[int]:
    """So many, as ``free_port`` gives them."""
    return [free_port() for _ in range(count)]
