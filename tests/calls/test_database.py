"""What the tables hold, over SQLite and over Postgres: the same as the records come to without any database."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, event, inspect, text

from grafter.calls import outbox, schema
from grafter.calls.database import CallDatabase
from grafter.calls.engine import begun, open_engine, writing
from grafter.calls.merge import calls_of, is_slow, row
from grafter.calls.migrate import INI
from grafter.calls.model import CallId, CallRecord, CallRow, Origin, Search
from grafter.calls.writing import Entry
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from tests.calls.postgres import new_database
from tests.calls.records import ANNA, BERT, CLINIC, START, any_records, record, trace, wait

SIP = CallId("sip", "a84b4c76e66710@pc33.example.com")
Open = Callable[[], CallDatabase]


@contextmanager
def opened(url: str) -> Iterator[CallDatabase]:
    database = CallDatabase(open_engine(url))
    try:
        database.migrate()
        yield database
    finally:
        database.close()


@pytest.fixture
def database(url: str) -> Iterator[CallDatabase]:
    with opened(url) as found:
        yield found


def entries(*records: CallRecord) -> list[Entry]:
    return [Entry(one, one.name) for one in records]


def everything(database: CallDatabase, now: int = START) -> list[CallRow]:
    return list(database.search(Search(limit=500), (), (), now).calls)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(any_records, st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_order_of_any_batches_comes_to_the_same(
    database: CallDatabase, records: list[CallRecord], random: object, size: int
) -> None:
    """The database holds what ``calls_of`` says of all records, however they came in, and with the flags of that."""
    database.retain(1 << 62, 1 << 62)
    shuffled = [*records, *records]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for at in range(0, len(shuffled), size):
        database.apply(entries(*shuffled[at : at + size]), START)
    expected = [row(call, START) for call in calls_of(records)]
    by_key = {one.key: one for one in expected}
    assert {one.key: one for one in everything(database)} == by_key
    for flag, holds in (
        ("slow", is_slow),
        ("errors", lambda one: one.errors > 0),
        ("unjoined", lambda one: bool(one.unjoined)),
        ("live", lambda one: one.outcome == "running"),
    ):
        page = database.search(Search(**{flag: True}), (), (), START)
        assert {one.key for one in page.calls} == {key for key, one in by_key.items() if holds(one)}
    for call in calls_of(records):
        for key in call.keys:
            assert database.call(key, START) == by_key[call.key]


def test_the_migrations_come_to_the_tables_of_the_schema(url: str) -> None:
    """Columns and indexes; and to run them again changes nothing."""
    with opened(url) as database:
        database.migrate()
    engine = open_engine(url)
    found = inspect(engine)
    for table in schema.metadata.sorted_tables:
        assert {one["name"] for one in found.get_columns(table.name)} == {one.name for one in table.columns}
        assert {one["name"] for one in found.get_indexes(table.name)} == {one.name for one in table.indexes}
    engine.dispose()


def test_a_migration_takes_the_time_that_it_needs(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index over many calls takes longer than a statement may; it would be tried again for ever."""
    url = new_database(postgres)
    with opened(url):
        pass
    filled = create_engine(url)
    with filled.begin() as connection:
        columns = "lpad(n::text, 20, '0'), n, md5((n % 99)::text), md5((n % 7)::text)" + ", false" * 6
        connection.execute(text(f"INSERT INTO grafter_calls SELECT {columns} FROM generate_series(1, 100000) n"))
        config = Config()
        config.set_main_option("script_location", str(INI.parent))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    filled.dispose()
    monkeypatch.setattr("grafter.calls.engine._STATEMENT_MS", 10)
    with opened(url) as database:
        monkeypatch.setattr("grafter.calls.engine._STATEMENT_MS", 15_000)
        database.apply(entries(record("a", ids=(SIP,))), START)
        assert database.search(Search(), (SIP.value,), (), START).calls


def test_tables_of_a_newer_grafter_are_left_as_they_are(url: str) -> None:
    """After a step back, it says what is the matter."""
    with opened(url) as database:
        engine = open_engine(url)
        with begun(engine) as connection:
            connection.execute(text("UPDATE grafter_calls_version SET version_num = '9999'"))
        engine.dispose()
        with pytest.raises(UnavailableError, match="of a newer grafter"):
            database.migrate()


def test_a_recording_that_no_database_can_hold_costs_only_itself(database: CallDatabase) -> None:
    """Whoever writes spans writes that text; the call stands there without being found by it."""
    database.apply(entries(record("a", ids=(SIP,), recording="https://recordings.example/\0")), START)
    assert [one.ids for one in everything(database)] == [(SIP,)]


def test_what_nobody_takes_up_is_kept_no_longer_than_its_call(database: CallDatabase, url: str) -> None:
    """A follower that was taken out of the config leaves nothing behind for good."""
    engine = open_engine(url)
    with begun(engine) as connection:
        outbox.put(connection, "gone", [["a key that its call has no more"]], START)
    database.retain(START, START)
    assert len(database.claim("gone", START, 1, 10)) == 1
    database.retain(START + 1, START)
    assert database.claim("gone", START + 2, 1, 10) == []
    engine.dispose()


def test_pages_follow_each_other(database: CallDatabase) -> None:
    """Newest first, none twice and none left out, also where many began at one moment."""
    database.apply(entries(*[record(str(n), traces=(trace(n + 1),), start=START + n // 4) for n in range(23)]), START)
    seen: list[str] = []
    before = None
    while True:
        page = database.search(Search(limit=5, before=before), (), (), START)
        seen += [one.key for one in page.calls]
        before = page.next
        if before is None:
            break
    assert len(seen) == len(set(seen)) == 23
    assert [one.key for one in everything(database)] == seen


@pytest.mark.parametrize(
    "cursor", ["ffffffffffffffff.a", "8000000000000000.a", "1.\0", "1.\ud800", "-.a", "1.", ".", "x"]
)
def test_a_place_that_no_page_named_is_the_beginning(database: CallDatabase, cursor: str) -> None:
    """It stands in an address: no value of it is more than the database can take."""
    database.apply(entries(record("a", traces=(trace(1),))), START)
    assert len(database.search(Search(before=cursor), (), (), START).calls) == 1


def test_calls_are_found_by_number_and_by_any_id(database: CallDatabase) -> None:
    """From or to a number, by an id, by a trace; in a span of time; and nothing by what is not there."""
    one = record("a", ids=(SIP,), traces=(trace(1),), caller=ANNA, callee=CLINIC, start=START)
    other = record("b", ids=(CallId("twilio", "CA" + "1" * 32),), caller=BERT, callee=CLINIC, start=START + SECOND)
    database.apply(entries(one, other), START)

    def found(values: tuple[str, ...] = (), hashes: tuple[str, ...] = (), **more: int) -> list[str]:
        page = database.search(Search(text="x", **more), values, hashes, START)
        return [one.ids[0].value for one in page.calls]

    twilio = other.ids[0].value
    assert found(hashes=(ANNA.hash,)) == [SIP.value]
    assert found(hashes=(CLINIC.hash,)) == [twilio, SIP.value]
    assert found(hashes=(CLINIC.hash,), until=START) == [SIP.value]
    assert found((SIP.value,)) == [SIP.value]
    assert found((trace(1).hex(),)) == [SIP.value]
    assert found(("nothing",), ("0" * 32,)) == []


def test_a_filter_reads_the_calls_that_it_is_about(tmp_path: Path) -> None:
    """Of all calls, and of a number that has most of them: a filter that fits few of them walks their index alone."""
    engine = open_engine(f"sqlite:///{tmp_path}/calls.db")
    database = CallDatabase(engine)
    database.migrate()
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, given: Any, *_: object) -> None:
        if "ORDER BY grafter_calls.start" in statement:
            asked.append((statement, given))

    event.listen(engine, "before_cursor_execute", note)
    for flag in schema.FLAGS:
        for hashes in ((), (CLINIC.hash,)):
            asked.clear()
            database.search(Search(text="x" if hashes else "", **{flag: True}), (), hashes, START)
            with begun(engine) as connection:
                plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}", given) for one, given in list(asked)]
                used = {word for plan in plans for row in plan for word in row[3].split() if "grafter_calls_" in word}
            sides = ("caller_", "callee_") if hashes else ("",)
            assert used == {f"grafter_calls_{side}{flag}" for side in sides}
    database.close()


def test_a_trace_is_given_back_whole_or_not_at_all(database: CallDatabase) -> None:
    """Pieces come in any order; a document of which one is missing is none; those of a late part follow."""
    body = zstandard.compress(b"spans " * 1000)
    pieces = [body[:10], body[10:20], body[20:]]
    first, late = record("a", traces=(trace(1),)), record("b", traces=(trace(1),), at=START + SECOND)
    assert database.apply([Entry(None, first.name, 1, pieces[1])], START) == {first.name}
    assert database.apply([Entry(first, first.name, 0, pieces[0])], START) == set()
    assert database.apply([Entry(None, first.name, 2, pieces[2])], START) == set()
    key = everything(database)[0].key
    assert database.spans(key) == []
    database.apply([Entry(None, first.name, 1, pieces[1])] * 2, START)
    assert database.spans(key) == [b"spans " * 1000]
    database.apply([Entry(late, late.name, 0, zstandard.compress(b"late"))], START)
    assert database.spans(everything(database)[0].key) == [b"spans " * 1000, b"late"]


def test_a_number_is_forgotten_and_stays_so(database: CallDatabase) -> None:
    """Its calls, their traces and ids are gone, others stay; what comes late of an earlier call is not taken."""
    mine = record("a", ids=(SIP,), traces=(trace(1),), caller=ANNA, callee=CLINIC, start=START)
    theirs = record("b", traces=(trace(2),), caller=BERT, callee=CLINIC, start=START)
    database.apply([Entry(mine, mine.name, 0, zstandard.compress(b"spans")), *entries(theirs)], START)
    forgotten = database.forget((ANNA.hash,), START + SECOND)
    assert (forgotten.calls, forgotten.traces) == (1, (trace(1),))
    assert [one.traces for one in everything(database)] == [(trace(2),)]
    late = record("c", traces=(trace(3),), caller=ANNA, start=START)
    database.apply([*entries(late, mine), Entry(None, mine.name, 1, b"more")], START + 2 * SECOND)
    assert len(everything(database)) == 1
    assert database.forget((ANNA.hash,), START + SECOND).calls == 0
    again = record("d", traces=(trace(4),), caller=ANNA, start=START + 3 * SECOND)
    database.apply(entries(again), START + 3 * SECOND)
    assert len(everything(database)) == 2


def test_nothing_is_kept_beyond_its_time(database: CallDatabase) -> None:
    """Calls and their traces each have theirs."""
    for n in range(3):
        one = record(str(n), traces=(trace(n + 1),), start=START + n * SECOND)
        database.apply([Entry(one, one.name, 0, zstandard.compress(b"spans"))], START + n * SECOND)
    assert database.retain(START + SECOND, START + 2 * SECOND) == (1, 1)
    found = everything(database)
    assert [one.start for one in found] == [START + 2 * SECOND, START + SECOND]
    assert [len(database.spans(one.key)) for one in found] == [1, 0]


def test_what_only_adds_makes_no_call(database: CallDatabase) -> None:
    """A late part of a trace that is of no call is none; of one that is, it adds to the row."""
    late = record("late", traces=(trace(1),), spans=2, addition=True)
    database.apply(entries(late), START)
    assert everything(database) == []
    database.apply(entries(record("first", traces=(trace(1),), spans=5), late), START)
    assert [one.spans for one in everything(database)] == [7]


def test_an_id_that_all_calls_share_does_not_make_them_one(
    database: CallDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app's default id: past a bound new calls stand for themselves, and say why."""
    monkeypatch.setattr("grafter.calls.writing.MOST_RECORDS", 3)
    shared = CallId("app", "default-call")
    for n in range(6):
        database.apply(entries(record(str(n), ids=(shared,), traces=(trace(n + 1),))), START)
    found = everything(database)
    assert sorted(len(one.traces) for one in found) == [1, 1, 1, 3]
    assert sum("names no call" in " ".join(one.unjoined) for one in found) == 3


def test_medians_are_over_what_is_known(database: CallDatabase) -> None:
    """Of waits and of each part; the greeting is no turn."""
    turns = (replace(wait(1, 9000), number=0), wait(2, 1000, model=700, tool=300), wait(3, 3000, model=3000))
    database.apply(entries(record("a", traces=(trace(1),), turns=turns)), START)
    assert database.recent_medians(100, START) == {"wait_ms": 2000, "model": 1850, "tool": 300}


def test_two_processes_write_one_call(url: str) -> None:
    """Two that write at a time come to one row, for only one does at a moment."""
    with opened(url) as one, opened(url) as other, ThreadPoolExecutor(2) as threads:
        records = [record(str(n), Origin.APP, ids=(SIP,), spans=1) for n in range(40)]
        halves = [(one, records[:20]), (other, records[20:])]

        def write(database: CallDatabase, some: list[CallRecord]) -> None:
            for each in some:
                database.apply(entries(each), START)

        for done in [threads.submit(write, *half) for half in halves]:
            done.result()
        (call,) = everything(one)
        assert call.ids == (SIP,)


def test_a_process_that_stands_still_while_it_writes_holds_up_nobody(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres ends what it had begun, and others write; when it goes on it is told that nothing of it is there."""
    monkeypatch.setattr("grafter.calls.engine._IDLE_MS", 50)
    url = new_database(postgres)
    stalled, other = open_engine(url), open_engine(url)
    with begun(other) as connection:
        connection.execute(text("CREATE TABLE written (writer text)"))

    def write() -> None:
        with writing(other) as connection:
            connection.execute(text("INSERT INTO written VALUES ('other')"))

    def stall(threads: ThreadPoolExecutor) -> None:
        with writing(stalled) as connection:
            connection.execute(text("INSERT INTO written VALUES ('stalled')"))
            threads.submit(write).result(60)

    with ThreadPoolExecutor(1) as threads, pytest.raises(UnavailableError, match="idle-in-transaction"):
        stall(threads)
    with begun(other) as connection:
        assert list(connection.execute(text("SELECT writer FROM written")).scalars()) == ["other"]
    stalled.dispose()
    other.dispose()


def test_a_database_that_is_away_says_so() -> None:
    """And when to come again, without the password."""
    database = CallDatabase(open_engine("postgresql://me:hunter2@127.0.0.1:1/calls"))
    with pytest.raises(UnavailableError, match="away") as failure:
        database.search(Search(), (), (), START)
    assert "hunter2" not in str(failure.value)
    assert failure.value.retry_after > 0
