"""A parent and its workers as processes of their own: how they end, whoever is told to."""

import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import orjson
import psutil
import pytest

from tests.e2e.process import REPO
from tests.ports import free_ports
from tests.rig import recorded_call
from tests.test_service import (
    DOORS,
    METRICS,
    PATIENCE,
    PROTOBUF,
    HangingPeer,
    assert_free,
    export,
    get,
    post,
    refuses,
)
from tests.workers.fleet import WORKERS, place, sections


class Process:
    """A parent with its workers, on ports that are known."""

    def __init__(self, home: Path, peer: str) -> None:
        self.home = home
        self.ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
        self.sections = sections(peer, home)
        self.sections["processors"]["graft"]["wait"] = {"after_root": "10m", "idle": "20m"}
        # Long enough that a stop which waits for what hangs is told from one that does not.
        self.sections["service"]["shutdown_timeout"] = "120s"
        for door, port in self.ports.items():
            place(self.sections, door)["endpoint"] = f"127.0.0.1:{port}"
        self.running: asyncio.subprocess.Process | None = None
        self.workers: list[psutil.Process] = []

    async def start(self) -> None:
        """Return when /readyz answers 200."""
        (self.home / "config.json").write_bytes(orjson.dumps(self.sections))
        with (self.home / "log").open("ab") as log:
            command = (sys.executable, "-m", "tests.workers.fleet", str(self.home / "config.json"))
            self.running = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=REPO)
        async with asyncio.timeout(PATIENCE):
            while True:
                assert self.running.returncode is None, self.log()
                with contextlib.suppress(aiohttp.ClientError):
                    if (await get(self.ports["health"], "/readyz"))[0] == 200:
                        break
                await asyncio.sleep(0.02)
        self.workers = psutil.Process(self.running.pid).children()

    def tell(self, number: signal.Signals) -> None:
        """Signal the parent alone."""
        assert self.running is not None
        self.running.send_signal(number)

    async def ended(self) -> int:
        """The exit code, when it and its workers have ended."""
        assert self.running is not None
        async with asyncio.timeout(PATIENCE):
            code = await self.running.wait()
            await asyncio.gather(*(asyncio.to_thread(worker.wait, PATIENCE) for worker in self.workers))
        return code

    def counting(self) -> list[Path]:
        """Directories in which its workers count."""
        assert self.running is not None
        places = (Path("/dev/shm"), Path(tempfile.gettempdir()))
        return [found for place in places for found in place.glob(f"grafter-metrics-{self.running.pid}-*")]

    def log(self) -> str:
        """What all of them printed."""
        return (self.home / "log").read_text()


@pytest.fixture
async def grafter(tmp_path: Path, hanging: HangingPeer) -> AsyncIterator[Process]:
    """Workers that are ready."""
    process = Process(tmp_path, hanging.url)
    try:
        await process.start()
        assert process.counting()
        yield process
    finally:
        if process.running is not None and process.running.returncode is None:
            process.running.kill()
            await process.ended()
    # Whatever the end, nothing of the workers' counting stays behind.
    assert not process.counting()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_all_in_order(grafter: Process, hanging: HangingPeer, number: signal.Signals) -> None:
    """What was begun is answered, what is new is refused at every door, /readyz says so, and the exit code is 0."""
    port = grafter.ports["otlp_http"]
    begun = asyncio.ensure_future(post(port, "/v1/metrics", METRICS, PROTOBUF))
    await hanging.asked.wait()
    grafter.tell(number)
    await refuses(port)
    await refuses(grafter.ports["openai"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await export(grafter.ports["otlp_grpc"], recorded_call())
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    status, said = await get(grafter.ports["health"], "/readyz")
    assert (status, orjson.loads(said)["status"]) == (503, "stopping")
    assert not begun.done()
    hanging.answers.set()
    assert await begun == 200
    assert await grafter.ended() == 0
    assert "Traceback" not in grafter.log()
    assert f"{number.name}: stopping" in grafter.log()
    assert_free(grafter.ports)


async def test_a_second_signal_ends_all_at_once(grafter: Process, hanging: HangingPeer) -> None:
    """While a request hangs, a second SIGTERM ends parent and workers, with exit code 1."""
    port = grafter.ports["otlp_http"]
    begun = asyncio.ensure_future(post(port, "/v1/metrics", METRICS, PROTOBUF))
    await hanging.asked.wait()
    grafter.tell(signal.SIGTERM)
    await refuses(port)
    grafter.tell(signal.SIGTERM)
    # An orderly stop would wait for the hanging request, and end with 0.
    assert await grafter.ended() == 1
    with pytest.raises(aiohttp.ClientError):
        await begun
    assert "SIGTERM again: ending at once" in grafter.log()
    assert_free(grafter.ports)


async def test_a_signal_to_everybody_is_one_stop(grafter: Process) -> None:
    """As a terminal and systemd do it: parent and workers get it together, a worker also while it ends, and it is an
    orderly stop."""
    ended = asyncio.ensure_future(grafter.ended())
    to_parent = [signal.SIGINT]
    while not ended.done():
        for worker in grafter.workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGINT)
        if to_parent:
            grafter.tell(to_parent.pop())
        # A pace: each moment of a stop is to have its signal, and somebody has to be let run.
        await asyncio.wait([ended], timeout=0.01)
    assert await ended == 0, grafter.log()
    assert "Traceback" not in grafter.log()


async def test_workers_end_with_their_parent(grafter: Process) -> None:
    """A parent that is killed leaves no worker behind that would go on taking input unwatched."""
    assert len(grafter.workers) == WORKERS
    grafter.tell(signal.SIGKILL)
    assert await grafter.ended() == -signal.SIGKILL
    assert "the parent is gone; stopping" in grafter.log()
    assert_free(grafter.ports)


async def test_each_line_of_a_workers_log_says_whose_it_is(grafter: Process) -> None:
    """Lines of workers carry their number, those of the parent none."""
    running = [line for line in grafter.log().splitlines() if "is running" in line]
    assert sorted(line.partition("worker=")[2] for line in running) == ["", *map(str, range(WORKERS))]
