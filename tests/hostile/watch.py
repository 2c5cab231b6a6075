"""What an attack costs a grafter, seen from outside: its memory at the most, and the longest wait for /healthz."""

import asyncio
import os
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.process import Grafter

MIB = 1 << 20
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Cost:
    """Of one attack."""

    before: int = 0
    peak: int = 0
    standstill: float = 0.0
    """Seconds: the longest answer of /healthz, or what Python computed meanwhile, where that is less. A machine that is
    busy with others, the attacker and the threads of grpc's core among them, makes any answer late; who is in its own
    way computes."""
    answers: list[Any] = field(default_factory=list)

    @property
    def memory(self) -> int:
        """Bytes above what the process had before."""
        return self.peak - self.before

    def __str__(self) -> str:
        return f"+{self.memory / MIB:.0f} MiB, /healthz at most {self.standstill * 1000:.0f} ms"


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _computed(pid: int) -> float:
    """Seconds of processor time, of all threads but those of grpc's core, which have names of their own and hold up
    nobody: of those that run Python each keeps the others from it."""
    ticks, own = 0, ""
    for thread in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda each: each.name != str(pid)):
        with suppress(OSError):
            name, _, rest = (thread / "stat").read_text().partition("(")[2].rpartition(")")
            own = own or name
            if name == own:
                ticks += sum(map(int, rest.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def watched(pid: int, health: str) -> Iterator[Cost]:
    """Measure while the context is open."""
    cost = Cost(before=_resident(pid), peak=_resident(pid))
    ended = threading.Event()

    def memory() -> None:
        while not ended.wait(0.01):
            try:
                cost.peak = max(cost.peak, _resident(pid))
            except OSError:
                return

    def heartbeat() -> None:
        while not ended.wait(0.02):
            began, computed = time.monotonic(), _computed(pid)
            try:
                _OPENER.open(f"{health}/healthz", timeout=60).read()
                computed = _computed(pid) - computed
            except OSError:
                return
            cost.standstill = max(cost.standstill, min(time.monotonic() - began, computed))

    threads = [threading.Thread(target=each) for each in (memory, heartbeat)]
    for thread in threads:
        thread.start()
    try:
        yield cost
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@asynccontextmanager
async def running(
    home: Path, change: Callable[[Path], object] = lambda _: None, **settings: Any
) -> AsyncIterator[tuple[Grafter, int]]:
    """A grafter of its own, and its process id; ``change`` may edit its config file."""
    grafter = Grafter(home, settings.pop("exporters", {"debug": {"verbosity": "basic"}}), **settings)
    change(grafter.config)
    await grafter.start()
    process = grafter._process
    assert process is not None
    try:
        yield grafter, process.pid
        assert process.returncode is None, "the process is alive"
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()
