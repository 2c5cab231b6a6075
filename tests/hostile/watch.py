"""What an attack costs a grafter, seen from outside: its memory at the most, and the longest wait for /healthz."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.process import Grafter
from tests.hostile.watcher import resident

MIB = 1 << 20


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


@contextmanager
def watched(pid: int, health: str) -> Iterator[Cost]:
    """Measure while the context is open; what it cost is known afterwards."""
    cost = Cost(before=resident(pid))
    command = [sys.executable, str(Path(__file__).with_name("watcher.py")), str(pid), health]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        try:
            yield cost
        finally:
            most = json.loads(watcher.communicate()[0])
            cost.peak, cost.standstill = most["peak"], most["standstill"]


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
