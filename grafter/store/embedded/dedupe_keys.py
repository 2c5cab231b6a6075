"""What was dealt with already: marks, in the ledger's file.

An id is kept as a hash of 16 bytes, so that whoever chooses ids does not choose how much room they take. Marks that
share a commit with other things of the ledger are written by its transaction; what they count is believed only after
it.
"""

import sqlite3
import threading
from collections.abc import Sequence
from hashlib import sha256

from grafter.core.model import Mark, UnixNano

MARK_LIMIT = 1_000_000
"""About 100 bytes each in the file."""

# Made where it is missing, without a new format of the file: a version that knows no marks leaves the table alone.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS mark (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, until INTEGER NOT NULL)"
)


class Marks:
    """One thread writes, inside a transaction of its connection; any thread may ask."""

    def __init__(
        self, writer: sqlite3.Connection, reader: sqlite3.Connection, lock: threading.Lock, limit: int
    ) -> None:
        """``lock`` is the reader's. Makes the table where it is missing. Raises sqlite3.Error."""
        self._writer = writer
        self._reader = reader
        self._lock = lock
        self._limit = limit
        self.forgotten = 0
        """Marks that the limit ended before their time, since the start."""
        writer.execute(_SCHEMA)
        self._count: int = writer.execute("SELECT count(*) FROM mark").fetchone()[0]
        self._next = (self._count, 0)

    def __len__(self) -> int:
        return self._count

    def seen(self, ids: Sequence[str], now: UnixNano) -> list[bool]:
        """Whether each id is marked."""
        with self._lock:
            return [
                self._reader.execute("SELECT 1 FROM mark WHERE id = ? AND until > ?", (_hashed(one), now)).fetchone()
                is not None
                for one in ids
            ]

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
        """What was written last is committed."""
        self._count, over = self._next
        self.forgotten += over


def _hashed(identity: str) -> bytes:
    # A lone surrogate is legal in a Python str; it must not cost the delivery its mark.
    return sha256(identity.encode("utf-8", "surrogatepass")).digest()[:16]
