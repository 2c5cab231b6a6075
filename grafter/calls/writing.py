"""One batch of records on its way into the tables.

What is written is always whole: the calls that a new record may be of are read with all of their records, it is decided
anew which records are one call (``merge``), and all of it is put back in one transaction, in which nobody else writes.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from grafter.calls import encoding, outbox, schema
from grafter.calls.ids import recording_ids
from grafter.calls.merge import NEAR, Call, calls_of, is_slow, row
from grafter.calls.model import RUNNING, CallRecord, Origin
from grafter.calls.number_keys import NumberKeys
from grafter.calls.queries import (
    CHUNK,
    KEY,
    RECORDING,
    TRACE,
    called,
    keyed_records,
    owners_of,
    remove_calls,
    rows_of_any,
)

_Ring = tuple[str, str, int]
"""From, to and start: by these alone records may be of one call."""

_ROUNDS = 8
# One number that rings another every second is a machine; of its calls none is the only one that fits.
_MOST_NEAR = 200
_WINDOW = 60 * NEAR
_MOST_IN_WINDOW = 5_000
MOST_RECORDS = 2_000
"""Of one call; an id that more of them share names none."""
_CROWDED = "an id of it stands in thousands of traces: it names no call, and was left out"


@dataclass(frozen=True, slots=True)
class Entry:
    """A record on its way in, or a piece of the trace that came with one."""

    record: CallRecord | None
    name: str
    """Of the record."""
    piece: int = 0
    body: bytes = b""
    """Of the compressed document; may be empty."""


@dataclass(frozen=True, slots=True)
class Follows:
    """Somebody who is notified of calls that change."""

    name: str
    """Up to 64 characters."""
    everything: bool = True
    """False: only of calls of which a trace has left."""


class Writing:
    """One batch, inside its transaction."""

    def __init__(self, connection: Connection, now: int, keys: NumberKeys, followers: Sequence[Follows]) -> None:
        self._connection = connection
        self._now = now
        self._keys = keys
        self._followers = followers

    def apply(self, entries: Sequence[Entry]) -> set[str]:
        records = {entry.record.name: entry.record for entry in entries if entry.record is not None}
        new = self._identifying(self._wanted(list(records.values())))
        if new:
            self._group(new)
        return self._documents([entry for entry in entries if entry.body]) - records.keys()

    def _identifying(self, records: Sequence[CallRecord]) -> list[CallRecord]:
        """The records without ids that so many share that they name no call: an app's default, say."""
        owners = owners_of(self._connection, [value for record in records for value in _values(record)])
        table = schema.records
        counted = select(table.c.call).group_by(table.c.call).having(func.count() >= MOST_RECORDS)
        owning = sorted(set(owners.values()))
        crowded = {call for (call,) in rows_of_any(self._connection, counted, table.c.call, owning)}
        if not crowded:
            return list(records)
        out: list[CallRecord] = []
        for record in records:
            ids = tuple(one for one in record.ids if owners.get((one.value, one.kind)) not in crowded)
            traces = tuple(one for one in record.traces if owners.get((one.hex(), TRACE)) not in crowded)
            if traces or ids or not (record.ids or record.traces):
                less = len(ids) < len(record.ids)
                unjoined = (*record.unjoined, _CROWDED) if less else record.unjoined
                out.append(replace(record, ids=ids, traces=traces, unjoined=unjoined))
        return out

    def _wanted(self, records: Sequence[CallRecord]) -> list[CallRecord]:
        """The records that are new, and of nobody who is to be forgotten."""
        names = self._names([record.name for record in records])
        hashes = {phone.hash for one in records for phone in (one.caller, one.callee) if phone is not None}
        known = {form: each for each in hashes for form in self._keys.forms(each)}
        table = schema.forgotten
        told = rows_of_any(self._connection, select(table.c.hash, table.c.at), table.c.hash, sorted(known))
        barred = {known[found]: at for found, at in told}
        return [record for record in records if record.name not in names and not _is_barred(record, barred)]

    def _names(self, values: Sequence[str]) -> set[str]:
        """Those of these names of records that are there."""
        column = schema.records.c.name
        return {found for (found,) in rows_of_any(self._connection, select(column), column, values)}

    def _group(self, new: Sequence[CallRecord]) -> None:
        """Decide anew about the new records and every call that they may touch, and put the calls back."""
        known = called(self._connection, [value for record in new for value in _values(record)])
        loaded: dict[str, Sequence[CallRecord]] = {}
        searched: set[_Ring] = set()
        wanted = set(known)
        for _ in range(_ROUNDS):
            missing = wanted - loaded.keys()
            if missing:
                by_call: dict[str, list[CallRecord]] = {key: [] for key in missing}
                for key, record in keyed_records(self._connection, sorted(missing)):
                    by_call[key].append(self._keys.opened(record))
                loaded |= by_call
            before = [record for some in loaded.values() for record in some]
            calls = calls_of(_useful([*before, *new], {record.name for record in before}))
            near = {found for call in calls if (found := _ring(call)) is not None} - searched
            # Where it stood until now others may stand together once it is gone.
            near |= {found for some in loaded.values() if (found := _ring(Call(tuple(some)))) is not None} - searched
            searched |= near
            wanted = self._near(near) if near else set()
            if not wanted - loaded.keys() or len(loaded) > len(known) + _MOST_NEAR:
                break
        stood = calls_of(before) if self._followers else ()
        self._put_back(calls, stood, sorted(loaded), {record.name for record in new})

    def _near(self, rings: Collection[_Ring]) -> set[str]:
        """Calls with the numbers and about the start of any of these."""
        found: set[str] = set()
        for some in _windows(sorted(rings, key=lambda ring: ring[2])):
            starts: dict[tuple[str, str], list[int]] = defaultdict(list)
            for caller, callee, start in some:
                starts[caller, callee].append(start)
            first, last = some[0][2] - 2 * NEAR, some[-1][2] + 2 * NEAR
            known = {form: each for pair in starts for each in pair for form in self._keys.forms(each)}
            callers = {form for caller, _ in starts for form in self._keys.forms(caller)}
            table = schema.calls
            query = select(table.c.key, table.c.caller, table.c.callee, table.c.start).where(
                table.c.caller.in_(callers), table.c.start.between(first, last)
            )
            for key, caller, callee, start in self._connection.execute(query.limit(_MOST_IN_WINDOW)):
                ring = known.get(caller, ""), known.get(callee, "")
                if any(abs(start - other) <= 2 * NEAR for other in starts.get(ring, ())):
                    found.add(key)
        return found

    def _put_back(self, calls: Sequence[Call], stood: Sequence[Call], old: Sequence[str], new: Container[str]) -> None:
        remove_calls(self._connection, old)
        kept = [Call(tuple(map(self._keys.closed, call.records)), call.ambiguous) for call in calls]
        for table, some in rows_of(kept, self._now).items():
            if some:
                self._connection.execute(insert(table), some)
        if self._followers:
            self._enqueue(calls, stood, new)

    def _enqueue(self, calls: Sequence[Call], stood: Sequence[Call], new: Container[str]) -> None:
        """Put what is another call than it was before its followers."""
        as_before = {(call.keys, call.ambiguous) for call in stood}
        changed = [call for call in calls if (call.keys, call.ambiguous) not in as_before]
        for follower in self._followers:
            keys = [sorted(call.keys) for call in changed if follower.everything or _has_left(call, new)]
            outbox.put(self._connection, follower.name, keys, self._now)

    def _documents(self, entries: Sequence[Entry]) -> set[str]:
        """Write pieces of records that are there: of what was not taken, or is forgotten, nothing is kept. The names of
        those that are not."""
        there = self._names(sorted({entry.name for entry in entries}))
        rows = [
            {"name": entry.name, "piece": entry.piece, "at": self._now, "body": entry.body}
            for entry in entries
            if entry.name in there
        ]
        if rows:
            dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
            self._connection.execute(dialect.insert(schema.documents).on_conflict_do_nothing(), rows)
        return {entry.name for entry in entries} - there


def rows_of(calls: Iterable[Call], now: int) -> dict[Table, list[dict[str, Any]]]:
    """What stands of calls in each of the tables but that of the documents."""
    rows: list[dict[str, Any]] = []
    ids: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for call in calls:
        shown = row(call, now)
        key = shown.key
        rows.append(
            {
                "key": key,
                "start": shown.start,
                "caller": call.caller and call.caller.hash,
                "callee": call.callee and call.callee.hash,
                "slow": is_slow(shown),
                "errors": shown.errors > 0,
                "interrupted": shown.barge_ins > 0,
                "unjoined": bool(shown.unjoined),
                "live": shown.outcome == RUNNING,
                "ambiguous": call.ambiguous,
            }
        )
        names = {(one.value, one.kind) for one in shown.ids}
        names |= {(trace.hex(), TRACE) for trace in shown.traces}
        names |= {(one, KEY) for one in call.keys}
        names |= {(one, RECORDING) for record in call.records for one in recording_ids(record.recording)}
        ids += [{"value": value, "kind": kind, "call": key} for value, kind in sorted(names)]
        records += [{"name": one.name, "call": key, "body": encoding.encode(one)} for one in call.records]
    return {schema.calls: rows, schema.ids: ids, schema.records: records}


def _has_left(call: Call, new: Container[str]) -> bool:
    return any(one.name in new and one.origin is Origin.RELEASE for one in call.records)


def _is_barred(record: CallRecord, barred: dict[str, int]) -> bool:
    start = record.at if record.start is None else record.start
    return any(phone is not None and start <= barred.get(phone.hash, -1) for phone in (record.caller, record.callee))


def _useful(records: Sequence[CallRecord], known: set[str]) -> list[CallRecord]:
    """Without additions to what nobody knows, and links between ids of which none is known."""
    firm = [record for record in records if not _adds(record) or record.name in known]
    names = {name for record in firm for name in (*record.ids, *record.traces)}
    return firm + [
        record
        for record in records
        if _adds(record) and record.name not in known and not names.isdisjoint({*record.ids, *record.traces})
    ]


def _adds(record: CallRecord) -> bool:
    return record.addition and record.origin is Origin.RELEASE


def _windows(rings: Sequence[_Ring]) -> Iterator[Sequence[_Ring]]:
    """In order of start, in runs that one query can ask for."""
    begun = 0
    for at, ring in enumerate(rings):
        if ring[2] - rings[begun][2] > _WINDOW or at - begun >= CHUNK:
            yield rings[begun:at]
            begun = at
    if rings:
        yield rings[begun:]


def _ring(call: Call) -> _Ring | None:
    caller, callee = call.caller, call.callee
    return None if caller is None or callee is None else (caller.hash, callee.hash, call.start)


def _values(record: CallRecord) -> list[tuple[str, str]]:
    return [(one.value, one.kind) for one in record.ids] + [(trace.hex(), TRACE) for trace in record.traces]
