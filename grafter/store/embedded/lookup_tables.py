"""Two tables beside the memories that are asked by an id: dedupe keys, and what is known of calls.

Both are written inside the transaction of ``MetadataDB.commit``, on its thread and connection; any thread may ask. They
are made where they are missing, without a new format of the file: a version that knows none of them opens the same file
and leaves them alone.
"""

import sqlite3
import threading
from collections.abc import Sequence
from hashlib import sha256

from grafter.core.calls import CallNote, Phone
from grafter.core.model import Mark, UnixNano

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS mark (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, until INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS call (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL,"
    " until INTEGER NOT NULL, caller TEXT, callee TEXT, traceparent TEXT, link TEXT)",
    "CREATE INDEX IF NOT EXISTS call_until ON call (until)",
)
_PUT_CALL = (
    "INSERT INTO call (id, at, until, caller, callee, traceparent, link) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE"
    " SET until = max(until, excluded.until), caller = coalesce(caller, excluded.caller),"
    " callee = coalesce(callee, excluded.callee), traceparent = coalesce(traceparent, excluded.traceparent),"
    " link = coalesce(link, excluded.link)"
)
_FIND_CALL = "SELECT id, at, caller, callee, traceparent, link FROM call WHERE id = ? AND until > ?"


class LookupTable:
    """Methods raise sqlite3.Error."""

    def __init__(
        self, writer: sqlite3.Connection, reader: sqlite3.Connection, lock: threading.Lock, limit: int
    ) -> None:
        """``lock`` is the reader's; past ``limit`` rows the oldest go. Makes the tables where they are missing."""
        self._writer = writer
        self._reader = reader
        self._lock = lock
        self._limit = limit
        for statement in _SCHEMA:
            writer.execute(statement)


class DedupeKeys(LookupTable):
    """What was dealt with already.

    An id is kept as a hash of 16 bytes, so that whoever chooses ids does not choose how much room they take.
    """

    def __init__(
        self, writer: sqlite3.Connection, reader: sqlite3.Connection, lock: threading.Lock, limit: int
    ) -> None:
        super().__init__(writer, reader, lock, limit)
        self.forgotten = 0
        """Keys that the limit ended before their time, since the start."""
        self._count: int = writer.execute("SELECT count(*) FROM mark").fetchone()[0]
        self._next = (self._count, 0)

    def __len__(self) -> int:
        return self._count

    def seen(self, ids: Sequence[str], now: UnixNano) -> list[bool]:
        """Whether each id is marked."""
        query = "SELECT 1 FROM mark WHERE id = ? AND until > ?"
        with self._lock:
            return [self._reader.execute(query, (_hashed(one), now)).fetchone() is not None for one in ids]

    def write(self, marks: Sequence[tuple[Mark, UnixNano]]) -> None:
        """Add marks within the writer's open transaction, and make room; ``written`` is to follow its commit."""
        count = self._count
        for mark, now in marks:
            values = (now + mark.ttl, _hashed(mark.id))
            # A repeat only prolongs it.
            if self._writer.execute("UPDATE mark SET until = max(until, ?) WHERE id = ?", values).rowcount == 0:
                self._writer.execute("INSERT INTO mark (until, id) VALUES (?, ?)", values)
                count += 1
        # The oldest come first; one that ends earlier than an older one waits for it, or for the limit.
        now = max(now for _, now in marks)
        alive = self._writer.execute(
            "SELECT number FROM mark WHERE until > ? ORDER BY number LIMIT 1", (now,)
        ).fetchone()
        if alive is not None:
            count -= self._writer.execute("DELETE FROM mark WHERE number < ?", alive).rowcount
        over = max(0, count - self._limit)
        if over:
            self._writer.execute(
                "DELETE FROM mark WHERE number IN (SELECT number FROM mark ORDER BY number LIMIT ?)", (over,)
            )
        self._next = (count - over, over)

    def written(self) -> None:
        """What was written last is committed; only now it is counted."""
        self._count, over = self._next
        self.forgotten += over


class CallTable(LookupTable):
    """A row a call."""

    def __init__(
        self, writer: sqlite3.Connection, reader: sqlite3.Connection, lock: threading.Lock, remember: int, limit: int
    ) -> None:
        """``remember`` in nanoseconds."""
        super().__init__(writer, reader, lock, limit)
        if "link" not in {name for _, name, *_ in writer.execute("PRAGMA table_info(call)")}:
            # A file of before there were links.
            writer.execute("ALTER TABLE call ADD COLUMN link TEXT")
        self._remember = remember

    def find(self, call_ids: Sequence[str], now: UnixNano) -> list[CallNote | None]:
        """See CallStore."""
        with self._lock:
            rows = [self._reader.execute(_FIND_CALL, (one, now)).fetchone() for one in call_ids]
        return [None if row is None else _call(*row) for row in rows]

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
                    None if call.caller is None else call.caller.encode(),
                    None if call.callee is None else call.callee.encode(),
                    call.traceparent,
                    call.link,
                )
                for call, now in calls
            ],
        )
        # Numbers have gaps only where a call was forgotten before an older one, that was heard of again.
        writer.execute("DELETE FROM call WHERE number <= (SELECT max(number) FROM call) - ?", (self._limit,))


def _call(
    call_id: str, at: int, caller: str | None, callee: str | None, traceparent: str | None, link: str | None
) -> CallNote:
    return CallNote(call_id, UnixNano(at), _phone(caller), _phone(callee), traceparent, link)


def _phone(text: str | None) -> Phone | None:
    return None if text is None else Phone.decode(text)


def _hashed(identity: str) -> bytes:
    # A lone surrogate is legal in a Python str; it must not cost the delivery its mark.
    return sha256(identity.encode("utf-8", "surrogatepass")).digest()[:16]
