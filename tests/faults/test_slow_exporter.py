"""Two exporters of which one is slow, hangs, refuses or is away: the other notices nothing, and nothing is lost."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, SupportsIndex

import pytest

from grafter.consumer import Batch, Result, Verdict
from grafter.core.model import Part, UnixNano
from grafter.core.policy import SECOND, GraftPolicy, Waits
from grafter.errors import UnavailableError
from grafter.exporter.backlogs import Backlogs
from tests.processor.test_processor import host_request
from tests.rig import ACCEPTED, Peer, Rig, rig
from tests.store.redis.servers import Server, server

_PREFIXES = itertools.count()
SOON = GraftPolicy(waits=Waits(after_root=SECOND // 20))
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
        more = {"redis": {"url": request.getfixturevalue("redis").url, "prefix": f"lanes-{next(_PREFIXES)}"}}
    return lambda *peers, **given: rig(*peers, **more, **given)


class RealTime(list[int]):
    """A rig's clock that goes by itself."""

    def __getitem__(self, _at: SupportsIndex | slice) -> Any:
        return time.time_ns()


class Sink(Peer):
    """Answers as long as nothing is in its way, and says what has come."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0
        self.news = asyncio.Condition()

    async def export(self, batch: Batch) -> Sequence[Result]:
        self.asked += 1
        await self.answers.wait()
        results = await super().export(batch)
        async with self.news:
            self.news.notify_all()
        return results

    async def has(self, traces: set[int]) -> None:
        """Returns when all of these have come; fails when that takes far longer than anything here should."""
        async with asyncio.timeout(60), self.news:
            await self.news.wait_for(lambda: traces <= set(self.traces))

    @property
    def traces(self) -> Counter[int]:
        """How often each trace came, by its number."""
        return Counter(int.from_bytes(span.trace_id, "big") for span, _ in self.spans)

    @property
    def unmarked(self) -> Counter[int]:
        """The same of what does not say that it may be a repeat."""
        own = [span for span, _ in self.spans if not any(a.key == "grafter.resend" for a in span.attributes)]
        return Counter(int.from_bytes(span.trace_id, "big") for span in own)


def trace(number: int) -> bytes:
    return host_request(number.to_bytes(16, "big"), (1, 0, "call"))


def books(rooms: Rig, exporter: str, sent: int) -> tuple[float, float]:
    """Both sides of one exporter's books, in this process."""
    came = rooms.accepted + rooms.store.stats().recovered_spans
    came += rooms.count("grafter_exporter_resumed_spans_total", exporter=exporter)
    became = sent + rooms.store.stats().spans + rooms.count("grafter_dead_spans_total", exporter=exporter)
    became += rooms.count("grafter_exporter_deferred_spans_total", exporter=exporter)
    return came, became


async def until(holds: Callable[[], bool]) -> None:
    """Fails when that takes far longer than anything here should."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  # what is looked at says nothing by itself
            await asyncio.sleep(0.02)


async def empty(rooms: Rig) -> None:
    """Returns when nothing is held, and nothing waits."""
    stats = rooms.store.stats
    # Of a shared store that is known within a second.
    await until(lambda: not (stats().traces or stats().bytes or any(one.spans for one in stats().backlogs.values())))


async def test_one_that_does_not_answer_holds_nothing_up(open_rig: Open) -> None:
    """Trace after trace is with the fast one before the other has answered anything; what comes late of them too. Then
    the other has all of it, each once."""
    fast, slow = Sink("fast"), Sink("slow")
    async with open_rig(fast, slow, policy=SOON, now=RealTime()) as rooms, rooms.processor.running():
        slow.answers.clear()
        sent = 0
        # The first ones are given to both, until it shows.
        while sent < 3 or not rooms.count("grafter_exporter_deferred_spans_total"):
            sent += 1
            await rooms.host(trace(sent))
            await fast.has({sent})
        asked, before = slow.asked, rooms.store.stats().traces
        for _ in range(5):
            sent += 1
            await rooms.host(trace(sent))
            await fast.has({sent})
        await rooms.host(host_request(sent.to_bytes(16, "big"), (2, 1, "late")))
        async with asyncio.timeout(60), fast.news:
            await fast.news.wait_for(lambda: fast.traces[sent] == 2)
        assert slow.traces == {}
        # It was asked for nothing new but what waits for it, as far as it has places; none of that is held.
        assert slow.asked <= 8
        assert asked >= 1
        await until(lambda: rooms.store.stats().traces <= before)
        assert rooms.store.stats().spans + rooms.store.stats().backlogs["slow"].spans == sent + 1

        slow.answers.set()
        await until(lambda: slow.traces == fast.traces)
        await empty(rooms)
        assert slow.traces == slow.unmarked == fast.traces == fast.unmarked
        assert fast.traces == Counter(range(1, sent + 1)) + Counter([sent])
        # Well again, it is given what leaves together with the other.
        deferred = rooms.count("grafter_exporter_deferred_spans_total", exporter="slow")
        await rooms.host(trace(100))
        await slow.has({100})
        assert rooms.count("grafter_exporter_deferred_spans_total", exporter="slow") == deferred


async def test_both_are_slow_and_all_arrives(open_rig: Open) -> None:
    """Where nobody answers soon each is given what leaves, as far as it has places."""
    one, other = Sink("one"), Sink("other")
    async with open_rig(one, other, policy=SOON, now=RealTime()) as rooms, rooms.processor.running():
        one.answers.clear()
        other.answers.clear()
        for number in range(1, 25):
            await rooms.host(trace(number))
            await asyncio.sleep(0.05)
        one.answers.set()
        await one.has({1})
        other.answers.set()
        # What is held in Redis is known within a second: by that alone a batch put off just now may be overlooked.
        await one.has(set(range(1, 25)))
        await other.has(set(range(1, 25)))
        await empty(rooms)
        assert one.unmarked == other.unmarked == one.traces == other.traces == Counter(range(1, 25))


def away(peer: Peer) -> None:
    peer.down_seconds = 5.0


def asks_for_later(peer: Peer) -> None:
    peer.answer = lambda _: Result(Verdict.LATER, "busy", 3.0)


def falls_silent(peer: Peer) -> None:
    peer.answer = lambda _: Result(Verdict.LATER, "no answer", 3.0, unknown=True)


def well(peer: Peer) -> None:
    peer.down_seconds, peer.answer = 0.0, lambda _: ACCEPTED


TROUBLES = (away, asks_for_later, falls_silent)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_what_one_cannot_take_waits_for_it_alone(open_rig: Open, trouble: Callable[[Peer], None]) -> None:
    """Over a restart in the middle; neither gets anything twice that is not marked, the well one nothing twice at all,
    and the books of both hold in each process."""
    fast, other = Peer("fast"), Peer("other")
    trouble(other)
    async with open_rig(fast, other) as rooms:
        for number in range(1, 31):
            await rooms.host(trace(number))
            await rooms.pass_time(2, step=2)
        await rooms.pass_time(20, step=4)
        assert len(fast.spans) == 30
        assert rooms.store.stats().spans == 0
        assert rooms.store.stats().backlogs["other"].spans == 30
        assert rooms.count("grafter_exporter_deferred_spans_total") == 30
        assert books(rooms, "fast", 30) == books(rooms, "other", 0) == (30, 30)
        now = rooms.now[0]
    again, last = Peer("fast"), Sink("other")
    trouble(last)
    async with open_rig(again, last, now=[now + 60 * SECOND]) as rooms:
        await rooms.host(trace(31))
        await rooms.pass_time(60, step=4)
        assert rooms.store.stats().backlogs["other"].spans == 31
        assert len(again.spans) == 1
        well(last)
        last.requests.clear()
        await rooms.pass_time(60, step=4)
        await empty(rooms)
        assert rooms.store.stats().recovered_spans == 0
        assert last.traces == Counter(range(1, 32))
        assert last.unmarked == ({} if trouble is falls_silent else Counter(range(1, 32)))
        assert books(rooms, "fast", 1) == (1, 1)
        assert books(rooms, "other", 31) == (32, 32)
        assert rooms.count("grafter_exporter_deferred_spans_total", exporter="fast") == 0
        assert len(again.spans) == 1


async def test_what_is_refused_of_a_backlog_is_kept_as_a_letter(open_rig: Open) -> None:
    """One trace by itself, with its own id; the others of its batch arrive."""
    fast, other = Peer("fast"), Peer("other")
    away(other)
    async with open_rig(fast, other) as rooms:
        for number in range(1, 11):
            await rooms.host(trace(number))
        await rooms.pass_time(20, step=4)
        assert rooms.store.stats().backlogs["other"].batches == 1

        async def export(batch: Batch) -> Sequence[Result]:
            other.requests.append(b"")
            found = [int.from_bytes(one.key, "big") for one in batch.traces]
            return [Result(Verdict.REFUSED, "not this") if n == 7 else later(n) for n in found]

        def later(number: int) -> Result:
            # Half of them at the first time.
            return ACCEPTED if number % 2 or len(other.requests) > 1 else Result(Verdict.LATER, "busy", 1.0)

        other.export = export  # type: ignore[method-assign]
        well(other)
        await rooms.pass_time(10)
        (letter,) = await rooms.store.dead_letters(10)
        assert (letter.exporter, int.from_bytes(letter.key, "big"), letter.reason) == ("other", 7, "not this")
        assert rooms.store.stats().backlogs["other"].spans == 0
        assert len(other.requests) == 2
        deferred, resumed = (
            rooms.count(f"grafter_exporter_{what}_spans_total", exporter="other") for what in ("deferred", "resumed")
        )
        assert (deferred, resumed) == (15, 15)


async def test_one_that_is_renamed_gets_nothing_of_what_waits_for_the_old_name(open_rig: Open) -> None:
    """It waits until an exporter of that name is there again, or a command gives it up."""
    fast, other = Peer("fast"), Peer("other")
    away(other)
    async with open_rig(fast, other) as rooms:
        for number in range(1, 11):
            await rooms.host(trace(number))
        await rooms.pass_time(20, step=4)
        now = rooms.now[0] + SECOND
    fast, renamed = Peer("fast"), Peer("renamed")
    async with open_rig(fast, renamed, now=[now]) as rooms:
        await rooms.host(trace(11))
        await rooms.pass_time(60, step=4)
        assert (len(fast.spans), len(renamed.spans)) == (1, 1)
        assert rooms.store.stats().backlogs["other"].spans == 10
        backlogs = Backlogs(rooms.store, ("fast", "renamed"), rooms.metrics, lambda: rooms.now[0])
        (said,) = (await backlogs.answer("list", {}))["backlogs"]  # type: ignore[misc, attr-defined]
        assert (said["exporter"], said["configured"], said["spans"]) == ("other", False, 10)
        now = rooms.now[0] + SECOND
    alone = Peer("other")
    async with open_rig(alone, now=[now]) as rooms:
        await rooms.pass_time(5)
        assert len(alone.spans) == 10
        await empty(rooms)
        away(alone)
        now = rooms.now[0] + SECOND
    fast = Peer("fast")
    async with open_rig(fast, alone, now=[now]) as rooms:
        await rooms.host(trace(12))
        await rooms.pass_time(20, step=4)
        backlogs = Backlogs(rooms.store, ("fast", "other"), rooms.metrics, lambda: rooms.now[0])
        assert await backlogs.answer("drop", {"exporter": "other"}) == {"exporter": "other", "spans": 1, "left": 0}
        assert rooms.count("grafter_dropped_spans_total", reason="backlog_dropped") == 1
        well(alone)
        await rooms.pass_time(20, step=4)
        assert len(alone.spans) == 10
        await empty(rooms)


async def test_where_the_store_has_no_room_for_a_backlog_the_trace_stays_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with one exporter: the well one is not asked again, and the other has it when it is back."""
    fast, other = Peer("fast"), Peer("other")
    away(other)
    async with rig(fast, other, directory=tmp_path) as rooms:

        async def no_room(_exporter: str, _parts: Sequence[Part], _now: UnixNano) -> None:
            raise UnavailableError("the disk is full", reason="disk_full")

        with monkeypatch.context() as patched:
            patched.setattr(rooms.store, "defer", no_room)
            for number in range(1, 11):
                await rooms.host(trace(number))
            await rooms.pass_time(30, step=1)
            assert (len(fast.spans), rooms.store.stats().traces) == (10, 10)
            well(other)
            await rooms.pass_time(10, step=1)
            assert rooms.store.stats().traces == 0
        assert len(fast.spans) == len(other.spans) == 10


async def test_three_exporters_each_have_their_own_backlog(open_rig: Open) -> None:
    """A trace is held until one has it, and then each of the others by itself."""
    peers = [Peer(name) for name in ("a", "b", "c")]
    a, b, c = peers
    away(b)
    asks_for_later(c)
    async with open_rig(*peers) as rooms:
        for number in range(1, 6):
            await rooms.host(trace(number))
        await rooms.pass_time(20, step=4)
        assert {name: one.spans for name, one in rooms.store.stats().backlogs.items() if one.spans} == {"b": 5, "c": 5}
        well(c)
        away(a)
        await rooms.host(trace(6))
        await rooms.pass_time(20, step=4)
        assert [len(peer.spans) for peer in peers] == [5, 0, 6]
        well(a)
        well(b)
        await rooms.pass_time(20, step=4)
        assert [len(peer.spans) for peer in peers] == [6, 6, 6]
        await empty(rooms)


async def test_all_are_away_and_nothing_is_put_off(open_rig: Open) -> None:
    """What nobody takes stays held as it is, so that what comes late still leaves with it."""
    fast, other = Peer("fast"), Peer("other")
    away(fast)
    away(other)
    async with open_rig(fast, other) as rooms:
        await rooms.host(trace(1))
        await rooms.pass_time(30, step=4)
        assert (rooms.store.stats().spans, rooms.count("grafter_exporter_deferred_spans_total")) == (1, 0)
        await rooms.host(host_request((1).to_bytes(16, "big"), (2, 1, "late")))
        well(fast)
        well(other)
        await rooms.pass_time(30, step=4)
        assert len(fast.requests) == len(other.requests) == 1
        assert len(fast.spans) == 2
