"""The parent of the workers: holds their ports, keeps them running, stops them, and answers operators for them all."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from aiohttp import web

from grafter import __version__
from grafter.announcing import log_config, open_log
from grafter.components import Config
from grafter.config.problems import path_of
from grafter.config.root import listening, with_ports
from grafter.core.retry import RetryPolicy
from grafter.health import Health, Phase, health_app
from grafter.process import failure_line, run_to_end, started, stop_signals
from grafter.receiver.address import check_all, holding
from grafter.receiver.http_server import serving
from grafter.tasks import task_group
from grafter.telemetry import Held
from grafter.workers.channel import ASK, STOP, Report, Start, read_report
from grafter.workers.page import CONTENT_TYPE, Page, Seen

logger = logging.getLogger(__name__)

# A worker that dies starts again soon, one that goes on dying ever later.
_RETRY = RetryPolicy(initial_interval=0.1, max_interval=30.0, multiplier=2.0, randomization_factor=0.0)
# One that lived this long did not die of its start.
_STEADY_SECONDS = 60.0
# A worker answers within milliseconds, unless a large request keeps it; whoever probes /readyz waits a second, often.
_ASK_SECONDS = 0.5
# Beyond shutdown_timeout, after which workers end by themselves.
_STOP_SECONDS = 3.0
_LINE_BYTES = 1 << 20
# Not on a disk: a page that is being written back would hold up whoever counts.
_MEMORY_DIRECTORY = Path("/dev/shm")


@dataclass(slots=True)
class _Worker:
    number: int
    process: asyncio.subprocess.Process | None = None
    """While it lives."""
    writer: asyncio.StreamWriter | None = None
    replica: bytes = field(default_factory=lambda: os.urandom(8))
    report: Report = field(default_factory=Report)
    """The latest."""
    held: Held | None = None
    """What it last reported of the store, in an earlier life too: until another is in its place that is held for it."""
    reports: list[asyncio.Future[None]] = field(default_factory=list)
    """Who waits for its next report."""
    error: str = ""
    """Why it does not work now."""

    @property
    def ready(self) -> bool:
        return self.process is not None and self.report.phase is Phase.RUNNING

    def send(self, line: bytes) -> None:
        if self.writer is not None:
            self.writer.write(line)

    def receive(self, report: Report | None) -> None:
        """A report came, or none will."""
        if report is not None:
            self.report = report
            self.held = report.held or self.held
        for waiting in self.reports:
            if not waiting.done():
                waiting.set_result(None)
        self.reports.clear()

    async def ask(self) -> None:
        """Bring the report up to date."""
        if self.writer is None:
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reports.append(waiting)
        self.send(ASK)
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await waiting
            self.error = self.error if self.process is None else ""
        except TimeoutError:
            self.error = "does not answer"
        finally:
            if waiting in self.reports:
                self.reports.remove(waiting)


class Fleet:
    """The workers of one parent."""

    def __init__(self, config: Config, directory: str) -> None:
        """``config``: without a port left to choose; ``directory``: where the workers count."""
        self._config = config
        self.directory = directory
        self._workers = [_Worker(number) for number in range(config.service.workers)]
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._failure = ""
        self._started = False
        self.restarts = 0
        self.orderly = True
        """Whether each worker that was asked to stop did so by itself."""
        self.page = Page(directory, self._seen)
        self.health = Health(errors=self._errors, takes_parts=self._takes_parts)
        if config.extensions.health_check is not None:
            self.health.readiness_on_store = config.extensions.health_check.readiness_on_store

    @property
    def pids(self) -> list[int]:
        """Of the workers that live, in their order."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    @property
    def ports(self) -> dict[str, int]:
        """By receiver, the same for each worker."""
        return next((worker.report.ports for worker in self._workers if worker.report.ports), {})

    async def refresh(self) -> None:
        """Bring what is known of the workers up to date."""
        await asyncio.gather(*(worker.ask() for worker in self._workers))
        if self._stop.is_set():
            self.health.phase = Phase.STOPPING
        elif self._started and any(worker.ready for worker in self._workers):
            # While one of them is away the others serve: who asks should not take them away too.
            self.health.phase = Phase.RUNNING
        else:
            self.health.phase = Phase.STARTING

    def kill(self) -> None:
        """End what lives of them, at once."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end_at_once(self) -> None:
        """The same where nothing runs after it: what the workers counted goes too."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the workers while the context is open; entered when all are ready.

        Raises OSError when one cannot start at first; one that ends later is started again.
        """
        async with task_group() as tasks:
            keeping = [tasks.create_task(self._keep(one), name=f"worker.{one.number}") for one in self._workers]
            try:
                while not self._failure and not all(worker.ready for worker in self._workers):
                    await self._changed.wait()
                    self._changed.clear()
                if self._failure:
                    raise OSError(self._failure)
                self._started = True
                yield
            finally:
                self._stop.set()
                for worker in self._workers:
                    worker.send(STOP)
                _, late = await asyncio.wait(
                    keeping, timeout=self._config.service.shutdown_timeout.seconds + _STOP_SECONDS
                )
                if late:
                    self.orderly = False
                    logger.error("%d workers did not stop within shutdown_timeout; ending them", len(late))
                    self.kill()

    async def _keep(self, worker: _Worker) -> None:
        """Have the worker running until the stop."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while not self._stop.is_set():
            began = clock()
            worker.report = Report()
            try:
                ended = await self._live(worker)
                how = worker.report.error or _how(ended)
            except OSError as error:
                # Too many processes, or no memory for one more.
                ended, how = 1, f"could not be started: {failure_line(error)}"
            if self._stop.is_set():
                self.orderly &= ended == 0
                return
            if not self._started:
                self._failure = self._failure or worker.report.error or f"a worker {how} before it was ready"
                self._changed.set()
                return
            failures = 0 if clock() - began >= _STEADY_SECONDS else failures + 1
            delay = _RETRY.wait(failures + 1, 0.5)
            worker.error = f"{how}; starts again"
            self.restarts += 1
            logger.error("a worker %s; starting it again in %.1f s", how, delay, extra={"worker": worker.number})
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stop.wait()

    async def _live(self, worker: _Worker) -> int:
        """One life of the worker; the exit code, negative for the signal that ended it."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "grafter.workers", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A terminal's signals are for the parent, which passes them on.
                start_new_session=True,
                # The same grafter, from wherever this one was started.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        worker.process = process
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LINE_BYTES)
        try:
            if self._stop.is_set():
                writer.close()
            else:
                writer.write(Start(worker.number, self.directory, worker.replica, self._config).to_bytes())
                # Not earlier: a Start comes first.
                worker.writer = writer
            with suppress(ConnectionError):
                while line := await reader.readline():
                    worker.receive(read_report(line))
                    self._changed.set()
            return await process.wait()
        finally:
            worker.process = worker.writer = None
            worker.receive(None)
            writer.close()
            self.page.forget(worker.number)

    def _errors(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for worker in self._workers:
            if not worker.ready or worker.error:
                found[f"worker {worker.number}"] = worker.error or worker.report.phase.value
            found = {**worker.report.errors, **found} if worker.process is not None else found
        return found

    def _takes_parts(self) -> bool:
        return all(worker.report.takes_parts for worker in self._workers)

    def _seen(self) -> Seen:
        # Of the store itself each says the same; one that does not answer says it as it was.
        known = sorted(self._workers, key=lambda one: bool(one.error))
        helds = [worker.held for worker in known if worker.held is not None]
        used = getrusage(RUSAGE_CHILDREN)
        return Seen(
            running=sum(worker.ready for worker in self._workers),
            restarts=self.restarts,
            held=Held.together(helds) if helds else None,
            pids=self.pids,
            ended_cpu_seconds=used.ru_utime + used.ru_stime,
        )


def _how(ended: int) -> str:
    if ended >= 0:
        return f"ended with exit code {ended}"
    try:
        return f"was ended by {signal.Signals(-ended).name}"
    except ValueError:
        return f"was ended by signal {-ended}"


@dataclass(slots=True)
class Supervised:
    """Workers that run."""

    fleet: Fleet
    ports: dict[str, int] = field(default_factory=dict)
    """By receiver, health and metrics too."""


@asynccontextmanager
async def supervising(config: Config) -> AsyncIterator[Supervised]:
    """Run ``service.workers`` processes of what the config names until left.

    Raises OSError or ValueError, with a message for people, when something cannot be opened.
    """
    await check_all((path_of(loc), endpoint) for loc, endpoint in listening(config))
    async with AsyncExitStack() as stack:
        held = {
            loc: await stack.enter_async_context(holding(endpoint))
            for loc, endpoint in listening(config)
            if loc[0] == "receivers"
        }
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(
                prefix=f"grafter-metrics-{os.getpid()}-",
                dir=_MEMORY_DIRECTORY if os.access(_MEMORY_DIRECTORY, os.W_OK) else None,
                ignore_cleanup_errors=True,
            )
        )
        fleet = Fleet(with_ports(config, held), directory)
        supervised = Supervised(fleet)
        if config.extensions.health_check is not None:
            _, supervised.ports["health"] = await stack.enter_async_context(
                serving(health_app(fleet.health, fleet.refresh), config.extensions.health_check.endpoint, None, 1.0)
            )
        _, supervised.ports["metrics"] = await stack.enter_async_context(
            serving(_metrics_app(fleet), config.service.telemetry.metrics.endpoint, None, 1.0)
        )
        await stack.enter_async_context(fleet.running())
        supervised.ports |= fleet.ports
        logger.info(
            "grafter %s is running, %d workers", __version__, config.service.workers, extra=dict(supervised.ports)
        )
        yield supervised


def _metrics_app(fleet: Fleet) -> web.Application:
    async def scrape(_request: web.Request) -> web.Response:
        await fleet.refresh()
        return web.Response(body=fleet.page.text(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape)])
    return app


async def _serve(config: Config, files: Sequence[str]) -> int:
    fleet: Fleet | None = None
    with stop_signals(lambda: fleet.end_at_once() if fleet is not None else None) as stop:
        async with started(supervising(config), stop) as supervised:
            if supervised is None:
                return 0
            fleet = supervised.fleet
            log_config(config, files)
            await stop.wait()
    return 0 if fleet.orderly else 1


def run(config: Config, files: Sequence[str] = ()) -> int:
    """Run until SIGTERM or SIGINT; the exit code: 0 after an orderly stop, 1 when it could not start or failed.

    ``files``: where the config came from.
    """
    open_log(config)
    return run_to_end(_serve(config, files))
