"""What the metadata has beside memories: dedupe keys, what is known of calls, dead letters, and tasks.

All but tasks are written inside the transaction of ``MetadataDB.commit``, on its thread and connection; any thread may
ask. Tables are made where they are missing, without a new format of the file: a version that does not know one opens
the same file and leaves it alone.

Tasks have a connection of their own: one is rare beside a trace, and its commit is a fraction of a millisecond. A lock
that both share keeps one from running into the other. Their leases end with the process.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from grafter.core.calls import CallNote, Phone
from grafter.core.model import DedupeKey, Key, UnixNano
from grafter.errors import UnavailableError
from grafter.store.model import (
    TASK_BYTES,
    TASK_NAME_CHARACTERS,
    TASKS_LIMIT,
    DeadLetter,
    DeadLetterCounts,
    DeadLettersAdded,
    StoreError,
    Task,
    TaskThen,
)

_MARKS = (
    "CREATE TABLE IF NOT EXISTS mark (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, until INTEGER NOT NULL)",
)
_CALLS = (
    "CREATE TABLE IF NOT EXISTS call (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL,"
    " until INTEGER NOT NULL, caller TEXT, callee TEXT, traceparent TEXT, link TEXT)",
    "CREATE INDEX IF NOT EXISTS call_until ON call (until)",
)
_PUT_MARK = (
    "INSERT INTO mark (id, until) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)"
)
_END_MARKS = "DELETE FROM mark WHERE number < (SELECT number FROM mark WHERE until > ? ORDER BY number LIMIT 1)"
_FIND_MARK = "SELECT 1 FROM mark WHERE id = ? AND until > ?"
_PUT_CALL = (
    "INSERT INTO call (id, at, until, caller, callee, traceparent, link) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE"
    " SET until = max(until, excluded.until), caller = coalesce(caller, excluded.caller),"
    " callee = coalesce(callee, excluded.callee), traceparent = coalesce(traceparent, excluded.traceparent),"
    " link = coalesce(link, excluded.link)"
)
_FIND_CALL = "SELECT id, at, caller, callee, traceparent, link FROM call WHERE id = ? AND until > ?"
_RETRIED = ("CREATE TABLE IF NOT EXISTS retried (id INTEGER PRIMARY KEY)",)
_LETTER_COLUMNS = "id, key, exporter, reason, at, spans, payload, id IN (SELECT id FROM retried)"
_TASKS = (
    "CREATE TABLE IF NOT EXISTS task (kind TEXT NOT NULL, name TEXT NOT NULL, due INTEGER NOT NULL,"
    " put INTEGER NOT NULL, blob BLOB NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS task_due ON task (kind, due)",
)
_PUT_TASK = (
    "INSERT INTO task (kind, name, due, put, blob) VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, name) DO UPDATE SET"
    " due = min(due, excluded.due), put = max(put + 1, excluded.put),"
    " blob = CASE WHEN length(excluded.blob) THEN excluded.blob ELSE blob END"
)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written inside is committed together, or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@dataclass(frozen=True, slots=True)
class Connections:
    """To the metadata's file: the one that ``MetadataDB.commit`` writes by, and the one that readers share in turns."""

    writer: sqlite3.Connection
    reader: sqlite3.Connection
    lock: threading.Lock
    """The reader's."""


class _Table:
    """Methods raise sqlite3.Error."""

    def __init__(self, file: Connections, limit: int, schema: Sequence[str]) -> None:
        self._writer = file.writer
        self._reader = file.reader
        self._lock = file.lock
        self._limit = limit
        for statement in schema:
            file.writer.execute(statement)


class DedupeKeys(_Table):
    """What was dealt with already; past the limit the oldest go.

    An id is kept as a hash of 16 bytes, so that whoever chooses ids does not choose how much room they take.
    """

    def __init__(self, file: Connections, limit: int) -> None:
        super().__init__(file, limit, _MARKS)
        self.forgotten = 0
        """Keys that the limit ended before their time, since the start."""
        self._over = 0

    def __len__(self) -> int:
        with self._lock:
            count: int = self._reader.execute("SELECT count(*) FROM mark").fetchone()[0]
        return count

    def seen(self, ids: Sequence[str], now: UnixNano) -> list[bool]:
        """Whether each id is that of a key."""
        with self._lock:
            return [self._reader.execute(_FIND_MARK, (_hashed(one), now)).fetchone() is not None for one in ids]

    def write(self, keys: Sequence[tuple[DedupeKey, UnixNano]]) -> None:
        """Add keys within the writer's open transaction, and make room; ``written`` is to follow its commit."""
        # A repeat only prolongs it.
        self._writer.executemany(_PUT_MARK, [(_hashed(key.id), now + key.ttl) for key, now in keys])
        # The oldest come first; one that ends earlier than an older one waits for it, or for the limit.
        self._writer.execute(_END_MARKS, (max(now for _, now in keys),))
        # None goes from between others, so their numbers have no gaps.
        self._over = self._writer.execute(
            "DELETE FROM mark WHERE number <= (SELECT max(number) FROM mark) - ?", (self._limit,)
        ).rowcount

    def written(self) -> None:
        """What was written last is committed; only now it is counted."""
        self.forgotten += self._over


class CallTable(_Table):
    """A row a call; past the limit the oldest go."""

    def __init__(self, file: Connections, limit: int, *, remember: int) -> None:
        """``remember`` in nanoseconds."""
        super().__init__(file, limit, _CALLS)
        if "link" not in {name for _, name, *_ in file.writer.execute("PRAGMA table_info(call)")}:
            # A file of before there were links.
            file.writer.execute("ALTER TABLE call ADD COLUMN link TEXT")
        self._remember = remember

    def find(self, call_ids: Sequence[str], now: UnixNano) -> list[CallNote | None]:
        """See CallStore."""
        with self._lock:
            rows = [self._reader.execute(_FIND_CALL, (one, now)).fetchone() for one in call_ids]
        return [_call(row) for row in rows]

    def write(self, calls: Sequence[tuple[CallNote, UnixNano]]) -> None:
        """Add what is known within the writer's open transaction, and make room."""
        writer = self._writer
        latest = max(now for _, now in calls)
        # First, or what was known of a call that is forgotten would stand for the next one of its id.
        writer.execute("DELETE FROM call WHERE until <= ?", (latest,))
        writer.executemany(
            _PUT_CALL,
            [
                (
                    call.call_id,
                    call.at,
                    now + self._remember,
                    call.caller and call.caller.encode(),
                    call.callee and call.callee.encode(),
                    call.traceparent,
                    call.link,
                )
                for call, now in calls
            ],
        )
        # Numbers have gaps only where a call was forgotten before an older one, that was heard of again.
        writer.execute("DELETE FROM call WHERE number <= (SELECT max(number) FROM call) - ?", (self._limit,))


def _call(row: tuple[Any, ...] | None) -> CallNote | None:
    if row is None:
        return None
    call_id, at, caller, callee, *rest = row
    return CallNote(call_id, at, caller and Phone.decode(caller), callee and Phone.decode(callee), *rest)


def _hashed(identity: str) -> bytes:
    # A lone surrogate is legal in a Python str; it must not cost the delivery its key.
    return sha256(identity.encode("utf-8", "surrogatepass")).digest()[:16]


@dataclass(slots=True)
class DeadLetterChange:
    """What is to be done with letters in one commit, and what came of it."""

    add: Sequence[DeadLetter] = ()
    together: bool = False
    """All of these are kept, or none."""
    remove: Sequence[int] = ()
    retry: Sequence[tuple[int, bool]] = ()
    """Whether an attempt to send each of these again is begun, or over with an outcome that is known."""
    added: DeadLettersAdded = field(default_factory=lambda: DeadLettersAdded(0))
    removed: Sequence[bool] = ()


class DeadLetterTable(_Table):
    """The letters, and which of them are being sent again."""

    def __init__(self, file: Connections, limit: int, *, drop_oldest: bool) -> None:
        """Past ``limit`` payload bytes the oldest go, or no more are taken."""
        super().__init__(file, limit, _RETRIED)
        self._drop_oldest = drop_oldest
        sums = "SELECT exporter, count(*), sum(spans), sum(length(payload)) FROM letter GROUP BY exporter"
        self.held = {name: DeadLetterCounts(*counts) for name, *counts in file.writer.execute(sums)}
        """What the box has, by exporter."""
        self._next = self.held

    def write(self, changes: Sequence[DeadLetterChange]) -> None:
        """Within the writer's open transaction; ``written`` is to follow its commit."""
        self._next = dict(self.held)
        for change in changes:
            change.removed = [self._take(number) is not None for number in change.remove]
            for number, begun in change.retry:
                self._writer.execute(
                    "INSERT OR IGNORE INTO retried VALUES (?)" if begun else "DELETE FROM retried WHERE id = ?",
                    (number,),
                )
            change.added = self._add(change.add, change.together)

    def written(self) -> None:
        """What was written last is committed; only now it is counted."""
        self.held = self._next

    def page(self, limit: int, skip: int, *, oldest: bool) -> list[DeadLetter]:
        """See Store.dead_letters."""
        order = "ASC" if oldest else "DESC"
        with self._lock:
            rows = self._reader.execute(
                f"SELECT {_LETTER_COLUMNS} FROM letter ORDER BY id {order} LIMIT ? OFFSET ?", (limit, skip)
            ).fetchall()
        return [
            DeadLetter(Key(key), exporter, reason, UnixNano(at), spans, payload, str(number), bool(retried))
            for number, key, exporter, reason, at, spans, payload, retried in rows
        ]

    def _add(self, letters: Sequence[DeadLetter], together: bool) -> DeadLettersAdded:
        size = sum(one.bytes for one in self._next.values())
        kept = len(letters)
        if not self._drop_oldest:
            kept = 0
            for letter in letters:
                # One that is larger than the box has it to itself.
                if size and size + len(letter.payload) > self._limit:
                    break
                size += len(letter.payload)
                kept += 1
            if together and kept < len(letters):
                return DeadLettersAdded(0)
        for letter in letters[:kept]:
            self._writer.execute(
                "INSERT INTO letter (key, exporter, reason, at, spans, payload) VALUES (?, ?, ?, ?, ?, ?)",
                (letter.key, letter.exporter, letter.reason, letter.at, letter.spans, letter.payload),
            )
            self._count(letter.exporter, 1, letter.spans, len(letter.payload))
        return DeadLettersAdded(kept, self._push_out() if self._drop_oldest and letters else 0)

    def _push_out(self) -> int:
        """The spans of the letters that had to go; the newest stays, however large it is."""
        spans = 0
        while sum(one.bytes for one in self._next.values()) > self._limit:
            oldest, newest = self._writer.execute("SELECT min(id), max(id) FROM letter").fetchone()
            if oldest == newest:
                break
            spans += self._take(oldest) or 0
        return spans

    def _take(self, number: int) -> int | None:
        """Its spans; None where it is not there."""
        row = self._writer.execute(
            "DELETE FROM letter WHERE id = ? RETURNING exporter, spans, length(payload)", (number,)
        ).fetchone()
        if row is None:
            return None
        self._writer.execute("DELETE FROM retried WHERE id = ?", (number,))
        self._count(row[0], -1, -row[1], -row[2])
        spans: int = row[1]
        return spans

    def _count(self, exporter: str, letters: int, spans: int, size: int) -> None:
        of = self._next.get(exporter, DeadLetterCounts(0, 0, 0))
        self._next[exporter] = replace(of, letters=of.letters + letters, spans=of.spans + spans, bytes=of.bytes + size)


@dataclass(slots=True)
class _Lease:
    token: int
    until: int
    woken: int | None = None
    """It was put meanwhile, and is due again at this time."""


class TaskTable:
    """The table and the leases; see TaskStore. Methods raise sqlite3.Error, and any thread may call them."""

    def __init__(self, path: Path | None, lease: int, writing: threading.Lock) -> None:
        """Open the table in the metadata's file, which exists; None keeps it in memory. Raises StoreError.

        ``lease`` in nanoseconds; ``writing`` is held by whoever writes into the file.
        """
        self._path = path
        self._lease = lease
        self._file = writing
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, str], _Lease] = {}
        # A task of an earlier process must never fit: tokens start anywhere.
        self._token = int.from_bytes(os.urandom(6), "little") << 16
        self._open()

    def _open(self) -> None:
        path = self._path or ":memory:"
        try:
            self._table = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            with self._writing():
                for statement in _TASKS:
                    self._table.execute(statement)
            (self._count,) = self._table.execute("SELECT count(*) FROM task").fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"cannot use {path}: {error}; check its permissions and the space on the disk") from error

    def put(self, tasks: Sequence[Task], now: int) -> None:
        with self._lock:
            for task in tasks:
                if len(task.blob) > TASK_BYTES or not 0 < len(task.name) <= TASK_NAME_CHARACTERS:
                    raise ValueError(f"a task has {len(task.blob)} bytes and a name of {len(task.name)} characters")
            with self._writing():
                added = sum(self._put(task, now) for task in tasks)
                if added and self._count + added > TASKS_LIMIT:
                    raise UnavailableError(f"{TASKS_LIMIT} tasks wait already", retry_after=60.0, reason="tasks_full")
            self._count += added
            for task in tasks:
                lease = self._leases.get((task.kind, task.name))
                if lease is None:
                    continue
                if task.blob:
                    # What its owner knows of it is void.
                    del self._leases[task.kind, task.name]
                else:
                    lease.woken = task.due if lease.woken is None else min(lease.woken, task.due)

    def claim(self, kind: str, now: int, limit: int) -> list[Task]:
        with self._lock:
            self._leases = {key: lease for key, lease in self._leases.items() if lease.until > now}
            rows = self._table.execute(
                "SELECT name, due, put, blob FROM task WHERE kind = ? AND due <= ? ORDER BY due LIMIT ?",
                (kind, now, limit + len(self._leases)),
            ).fetchall()
            claimed: list[Task] = []
            for name, due, put, blob in rows:
                if (kind, name) in self._leases or len(claimed) >= limit:
                    continue
                self._token += 1
                self._leases[kind, name] = _Lease(self._token, now + self._lease)
                claimed.append(Task(kind, name, UnixNano(due), blob, self._token, put))
            return claimed

    def find(self, kind: str, name: str) -> Task | None:
        query = "SELECT due, put, blob FROM task WHERE kind = ? AND name = ?"
        with self._lock:
            row = self._table.execute(query, (kind, name)).fetchone()
        return None if row is None else Task(kind, name, UnixNano(row[0]), row[2], put_at=row[1])

    def update(self, task: Task, then: TaskThen) -> bool:
        if len(task.blob) > TASK_BYTES:
            raise ValueError(f"a task has {len(task.blob)} bytes")
        with self._lock:
            lease = self._owned(task)
            if lease is None:
                return False
            name = (task.kind, task.name)
            ends = then is TaskThen.END and lease.woken is None
            with self._writing():
                if ends:
                    self._table.execute("DELETE FROM task WHERE kind = ? AND name = ?", name)
                elif then is TaskThen.END:
                    self._table.execute("UPDATE task SET due = ? WHERE kind = ? AND name = ?", (lease.woken, *name))
                else:
                    due = task.due if lease.woken is None else min(task.due, lease.woken)
                    values = (due, task.blob, *name)
                    self._table.execute("UPDATE task SET due = ?, blob = ? WHERE kind = ? AND name = ?", values)
            self._count -= ends
            if then is not TaskThen.KEEP:
                del self._leases[name]
            return True

    def renew(self, tasks: Sequence[Task], now: int) -> None:
        with self._lock:
            for task in tasks:
                lease = self._owned(task)
                if lease is not None:
                    lease.until = now + self._lease

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """The file is replaced inside: nobody asks meanwhile, and then the new one is asked. Raises StoreError."""
        with self._lock:
            self._table.close()
            try:
                yield
            finally:
                self._open()

    def close(self) -> None:
        """Give the file back; leases end, tasks stay."""
        with self._lock:
            self._table.close()

    def _put(self, task: Task, now: int) -> bool:
        """Whether it was not there."""
        name = (task.kind, task.name)
        known = self._table.execute("SELECT 1 FROM task WHERE kind = ? AND name = ?", name).fetchone()
        self._table.execute(_PUT_TASK, (*name, task.due, now, task.blob))
        return known is None

    def _owned(self, task: Task) -> _Lease | None:
        lease = self._leases.get((task.kind, task.name))
        return lease if lease is not None and lease.token == task.token else None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._file, transaction(self._table):
            yield
