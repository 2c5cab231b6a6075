"""Calls in a table that was there before, over SQLite and over Postgres: what stands in its rows, and what happens when
the table, a column, a right or the whole database is missing for a time."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text

from grafter.calls.config import CallsExtension
from grafter.calls.engine import open_engine
from grafter.calls.following import Following
from grafter.calls.model import CallId, CallRecord
from grafter.calls.sql_map import SqlCallMap
from grafter.calls.user_table import Place, UserTable
from grafter.components import load
from grafter.config.problems import ConfigError
from grafter.core.policy import SECOND
from grafter.telemetry import Metrics
from tests.calls.postgres import new_database
from tests.calls.records import ANNA, CLINIC, SECRET, START, record, trace, wait
from tests.calls.test_backlog import opened

SID, OTHER = ("CA" + each * 32 for each in "ab")
COLUMNS = {"trace": "trace_id", "worst_ms": "longest_wait_ms", "verdict": "verdict", "begun": "start"}
MADE = (
    "CREATE TABLE calls (sid varchar(34) PRIMARY KEY, note text, trace text, worst_ms integer, verdict text, begun {})"
)


@dataclass
class Followed:
    """A call map, and a table of somebody else's beside it."""

    calls: SqlCallMap
    following: Following
    metrics: Metrics
    url: str
    now: list[int]

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """What the table's owner does; the rows of the last one."""
        return owner(self.url, *statements)

    async def told(self) -> None:
        """All that waits is written into the map, and what is due told, a minute later."""
        self.now[0] += 60 * SECOND
        await self.calls.backlog.drain_all()
        while await self.following.once():
            pass

    async def backlog(self) -> tuple[float | None, float | None]:
        """What the gauges say that waits for the table, and for how long."""
        await self.calls.measure([self.following.follower])
        names = ("grafter_calls_backlog", "grafter_calls_backlog_oldest_seconds")
        waits, oldest = (self.metrics.registry.get_sample_value(name, {"to": "table"}) for name in names)
        return waits, oldest

    def came(self, outcome: str) -> float:
        labels = {"to": "table", "outcome": outcome}
        return self.metrics.registry.get_sample_value("grafter_calls_told_total", labels) or 0.0


def owner(url: str, *statements: str) -> list[tuple[Any, ...]]:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            found = [connection.execute(text(one)) for one in statements][-1]
            return [tuple(row) for row in found] if found.returns_rows else []
    finally:
        engine.dispose()


@asynccontextmanager
async def followed(
    home: Path, url: str, columns: dict[str, str] = COLUMNS, id: str = "twilio", name: str = "calls"
) -> AsyncIterator[Followed]:
    now, metrics = [START], Metrics()
    config = {"name": name, "id_column": "sid", "id": id, "columns": columns, "url": url}
    extension = CallsExtension.model_validate({"url": f"sqlite:///{home}/map.db", "table": config})
    table = UserTable(open_engine(url, own=False), Place(name, "sid", id, columns), lambda: now[0])
    async with (
        opened() as store,
        extension.open(store, SECRET, metrics, lambda: now[0], serve=False) as calls,
    ):
        yield Followed(calls, Following(table, calls, metrics, lambda: now[0]), metrics, url, now)
    table.close()


@pytest.fixture
def theirs(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> str:
    """A database with their table, which has a column of its own."""
    if "sqlite" in url:
        url = f"sqlite:///{tmp_path}/theirs.db"
    owner(url, MADE.format("timestamptz" if "postgresql" in url else "timestamp"))
    return url


def call(name: str, sid: str, number: int, ms: float = 2930.0, **said: Any) -> CallRecord:
    return record(
        name, ids=(CallId("twilio", sid),), traces=(trace(number),), caller=ANNA, callee=CLINIC,
        start=START + number * 3600 * SECOND, turns=(wait(1, ms),), spans=9, **said,
    )  # fmt: skip


async def test_a_row_that_is_there_gets_its_columns_and_a_row_that_is_not_is_made(theirs: str, tmp_path: Path) -> None:
    """What the app wrote stays; what is said of a call later stands there too."""
    async with followed(tmp_path, theirs) as made:
        made.sql(f"INSERT INTO calls (sid, note) VALUES ('{SID}', 'an angry caller')")
        await made.calls.record(call("a", SID, 1))
        await made.calls.record(call("b", OTHER, 2, 800.0))
        await made.told()
        rows = made.sql("SELECT sid, note, trace, worst_ms, verdict FROM calls ORDER BY sid")
        assert [row[:4] for row in rows] == [
            (SID, "an angry caller", trace(1).hex(), 2930),
            (OTHER, None, trace(2).hex(), 800),
        ]
        assert rows[0][4] == "turn 1 was slow: the caller waited 2.93 s; 2.93 s of it was OpenAI's model"
        ((begun,),) = made.sql(f"SELECT begun FROM calls WHERE sid = '{SID}'")
        told = datetime.fromisoformat(begun) if isinstance(begun, str) else begun
        assert told.replace(tzinfo=told.tzinfo or UTC).timestamp() == (START // SECOND) + 3600
        await made.calls.record(call("later", SID, 1, 3100.0))
        await made.told()
        assert made.sql(f"SELECT worst_ms, note FROM calls WHERE sid = '{SID}'") == [(3100, "an angry caller")]
        assert made.came("taken") == 3


async def test_each_leg_of_a_call_has_its_row(theirs: str, tmp_path: Path) -> None:
    """Two ids of one kind, tied by a third: both rows say the same of the whole call."""
    sip = CallId("sip", "a84b4c76e66710@pc33")
    async with followed(tmp_path, theirs) as made:
        await made.calls.record(
            record("a", ids=(CallId("twilio", SID), sip), traces=(trace(1),), turns=(wait(1, 900.0),))
        )
        await made.calls.record(record("b", ids=(CallId("twilio", OTHER), sip), turns=(wait(2, 1900.0),)))
        await made.told()
        assert made.sql("SELECT sid, worst_ms FROM calls ORDER BY sid") == [(SID, 1900), (OTHER, 1900)]


async def test_a_missing_column_is_named_and_what_waits_comes_once_it_is_there(theirs: str, tmp_path: Path) -> None:
    """Hours without it; the map itself has the call at once, and nothing is lost or written twice."""
    async with followed(tmp_path, theirs, {**COLUMNS, "kept_by": "policy"}) as made:
        await made.calls.record(call("a", SID, 1, policy="error"))
        for _ in range(3):
            await made.told()
            made.now[0] += 3600 * SECOND
        assert "has no column kept_by; it has sid, note, trace, worst_ms, verdict, begun" in made.following.error
        assert made.came("failed") == 3
        assert await made.calls.by_id(SID) is not None
        made.sql("ALTER TABLE calls ADD COLUMN kept_by text")
        await made.told()
        assert made.sql("SELECT sid, kept_by FROM calls") == [(SID, "error")]
        assert made.following.error == ""
        assert made.came("taken") == 1


async def test_a_table_or_database_that_is_not_there_yet(
    request: pytest.FixtureRequest, url: str, tmp_path: Path
) -> None:
    """It is not made; what waits comes when its owner has made it. A change of the table does not end that."""
    if "sqlite" in url:
        url, what = f"sqlite:///{tmp_path}/theirs.db", "unable to open"
    else:
        what = "there is no such table"
    async with followed(tmp_path, url) as made:
        for n in range(120):
            await made.calls.record(call(f"{n}", f"CA{n:032x}", n + 1))
        await made.told()
        assert what in made.following.error
        made.now[0] += 3600 * SECOND
        assert await made.backlog() == (120, 3600.0)
        assert not (tmp_path / "theirs.db").exists()
        made.now[0] += 8 * 3600 * SECOND
        made.sql(MADE.format("timestamp"))
        await made.told()
        assert made.sql("SELECT count(*) FROM calls") == [(120,)]
        assert await made.backlog() == (0, 0.0)
        made.sql("DROP TABLE calls")
        await made.calls.record(call("more", SID, 500))
        await made.told()
        assert made.following.error
        made.sql(MADE.format("text"))
        await made.told()
        assert made.sql("SELECT sid FROM calls") == [(SID,)]


async def test_a_right_that_is_missing_is_named(postgres: str, tmp_path: Path) -> None:
    """A role that may read but not write; then it may."""
    theirs = new_database(postgres)
    role = f"grafter_{tmp_path.name.replace('-', '_')[-20:]}"
    owner(theirs, MADE.format("timestamptz"), f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON calls TO {role}")
    as_role = make_url(theirs).set(username=role).render_as_string(hide_password=False)
    async with followed(tmp_path, as_role) as made:
        await made.calls.record(call("a", SID, 1))
        await made.told()
        assert made.following.error == "it cannot be written: permission denied for table calls"
        owner(theirs, f"GRANT INSERT, UPDATE ON calls TO {role}")
        await made.told()
        assert owner(theirs, "SELECT sid FROM calls") == [(SID,)]


async def test_a_row_that_is_refused_costs_itself(theirs: str, tmp_path: Path) -> None:
    """A constraint of the table; the other calls of the batch are written, and nobody asks again for that one."""
    async with followed(tmp_path, theirs) as made:
        made.sql("DROP TABLE calls", MADE.format("text").replace("trace text", "trace text CHECK (worst_ms < 5000)"))
        for n, ms in enumerate((900.0, 9_000.0, 1_900.0)):
            await made.calls.record(call(f"{n}", f"CA{n:032x}", n + 1, ms))
        await made.told()
        await made.told()
        assert made.sql("SELECT worst_ms FROM calls ORDER BY sid") == [(900,), (1900,)]
        assert (made.came("taken"), made.came("refused"), made.came("failed")) == (2, 1, 0)
        assert made.following.error == ""


async def test_a_row_that_its_owner_makes_meanwhile_is_not_lost(postgres: str, tmp_path: Path) -> None:
    """Between the look for the row and the insert: it is looked for once more, and what the owner wrote stays."""
    theirs = new_database(postgres)
    owner(theirs, MADE.format("timestamptz"))
    made_by_owner: list[str] = []

    def meanwhile(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO calls") and not made_by_owner:
            made_by_owner.append(statement)
            owner(theirs, f"INSERT INTO calls (sid, note) VALUES ('{SID}', 'an angry caller')")

    event.listen(Engine, "before_cursor_execute", meanwhile)
    try:
        async with followed(tmp_path, theirs) as made:
            await made.calls.record(call("a", SID, 1))
            await made.told()
            assert len(made_by_owner) == 1
            assert made.sql("SELECT worst_ms, note FROM calls") == [(2930, "an angry caller")]
    finally:
        event.remove(Engine, "before_cursor_execute", meanwhile)


async def test_a_column_of_the_wrong_type_is_named_and_loses_nothing(theirs: str, tmp_path: Path) -> None:
    """It is wrong for every call, so none is given up: they come when it is right."""
    async with followed(tmp_path, theirs, {**COLUMNS, "worst_ms": "verdict"}) as made:
        await made.calls.record(call("a", SID, 1))
        await made.told()
        assert made.following.error == "its column worst_ms cannot hold verdict: it is of numbers"
        assert (made.came("failed"), made.came("refused")) == (1, 0)
        made.sql("DROP TABLE calls", MADE.format("text").replace("worst_ms integer", "worst_ms text"))
        await made.told()
        assert made.sql("SELECT worst_ms FROM calls") == [
            ("turn 1 was slow: the caller waited 2.93 s; 2.93 s of it was OpenAI's model",)
        ]


async def test_an_app_may_count_its_calls(theirs: str, tmp_path: Path) -> None:
    """An id of digits finds its row in a column of numbers; one of words there is refused, and costs itself."""
    async with followed(tmp_path, theirs, id="app") as made:
        made.sql("DROP TABLE calls", MADE.format("text").replace("varchar(34)", "bigint"))
        made.sql("INSERT INTO calls (sid, note) VALUES (12345678, 'counted')")
        for value in ("12345678", "a-call-of-words"):
            await made.calls.record(record(value, ids=(CallId("app", value),), turns=(wait(1, 900.0),)))
        await made.told()
        assert made.sql("SELECT sid, note, worst_ms FROM calls") == [(12345678, "counted", 900)]
        assert (made.came("taken"), made.came("refused")) == (1, 1)


async def test_names_of_any_letters_are_names(theirs: str, tmp_path: Path) -> None:
    """What a config calls a table or a column is quoted, whatever it is: no word of it is SQL."""
    name, column = 'calls"; DROP TABLE calls; --', 'the "trace" of 100 %(s) call:s'
    quoted, of = (one.replace('"', '""').replace(":", "\\:") for one in (name, column))
    async with followed(tmp_path, theirs, {column: "trace_id", "select": "verdict"}, name=name) as made:
        made.sql(f'CREATE TABLE "{quoted}" (sid text PRIMARY KEY, "{of}" text, "select" text)')
        await made.calls.record(call("a", SID, 1))
        await made.told()
        assert made.following.error == ""
        assert made.sql(f'SELECT sid, "{of}" FROM "{quoted}"') == [(SID, trace(1).hex())]
        assert made.sql("SELECT count(*) FROM calls") == [(0,)]


async def test_whoever_dies_at_it_loses_nothing(theirs: str, tmp_path: Path) -> None:
    """Claimed and never settled, as after a kill: due again when the lease has ended, and nobody else's before."""
    async with followed(tmp_path, theirs) as made:
        await made.calls.record(call("a", SID, 1))
        made.now[0] += SECOND
        await made.calls.backlog.drain_all()
        name = made.following.follower.name
        assert len(await made.calls.claim(name, 60 * SECOND, 10)) == 1
        assert await made.following.once() == 0
        await made.told()
        assert made.sql("SELECT sid FROM calls") == [(SID,)]


async def test_a_change_that_comes_while_it_is_told_is_told_too(theirs: str, tmp_path: Path) -> None:
    """What was claimed is settled, and the call is due again at once."""
    async with followed(tmp_path, theirs) as made:
        await made.calls.record(call("a", SID, 1, 900.0))
        made.now[0] += SECOND
        await made.calls.backlog.drain_all()
        name = made.following.follower.name
        claimed = await made.calls.claim(name, 60 * SECOND, 10)
        await made.calls.record(call("later", SID, 1, 4_000.0))
        await made.calls.backlog.drain_all()
        await made.calls.settle(name, [due for due, _ in claimed], [])
        assert await made.following.once() == 1
        assert made.sql("SELECT worst_ms FROM calls") == [(4000,)]


async def test_the_types_of_postgres(postgres: str, tmp_path: Path) -> None:
    """A row per host trace; lists, JSON, UUIDs, numbers and booleans as their columns have them, in another schema."""
    theirs = new_database(postgres)
    columns = {
        "traces": "trace_ids", "why": "unjoined", "begun": "start", "ended": "end",
        "failed": "errors", "fine": "joined", "mean": "app_ms", "said": "outcome",
    }  # fmt: skip
    owner(
        theirs,
        "CREATE SCHEMA telephony",
        "CREATE TABLE telephony.calls (id bigserial PRIMARY KEY, sid uuid UNIQUE NOT NULL, traces text[], why jsonb, "
        "begun timestamp, ended double precision, failed bigint, fine boolean, mean numeric(10, 2), said varchar(20))",
    )
    async with followed(tmp_path, theirs, columns, id="trace_id", name="telephony.calls") as made:
        one = call("a", SID, 1, end=START + 3690 * SECOND, unjoined=("a", "b"), app_ms=12.25, guests=("rtc_1",))
        await made.calls.record(one)
        await made.told()
        assert made.following.error == ""
        ((*some, why),) = made.sql(
            "SELECT sid, traces, begun, ended, failed, fine, mean::text, said, why::text FROM telephony.calls"
        )
        begun = datetime.fromtimestamp(START // SECOND + 3600, UTC).replace(tzinfo=None)
        ended = START // SECOND + 3690
        assert some == [UUID(trace(1).hex()), [trace(1).hex()], begun, ended, 0, True, "12.25", "unknown"]
        assert json.loads(why) == ["a", "b"]


async def test_figures_hold_up_no_lookup(tmp_path: Path) -> None:
    """However many ask for a month of figures, and however long those take: a call is found meanwhile."""
    end = threading.Event()
    async with followed(tmp_path, f"sqlite:///{tmp_path}/theirs.db") as made:
        await made.calls.record(call("a", SID, 1))
        await made.calls.backlog.drain_all()
        asked = [asyncio.ensure_future(made.calls.over(0, START, lambda _: end.wait(60))) for _ in range(3)]
        await asyncio.sleep(0)
        try:
            assert await made.calls.by_id(SID) is not None
        finally:
            end.set()
        assert await asyncio.gather(*asked) == [True] * 3


def test_what_the_config_says_is_checked(tmp_path: Path) -> None:
    """A name that nothing of a call has, with the nearest; an id that is none; no column at all; a short key."""
    file = tmp_path / "config.yaml"
    for said, wrong in (
        ("table: {name: calls, id_column: sid, columns: {a: trace_idd}}", "did you mean trace_id?"),
        ("table: {name: calls, id_column: sid, id: phone, columns: {a: key}}", "is no id of a call"),
        ("table: {name: calls, id_column: sid, columns: {}}", "names no column"),
        ("table: {name: calls, id_column: sid, columns: {sid: key}}", "sid: is the id_column"),
        ("table: {name: calls, id_column: sid, columns: {a: from_number}}", "kept with phone: plain alone"),
        ("number_key: short", "could be guessed"),
        ("webhooks: [{url: 'http://a', secret: whsec_%}]", "is not whsec_ and base64"),
        ("webhooks: [{url: 'http://a', secret: whsec_}]", "is not whsec_ and base64"),
    ):
        file.write_text(f"extensions: {{calls: {{{said}}}}}")
        with pytest.raises(ConfigError) as caught:
            load([str(file)], (), {})
        assert wrong in str(caught.value.problems[0])
        assert f"{file}:1: extensions.calls." in str(caught.value.problems[0])
