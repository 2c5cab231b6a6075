"""Workers over the store that they share: a real Redis, parts of a trace at whichever worker, one of them killed."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.components import Config, load
from grafter.workers.supervisor import Supervised, supervising
from tests.e2e.process import REPO
from tests.exporter.doubles import spans_in
from tests.faults.replica_books import sides
from tests.ports import free_ports
from tests.rig import recorded_call
from tests.store.redis.proxy import proxy
from tests.store.redis.servers import Server
from tests.test_service import PATIENCE, Backend, backend, get
from tests.workers.fleet import WORKERS, sections, sums
from tests.workers.test_workers_supervisor import ALL_READY, Sender, accepted_by, page, ready, trace, until

SPANS = len(spans_in(recorded_call()))


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    """One that many tests share, each with a prefix of its own."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def said(redis: Server, tmp_path: Path) -> dict[str, Any]:
    """Sections without a backend."""
    made = sections("http://127.0.0.1:1", tmp_path)
    made["extensions"]["store"] = {"redis": {"url": redis.url, "prefix": tmp_path.name}, "lease": "5s"}
    return made


def read(tmp_path: Path, said: dict[str, Any], out: Backend) -> Config:
    """As a user writes it, with every check of a config."""
    said["exporters"]["otlp_http"]["endpoint"] = out.url
    file = tmp_path / "config.yaml"
    file.write_bytes(orjson.dumps(said))
    return load([str(file)], env={})


def halves(number: int) -> list[bytes]:
    """One trace in two requests."""
    both = [ExportTraceServiceRequest.FromString(trace(number)) for _ in range(2)]
    for turn, half in enumerate(both):
        for resource_spans in half.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                del scope_spans.spans[turn::2]
    return [half.SerializeToString() for half in both]


async def balance(served: Supervised, accepted: int | None = None) -> dict[str, float]:
    """The page once the books balance, as they do when nothing is half-way and each worker has looked at Redis; with so
    many spans accepted, where that is known."""
    found: dict[str, float] = {}

    async def even() -> bool:
        nonlocal found
        found = await page(served)
        came, gone = sides(found)
        # What went from one worker to another did so in the books of both, once both have looked.
        crossed = found["grafter_taken_over_spans_total"] == found["grafter_handed_over_spans_total"]
        return accepted in (None, found["grafter_receiver_accepted_spans_total"]) and came == gone and crossed

    await until(even)
    return found


async def test_parts_of_a_trace_meet_whichever_worker_takes_them(said: dict[str, Any], tmp_path: Path) -> None:
    """Halves over new connections reach both workers; each trace leaves once, and the books of both balance."""
    said["processors"]["graft"]["wait"] |= {"after_root": "500ms", "idle": "5s"}
    # Nobody dies, and a lease that runs out on a busy machine would have spans leave twice.
    said["extensions"]["store"]["lease"] = "60s"
    async with backend() as out, supervising(read(tmp_path, said, out)) as served:
        sender = Sender(served.ports, bodies=halves)
        for _ in range(20):
            await sender.send()
        await out.spans(20 * SPANS)
        assert (sender.odd, sender.retries) == ([], 0)
        found = await balance(served, 20 * SPANS)
        for door in ("grpc", "http"):
            assert all(accepted_by(served, number, door) for number in range(WORKERS))
    assert found["grafter_exporter_sent_spans_total"] == 20 * SPANS
    assert found["grafter_taken_over_spans_total"] > 0
    assert len(out.peer.ids) == len(set(out.peer.ids)) == 20 * SPANS


async def test_what_is_held_is_counted_once(said: dict[str, Any], tmp_path: Path) -> None:
    """Both workers see the same store: it is held once, and at the next start recovered once."""
    said["processors"]["graft"]["wait"] = {"after_root": "10m", "idle": "20m"}
    async with backend() as out:
        for recovered, sends in ((0, 10), (10 * SPANS, 3)):
            async with supervising(read(tmp_path, said, out)) as served:
                sender = Sender(served.ports, first=recovered)
                for _ in range(sends):
                    await sender.send()
                assert_held(await balance(served, sends * SPANS), recovered, sends)
                # One that starts again finds what is held, and does not count it again.
                os.kill(served.fleet.pids[0], signal.SIGKILL)

                async def again(served: Supervised = served) -> bool:
                    found = await page(served)
                    return (found["grafter_worker_restarts_total"], found["grafter_workers"]) == (1, WORKERS)

                await until(again)
                assert_held(await balance(served, sends * SPANS), recovered, sends)
        assert out.peer.requests == []


def assert_held(found: dict[str, float], recovered: int, sends: int) -> None:
    """Recovered spans once, and with them what was sent since."""
    assert found["grafter_recovered_spans_total"] == recovered
    assert found["grafter_held_spans"] == recovered + sends * SPANS
    assert found["grafter_held_traces"] == recovered / SPANS + sends


async def test_the_command_runs_as_many_as_it_is_told(said: dict[str, Any], tmp_path: Path) -> None:
    """``--workers`` wins over the file: three work, and stop in order."""
    health, metrics = free_ports(2)
    said["extensions"]["health_check"]["endpoint"] = f"127.0.0.1:{health}"
    said["service"]["telemetry"]["metrics"]["endpoint"] = f"127.0.0.1:{metrics}"
    file = tmp_path / "config.yaml"
    file.write_bytes(orjson.dumps(said))
    command = (sys.executable, "-m", "grafter", "run", "--config", str(file), "--workers", "3")
    running = await asyncio.create_subprocess_exec(*command, cwd=REPO)
    try:

        async def answers() -> bool:
            assert running.returncode is None
            with contextlib.suppress(aiohttp.ClientError):
                return (await get(health, "/readyz"))[0] == 200
            return False

        await until(answers)
        assert sums((await get(metrics, "/metrics"))[1])["grafter_workers"] == 3
        running.terminate()
        async with asyncio.timeout(PATIENCE):
            assert await running.wait() == 0
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def test_a_killed_worker_loses_nothing_acknowledged(said: dict[str, Any], tmp_path: Path) -> None:
    """Under load, twice: every span that was acknowledged comes out, and a retry mended all that clients saw; and the
    books balance."""
    said["processors"]["graft"]["wait"] |= {"after_root": "500ms", "idle": "5s"}
    async with backend() as out, supervising(read(tmp_path, said, out)) as served:
        sender = Sender(served.ports, bodies=halves)
        ended = asyncio.Event()

        async def load() -> None:
            while not ended.is_set():
                await sender.send()

        async with asyncio.timeout(2 * PATIENCE), asyncio.TaskGroup() as tasks:
            loads = [tasks.create_task(load()) for _ in range(4)]
            for number in range(WORKERS):
                victim = served.fleet.pids[number]
                sent = sender.sent

                async def moved(sent: int = sent) -> bool:
                    return sender.sent >= sent + 20

                await until(moved)
                os.kill(victim, signal.SIGKILL)

                async def back(victim: int = victim) -> bool:
                    return victim not in served.fleet.pids and await ready(served) == ALL_READY

                await until(back)
            ended.set()
            await asyncio.wait(loads)
        assert sender.odd == []
        wanted = {span for number in range(1, sender.sent + 1) for span in ids(trace(number))}

        async def out_already() -> bool:
            return wanted <= set(out.peer.ids)

        await until(out_already)
        assert (await balance(served))["grafter_worker_restarts_total"] == WORKERS


MOMENTS = {
    "stored, and nobody was told": (b"EVALSHA", b"callsphere.call"),
    "sent, and not settled": (b"EVALSHA", b"\r\n$1\r\ns\r\n"),
}
"""By what its request has on the wire: the call's name, and the word for a claim that is settled."""


@pytest.mark.parametrize("moment", MOMENTS)
async def test_what_a_killed_worker_had_not_counted_is_recovered(
    said: dict[str, Any], redis: Server, tmp_path: Path, moment: str
) -> None:
    """All are killed when Redis has stored what they hear nothing of, or before it has settled what has left."""
    async with backend() as out, proxy(redis.port) as door:
        said["extensions"]["store"]["redis"]["url"] = f"redis://127.0.0.1:{door.port}/0"
        said["extensions"]["store"]["lease"] = "1s"
        async with supervising(read(tmp_path, said, out)) as served:
            sender = Sender(served.ports)
            await sender.send()
            await out.spans(SPANS)
            before = await balance(served, SPANS)

            def kill() -> None:
                for pid in served.fleet.pids:
                    os.kill(pid, signal.SIGKILL)

            door.cut_off(*MOMENTS[moment], done=moment.startswith("stored"), then=kill)
            async with asyncio.timeout(PATIENCE):
                await sender.send()
                await door.sprung.wait()

            async def all_again() -> bool:
                found = await balance(served, 2 * SPANS)
                out_again = found["grafter_exporter_sent_spans_total"] + found["grafter_merged_spans_total"]
                return (found["grafter_recovered_spans_total"], out_again) == (SPANS, 3 * SPANS)

            await until(all_again)
            assert before["grafter_recovered_spans_total"] == 0
    assert set(out.peer.ids) == ids(trace(1)) | ids(trace(2))


def ids(body: bytes) -> set[tuple[bytes, bytes]]:
    """Trace and span ids of a request."""
    return {(span.trace_id, span.span_id) for span in spans_in(body)}
