"""grafter as a user runs it: a process of its own, with a config file, on free ports, in a directory of its own."""

import asyncio
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.ports import free_ports

REPO = Path(__file__).parent.parent.parent

DEADLINE = 120.0
"""Seconds for a start, a stop and the like on a machine that is busy with other tests; not a promise of grafter's."""

QUICK = {"after_root": "300ms", "guest_quiet": "200ms", "for_guest": "10s", "local_root": "10s", "idle": "20s"}
"""Waits short enough for a test. for_guest only matters where a guest never becomes whole."""


class Grafter:
    """One grafter, started and ended as often as a test likes, always on the same ports and the same store."""

    def __init__(
        self,
        home: Path,
        exporters: Mapping[str, Any],
        wait: Mapping[str, str] | None = None,
        openai: Mapping[str, Any] | None = None,
        store: Mapping[str, Any] | None = None,
    ) -> None:
        self.home = home
        self.tree = REPO
        """Whose code runs from the next start on."""
        self._log = home / "grafter.log"
        self.config = home / "config.yaml"
        grpc, http, openai_port, health, metrics = free_ports(5)
        self.otlp_grpc = f"127.0.0.1:{grpc}"
        self.otlp_http = f"http://127.0.0.1:{http}"
        self.ingest = f"http://127.0.0.1:{openai_port}/v1/traces/ingest"
        self.webhooks = f"http://127.0.0.1:{openai_port}/webhooks/openai"
        self.calls = f"http://127.0.0.1:{openai_port}/v1/realtime/calls"
        self.admin = f"http://127.0.0.1:{openai_port}/admin/pull"
        self.health = f"http://127.0.0.1:{health}"
        self.metrics = f"http://127.0.0.1:{metrics}/metrics"
        self._process: asyncio.subprocess.Process | None = None
        protocols = {"grpc": {"endpoint": self.otlp_grpc}, "http": {"endpoint": f"127.0.0.1:{http}"}}
        config = {
            "receivers": {
                "otlp": {"protocols": protocols},
                "openai": {"endpoint": f"127.0.0.1:{openai_port}", **(openai or {})},
            },
            "processors": {"graft": {"wait": {**QUICK, **(wait or {})}}},
            "exporters": dict(exporters),
            "extensions": {
                "store": dict(store or {"embedded": {"directory": str(home / "store")}}),
                "health_check": {"endpoint": f"127.0.0.1:{health}"},
            },
            "service": {
                "pipelines": {
                    "traces": {
                        "receivers": ["otlp", "openai"],
                        "processors": ["graft"],
                        "exporters": list(exporters),
                    }
                },
                "telemetry": {"metrics": {"endpoint": f"127.0.0.1:{metrics}"}},
            },
        }
        self.config.write_text(yaml.safe_dump(config), encoding="utf-8")

    async def start(self, module: str = "grafter", *, ready: bool = True) -> None:
        """Return when /readyz answers 200. Fails with the log's end when the process ends or stays unready.

        ``module``: what is run in grafter's place, with its arguments. ``ready`` False: return at once.
        """
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", module, "run", "--config", str(self.config)),
                stdout=log,
                stderr=log,
                cwd=self.tree,
            )
        if ready:
            await self.until(self.is_ready, "ready")

    async def until(self, holds: Callable[[aiohttp.ClientSession], Awaitable[bool]], what: str) -> None:
        """Return when it holds, looking every 50 ms. Fails at the deadline, and as soon as the process is gone."""
        assert self._process is not None, "grafter is not running"
        ended = asyncio.ensure_future(self._process.wait())
        try:
            async with asyncio.timeout(DEADLINE), aiohttp.ClientSession() as session:
                while not await holds(session):
                    await asyncio.wait([ended], timeout=0.05)
                    assert not ended.done(), f"grafter ended with {ended.result()}:\n{self.log()}"
        except TimeoutError:
            raise AssertionError(f"not {what} within {DEADLINE} s:\n{self.log()}") from None
        finally:
            ended.cancel()

    async def is_ready(self, session: aiohttp.ClientSession) -> bool:
        """/readyz answers 200."""
        try:
            async with session.get(f"{self.health}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def ended(self) -> int:
        """Its exit code when it has ended by itself; negative for a signal."""
        process, self._process = self._process, None
        assert process is not None, "grafter is not running"
        return await asyncio.wait_for(process.wait(), DEADLINE)

    async def terminate(self) -> int:
        """SIGTERM, and its exit code when it is gone."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL: no chance to write or to say anything."""
        await self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: it is there, and does nothing more."""
        assert self._process is not None, "grafter is not running"
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None, "grafter is not running"
        self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "grafter is not running"
        return self._process.pid

    def is_alive(self) -> bool:
        """It was started, and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """As ``ended`` says it, of one that was not waited for; None while it is there."""
        return None if self._process is None else self._process.returncode

    async def command(self, *words: str) -> int:
        """Run a command of grafter's against it; its exit code."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "grafter", *words, "--config", str(self.config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=REPO,
        )
        return await process.wait()

    async def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None, "grafter is not running"
        if process.returncode is None:
            process.send_signal(how)
        try:
            return await asyncio.wait_for(process.wait(), DEADLINE)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"still there after {how.name}:\n{self.log()}") from None

    async def close(self) -> None:
        """Whatever the test left running."""
        if self._process is not None:
            await self.kill()

    def log(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:] if self._log.exists() else ""

    async def counters(self, session: aiohttp.ClientSession) -> dict[str, float]:
        """Each metric's sum over its labels, by its full name on the page."""
        async with session.get(self.metrics) as answer:
            page = await answer.text()
        sums: dict[str, float] = defaultdict(float)
        for line in page.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                sums[name.partition("{")[0]] += float(value)
        return sums
