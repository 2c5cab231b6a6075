"""The two local doors: a stream for people, a file of JSON lines for programs."""

import asyncio
import fcntl
import io
import os
import resource
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TextIO

import orjson
import pytest

from grafter.consumer import OutTrace, Piece, Signal, Verdict
from grafter.core.model import Key
from grafter.errors import RejectedError
from grafter.exporter.answer import Attempt
from grafter.exporter.debug import DebugAttempt, DebugExporter, Verbosity
from grafter.exporter.file import FileAttempt
from grafter.exporter.sending import Sending
from grafter.otlp.build import request
from grafter.otlp.frames import run_of, spans_of
from grafter.otlp.from_json import trace_request_from_json
from grafter.telemetry import Metrics
from tests.exporter.doubles import ENVELOPE, Clock, batch, count, last_error, middle, span, spans_in, trace


def unreadable() -> OutTrace:
    """A trace whose one span is no protobuf inside, as a shallow split lets it through."""
    return OutTrace(Key(b"\xee" * 16), (Piece(ENVELOPE, b"\x12\x02\x0a\x7f", 1),), 1)


def local(attempt: Attempt, metrics: Metrics, **time: Any) -> Sending:
    """An exporter as the config of one on this machine has it."""
    own = DebugExporter()
    return Sending("out", attempt, metrics=metrics, retry=own.retry_policy(), limits=own.limits(), **time)


@asynccontextmanager
async def printing(
    stream: TextIO, *, metrics: Metrics, verbosity: Verbosity = "normal", **time: Any
) -> AsyncIterator[Sending]:
    """The debug exporter on a stream."""
    yield local(DebugAttempt(stream, verbosity), metrics, **time)


@asynccontextmanager
async def writing(path: Path, *, metrics: Metrics, fsync: bool = False, **time: Any) -> AsyncIterator[Sending]:
    """The file exporter on a file."""
    yield local(FileAttempt(path, fsync), metrics, **time)


async def test_debug_prints_each_trace() -> None:
    """Each trace of a batch is a tree in the stream, and its spans count as sent."""
    stream, metrics = io.StringIO(), Metrics()
    async with printing(stream, metrics=metrics) as exporter:
        results = await exporter.export(batch(trace(1, 2), trace(2, 1)))
        await exporter.forward(Signal.METRICS, b"12345")
    assert {r.verdict for r in results} == {Verdict.ACCEPTED}
    text = stream.getvalue()
    assert text.count("trace 0000000000000000000000000000000") == 2
    assert text.endswith("metrics: a request of 5 bytes\n")
    assert count(metrics, "exporter_sent_spans") == 3
    assert not stream.closed


async def test_debug_refuses_what_it_cannot_read_and_prints_the_rest() -> None:
    """A span that has not even a head costs its own trace only."""
    stream = io.StringIO()
    async with printing(stream, metrics=Metrics(), verbosity="basic") as exporter:
        results = await exporter.export(batch(trace(1), unreadable(), trace(2)))
    assert [r.verdict for r in results] == [Verdict.ACCEPTED, Verdict.REFUSED, Verdict.ACCEPTED]
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.parametrize(
    "kind", [b"\x4a\x00", b"\x5a\x00", b"\x4a\x04\x12\x02\x32\x00"], ids=["attributes", "events", "maps"]
)
async def test_a_span_of_too_many_values_is_refused_alone(kind: bytes, tmp_path: Path) -> None:
    """What would take hundreds of megabytes to show or write goes to the dead letters, and its neighbours arrive."""
    heavy = trace(2, 3)
    spans = [*spans_of(heavy.pieces[0].payload), span(2, 9) + kind * 300_000]
    heavy = OutTrace(heavy.key, (Piece(heavy.pieces[0].envelope, run_of(spans), 4),), 4)
    stream, path = io.StringIO(), tmp_path / "out.jsonl"
    async with printing(stream, metrics=Metrics()) as debug, writing(path, metrics=Metrics()) as file:
        for exporter in (debug, file):
            results = await exporter.export(batch(trace(1), heavy))
            assert [r.verdict for r in results] == [Verdict.ACCEPTED, Verdict.REFUSED]
            assert "100,000 attributes, events, links and values" in results[1].reason
            assert results[1].part is not None
            assert results[1].part.spans == 1
    written = [len(spans_in(trace_request_from_json(line))) for line in path.read_bytes().splitlines()]
    assert sum(written) == 2 + 3


async def test_debug_holds_traces_while_its_stream_is_shut() -> None:
    """A closed pipe is a peer that is down: traces stay held."""
    stream = io.StringIO()
    stream.close()
    async with printing(stream, metrics=Metrics(), clock=Clock(), random=middle) as exporter:
        results = await exporter.export(batch(trace(1)))
        assert results[0].verdict is Verdict.LATER
        assert exporter.retry_in() == 5.0


async def test_debug_prints_into_a_stream_of_few_letters() -> None:
    """A terminal that knows only ASCII gets question marks, not an error."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    async with printing(stream, metrics=Metrics()) as exporter:
        results = await exporter.export(batch(trace(1)))
    assert results[0].verdict is Verdict.ACCEPTED
    assert b"\n? work  0.0 ms" in raw.getvalue()


async def test_a_file_has_one_request_a_line(tmp_path: Path) -> None:
    """Each batch is a line of OTLP JSON that reads back to the same spans; an existing file is appended to."""
    path = tmp_path / "out.jsonl"
    batches = [batch(trace(1, 3), trace(2, 1)), batch(trace(3, 2, resend=True))]
    metrics = Metrics()
    for one in batches:
        async with writing(path, metrics=metrics, fsync=True) as exporter:
            assert {r.verdict for r in await exporter.export(one)} == {Verdict.ACCEPTED}
    lines = path.read_bytes().splitlines()
    assert [spans_in(trace_request_from_json(line)) for line in lines] == [spans_in(request(b.traces)) for b in batches]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert count(metrics, "exporter_sent_spans") == 6


async def test_concurrent_batches_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Batches that are exported together stand each in a line of its own."""
    path = tmp_path / "out.jsonl"
    async with writing(path, metrics=Metrics()) as exporter:
        await asyncio.gather(*(exporter.export(batch(trace(n, 50))) for n in range(20)))
    lines = path.read_bytes().splitlines()
    assert len(lines) == 20
    assert all(len(orjson.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]) == 50 for line in lines)


async def test_a_file_that_was_rotated_away_is_begun_anew(tmp_path: Path) -> None:
    """A log rotation needs no signal: the next batch makes the file again."""
    path = tmp_path / "out.jsonl"
    async with writing(path, metrics=Metrics()) as exporter:
        await exporter.export(batch(trace(1)))
        path.rename(tmp_path / "old.jsonl")
        await exporter.export(batch(trace(2)))
    assert len(path.read_bytes().splitlines()) == 1


async def test_half_a_line_of_a_dead_process_spoils_only_itself(tmp_path: Path) -> None:
    """A file that ends within a line gets its line break before the next request."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"resourceSp')
    async with writing(path, metrics=Metrics()) as exporter:
        await exporter.export(batch(trace(1)))
    first, second = path.read_bytes().splitlines()
    assert first == b'{"resourceSp'
    assert len(spans_in(trace_request_from_json(second))) == 2


def waited_for(descriptor: int) -> bool:
    """Whether somebody waits for the lock of an open file."""
    inode = f":{os.fstat(descriptor).st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


async def test_a_line_that_another_worker_takes_back_takes_no_other_with_it(tmp_path: Path) -> None:
    """While another process writes a line and takes it back, as on a full disk, this one waits with its own."""
    path = tmp_path / "out.jsonl"
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        os.write(other.fileno(), b'{"resourceSp')
        async with writing(path, metrics=Metrics()) as exporter:
            exporting = asyncio.ensure_future(exporter.export(batch(trace(1))))
            async with asyncio.timeout(30):
                while not waited_for(other.fileno()):
                    assert not exporting.done()
                    await asyncio.sleep(0)
            os.ftruncate(other.fileno(), 0)
            fcntl.flock(other, fcntl.LOCK_UN)
            await exporting
    (line,) = path.read_bytes().splitlines()
    assert len(spans_in(trace_request_from_json(line))) == 2


async def test_a_directory_that_is_away_holds_the_traces(tmp_path: Path) -> None:
    """An unwritable path is LATER with the path and the reason; when the directory is there the file is written."""
    path, clock = tmp_path / "away" / "out.jsonl", Clock()
    async with writing(path, metrics=Metrics(), clock=clock, random=middle) as exporter:
        result = (await exporter.export(batch(trace(1))))[0]
        assert (result.verdict, result.unknown) == (Verdict.LATER, False)
        assert "No such file or directory" in last_error(exporter)
        path.parent.mkdir()
        clock.now += exporter.retry_in()
        assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow past a size: writes then fail as on a full disk, after a part was written."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_disk_holds_the_traces_and_leaves_whole_lines(tmp_path: Path) -> None:
    """What could not be written whole is taken back and held; once there is room it is written once."""
    path, clock = tmp_path / "out.jsonl", Clock()
    async with writing(path, metrics=Metrics(), clock=clock, random=middle) as exporter:
        await exporter.export(batch(trace(1)))
        size = path.stat().st_size
        with file_size_limit(size + 100):
            result = (await exporter.export(batch(trace(2, 50))))[0]
        assert (result.verdict, result.unknown) == (Verdict.LATER, False)
        assert path.stat().st_size == size
        clock.now += exporter.retry_in()
        assert (await exporter.export(batch(trace(2, 50))))[0].verdict is Verdict.ACCEPTED
    assert [len(spans_in(trace_request_from_json(line))) for line in path.read_bytes().splitlines()] == [2, 50]


async def test_a_file_refuses_what_it_cannot_write_and_writes_the_rest(tmp_path: Path) -> None:
    """A span that has not even a head costs its own trace only, and other signals are refused."""
    path = tmp_path / "out.jsonl"
    async with writing(path, metrics=Metrics()) as exporter:
        results = await exporter.export(batch(trace(1), unreadable(), trace(2)))
        with pytest.raises(RejectedError, match="traces only"):
            await exporter.forward(Signal.LOGS, b"l")
    assert [r.verdict for r in results] == [Verdict.ACCEPTED, Verdict.REFUSED, Verdict.ACCEPTED]
    assert sum(len(spans_in(trace_request_from_json(line))) for line in path.read_bytes().splitlines()) == 4


async def test_a_pipe_can_stand_for_the_file(tmp_path: Path) -> None:
    """A path that is no regular file, such as a named pipe, is written to as it is."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with writing(path, metrics=Metrics()) as exporter:
            assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED
        assert len(spans_in(trace_request_from_json(os.read(reader, 65536).strip()))) == 2
    finally:
        os.close(reader)
