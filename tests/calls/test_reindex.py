"""A new key for the index of numbers, over SQLite and over Postgres: calls are found at every moment of it."""

import io
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from grafter.calls.config import CallsExtension
from grafter.calls.database import CallDatabase
from grafter.calls.engine import open_engine
from grafter.calls.model import CallId, CallRecord, Search
from grafter.calls.number_keys import NumberKeys
from grafter.calls.writing import Entry
from grafter.commands.lookup import reindex
from grafter.components import Config
from grafter.config.model import revealed
from grafter.core.policy import SECOND
from grafter.store.base import TaskStore
from grafter.telemetry import Metrics
from tests.calls.records import CLINIC, START, phone, record, trace

OLD, NEW = "the key of the first year", "the key of the second year"
PEOPLE = [phone(f"+4930123{n:04d}") for n in range(60)]
CALLERS = list(range(40))
"""Who called at the beginning."""
HOUR = 3600 * SECOND


def opened(url: str, current: str = "", old: str = "") -> CallDatabase:
    database = CallDatabase(open_engine(url), NumberKeys(current, old))
    database.migrate()
    return database


def of(number: int, name: str = "a", **said: Any) -> CallRecord:
    start = START + number * HOUR
    return record(f"{name}{number}", caller=PEOPLE[number], callee=CLINIC, start=start, **said)


def write(database: CallDatabase, *records: CallRecord) -> None:
    database.apply([Entry(one, one.name) for one in records], START)


def found(database: CallDatabase, *numbers: int) -> list[int]:
    """Whose calls are found by any of these numbers; each called in an hour of their own."""
    page = database.search(Search(text="+49"), (), [PEOPLE[number].hash for number in numbers], START)
    return sorted((call.start - START) // HOUR for call in page.calls)


def standing(url: str) -> set[str]:
    """All that stands of numbers in the tables."""
    engine = create_engine(url)
    with engine.connect() as connection:
        hashes = set(connection.execute(text("SELECT caller FROM grafter_calls")).scalars())
        hashes |= set(connection.execute(text("SELECT callee FROM grafter_calls")).scalars())
        hashes |= set(connection.execute(text("SELECT hash FROM grafter_forgotten_numbers")).scalars())
        bodies = b"".join(map(bytes, connection.execute(text("SELECT body FROM grafter_call_records")).scalars()))
    engine.dispose()
    return hashes | {one.hash for one in (*PEOPLE, CLINIC) if one.hash.encode() in bodies}


def test_every_call_is_found_at_every_step(url: str) -> None:
    """From no key to one and from that to another, in small steps, each of them twice, with calls that come meanwhile
    and somebody who asked to be forgotten. In the end nothing stands under a key before."""
    before = opened(url)
    write(before, *[of(n, traces=(trace(n + 1),)) for n in CALLERS])
    before.forget([PEOPLE[50].hash], START + 10**6 * SECOND)
    before.close()
    for at, (old, new) in enumerate((("", OLD), (OLD, NEW))):
        shown = standing(url)
        database = opened(url, new, old)
        after, steps = "", 0
        while True:
            some = database.reindex(after, limit=7)
            assert database.reindex(after, limit=7).changed == 0
            assert some.strange == 0
            assert found(database, *CALLERS) == CALLERS
            # A webhook of a call whose trace came before it: told by both numbers and the time to be the same one.
            write(database, of(10 * at + steps, f"webhook {at} ", ids=(CallId("sip", f"sip-{at}-{steps}"),)))
            assert found(database, 10 * at + steps) == [10 * at + steps]
            write(database, of(50))
            assert found(database, 50) == []
            steps += 1
            if some.next is None:
                break
            after = some.next
        assert steps == 6
        database.close()
        assert standing(url).isdisjoint(shown)
        alone = opened(url, new)
        assert [found(alone, n) for n in CALLERS] == [[n] for n in CALLERS]
        write(alone, of(50))
        assert found(alone, 50) == []
        alone.close()


def test_without_the_old_key_it_is_said_and_nothing_is_spoiled(url: str) -> None:
    """Records under a key that nobody has: counted, left as they are, found by their ids; with the key again, all."""
    first = opened(url, OLD)
    write(first, of(1, ids=(CallId("twilio", "CA" + "1" * 32),)))
    first.close()
    without = opened(url, NEW)
    assert without.reindex("").strange == 1
    assert found(without, 1) == []
    assert len(without.search(Search(text="CA"), ("CA" + "1" * 32,), (), START).calls) == 1
    # Something more is said of it; what stands under the other key stays.
    write(without, record("more", ids=(CallId("twilio", "CA" + "1" * 32),), outcome="completed"))
    without.close()
    both = opened(url, NEW, OLD)
    assert found(both, 1) == [1]
    assert both.reindex("").changed == 1
    both.close()
    alone = opened(url, NEW)
    assert found(alone, 1) == [1]
    alone.close()


async def test_the_command_works_on_the_files(tmp_path: Path) -> None:
    """Where no grafter runs: it says how many, and again that there is nothing left to do."""
    calls = {"url": f"sqlite:///{tmp_path}/calls.db"}
    store = {"embedded": {"directory": str(tmp_path / "store")}}
    free = {"receivers": {"openai": {"endpoint": "127.0.0.1:1"}}}
    config = Config.model_validate({**free, "extensions": {"store": store, "calls": calls}})
    async with config.extensions.store.open(config.graft_policy(), None) as made:
        await _one_call(made, made.hmac_secret(), calls["url"])
    out, err = io.StringIO(), io.StringIO()
    keyed = Config.model_validate({**free, "extensions": {"store": store, "calls": {**calls, "number_key": NEW}}})
    assert await reindex(keyed, as_json=False, out=out, err=err) == 0, err.getvalue()
    assert out.getvalue() == "1 calls, of which 1 had numbers under the old key\nold_number_key is needed no more\n"
    assert await reindex(keyed, as_json=True, out=out, err=err) == 0
    assert '"changed":0' in out.getvalue()
    extension = keyed.extensions.calls
    assert extension is not None
    assert NEW not in str(extension)
    assert revealed([extension.number_key]) == [NEW]


async def _one_call(tasks: TaskStore, secret: bytes, url: str) -> None:
    async with CallsExtension(url=url).open(tasks, secret, Metrics(), lambda: START, serve=False) as calls:
        await calls.record(of(1))
        await calls.backlog.drain_all()
