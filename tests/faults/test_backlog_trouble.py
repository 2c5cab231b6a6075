"""What goes wrong between the steps of a backlog: nothing comes twice unmarked, and nothing is stuck behind another."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from grafter.consumer import Batch, Result, Verdict
from grafter.core.model import Part, UnixNano
from grafter.core.policy import SECOND, GraftPolicy, Waits
from grafter.errors import UnavailableError
from grafter.processor.assembling import Assembler
from grafter.processor.lanes import Lanes, Limits
from grafter.processor.processor import Processor
from grafter.store.model import PlainBatch
from grafter.tasks import task_group
from tests.faults.test_slow_exporter import SOON, RealTime, Sink, asks_for_later, away, books, empty, trace, well
from tests.processor.test_processor import host_request
from tests.rig import ACCEPTED, Peer, Rig, rig
from tests.store.redis.servers import Server, server

_PREFIXES = itertools.count()
QUICK = GraftPolicy(waits=Waits(after_root=SECOND, local_root=SECOND, idle=SECOND))
Open = Callable[..., AbstractAsyncContextManager[Rig]]


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=["disk", "redis"])
def open_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store as often as it is called."""
    if request.param == "disk":
        more: dict[str, Any] = {"directory": tmp_path}
    else:
        more = {"redis": {"url": request.getfixturevalue("redis").url, "prefix": f"trouble-{next(_PREFIXES)}"}}
    return lambda *peers, **given: rig(*peers, **{"policy": QUICK, **more, **given})


def rootless(number: int) -> bytes:
    """One that leaves by itself and not in a plain batch, since its root never comes."""
    return host_request(number.to_bytes(16, "big"), (1, 9, "call"))


def once_or_marked(sink: Sink) -> bool:
    return all(times == 1 for times in sink.unmarked.values())


def fails_after(rooms: Rig, monkeypatch: pytest.MonkeyPatch, *, times: int, of: str = "") -> list[str]:
    """What is put off is stored, but the answer gets lost, so many times; for one exporter alone if it is named. For
    whom it was stored."""
    defer, asked = rooms.store.defer, list[str]()

    async def unanswered(exporter: str, parts: Sequence[Part], now: UnixNano) -> None:
        await defer(exporter, parts, now)
        if of in ("", exporter):
            asked.append(exporter)
            if len(asked) <= times:
                raise UnavailableError("no answer within 1 s", reason="store_down")

    monkeypatch.setattr(rooms.store, "defer", unanswered)
    return asked


@pytest.mark.parametrize("kind", [trace, rootless])
async def test_what_was_put_off_without_an_answer_is_marked_when_it_comes_again(
    open_rig: Open, monkeypatch: pytest.MonkeyPatch, kind: Callable[[int], bytes]
) -> None:
    fast, other = Sink("fast"), Sink("other")
    away(other)
    async with open_rig(fast, other) as rooms:
        asked = fails_after(rooms, monkeypatch, times=1)
        for number in range(1, 4):
            await rooms.host(kind(number))
        await rooms.pass_time(120, step=4)
        assert len(asked) > 1
        well(other)
        await rooms.pass_time(40, step=4)
        await empty(rooms)
        assert set(other.traces) == set(fast.traces) == {1, 2, 3}
        assert once_or_marked(other)
        assert once_or_marked(fast)


async def test_whose_lease_ended_puts_nothing_off(open_rig: Open) -> None:
    """While one grafter stood still another has given the trace to both: it is not in a backlog as well."""
    fast, other = Sink("fast"), Sink("other")
    away(other)
    async with open_rig(fast, other) as rooms:
        second = Processor(
            rooms.store, [fast, other], rooms.policy, Assembler(rooms.policy, "test", None), rooms.metrics,
            lambda: rooms.now[0], Limits(),
        )  # fmt: skip
        take, stood = fast.export, list[bool]()

        async def stand_still(batch: Batch) -> Sequence[Result]:
            if not stood:
                stood.append(True)
                rooms.now[0] += 11 * SECOND
                well(other)
                await second.drain()
                away(other)
            return await take(batch)

        fast.export = stand_still  # type: ignore[method-assign]
        await rooms.host(rootless(1))
        await rooms.pass_time(60, step=4)
        assert stood
        well(other)
        await rooms.pass_time(40, step=4)
        await empty(rooms)
        assert set(other.traces) == set(fast.traces) == {1}
        assert once_or_marked(other)
        assert once_or_marked(fast)


@pytest.mark.parametrize("kind", [trace, rootless])
async def test_what_is_put_off_for_one_and_cannot_be_for_another_is_so_once(
    open_rig: Open, monkeypatch: pytest.MonkeyPatch, kind: Callable[[int], bytes]
) -> None:
    a, b, c = Sink("a"), Sink("b"), Sink("c")
    asks_for_later(b)
    away(c)
    async with open_rig(a, b, c) as rooms:
        defer, tried = rooms.store.defer, list[str]()

        async def no_room(exporter: str, parts: Sequence[Part], now: UnixNano) -> None:
            tried.append(exporter)
            if tried.count("c") < 3 and exporter == "c":
                raise UnavailableError("the disk is full", reason="disk_full")
            await defer(exporter, parts, now)

        monkeypatch.setattr(rooms.store, "defer", no_room)
        for number in range(1, 4):
            await rooms.host(kind(number))
        await rooms.pass_time(100, step=4)
        assert "b" in tried
        assert tried.count("c") >= 3
        well(b)
        well(c)
        await rooms.pass_time(40, step=4)
        await empty(rooms)
        for peer in (a, b, c):
            assert peer.traces == peer.unmarked == dict.fromkeys((1, 2, 3), 1)


async def test_a_lane_that_is_up_again_is_not_waited_for() -> None:
    """Though all the places of the others stay taken."""
    hanging, away_ = Peer("hanging"), Peer("away")
    lanes = Lanes([hanging, away_], 1)
    away_.down_seconds = 0.1
    lane = lanes.of("hanging")
    assert lane is not None
    lane.take()
    async with asyncio.timeout(30), task_group() as tasks:
        context = lanes.taking_part()
        waiting = tasks.create_task(context.__aenter__())
        await asyncio.sleep(0)
        assert not waiting.done()
        away_.down_seconds = 0.0
        assert [one.name for one in await waiting] == ["away"]


async def test_a_place_that_is_freed_is_for_one_of_those_that_wait() -> None:
    """Who is told that a batch may go has the place from that moment, and not only once it has begun to send."""
    lanes = Lanes([Peer("slow")], 2)
    (lane,) = lanes
    held = [lane.take(), lane.take(backlog=True)]
    assert lane.places_for_backlog == 0
    contexts = [lanes.taking_part() for _ in range(2)]
    async with asyncio.timeout(30), task_group() as tasks:
        waiting = [tasks.create_task(context.__aenter__()) for context in contexts]
        await asyncio.sleep(0)
        held[0].leave()
        done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), lane.has_place) == (1, False)
        for place in [*done.pop().result().values(), held[1]]:
            place.leave()
            place.leave()
        await asyncio.wait(left)
        assert lane.has_place


async def test_an_answer_that_cannot_be_noted_cuts_off_nobody(open_rig: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one, which is slow, is on its way, and has what it was sent once."""
    fast, slow = Sink("fast"), Sink("slow")
    fast.answer = lambda _: Result(Verdict.REFUSED, "not this")
    async with open_rig(fast, slow, policy=SOON, now=RealTime()) as rooms, rooms.processor.running():
        slow.answers.clear()
        add, refused = rooms.store.add_dead_letters, asyncio.Event()

        async def is_away(*given: Any, **more: Any) -> Any:
            if not refused.is_set():
                refused.set()
                raise UnavailableError("no answer within 1 s", reason="store_down")
            return await add(*given, **more)

        monkeypatch.setattr(rooms.store, "add_dead_letters", is_away)
        await rooms.host(trace(1))
        async with asyncio.timeout(30):
            await refused.wait()
        slow.answers.set()
        await slow.has({1})
        assert (slow.asked, slow.traces) == (1, {1: 1})


async def test_one_batch_that_cannot_be_read_holds_up_no_other(open_rig: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again a few times, and counted when it is given up."""
    fast, other = Sink("fast"), Sink("other")
    away(other)
    async with open_rig(fast, other) as rooms:
        for number in range(1, 6):
            await rooms.host(trace(number))
            await rooms.pass_time(4, step=4)
        (first,) = await rooms.store.claim_deferred("other", UnixNano(rooms.now[0]), 1)
        await rooms.store.postpone([(first, UnixNano(rooms.now[0]))])
        read, damaged = rooms.store.read, first.key

        async def unreadable(claims: Any) -> Any:
            if not isinstance(claims, PlainBatch) and damaged in [claim.key for claim in claims]:
                raise UnavailableError("held parts could not be read", reason="store_down")
            return await read(claims)

        monkeypatch.setattr(rooms.store, "read", unreadable)
        well(other)
        await rooms.pass_time(4, step=2)
        assert set(other.traces) == {2, 3, 4, 5}
        for number in range(6, 200):
            # It is known to be its own fault where others can be read beside it.
            if not rooms.count("grafter_dropped_spans_total", reason="backlog_unreadable"):
                away(other)
                await rooms.host(trace(number))
                await rooms.pass_time(4, step=4)
                well(other)
                await rooms.pass_time(4, step=4)
        await empty(rooms)
        assert rooms.count("grafter_dropped_spans_total", reason="backlog_unreadable") == 1
        assert set(fast.traces) - set(other.traces) == {1}


async def test_what_cannot_be_put_off_anew_sends_no_other_batch_again(
    open_rig: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch a part was taken, and there is no room for the rest: that batch alone goes out once more, marked."""
    fast, other = Sink("fast"), Sink("other")
    away(other)
    async with open_rig(fast, other) as rooms:
        for number in (1, 2):
            await rooms.host(trace(number))
        await rooms.pass_time(4, step=4)
        await rooms.host(trace(3))
        await rooms.pass_time(8, step=4)
        assert rooms.store.stats().backlogs["other"].batches == 2
        take, busy = other.export, [True]

        async def half(batch: Batch) -> Sequence[Result]:
            results = list(await take(batch))
            if busy:
                # What it said of the second trace: it has not got it.
                other.requests.pop()
                own = [one for one in batch.traces if int.from_bytes(one.key, "big") != 2]
                await take(Batch(own, sum(one.spans for one in own), 0))
                results = [ACCEPTED if one in own else Result(Verdict.LATER, "busy", 1.0) for one in batch.traces]
                busy.clear()
            return results

        async def no_room(_exporter: str, _parts: Sequence[Part], _now: UnixNano) -> None:
            raise UnavailableError("the disk is full", reason="disk_full")

        other.export = half  # type: ignore[method-assign]
        well(other)
        with monkeypatch.context() as patched:
            patched.setattr(rooms.store, "defer", no_room)
            await rooms.pass_time(30, step=2)
        await empty(rooms)
        assert other.traces == {1: 2, 2: 1, 3: 1}
        assert other.unmarked == {1: 1, 3: 1}
        assert books(rooms, "other", len(other.spans)) == (7, 7)
