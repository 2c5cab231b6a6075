"""What was told of calls, in the ledger's file: a row a call.

Notes are written by the ledger's transaction, like marks. A version of grafter that knows none of them opens the same
file and leaves them alone.
"""

import sqlite3
import threading
from collections.abc import Sequence

from grafter.core.calls import CallNote, Phone
from grafter.core.model import UnixNano

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS call (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL,"
    " until INTEGER NOT NULL, caller TEXT, callee TEXT, traceparent TEXT)",
    "CREATE INDEX IF NOT EXISTS call_until ON call (until)",
)
_NOTE = (
    "INSERT INTO call (id, at, until, caller, callee, traceparent) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
    " SET until = max(until, excluded.until), caller = coalesce(caller, excluded.caller),"
    " callee = coalesce(callee, excluded.callee), traceparent = coalesce(traceparent, excluded.traceparent)"
)


class CallBook:
    """One thread writes, inside a transaction of its connection; any thread may ask. Methods raise sqlite3.Error."""

    def __init__(
        self,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        lock: threading.Lock,
        *,
        remember: int,
        limit: int,
    ) -> None:
        """``lock`` is the reader's, ``remember`` in nanoseconds. Makes what is missing of the table."""
        self._writer = writer
        self._reader = reader
        self._lock = lock
        self._remember = remember
        self._limit = limit
        for statement in _SCHEMA:
            writer.execute(statement)

    def noted(self, call_ids: Sequence[str], now: UnixNano) -> list[CallNote | None]:
        """See CallStore."""
        with self._lock:
            rows = [
                self._reader.execute(
                    "SELECT id, at, caller, callee, traceparent FROM call WHERE id = ? AND until > ?", (one, now)
                ).fetchone()
                for one in call_ids
            ]
        return [
            None if row is None else CallNote(row[0], UnixNano(row[1]), _phone(row[2]), _phone(row[3]), row[4])
            for row in rows
        ]

    def write(self, notes: Sequence[tuple[CallNote, UnixNano]]) -> None:
        """Add notes within the writer's open transaction, and make room."""
        writer = self._writer
        latest = max(now for _, now in notes)
        # First, or what was said of a call that is forgotten would stand for the next one of its id.
        writer.execute("DELETE FROM call WHERE until <= ?", (latest,))
        for note, now in notes:
            values = (_text(note.caller), _text(note.callee), note.traceparent)
            writer.execute(_NOTE, (note.call_id, note.at, now + self._remember, *values))
        # Numbers have gaps only where a call was forgotten before an older one, that was told of again.
        writer.execute("DELETE FROM call WHERE number <= (SELECT max(number) FROM call) - ?", (self._limit,))


def _text(phone: Phone | None) -> str | None:
    return None if phone is None else phone.encode()


def _phone(text: str | None) -> Phone | None:
    return None if text is None else Phone.decode(text)
