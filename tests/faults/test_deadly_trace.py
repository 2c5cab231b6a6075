"""A trace that ends the process whenever it is worked on costs three ends, and no other trace."""

import asyncio
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.core.model import Key
from grafter.core.policy import Waits
from grafter.store.embedded.opening import opened
from grafter.store.embedded.settling import Begun
from tests.e2e.process import REPO, Grafter
from tests.store.redis.servers import server

PROTOBUF = {"Content-Type": "application/x-protobuf"}
TRACES = 150
DEADLY = 77


def trace_id(number: int) -> str:
    return f"{number + 1:032x}"


def request() -> bytes:
    """Traces of one root span each, one of them deadly."""
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    for number in range(TRACES):
        name = "deadly" if number == DEADLY else "call"
        scope.spans.add(trace_id=bytes.fromhex(trace_id(number)), span_id=b"12345678", name=name)
    return made.SerializeToString()


async def metric(grafter: Grafter, name: str) -> float:
    async with aiohttp.request("GET", grafter.metrics) as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", await answer.text(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_it_is_put_aside_after_three_ends_and_the_others_leave(tmp_path: Path) -> None:
    """The first end comes in a batch of all; by the third it is alone, and kept as a dead letter, with its id said."""
    out = tmp_path / "out.jsonl"
    grafter = Grafter(tmp_path, {"file": {"path": str(out)}}, wait={"after_root": "500ms"})
    command = (sys.executable, "-m", "tests.faults.deadly", "run", "--config", str(grafter.config))
    log = (tmp_path / "log").open("ab")
    ends = 0
    sent = False
    async with asyncio.timeout(120):
        while True:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=REPO)
            ended = asyncio.ensure_future(process.wait())
            while not ended.done():
                try:
                    if not sent:
                        url = f"{grafter.otlp_http}/v1/traces"
                        async with aiohttp.request("POST", url, data=request(), headers=PROTOBUF) as answer:
                            assert answer.status == 200
                            sent = True
                    if await metric(grafter, 'grafter_dead_spans_total{exporter="none",reason="deadly"}') == 1:
                        break
                except aiohttp.ClientError:
                    pass
                await asyncio.wait([ended], timeout=0.05)
            if not ended.done():
                break
            assert await ended == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
            ends += 1
        while await metric(grafter, "grafter_held_spans"):  # noqa: ASYNC110  # asked from outside
            await asyncio.sleep(0.05)
        process.terminate()
        assert await ended == 0
    log.close()
    assert ends == 3
    assert f"trace {trace_id(DEADLY)} ended the process 3 times" in (tmp_path / "log").read_text()
    lines = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    scopes = [scope for line in lines for one in line["resourceSpans"] for scope in one["scopeSpans"]]
    left = {span["traceId"] for scope in scopes for span in scope["spans"]}
    assert left == {trace_id(number) for number in range(TRACES) if number != DEADLY}
    store = opened(
        tmp_path / "store",
        waits=Waits(),
        max_bytes=1 << 30,
        max_trace_bytes=1 << 26,
        lease_ns=10**10,
        guests_apart=False,
    )
    async with store as kept:
        (letter,) = await kept.dead_letters(10)
        assert (letter.key.hex(), letter.reason, letter.spans) == (trace_id(DEADLY), "ended the process 3 times", 1)
        assert b"deadly" in letter.payload


@pytest.mark.slow
async def test_replicas_put_it_aside_after_three_of_them_died_of_it(tmp_path: Path) -> None:
    """On Redis another replica takes over what a dead one had; the third death is of the deadly trace alone, and each
    other trace leaves."""
    with server() as redis:
        store = {"redis": {"url": redis.url}, "lease": "5s"}
        running: list[tuple[Grafter, asyncio.subprocess.Process]] = []
        log = (tmp_path / "log").open("ab")

        async def start(number: int) -> None:
            home = tmp_path / str(number)
            home.mkdir()
            exporter = {"file": {"path": str(home / "out.jsonl")}}
            grafter = Grafter(home, exporter, wait={"after_root": "500ms"}, store=store)
            command = (sys.executable, "-m", "tests.faults.deadly", "run", "--config", str(grafter.config))
            running.append((grafter, await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=REPO)))

        async def of(grafter: Grafter, name: str) -> float:
            try:
                return await metric(grafter, name)
            except aiohttp.ClientError:
                return 0.0

        deaths = 0
        sent = buried = False
        try:
            await start(0)
            await start(1)
            async with asyncio.timeout(150):
                while not buried:
                    for grafter, process in list(running):
                        if process.returncode is not None:
                            assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
                            deaths += 1
                            running.remove((grafter, process))
                            await start(1 + deaths)
                        elif not sent:
                            with suppress(aiohttp.ClientError):
                                url = f"{grafter.otlp_http}/v1/traces"
                                async with aiohttp.request("POST", url, data=request(), headers=PROTOBUF) as answer:
                                    sent = answer.status == 200
                        buried |= await of(grafter, 'grafter_dead_spans_total{exporter="none",reason="deadly"}') == 1
                    await asyncio.sleep(0.05)
                while any([await of(grafter, "grafter_held_traces") for grafter, _ in running]):  # noqa: ASYNC110  # outside
                    await asyncio.sleep(0.05)
            for _, process in running:
                process.terminate()
                assert await process.wait() == 0
        finally:
            for _, process in running:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            log.close()
    assert deaths == 3
    assert f"trace {trace_id(DEADLY)} ended the process 3 times" in (tmp_path / "log").read_text()
    files = [tmp_path / str(number) / "out.jsonl" for number in range(2 + deaths)]
    lines = [orjson.loads(line) for file in files if file.exists() for line in file.read_bytes().splitlines()]
    scopes = [scope for line in lines for one in line["resourceSpans"] for scope in one["scopeSpans"]]
    left = {span["traceId"] for scope in scopes for span in scope["spans"]}
    assert left == {trace_id(number) for number in range(TRACES) if number != DEADLY}


def test_only_what_was_open_at_an_end_is_suspected(tmp_path: Path) -> None:
    """What was given back is not; an end in order leaves no suspect; each further end counts one more."""
    a, b, c, guest = Key(b"a" * 16), Key(b"b" * 16), Key(b"c" * 16), Key(b"g" * 32)
    first = Begun(tmp_path)
    first.begin([a, b, guest])
    first.end([b])
    second = Begun(tmp_path)
    assert second.suspects == {a: 1, guest: 1}
    second.begin([a, c])
    third = Begun(tmp_path)
    assert third.suspects == {a: 2, c: 1, guest: 1}
    assert sorted(third.group([a, c, guest])) == [c, guest]
    assert third.group([a]) == [a]
    third.begin([a])
    third.end([a, c])
    third.close()
    fourth = Begun(tmp_path)
    assert fourth.suspects == {guest: 1}
    fourth.begin([b])
    fourth.close()
    assert Begun(tmp_path).suspects == {guest: 1}


@pytest.mark.parametrize("cut", range(1, 40))
def test_notes_that_break_off_or_are_none_do_no_harm(tmp_path: Path, cut: int) -> None:
    """A file that ends anywhere, or holds anything, is read as far as it can be."""
    begun = Begun(tmp_path)
    begun.begin([Key(b"a" * 16)])
    begun.begin([Key(b"b" * 16)])
    file = tmp_path / "begun"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert Begun(tmp_path).suspects.keys() <= {b"a" * 16, b"b" * 16}
    file.write_bytes(bytes(reversed(whole)) + b"\xff" * cut)
    Begun(tmp_path)


def test_the_notes_do_not_grow_without_end(tmp_path: Path) -> None:
    begun = Begun(tmp_path)
    for number in range(3000):
        keys = [Key(number.to_bytes(8, "big") + at.to_bytes(8, "big")) for at in range(50)]
        begun.begin(keys)
        begun.end(keys)
    assert (tmp_path / "begun").stat().st_size < 3 << 20
    begun.begin([Key(b"z" * 16)])
    assert Begun(tmp_path).suspects == {b"z" * 16: 1}
