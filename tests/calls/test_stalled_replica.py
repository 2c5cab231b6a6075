"""Several grafters that tell one table, of which one stands still past its lease, over SQLite and over Postgres."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from grafter.calls.config import CallsExtension
from grafter.calls.database import CallDatabase
from grafter.calls.engine import open_engine
from grafter.calls.following import Due, Following, Notified
from grafter.calls.merge import key_of
from grafter.calls.model import CallId, CallRow, Origin
from grafter.calls.sql_map import SqlCallMap
from grafter.calls.user_table import Place, UserTable
from grafter.calls.writing import Entry, Follows
from grafter.core.policy import SECOND
from grafter.telemetry import Metrics
from tests.calls.records import ANNA, CLINIC, SECRET, START, record, trace, wait
from tests.calls.test_backlog import opened
from tests.calls.test_user_table import owner

SID = "CA" + "a" * 32
COLUMNS = {"worst_ms": "longest_wait_ms"}
FIRST, LATER = sorted(("one", "another"), key=lambda name: key_of(f"release:{name}"))
"""In the order in which a call keeps the key that it has."""


@pytest.fixture
def told(url: str) -> Iterator[CallDatabase]:
    """A map that a table follows."""
    database = CallDatabase(open_engine(url), followers=[Follows("table")])
    database.migrate()
    yield database
    database.close()


@dataclass
class Pausing:
    """The table of a replica that stands still between what it has read and what it writes."""

    table: UserTable
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    stands: asyncio.Event = field(default_factory=asyncio.Event)
    kind = "table"
    everything = True

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def title(self) -> str:
        return self.table.title

    async def notify(self, some: Sequence[tuple[Due, CallRow]]) -> Sequence[Notified]:
        self.stands.set()
        await self.goes_on.wait()
        return await self.table.notify(some)


@dataclass
class Replica:
    """One grafter of several."""

    calls: SqlCallMap
    table: Pausing
    following: Following
    now: list[int]

    async def say(self, name: str, ms: float) -> None:
        await self.calls.record(record(name, ids=(CallId("twilio", SID),), traces=(trace(1),), turns=(wait(1, ms),)))
        await self.calls.backlog.drain_all()


@asynccontextmanager
async def replica(url: str) -> AsyncIterator[Replica]:
    now, metrics = [START], Metrics()
    config = {"name": "calls", "id_column": "sid", "columns": COLUMNS}
    extension = CallsExtension.model_validate({"url": url, "table": config})
    async with (
        opened() as store,
        extension.open(store, SECRET, metrics, lambda: now[0], serve=False) as calls,
    ):
        table = UserTable(open_engine(url, own=False), Place("calls", "sid", "twilio", COLUMNS), lambda: now[0])
        pausing = Pausing(table)
        yield Replica(calls, pausing, Following(pausing, calls, metrics, lambda: now[0]), now)
        table.close()


@pytest.mark.parametrize("slept", [False, True], ids=["its clock went on", "its clock stood too"])
async def test_a_replica_that_stands_still_past_its_lease_leaves_nothing_older(url: str, slept: bool) -> None:
    """It has read a call, stands still, and another tells the newer state meanwhile. By its clock it sees that, and
    writes nothing; where its clock stood as well it writes, and then the newer state is told once more."""
    async with AsyncExitStack() as stack:
        stalled, other = [await stack.enter_async_context(replica(url)) for _ in range(2)]
        other.table.goes_on.set()
        owner(url, "CREATE TABLE calls (sid varchar(34) PRIMARY KEY, worst_ms integer)")
        await stalled.say(FIRST, 900.0)
        telling = asyncio.ensure_future(stalled.following.once())
        await stalled.table.stands.wait()
        await other.say(LATER, 4_000.0)
        assert await other.following.once() == 0
        other.now[0] += 61 * SECOND
        assert await other.following.once() == 1
        assert owner(url, "SELECT worst_ms FROM calls") == [(4000,)]
        if not slept:
            stalled.now[0] += 61 * SECOND
        stalled.table.goes_on.set()
        assert await telling == 1
        assert owner(url, "SELECT worst_ms FROM calls") == [(900 if slept else 4000,)]
        other.now[0] += 61 * SECOND
        assert await other.following.once() == 1
        assert owner(url, "SELECT worst_ms FROM calls") == [(4000,)]
        stalled.now[0] = other.now[0] = START + 3600 * SECOND
        assert [await one.following.once() for one in (stalled, other)] == [0, 0]


async def test_an_older_state_that_comes_while_another_tells_is_told_over(url: str) -> None:
    """The one that stood still writes between the other's writing and its settling: the other's lease still holds, and
    what it settles is due at once."""
    async with AsyncExitStack() as stack:
        stalled, other = [await stack.enter_async_context(replica(url)) for _ in range(2)]
        stalled.table.goes_on.set()
        owner(url, "CREATE TABLE calls (sid varchar(34) PRIMARY KEY, worst_ms integer)")
        await stalled.say(FIRST, 900.0)
        name = stalled.table.name
        ((old, row),) = await stalled.calls.claim(name, 60 * SECOND, 10)
        await other.say(LATER, 4_000.0)
        other.now[0] += 61 * SECOND
        ((new, newer),) = await other.calls.claim(name, 60 * SECOND, 10)
        assert row is not None
        assert newer is not None
        await other.table.table.notify([(new, newer)])
        await stalled.table.table.notify([(old, row)])
        await stalled.calls.settle(name, [old], [])
        await other.calls.settle(name, [new], [])
        assert owner(url, "SELECT worst_ms FROM calls") == [(900,)]
        other.table.goes_on.set()
        assert await other.following.once() == 1
        assert owner(url, "SELECT worst_ms FROM calls") == [(4000,)]
        assert await other.following.once() == 0


def test_a_call_that_gets_another_key_while_it_is_told_is_told_again(told: CallDatabase) -> None:
    """Nobody tells the newer state under the new key while the older one is being told under the old: whichever came
    last would stay."""
    sip = CallId("sip", "a84b4c76e66710@pc33")
    late, first = (record(name, ids=(sip,), traces=(trace(n),)) for n, name in enumerate((LATER, FIRST), 1))
    told.apply([Entry(late, late.name)], START)
    (older,) = told.claim("table", START, 60 * SECOND, 10)
    told.apply([Entry(first, first.name)], START)
    assert told.claim("table", START, 60 * SECOND, 10) == []
    told.settle("table", [older[0]], [], START)
    ((_, row),) = told.claim("table", START, 60 * SECOND, 10)
    assert row is not None
    assert row.traces == (trace(1), trace(2))


def test_what_only_seemed_to_be_one_call_is_told_of_when_it_parts(told: CallDatabase) -> None:
    """Two sources were taken for one by their numbers; with a third that fits as well all are calls of their own, and
    the rows of the first two say so."""
    ids = [CallId("twilio", SID), CallId("sip", "a84b4c76e66710@pc33"), CallId("sip", "of-another@pc33")]
    one, other, third = (
        record(each.value, Origin.APP, ids=(each,), caller=ANNA, callee=CLINIC, start=START + n * SECOND)
        for n, each in enumerate(ids)
    )
    told.apply([Entry(one, one.name), Entry(other, other.name)], START)
    (both,) = told.claim("table", START, 60 * SECOND, 10)
    told.settle("table", [both[0]], [], START)
    told.apply([Entry(third, third.name)], START)
    rows = [row for _, row in told.claim("table", START, 60 * SECOND, 10) if row is not None]
    assert sorted(row.ids for row in rows) == sorted((each,) for each in ids)
