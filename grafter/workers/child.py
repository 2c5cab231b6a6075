"""One worker: the service of a process that shares its ports, counts into shared files and answers to its parent.

Its counters live in files that outlive it, under its number: the worker that takes a dead one's place counts on from
there, so that a sum over the workers never falls.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial

import uvloop
from prometheus_client import values
from prometheus_client.samples import Sample

from grafter import logs
from grafter.health import Health
from grafter.memory_limit import total_memory
from grafter.process import end_by, failure_line, started, tune_allocator
from grafter.service import Running, Worker, running
from grafter.tasks import task_group
from grafter.workers.channel import ASK, STOP, Report, Start, receive_start
from grafter.workers.killed import counted, uncounted

logger = logging.getLogger(__name__)

# However often they come: systemd signals parent and workers alike, and it is the parent who decides that a stop takes
# too long.
_STOPS = (signal.SIGTERM, signal.SIGINT)


def main(descriptor: int) -> int:
    """Run until asked to stop, or until the parent is gone; the exit code, 0 after an orderly stop."""
    # Before there is anything to stop the parent's end of the channel says all.
    _on_stops(signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    try:
        start = receive_start(channel)
    except EOFError:
        # The parent stops, or is gone: there is nothing to begin.
        return 0
    before = counted(start.metrics, start.number)
    count_into(start.metrics, start.number)
    service, workers = start.config.service, start.config.service.workers
    logs.configure(service.telemetry.logs.level, service.telemetry.logs.encoding)
    _sign_logs(start.number)
    tune_allocator(total_memory(processes=workers))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(start, channel, before))


def _on_stops(then: Callable[[int, object], object] | signal.Handlers) -> None:
    # Not by the loop's own way: at its end the loop would give the signals their defaults back, and one that comes
    # while the interpreter ends, which takes some 0.3 s, would make an orderly stop a death by signal.
    for number in _STOPS:
        signal.signal(number, then)


def count_into(directory: str, number: int) -> None:
    """Have what this process counts, as the worker of that number, outlive it; before its first metric is made."""
    # The client library reads the directory from the environment, and names files after what this function says.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def _sign_logs(number: int) -> None:
    def sign(record: logging.LogRecord) -> bool:
        record.worker = number
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(sign)


async def _work(start: Start, channel: socket.socket, before: Sequence[Sample]) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    _on_stops(lambda _number, _frame: loop.call_soon_threadsafe(stop.set))
    served: Running | None = None
    health = Health()
    orphaned = False

    def report() -> Report:
        return Report(errors=health.errors()) if served is None else _report(served)

    async def listen() -> None:
        nonlocal orphaned
        orphaned = await _listen(reader, writer, report, stop)

    async with task_group() as tasks:
        listening = tasks.create_task(listen(), name="parent")
        try:
            worker = Worker(start.replica, start.number == 0, partial(uncounted, before))
            async with started(running(start.config, worker=worker, health=health), stop) as served:
                writer.write(report().to_line())
                await stop.wait()
                end_by(start.config.service.shutdown_timeout.seconds + 1.0)
            return 0
        except (OSError, ValueError) as error:
            writer.write(Report(error=failure_line(error)).to_line())
            return 1
        finally:
            _on_stops(signal.SIG_IGN)
            listening.cancel()
            writer.close()
            if orphaned:
                # Nobody else is left to do it.
                shutil.rmtree(start.metrics, ignore_errors=True)


async def _listen(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, report: Callable[[], Report], stop: asyncio.Event
) -> bool:
    """Answer the parent; True when it is gone, and nobody is left to work for."""
    while line := await reader.readline():
        if line == ASK:
            writer.write(report().to_line())
        elif line == STOP:
            stop.set()
    if not stop.is_set():
        logger.error("the parent is gone; stopping")
        stop.set()
    return True


def _report(served: Running) -> Report:
    served.count_recovered()
    health = served.health
    return Report(health.phase, health.takes_parts(), health.errors(), served.ports, served.held())
