"""What outlives the parts: memories of released traces, and the dead-letter box. One SQLite file, or none.

Rows are appended in the order of release and found by an index over the key: a table ordered by the key itself cost
2.6 times as much a memory (23 against 9 us, 200,000 memories of 300 bytes, 200 a commit), since keys are random.

One thread writes (``commit``); any thread may read. A set of the keys' hashes is kept in memory, because nearly every
new trace is one that was never released, and that has to cost next to nothing.
"""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from grafter.core.model import Key, UnixNano
from grafter.store.base import DeadLetter, Memory
from grafter.store.segments import StoreError

_LOG = logging.getLogger(__name__)

FORMAT = 1
_NOT_REMEMBERED = (False, None)
_SCHEMA = (
    "CREATE TABLE memory (id INTEGER PRIMARY KEY, key BLOB NOT NULL, at INTEGER NOT NULL, host BLOB,"
    " blob BLOB NOT NULL)",
    "CREATE UNIQUE INDEX memory_key ON memory (key)",
    "CREATE TABLE letter (id INTEGER PRIMARY KEY, key BLOB NOT NULL, exporter TEXT NOT NULL, reason TEXT NOT NULL,"
    " at INTEGER NOT NULL, spans INTEGER NOT NULL, payload BLOB NOT NULL)",
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    f"PRAGMA user_version = {FORMAT}",
)
# Deleting is part of a commit that somebody waits for, so it is done in bites. A bite is larger than what a commit
# usually brings, so that a lowered limit is reached in the end.
_BITE = 1000


class Ledger:
    """Memories and letters. Methods raise sqlite3.Error when the file cannot be read or written."""

    def __init__(self, path: Path | None, *, remember: int, remember_limit: int, letter_bytes: int) -> None:
        """Open or make the file; None keeps everything in memory. ``remember`` in nanoseconds. Raises StoreError."""
        self._path = path
        self._remember = remember
        self._remember_limit = remember_limit
        self._letter_bytes = letter_bytes
        self._hashes: set[int] = set()
        self._loaded = path is None
        self._letters = 0
        # Readers share one connection; a commit must not show half done, so it has one of its own.
        self._lock = threading.Lock()
        self.forgotten = 0
        """Memories that the limit or the time ended, since the start."""
        try:
            self._writer = _connected(path)
            self._reader = self._writer if path is None else _connected(path)
            self._letters = self._writer.execute("SELECT coalesce(sum(length(payload)), 0) FROM letter").fetchone()[0]
        except sqlite3.Error as error:
            raise StoreError(f"cannot use {path}: {error}; check its permissions and the space on the disk") from error

    def load(self) -> None:
        """Read the keys that are there; until it is done, ``knows`` sends everybody to the file."""
        hashes = set()
        reader = self._reader if self._path is None else _connected(self._path)
        try:
            for (key,) in reader.execute("SELECT key FROM memory INDEXED BY memory_key"):
                hashes.add(hash(key))
        finally:
            if reader is not self._reader:
                reader.close()
        # Nothing is settled before the store has recovered, so nothing was added meanwhile.
        self._hashes = hashes
        self._loaded = True

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def disk_bytes(self) -> int:
        """Size of the files."""
        if self._path is None:
            return 0
        size = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(f"{self._path}{suffix}").st_size
        return size

    def knows(self, key: Key) -> bool:
        """False when there certainly is no memory of the key."""
        return hash(key) in self._hashes or not self._loaded

    def recall(self, key: Key, now: UnixNano) -> Memory | None:
        """The memory of a key, unless its time is over."""
        if not self.knows(key):
            return None
        with self._lock:
            row = self._reader.execute("SELECT at, host, blob FROM memory WHERE key = ?", (key,)).fetchone()
        if row is None or row[0] + self._remember <= now:
            return None
        return Memory(key, row[2], None if row[1] is None else Key(row[1]))

    def host(self, key: Key, now: UnixNano) -> tuple[bool, Key | None]:
        """Whether the key is remembered, and the host that its memory names.

        A file that cannot be read does not stop the doors: then the key counts as remembered, its host as unknown.
        """
        if hash(key) not in self._hashes and self._loaded:
            return _NOT_REMEMBERED
        try:
            memory = self.recall(key, now)
        except sqlite3.Error as error:
            _LOG.warning("a memory could not be read: %s", error)
            return hash(key) in self._hashes, None
        return _NOT_REMEMBERED if memory is None else (True, memory.host)

    def commit(self, memories: Sequence[tuple[Memory, UnixNano]], letters: Sequence[DeadLetter]) -> int:
        """Store, and make room; the number of spans of old letters that had to go. All or nothing."""
        writer = self._writer
        added: list[int] = []
        gone: list[int] = []
        pushed_out = 0
        size = self._letters
        writer.execute("BEGIN IMMEDIATE")
        try:
            if memories:
                writer.executemany(
                    "INSERT OR REPLACE INTO memory (key, at, host, blob) VALUES (?, ?, ?, ?)",
                    [(memory.key, now, memory.host, memory.blob) for memory, now in memories],
                )
                added = [hash(memory.key) for memory, _ in memories]
                gone = list(self._forget(set(added), max(now for _, now in memories)))
            if letters:
                writer.executemany(
                    "INSERT INTO letter (key, exporter, reason, at, spans, payload) VALUES (?, ?, ?, ?, ?, ?)",
                    [(x.key, x.exporter, x.reason, x.at, x.spans, x.payload) for x in letters],
                )
                size += sum(len(letter.payload) for letter in letters)
                size, pushed_out = self._push_out(size)
            writer.execute("COMMIT")
        except BaseException:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise
        self._letters = size
        self._hashes.update(added)
        # Two keys of one hash would make this forget one memory too many; in a million keys the odds are 1 in 10**7.
        self._hashes.difference_update(gone)
        self.forgotten += len(gone)
        return pushed_out

    def _forget(self, added: set[int], now: UnixNano) -> Iterator[int]:
        """Delete what is too old or too many, oldest first; yields the hashes."""
        excess = len(self._hashes) + len(added - self._hashes) - self._remember_limit
        bite = max(_BITE, 2 * len(added))
        last = None
        rows = self._writer.execute("SELECT id, key, at FROM memory ORDER BY id LIMIT ?", (bite,))
        for count, (row, key, at) in enumerate(rows):
            if count >= excess and at + self._remember > now:
                break
            last = row
            yield hash(key)
        rows.close()
        if last is not None:
            self._writer.execute("DELETE FROM memory WHERE id <= ?", (last,))

    def _push_out(self, size: int) -> tuple[int, int]:
        spans = 0
        last = None
        rows = self._writer.execute("SELECT id, spans, length(payload) FROM letter ORDER BY id")
        for row, lost, length in rows:
            if size <= self._letter_bytes:
                break
            last = row
            spans += lost
            size -= length
        rows.close()
        if last is not None:
            self._writer.execute("DELETE FROM letter WHERE id <= ?", (last,))
        return size, spans

    def letters(self, limit: int) -> list[DeadLetter]:
        """The newest first."""
        with self._lock:
            rows = self._reader.execute(
                "SELECT key, exporter, reason, at, spans, payload FROM letter ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [DeadLetter(Key(row[0]), row[1], row[2], UnixNano(row[3]), row[4], row[5]) for row in rows]

    def secret(self, name: str) -> bytes:
        """32 random bytes, made when the name is first asked for."""
        self._writer.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (name, os.urandom(32)))
        value: bytes = self._writer.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()[0]
        return value

    def close(self) -> None:
        self._reader.close()
        if self._writer is not self._reader:
            self._writer.close()


def _connected(path: Path | None) -> sqlite3.Connection:
    if path is not None and not path.exists():
        # SQLite takes the file's mode for its -wal too; both may hold what a peer refused, so they are nobody else's.
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    # Autocommit, so that BEGIN and COMMIT stand where they are meant.
    connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise StoreError(
                f"{path} was written by a newer grafter (format {found}, this one reads {FORMAT}): "
                "run that version, or give this one another directory"
            )
        if path is not None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        if found == 0:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection
