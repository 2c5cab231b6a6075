"""Records in, calls out: the call map's database, searched and kept. Blocks; runs on threads of its own."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import zstandard
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    and_,
    bindparam,
    delete,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from grafter.calls import encoding, outbox, schema
from grafter.calls.engine import reading, writing
from grafter.calls.following import Due
from grafter.calls.merge import LONGEST_RUN, Call, row
from grafter.calls.migrate import migrate
from grafter.calls.model import CallRecord, CallRow, Forgotten, Page, Reindexed, Search
from grafter.calls.number_keys import NumberKeys
from grafter.calls.queries import (
    CHUNK,
    KEY,
    called,
    in_chunks,
    keyed_records,
    owners_of,
    records_of,
    remove_calls,
    rows_of_any,
)
from grafter.calls.writing import Entry, Follows, Writing

_MOST_ROWS = 500
_CURSOR = re.compile(r"(-?[0-9a-f]{1,16})\.([0-9a-z]{1,32})")
_MOST_DOCUMENT = 64 << 20


class CallDatabase:
    """Methods raise UnavailableError where the database is away."""

    def __init__(self, engine: Engine, keys: NumberKeys | None = None, followers: Sequence[Follows] = ()) -> None:
        self._engine = engine
        self._keys = keys or NumberKeys()
        self._followers = followers

    def migrate(self) -> None:
        with writing(self._engine) as connection:
            migrate(connection)

    def close(self) -> None:
        self._engine.dispose()

    def apply(self, entries: Sequence[Entry], now: int) -> set[str]:
        """Write them down; what is there already changes nothing. The names of records that pieces came without, and
        that are not there: those pieces were not written."""
        with writing(self._engine) as connection:
            return Writing(connection, now, self._keys, self._followers).apply(entries)

    def search(self, search: Search, values: Sequence[str], hashes: Sequence[str], now: int) -> Page:
        """``values``: ids that the text may stand for; ``hashes``: what its number may be kept as."""
        limit = min(max(search.limit, 1), _MOST_ROWS)
        hashes = self._forms(hashes)
        with reading(self._engine) as connection:
            conditions = _conditions(search, now)
            found: dict[str, tuple[int, str]] = {}
            for where in _places(connection, search, values, hashes):
                query = select(schema.calls.c.start, schema.calls.c.key).where(*conditions, *where)
                query = query.order_by(schema.calls.c.start.desc(), schema.calls.c.key.desc()).limit(limit + 1)
                found |= {key: (start, key) for start, key in connection.execute(query)}
            newest = sorted(found.values(), reverse=True)
            shown = newest[:limit]
            rows = _rows(connection, [key for _, key in shown], now)
        more = f"{shown[-1][0]:x}.{shown[-1][1]}" if len(newest) > limit else None
        return Page(tuple(rows), more)

    def call(self, key: str, now: int) -> CallRow | None:
        """The call of a key, also of one that it had before."""
        with reading(self._engine) as connection:
            keys = called(connection, [key], KEY)
            rows = _rows(connection, keys, now)
        return rows[0] if rows else None

    def spans(self, key: str) -> list[bytes]:
        with reading(self._engine) as connection:
            names = [record.name for record in _in_time(records_of(connection, called(connection, [key], KEY)))]
            table = schema.documents
            pieces: dict[str, list[bytes]] = defaultdict(list)
            query = select(table.c.name, table.c.body).order_by(table.c.piece)
            for name, body in rows_of_any(connection, query, table.c.name, names):
                pieces[name].append(body)
        return [whole for name in names if (whole := _whole(pieces.get(name, ()))) is not None]

    def recent_medians(self, limit: int, now: int) -> dict[str, float]:
        with reading(self._engine) as connection:
            newest = select(schema.calls.c.key).order_by(schema.calls.c.start.desc()).limit(limit)
            rows = _rows(connection, connection.execute(newest).scalars().all(), now)
        figures: dict[str, list[float]] = defaultdict(list)
        for turn in (turn for call in rows for turn in call.turns if turn.number):
            if turn.wait_ms is not None:
                figures["wait_ms"].append(turn.wait_ms)
            for name, ms in turn.parts.items():
                figures[name].append(ms)
        return {name: median(some) for name, some in figures.items()}

    def rows(self, since: int, until: int, now: int) -> Iterator[CallRow]:
        """All calls that began then, newest first."""
        before = None
        while True:
            page = self.search(Search(since=since, until=until, before=before, limit=_MOST_ROWS), (), (), now)
            yield from page.calls
            if page.next is None:
                return
            before = page.next

    def forget(self, hashes: Sequence[str], now: int) -> Forgotten:
        table, barred = schema.calls, schema.forgotten
        forms = self._forms(hashes)
        with writing(self._engine) as connection:
            query = select(table.c.key).where(or_(table.c.caller.in_(forms), table.c.callee.in_(forms)))
            keys = list(connection.execute(query).scalars())
            records = records_of(connection, keys)
            _remove(connection, keys, [record.name for record in records])
            connection.execute(delete(barred).where(barred.c.hash.in_(forms)))
            rows = [{"hash": self._keys.kept(each), "at": now, "number_key": self._keys.id} for each in hashes]
            connection.execute(insert(barred), rows)
        traces = {trace for record in records for trace in record.traces}
        return Forgotten(len(keys), tuple(sorted(traces)))

    def reindex(self, after: str, limit: int = CHUNK) -> Reindexed:
        """Write the numbers of some calls, in order of their keys, under the current key instead of the old one."""
        calls, barred = schema.calls, schema.forgotten
        with writing(self._engine) as connection:
            query = select(calls.c.key).where(calls.c.key > after).order_by(calls.c.key).limit(limit)
            keys = list(connection.execute(query).scalars())
            changed = {}
            strange = 0
            by_call: dict[str, list[CallRecord]] = defaultdict(list)
            for key, record in keyed_records(connection, keys):
                anew = self._keys.closed(self._keys.opened(record))
                by_call[key].append(anew)
                if anew != record:
                    changed[record.name] = key, anew
                strange += bool(anew.number_key) and anew.number_key != self._keys.id
            self._put_anew(connection, changed, by_call)
            if not after:
                # All of them at once: people who asked to be forgotten are few.
                under_old = select(barred.c.hash, barred.c.at).where(barred.c.number_key == self._keys.old_id)
                moved = [] if self._keys.old_id == self._keys.id else list(connection.execute(under_old))
                connection.execute(delete(barred).where(barred.c.hash.in_([one for one, _ in moved])))
                rows = [{"hash": self._keys.again(one), "at": at, "number_key": self._keys.id} for one, at in moved]
                if rows:
                    connection.execute(insert(barred), rows)
        touched = {key for key, _ in changed.values()}
        return Reindexed(keys[-1] if len(keys) == limit else None, len(keys), len(touched), strange)

    def _put_anew(
        self,
        connection: Connection,
        changed: Mapping[str, tuple[str, CallRecord]],
        by_call: Mapping[str, Sequence[CallRecord]],
    ) -> None:
        if not changed:
            return
        records, calls = schema.records, schema.calls
        bodies = [{"of": name, "made": encoding.encode(record)} for name, (_, record) in changed.items()]
        query = update(records).where(records.c.name == bindparam("of")).values(body=bindparam("made"))
        connection.execute(query, bodies)
        sides = []
        for key in {key for key, _ in changed.values()}:
            call = Call(tuple(sorted(by_call[key], key=lambda one: one.name)))
            caller, callee = (phone and phone.hash for phone in (call.caller, call.callee))
            sides.append({"of": key, "from_": caller, "to_": callee})
        both: dict[str, Any] = {"caller": bindparam("from_"), "callee": bindparam("to_")}
        connection.execute(update(calls).where(calls.c.key == bindparam("of")).values(**both), sides)

    def _forms(self, hashes: Sequence[str]) -> list[str]:
        return [form for each in hashes for form in self._keys.forms(each)]

    # What followers have not taken up.

    def claim(self, follower: str, now: int, lease: int, limit: int) -> list[tuple[Due, CallRow | None]]:
        """What is due for a follower, each with its call; None where that is gone."""
        with reading(self._engine) as connection:
            if not outbox.waiting(connection, follower, now):
                return []
        with writing(self._engine) as connection:
            due = outbox.claim(connection, follower, now, lease, limit)
        with reading(self._engine) as connection:
            owners = owners_of(connection, [(one.call, KEY) for one in due])
            rows = {one.key: one for one in _rows(connection, sorted(set(owners.values())), now)}
        return [(one, rows.get(owners.get((one.call, KEY), ""))) for one in due]

    def backlog(self, followers: Sequence[str]) -> dict[str, tuple[int, int]]:
        """How many calls each of them was not notified of yet, and when the first of those changed."""
        with reading(self._engine) as connection:
            return outbox.backlog(connection, followers)

    def settle(self, follower: str, done: Sequence[Due], later: Sequence[tuple[Due, int]], now: int) -> None:
        """What became of them: those that are done, and those that are due again at a time."""
        with writing(self._engine) as connection:
            outbox.done(connection, follower, done, now)
            outbox.later(connection, follower, later, now)

    def retain(self, calls_since: int, documents_since: int) -> tuple[int, int]:
        """Remove what is older; how many calls and pieces of traces that were."""
        calls, documents = schema.calls, schema.documents
        removed = 0
        while True:
            with writing(self._engine) as connection:
                old = select(calls.c.key).where(calls.c.start < calls_since).limit(CHUNK)
                keys = list(connection.execute(old).scalars())
                _remove(connection, keys, [record.name for record in records_of(connection, keys)])
                if len(keys) < CHUNK:
                    gone = connection.execute(delete(documents).where(documents.c.at < documents_since)).rowcount
                    connection.execute(delete(schema.forgotten).where(schema.forgotten.c.at < calls_since))
                    # Of a follower that the config has no more, or under a key that the call has no more.
                    connection.execute(delete(schema.outbox).where(schema.outbox.c.at < calls_since))
            removed += len(keys)
            if len(keys) < CHUNK:
                return removed, gone


def _rows(connection: Connection, keys: Sequence[str], now: int) -> list[CallRow]:
    """The calls of these keys, in their order."""
    by_call: dict[str, list[CallRecord]] = defaultdict(list)
    for key, record in keyed_records(connection, keys):
        by_call[key].append(record)
    table = schema.calls
    query = select(table.c.key).where(table.c.key.in_(keys), table.c.ambiguous)
    ambiguous = set(connection.execute(query).scalars())
    return [
        row(Call(tuple(sorted(by_call[key], key=lambda one: one.name)), key in ambiguous), now)
        for key in keys
        if key in by_call
    ]


def _in_time(records: Iterable[CallRecord]) -> list[CallRecord]:
    return sorted(records, key=lambda record: (record.at, record.name))


def _conditions(search: Search, now: int) -> list[ColumnElement[bool]]:
    table = schema.calls
    # As the indexes have them: a column of truth values is ``= 1`` to SQLite, from which it does not see that it may
    # use one of those.
    found: list[ColumnElement[bool]] = [
        literal_column(f"{table.name}.{flag}") for flag in schema.FLAGS if getattr(search, flag)
    ]
    if search.live:
        found.append(table.c.start >= now - LONGEST_RUN)
    if search.since is not None:
        found.append(table.c.start >= search.since)
    if search.until is not None:
        found.append(table.c.start <= search.until)
    if search.before is not None and (cursor := _cursor(search.before)) is not None:
        start, key = cursor
        found.append(table.c.start <= start)
        found.append(or_(table.c.start < start, and_(table.c.start == start, table.c.key < key)))
    return found


def _cursor(text: str) -> tuple[int, str] | None:
    """None for what no page ended with: it stands in an address, where anybody writes anything."""
    found = _CURSOR.fullmatch(text)
    return (int(found[1], 16), found[2]) if found and abs(int(found[1], 16)) < 1 << 63 else None


def _places(
    connection: Connection, search: Search, values: Sequence[str], hashes: Sequence[str]
) -> Iterator[list[ColumnElement[bool]]]:
    """Where to look, one condition an index."""
    table = schema.calls
    if not search.text.strip():
        yield []
        return
    ids = schema.ids
    keys = connection.execute(select(ids.c.call).where(ids.c.value.in_(values)).distinct()).scalars().all()
    if keys:
        yield [table.c.key.in_(keys)]
    for number in hashes:
        yield [table.c.caller == number]
        yield [table.c.callee == number]


def _remove(connection: Connection, keys: Sequence[str], names: Sequence[str]) -> None:
    for chunk in in_chunks(names):
        connection.execute(delete(schema.documents).where(schema.documents.c.name.in_(chunk)))
    remove_calls(connection, keys)
    for chunk in in_chunks(keys):
        connection.execute(delete(schema.outbox).where(schema.outbox.c.call.in_(chunk)))


def _whole(pieces: Sequence[bytes]) -> bytes | None:
    """A document that is there with all of its pieces; None for one that is not."""
    if not pieces:
        return None
    try:
        return zstandard.ZstdDecompressor().decompress(b"".join(pieces), max_output_size=_MOST_DOCUMENT)
    except zstandard.ZstdError:
        return None
