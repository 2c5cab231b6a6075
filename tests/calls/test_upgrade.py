"""A database in the first form of the tables, with what stood in it, over SQLite and over Postgres."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from grafter.calls.config import CallsExtension
from grafter.calls.database import CallDatabase
from grafter.calls.engine import begun, open_engine
from grafter.calls.following import Following
from grafter.calls.migrate import INI
from grafter.calls.model import CallId, Search
from grafter.calls.user_table import Place, UserTable
from grafter.core.policy import SECOND
from grafter.telemetry import Metrics
from tests.calls.records import ANNA, BERT, SECRET, START, record, trace, wait
from tests.calls.test_backlog import opened
from tests.calls.test_user_table import owner

SID, KEY, OTHER_KEY = "CA" + "1" * 32, "ql4oz6h7nqkz2e2gvg4o", "tw3wlxq2sr7hoq3k3omj"
ANNAS, CLINICS = "647b70f8b3e0b4bddcf543d17459fc60", "427b9ad2f6b485fb6792c90c0c4c9c92"
RELEASE = (
    '{"v":1,"name":"release:a","origin":"release","at":1800000000000000000,"ids":[["twilio",'
    '"CA11111111111111111111111111111111"]],"traces":["00000000000000000000000000000001"],"guests":["rtc_1"],"caller":'
    '"647b70f8b3e0b4bddcf543d17459fc604001","callee":"427b9ad2f6b485fb6792c90c0c4c9c924999","start":1800000000000000000'
    ',"end":1800000090000000000,"outcome":"completed","turns":[[1,1800000001000000000,2930.0,0.0,{"model":750.0,"tool":'
    '2180.0},null,""]],"tools":{"book_slot":[1,2180.0]},"spans":24,"policy":"first_token"}'
)
WEBHOOK = (
    '{"v":1,"name":"webhook:b","origin":"webhook","at":1800000000000000000,"ids":[["openai_realtime","rtc_1"],["sip",'
    '"a84b4c76e66710@pc33"],["twilio","CA11111111111111111111111111111111"]],"caller":'
    '"647b70f8b3e0b4bddcf543d17459fc604001","callee":"427b9ad2f6b485fb6792c90c0c4c9c924999"}'
)
ROWS: dict[str, list[dict[str, Any]]] = {
    "grafter_calls": [
        {
            "key": KEY, "start": START, "caller": ANNAS, "callee": CLINICS, "slow": True, "errors": False,
            "interrupted": False, "unjoined": False, "live": False, "ambiguous": False,
        }
    ],
    "grafter_call_ids": [
        {"value": value, "kind": kind, "call": KEY}
        for value, kind in (
            (trace(1).hex(), "trace"), (SID, "twilio"), ("a84b4c76e66710@pc33", "sip"), ("rtc_1", "openai_realtime"),
            (KEY, "key"), (OTHER_KEY, "key"),
        )
    ],
    "grafter_call_records": [
        {"name": json.loads(body)["name"], "call": KEY, "body": body.encode()} for body in (RELEASE, WEBHOOK)
    ],
    "grafter_call_documents": [
        {"name": "release:a", "piece": 0, "at": START, "body": zstandard.compress(b"spans")}
    ],
    "grafter_forgotten_numbers": [{"hash": BERT.hash, "at": START + 5 * SECOND}],
}  # fmt: skip
"""As the grafter wrote it that knew revision 0001 alone, of two sources of a call and a number that was forgotten."""


def first_form(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(INI.parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")
    for table, rows in ROWS.items():
        names = list(rows[0])
        values = ", ".join(f":{name}" for name in names)
        connection.execute(text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"), rows)


@pytest.fixture
def before(url: str) -> str:
    """The URL of a database of that time."""
    engine = open_engine(url)
    with begun(engine) as connection:
        first_form(connection)
    assert not inspect(engine).has_table("grafter_call_outbox")
    engine.dispose()
    return url


async def test_what_stood_there_stands_there_after_a_start(before: str, tmp_path: Path) -> None:
    """The call is found by number and by every id and key, with its trace; a number that was forgotten stays so; what
    comes now is of the same call, and is told to a table that nobody had followed calls with before."""
    owner(before, "CREATE TABLE calls (sid varchar(34) PRIMARY KEY, worst integer)")
    columns = {"worst": "longest_wait_ms"}
    config = {"name": "calls", "id_column": "sid", "columns": columns}
    extension = CallsExtension.model_validate({"url": before, "region": "DE", "table": config})
    async with (
        opened() as store,
        extension.open(store, SECRET, Metrics(), lambda: START, serve=False) as calls,
    ):
        (found,) = (await calls.search(Search(text="030 1234001"))).calls
        assert (found.key, found.spans, found.policy, found.tools) == (KEY, 24, "first_token", {"book_slot": (1, 2180)})
        assert found.slowest is not None
        assert found.slowest.wait_ms == 2930
        for one in (SID, "rtc_1", "a84b4c76e66710@pc33", trace(1).hex()):
            assert await calls.by_id(one) == found
        assert await calls.call(OTHER_KEY) == found
        assert list(await calls.spans(KEY)) == [b"spans"]
        assert (await calls.search(Search(slow=True))).calls == (found,)
        await calls.record(record("late", traces=(trace(2),), caller=BERT, start=START))
        leg = record("c", ids=(CallId("twilio", SID),), traces=(trace(3),), caller=ANNA, turns=(wait(2, 4000.0),))
        await calls.record(leg)
        await calls.backlog.drain_all()
        assert len((await calls.search(Search())).calls) == 1
        again = await calls.by_id(SID)
        assert again is not None
        assert again.traces == (trace(1), trace(3))
        table = UserTable(open_engine(before, own=False), Place("calls", "sid", "twilio", columns), lambda: START)
        assert await Following(table, calls, Metrics(), lambda: START).once() == 1
        assert owner(before, "SELECT sid, worst FROM calls") == [(SID, 4000)]
        table.close()


def test_replicas_that_start_together_upgrade_it_once(before: str) -> None:
    """Each waits for whoever is at it, and finds it done; nobody fails."""
    databases = [CallDatabase(open_engine(before)) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(one.migrate) for one in databases]:
            done.result()
    for one in databases:
        assert [call.key for call in one.search(Search(), (), (), START).calls] == [KEY]
        one.close()
