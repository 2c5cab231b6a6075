"""What outlives the parts: memories of released traces, dead letters, dedupe keys, calls and tasks. One SQLite file, or
none.

The memories of one commit are one row: a row a memory cost 5 us of CPU each, found by the key or by an index over it,
and every trace leaves one. Which row a key's memory is in is kept in the process (``memory_rows``): nearly every new
trace is one that was never released, and to know that has to cost next to nothing.

One thread writes (``commit``); any thread may read.
"""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from struct import Struct

from grafter.core.calls import CallNote
from grafter.core.memory_edits import digest_in, put_together, taken_apart
from grafter.core.model import DedupeKey, Key, UnixNano
from grafter.store.embedded.memory_rows import MemoryRows, ResourceTable
from grafter.store.embedded.metadata_tables import (
    CallTable,
    Connections,
    DeadLetterChange,
    DeadLetterTable,
    DedupeKeys,
    TaskTable,
    transaction,
)
from grafter.store.model import DEDUPE_KEYS_LIMIT, Memory, StoreError
from grafter.store.records import padded

_LOG = logging.getLogger(__name__)

FORMAT = 1
_NOT_REMEMBERED = (False, None)
_SCHEMA = (
    # keys and hosts: 17 bytes each (a host's key ends with a zero byte, no host is all zero); sizes: of the blobs.
    "CREATE TABLE memory (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, keys BLOB NOT NULL, hosts BLOB NOT NULL,"
    " sizes BLOB NOT NULL, blobs BLOB NOT NULL)",
    "CREATE TABLE letter (id INTEGER PRIMARY KEY, key BLOB NOT NULL, exporter TEXT NOT NULL, reason TEXT NOT NULL,"
    " at INTEGER NOT NULL, spans INTEGER NOT NULL, payload BLOB NOT NULL)",
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    f"PRAGMA user_version = {FORMAT}",
)
_ROWS = "SELECT id, at, keys, length(hosts) + length(sizes) + length(blobs) FROM memory ORDER BY id"
_KEY = 17
_NO_HOST = bytes(_KEY)
_SIZE = Struct("<I")


@dataclass(slots=True)
class MemoryBatch:
    """Memories of hosts, of one moment."""

    at: int
    keys: Sequence[Key]
    """16 bytes each."""
    blobs: Sequence[bytes]
    resources: Mapping[bytes, bytes]
    """By digest, what was taken out of the blobs."""


@dataclass(slots=True)
class MetadataBatch:
    """What is to be stored in one commit."""

    memories: Sequence[tuple[Memory, UnixNano]] = ()
    """With the moment of each."""
    letters: Sequence[DeadLetterChange] = ()
    memory_batches: Sequence[MemoryBatch] = ()
    dedupe_keys: Sequence[tuple[DedupeKey, UnixNano]] = ()
    calls: Sequence[tuple[CallNote, UnixNano]] = ()
    moment: int = 0
    """How late it is, in Unix nanoseconds; 0: nothing to keep of that."""

    @classmethod
    def joined(cls, batches: Sequence["MetadataBatch"]) -> "MetadataBatch":
        """All of them as one."""
        return cls(
            [memory for batch in batches for memory in batch.memories],
            [change for batch in batches for change in batch.letters],
            [memories for batch in batches for memories in batch.memory_batches],
            [key for batch in batches for key in batch.dedupe_keys],
            [call for batch in batches for call in batch.calls],
            max([batch.moment for batch in batches], default=0),
        )


_Row = tuple[int, int, list[int], int]
"""Id, moment, the hashes of its keys, bytes."""


class MetadataDB:
    """Memories here, the rest in tables of their own.

    Methods raise sqlite3.Error when the file cannot be read or written.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        remember: int,
        remember_limit: int,
        remember_bytes: int,
        letter_bytes: int,
        task_lease: int,
        drop_oldest_letters: bool = False,
        dedupe_key_limit: int = DEDUPE_KEYS_LIMIT,
    ) -> None:
        """Open or make the file; None keeps everything in memory. ``remember`` and ``task_lease`` in nanoseconds.

        Raises StoreError.
        """
        self.path = path
        self._remember = remember
        self._call_limit = max(1, remember_limit)
        self._rows = MemoryRows(remember, remember_limit, remember_bytes)
        self._letter_bytes = letter_bytes
        self._drop_oldest_letters = drop_oldest_letters
        self._dedupe_key_limit = dedupe_key_limit
        # Readers share one connection; a commit must not show half done, so it has one of its own.
        self._lock = threading.Lock()
        self.writing = threading.Lock()
        """Held by whoever writes into the file: SQLite lets one wait for another too, but not in turns."""
        self._open()
        try:
            self.tasks = TaskTable(path, task_lease, self.writing)
        except BaseException:
            self._close()
            raise

    def _open(self) -> None:
        path = self.path
        try:
            self._writer = _connected(path)
            self._reader = self._writer if path is None else _connected(path)
            file = Connections(self._writer, self._reader, self._lock)
            self.dedupe_keys = DedupeKeys(file, self._dedupe_key_limit)
            self.calls = CallTable(file, self._call_limit, remember=self._remember)
            self.letters = DeadLetterTable(file, self._letter_bytes, drop_oldest=self._drop_oldest_letters)
            self.resources = ResourceTable(self._writer, self._reader)
            for number, at, keys, rest in self._reader.execute(_ROWS):
                hashes = [hash(keys[i : i + _KEY]) for i in range(0, len(keys), _KEY)]
                self._rows.add(number, at, hashes, len(keys) + rest)
            # A row goes when all of it is forgotten, so the oldest one may still hold some that the limit ended.
            self._forget(None)
        except sqlite3.Error as error:
            raise StoreError(f"cannot use {path}: {error}; check its permissions and the space on the disk") from error

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def remembered_bytes(self) -> int:
        """Of the memories: keys, blobs, and each resource that they have in common once. A row counts until the last of
        its memories was forgotten or replaced."""
        return self._rows.bytes + self.resources.bytes

    @property
    def forgotten(self) -> Mapping[str, int]:
        """Memories that were forgotten since the start, by why (FORGOTTEN_BY)."""
        return self._rows.forgotten

    @property
    def disk_bytes(self) -> int:
        """Size of the files."""
        if self.path is None:
            return 0
        size = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(f"{self.path}{suffix}").st_size
        return size

    def knows(self, key: Key) -> bool:
        """False when there certainly is no memory of the key."""
        return self._rows.find(hash(padded(key))) is not None

    def recall(self, key: Key, now: UnixNano) -> Memory | None:
        """The memory of a key, unless its time is over."""
        sought = padded(key)
        row = self._row(hash(sought))
        if row is None or row[0] + self._remember <= now:
            return None
        _, keys, hosts, sizes, blobs = row
        # The last one: it is the newest.
        found = keys.rfind(sought)
        while found % _KEY and found >= 0:  # found across two neighbours
            found = keys.rfind(sought, 0, found + _KEY - 1)
        if found < 0:
            return None  # another key of the same hash
        position = found // _KEY
        lengths = [length for (length,) in _SIZE.iter_unpack(sizes)]
        start = sum(lengths[:position])
        host = hosts[found : found + _KEY]
        blob = blobs[start : start + lengths[position]]
        if digest := digest_in(blob):
            with self._lock:
                blob = put_together(blob, self.resources.find(digest))
        return Memory(key, blob, None if host == _NO_HOST else Key(host[:-1]))

    def _row(self, key_hash: int) -> tuple[int, bytes, bytes, bytes, bytes] | None:
        """The row in which the memory of a key is."""
        number = None
        while (found := self._rows.find(key_hash)) != number:
            number = found
            with self._lock:
                row: tuple[int, bytes, bytes, bytes, bytes] | None = self._reader.execute(
                    "SELECT at, keys, hosts, sizes, blobs FROM memory WHERE id = ?", (number,)
                ).fetchone()
            if row is not None:
                return row
            # It was replaced, and deleted, since it was looked up.
        return None

    def host(self, key: Key, now: UnixNano) -> tuple[bool, Key | None]:
        """Whether the key is remembered, and the host that its memory names.

        A file that cannot be read does not stop receivers: then the key counts as remembered, its host as unknown.
        """
        if not self.knows(key):
            return _NOT_REMEMBERED
        try:
            memory = self.recall(key, now)
        except sqlite3.Error as error:
            _LOG.warning("a memory could not be read: %s", error)
            return True, None
        return _NOT_REMEMBERED if memory is None else (True, memory.host)

    def commit(self, batch: MetadataBatch) -> None:
        """Store, and make room. All or nothing.

        Letters are on the disk when it returns, and what was stored before them: the settlement that follows gives up
        the parts that they are of, and a power cut must not find it without them. The rest may be lost then.
        """
        with self.writing, self._synced(bool(batch.letters)):
            try:
                with transaction(self._writer):
                    added = list(self._insert_memories(batch))
                    if batch.letters:
                        self.letters.write(batch.letters)
                    if batch.dedupe_keys:
                        self.dedupe_keys.write(batch.dedupe_keys)
                    if batch.calls:
                        self.calls.write(batch.calls)
                    if batch.moment:
                        self._writer.execute("INSERT OR REPLACE INTO setting VALUES ('moment', ?)", (batch.moment,))
            except BaseException:
                self.resources.undo()
                raise
            self.resources.written()
            if batch.letters:
                self.letters.written()
            if batch.dedupe_keys:
                self.dedupe_keys.written()
            for row in added:
                self._rows.add(*row)
            if added:
                self._forget(max(at for _, at, _, _ in added))
                # On its own, since what is stored stays stored when this fails; then the next one does it.
                with contextlib.suppress(sqlite3.Error):
                    self._delete_gone()

    @contextlib.contextmanager
    def _synced(self, wanted: bool) -> Iterator[None]:
        """A commit within brings the log of the database to the disk, if wanted."""
        if not wanted:
            yield
            return
        self._writer.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            self._writer.execute("PRAGMA synchronous = NORMAL")

    def _insert_memories(self, batch: MetadataBatch) -> Iterator[_Row]:
        for now, group in groupby(batch.memories, itemgetter(1)):
            some = [memory for memory, _ in group]
            keys = [padded(memory.key) for memory in some]
            hosts = b"".join([_NO_HOST if memory.host is None else padded(memory.host) for memory in some])
            apart = [taken_apart(memory.blob) for memory in some]
            resources = {digest: resource for _, digest, resource in apart if digest}
            yield self._insert(now, keys, hosts, [blob for blob, _, _ in apart], resources)
        for memories in batch.memory_batches:
            keys = [padded(key) for key in memories.keys]
            yield self._insert(memories.at, keys, bytes(_KEY * len(keys)), memories.blobs, memories.resources)

    def _insert(
        self, at: int, keys: list[bytes], hosts: bytes, blobs: Sequence[bytes], resources: Mapping[bytes, bytes]
    ) -> _Row:
        sizes = Struct(f"<{len(blobs)}I").pack(*map(len, blobs))
        columns = b"".join(keys), hosts, sizes, b"".join(blobs)
        number = self._writer.execute(
            "INSERT INTO memory (at, keys, hosts, sizes, blobs) VALUES (?, ?, ?, ?, ?)", (at, *columns)
        ).lastrowid
        assert number is not None
        self.resources.keep(number, resources)
        return number, at, list(map(hash, keys)), sum(map(len, columns))

    def _forget(self, now: int | None) -> None:
        """What is too much and, where the time is known, what is too old; ``now`` None: at a start, uncounted."""
        rows, resources = self._rows, self.resources
        rows.forget(now, resources.bytes_behind, counted=now is not None)
        resources.bytes_behind(rows.all_gone_to)

    def _delete_gone(self) -> None:
        gone = self._rows.gone
        if not gone:
            return
        with transaction(self._writer):
            self._writer.executemany("DELETE FROM memory WHERE id = ?", [(number,) for number in gone])
            self.resources.delete_gone()
        gone.clear()
        self.resources.gone_deleted()

    def secret(self, name: str) -> bytes:
        """32 random bytes, made when the name is first asked for."""
        self._writer.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (name, os.urandom(32)))
        value: bytes = self._writer.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()[0]
        return value

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """The file is replaced inside, and then the new one is opened; on the writer's thread. Where an error ends
        that, it stays closed, and is to be replaced again. Raises StoreError."""
        with self.tasks.elsewhere(), self.writing, self._lock:
            self._close()
            self._rows.clear()
            yield
            self._open()

    def moment(self) -> UnixNano:
        """The latest that was kept; 0 where none was."""
        row = self._reader.execute("SELECT value FROM setting WHERE name = 'moment'").fetchone()
        return UnixNano(0 if row is None else row[0])

    def close(self) -> None:
        self.tasks.close()
        self._close()

    def _close(self) -> None:
        self._reader.close()
        if self._writer is not self._reader:
            self._writer.close()


def _connected(path: Path | None) -> sqlite3.Connection:
    if path is not None and not path.exists():
        # SQLite takes the file's mode for its -wal too; both may hold what a peer refused, so they are nobody else's.
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    # Autocommit, so that BEGIN and COMMIT stand where they are meant.
    connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=0.5)
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
            with transaction(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection
