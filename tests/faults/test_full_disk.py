"""A disk that is full to the last byte: nothing more comes in, what is held still leaves, and then the doors open.

Run as ``python -m tests.faults.test_full_disk DIRECTORY KIND`` it fills the disk and ends as by a kill; on stdout it
says how many spans were acknowledged.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.consumer import Batch, Result, Verdict
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.store.model import TASK_BYTES, Task
from tests.processor.test_call_records import call_rig
from tests.processor.test_call_records import request as of_a_call
from tests.processor.test_waits import ANCHOR, CALL, host, run_of_agents, summed
from tests.rig import ACCEPTED, START, Peer, Rig, rig

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 90.0

KINDS = {"small": (200, 1, 30), "some": (10, 10, 200), "large": (1, 100, 2000)}
"""Of a request: traces, spans of each, bytes of a span's name."""
FORMS = [pytest.param("small", marks=pytest.mark.slow), "some", pytest.param("large", marks=pytest.mark.slow)]
"""The others take long on a busy machine."""


class Backend(Peer):
    """Down until it is said to be up; it only counts, for of small traces there are many."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = lambda _batch: Result(Verdict.LATER, "down", 1.0)
        self.taken = 0

    async def export(self, batch: Batch) -> Sequence[Result]:
        result = self.answer(batch)
        if result.verdict is Verdict.ACCEPTED:
            self.taken += sum(trace.spans for trace in batch.traces)
        return [result] * len(batch.traces)


def request(first: int, kind: str) -> tuple[bytes, int]:
    """A request of whole traces, numbered from ``first``; and how many spans it has."""
    traces, spans, size = KINDS[kind]
    made = [
        Span(
            trace_id=(first + trace).to_bytes(16),
            span_id=(span + 1).to_bytes(8),
            parent_span_id=(1).to_bytes(8) if span else b"",
            name="x" * size,
            start_time_unix_nano=START,
            end_time_unix_nano=START + 5,
        )
        for trace in range(traces)
        for span in range(spans)
    ]
    whole = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=made)])])
    return whole.SerializeToString(), len(made)


async def fill(r: Rig, kind: str, first: int = 1) -> int:
    """Send until the disk is full; how many spans were acknowledged."""
    acknowledged = 0
    refusal = ""
    for number in range(first, first + 10_000_000, KINDS[kind][0]):
        body, spans = request(number, kind)
        try:
            await r.host(body)
        except UnavailableError as error:
            refusal = str(error)
            break
        acknowledged += spans
        if number % 50 == 1:
            # The backend is asked now and then, as it is while a disk fills up.
            await r.pass_time(0.1, 0.1)
    assert "disk is full" in refusal or "No space" in refusal
    assert r.store.full
    return acknowledged


async def drain(r: Rig) -> None:
    """Until nothing is held, and the doors are open again."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while r.store.stats().traces:
            await r.pass_time(30, 10)
            await asyncio.sleep(0)
        # It is the writer's own thread that is waited for.
        while r.store.full or not r.store.up:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB; skipped, and said so, where this user may not mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0755", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("kind", FORMS)
async def test_a_full_disk_drains_and_opens_again(small_disk: Path, kind: str) -> None:
    """Every span that was acknowledged leaves once the backend is back, and then parts are taken again: of small traces
    more is written to let them go than they held."""
    backend = Backend()
    async with rig(backend, directory=small_disk / "store") as r:
        sent = await fill(r, kind)
        assert sent > 1000
        backend.answer = lambda _batch: ACCEPTED
        await drain(r)
        assert backend.taken == sent
        await r.host(request(1, kind)[0])


@pytest.mark.slow
async def test_a_backend_that_stays_away_does_not_use_up_what_is_set_aside(small_disk: Path) -> None:
    """Each attempt to reach it costs a record or two; of those the log is cleaned while the disk is full."""
    backend = Backend()
    async with rig(backend, directory=small_disk / "store") as r:
        sent = await fill(r, "some")
        attempts = 0

        def down(batch: Batch) -> Result:
            nonlocal attempts
            attempts += len(batch.traces)
            return Result(Verdict.LATER, "down", 1.0)

        backend.answer = down
        async with asyncio.timeout(PATIENCE_SECONDS):
            # Their records are as much as the disk.
            while attempts < 60 * r.store.stats().traces:
                await r.pass_time(2, 2)
                await asyncio.sleep(0)
        backend.answer = lambda _batch: ACCEPTED
        await drain(r)
        assert backend.taken == sent


@pytest.mark.parametrize("kind", FORMS)
async def test_a_kill_on_a_full_disk_changes_nothing(small_disk: Path, kind: str) -> None:
    """The next process finds no room, takes nothing, and lets everything go all the same."""
    directory = small_disk / "store"
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.faults.test_full_disk", str(directory), kind],
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert run.stdout, run.stderr.decode()
    sent = int(run.stdout)
    backend = Backend()
    async with rig(backend, directory=directory, now=(START + 100 * SECOND,)) as r:
        await r.store.recovered()
        sent += await fill(r, kind, 1 << 40)
        backend.answer = lambda _batch: ACCEPTED
        await drain(r)
        assert backend.taken == sent


async def test_a_start_finds_a_disk_that_others_have_filled(small_disk: Path) -> None:
    """A stop in order takes away files of SQLite's, which a start makes again: in the room that is set aside."""
    backend = Backend()
    directory, ballast = small_disk / "store", small_disk / "ballast"
    async with rig(backend, directory=directory) as r:
        body, sent = request(1, "some")
        await r.host(body)
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    assert os.statvfs(small_disk).f_bavail == 0
    async with rig(backend, directory=directory, now=(START + 100 * SECOND,)) as r:
        await r.store.recovered()
        sent += await fill(r, "small", 1 << 40)
        ballast.unlink()
        backend.answer = lambda _batch: ACCEPTED
        await drain(r)
        assert backend.taken == sent


def fill_by_others(directory: Path) -> None:
    """Something else on the file system takes what is free."""
    with (directory / "others").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass


async def test_a_late_guest_with_sums_leaves_a_full_disk(small_disk: Path) -> None:
    """What its sums are of is noted in the room that is set aside; nothing beside it waits."""
    peer = Peer()
    async with rig(peer, directory=small_disk / "store") as r:
        await r.host(host())
        await r.pass_time(60)
        await r.guest(run_of_agents("a", ANCHOR.hex(), 7000))
        await r.host(host().replace(CALL, b"\x77" * 16))
        fill_by_others(small_disk)
        await r.pass_time(60, 5)
        assert r.store.stats().traces == 0
        assert len(summed(peer)) == 1
        came, became = r.books(len(peer.spans))
        assert came == became


async def test_a_call_is_written_down_and_settled_on_a_full_disk(
    small_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its record waits in the store, in the room that is set aside, for a database that is elsewhere."""
    async with call_rig(tmp_path_factory.mktemp("database"), directory=small_disk / "store") as made:
        await made.rig.host(of_a_call(1, call_id="CA" + "0" * 32))
        fill_by_others(small_disk)
        # What a door brings has to wait outside, and takes nothing of that room.
        with pytest.raises(UnavailableError):
            await made.rig.store.put_tasks([Task("door", "x", UnixNano(START), bytes(TASK_BYTES))], UnixNano(START))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await made.rig.pass_time(60, 5)
        assert made.rig.store.stats().traces == 0
        (found,) = await made.known()
        assert found.spans == 1


async def _fill_and_die(directory: Path, kind: str) -> None:
    async with rig(Backend(), directory=directory) as r:
        acknowledged = await fill(r, kind)
        os.write(1, str(acknowledged).encode())
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(_fill_and_die(Path(sys.argv[1]), sys.argv[2]))
