"""What waits in the store for the calls' database: nothing is lost on the way, and one odd record holds up no other."""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from grafter.calls.config import CallsExtension
from grafter.calls.model import CallId, CallRecord, Search, TurnRow
from grafter.calls.sql_map import SqlCallMap
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, Waits
from grafter.errors import UnavailableError
from grafter.store.embedded import opening as embedded
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.model import Task
from grafter.telemetry import Metrics
from tests.calls.records import ANNA, SECRET, START, record, trace


@dataclass
class Kept:
    """A call map over a store of its own, and a clock that the test turns."""

    calls: SqlCallMap
    store: EmbeddedStore
    metrics: Metrics
    now: list[int]

    async def known(self, text: str = "") -> int:
        return len((await self.calls.search(Search(text=text))).calls)

    def dropped(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("grafter_calls_dropped_total", {"reason": reason}) or 0.0


@asynccontextmanager
async def kept(url: str) -> AsyncIterator[Kept]:
    now, metrics = [START], Metrics()
    async with (
        opened() as store,
        CallsExtension(url=url).open(store, SECRET, metrics, lambda: now[0], serve=False) as calls,
    ):
        yield Kept(calls, store, metrics, now)


def opened() -> AbstractAsyncContextManager[EmbeddedStore]:
    return embedded.opened(
        None,
        waits=Waits(),
        max_bytes=1 << 30,
        max_trace_bytes=1 << 26,
        lease_ns=10 * SECOND,
        fsync="interval",
        fsync_interval=1.0,
        guests_apart=False,
    )


async def test_a_large_trace_comes_through_in_pieces(url: str) -> None:
    """As many tasks as it takes; what comes out is what went in."""
    document = os.urandom(400_000)
    async with kept(url) as made:
        await made.calls.record(record("a", traces=(trace(1),), caller=ANNA), document)
        assert made.calls.backlog.waiting == 7
        assert made.metrics.registry.get_sample_value("grafter_calls_unwritten") == 7
        made.now[0] += SECOND
        await made.calls.backlog.drain_all()
        (call,) = (await made.calls.search(Search(text="+49301234001"))).calls
        assert await made.calls.spans(call.key) == [document]
        assert not await made.store.claim_tasks("call", UnixNano(START + 3600 * SECOND), 10)


async def test_a_record_that_cannot_be_written_holds_up_no_other(url: str) -> None:
    """A time that no database takes, and a task of a newer version: dropped and counted, the others are there."""
    async with kept(url) as made:
        await made.store.put_tasks([Task("call", "newer", UnixNano(START), b"\x09of a newer version")], UnixNano(START))
        for n in range(3):
            await made.calls.record(record(str(n), traces=(trace(n + 1),)))
        await made.calls.record(record("odd", traces=(trace(9),), start=1 << 63))
        await made.calls.backlog.drain_all()
        assert await made.known() == 3
        assert (made.dropped("refused"), made.dropped("unreadable")) == (1, 1)
        written = made.metrics.registry.get_sample_value("grafter_calls_written_total")
        assert written == 3


async def test_more_turns_than_fit_are_cut_and_said(url: str) -> None:
    """The row of an endless call is there with its first turns."""
    turns = tuple(TurnRow(n, START + n, 900.0, 0.0, {"model": 900.0}, 5.0, os.urandom(80).hex()) for n in range(1000))
    async with kept(url) as made:
        await made.calls.record(record("a", traces=(trace(1),), turns=turns))
        await made.calls.backlog.drain_all()
        (call,) = (await made.calls.search(Search())).calls
        assert 0 < len(call.turns) < 1000
        assert "more turns" in " ".join(call.unjoined)


async def test_a_backlog_has_a_bound(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First traces are left out, then records; each is counted, and nothing raises."""
    monkeypatch.setattr("grafter.calls.backlog.MOST_WITH_TRACES", 2)
    monkeypatch.setattr("grafter.calls.backlog.MOST_WAITING", 4)
    async with kept(url) as made:
        for n in range(6):
            await made.calls.record(record(str(n), traces=(trace(n + 1),)), b"spans")
        assert (made.dropped("full_trace"), made.dropped("full")) == (2, 2)
        await made.calls.backlog.drain_all()
        found = (await made.calls.search(Search())).calls
        assert [len(await made.calls.spans(one.key)) for one in found].count(1) == 2
        assert len(found) == 4
        await made.calls.record(record("again", traces=(trace(9),)), b"spans")
        await made.calls.backlog.drain_all()
        assert await made.known() == 5


async def test_a_link_makes_two_calls_one(url: str) -> None:
    """Posted at any time, before or after what it ties."""
    one, other = CallId("app", "leg-one"), CallId("app", "leg-two")
    async with kept(url) as made:

        async def write(said: CallRecord) -> None:
            await made.calls.record(said)
            await made.calls.backlog.drain_all()

        await write(record("a", ids=(one,), traces=(trace(1),)))
        await write(record("b", ids=(other,), traces=(trace(2),)))
        before = [call.key for call in (await made.calls.search(Search())).calls]
        assert len(before) == 2
        await made.calls.link(one, other, START)
        await made.calls.backlog.drain_all()
        (call,) = (await made.calls.search(Search())).calls
        assert call.traces == (trace(1), trace(2))
        assert [await made.calls.call(key) for key in before] == [call, call]


async def test_a_database_that_is_away_refuses_lookups_and_takes_records() -> None:
    """Nobody listens there: what is said of calls is kept, and who asks is told to come again."""
    now, metrics = [START], Metrics()
    async with opened() as store:
        extension = CallsExtension(url="postgresql://me:hunter2@127.0.0.1:1/calls")
        async with extension.open(store, SECRET, metrics, lambda: now[0]) as calls:
            await calls.record(record("a", traces=(trace(1),), caller=ANNA))
            with pytest.raises(UnavailableError, match="away"):
                await calls.search(Search(text="+49301234001"))
            with pytest.raises(UnavailableError):
                await calls.forget("+49301234001")
            assert calls.backlog.waiting == 1
        assert len(await store.claim_tasks("call", UnixNano(START + 60 * SECOND), 10)) == 1
