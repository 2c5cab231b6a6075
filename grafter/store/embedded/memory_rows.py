"""Which row of the database a key's memory is in, what memories have in common, and which of them go: the oldest first.

The memories of one commit are one row, so that what is known of a key here is its hash and a number. A row goes when
none of its memories is any key's newest: soon, of a trace that is remembered again and again (mode ``stream``). Until
then all of it counts.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from grafter.store.model import FORGOTTEN_BY

_TIME, _NUMBER, _BYTES = FORGOTTEN_BY
_RESOURCES = (
    "CREATE TABLE IF NOT EXISTS resource (digest BLOB PRIMARY KEY, last INTEGER NOT NULL, bytes BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS resource_last ON resource (last)",
)
_KEEP = "INSERT INTO resource VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET last = excluded.last"
# A resource is named by nearly every row, and is not to be written with each: after a restart it may stay for so many
# more.
_AHEAD = 256


@dataclass(slots=True, eq=False)
class _Row:
    at: int
    hashes: list[int]
    """Of the keys that are still to be forgotten, newest first, each once."""
    live: int
    """Of how many keys it has the newest memory."""
    size: int


class MemoryRows:
    """See the module's docstring. Times in nanoseconds."""

    def __init__(self, remember: int, limit: int, limit_bytes: int) -> None:
        self._remember = remember
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._row_of: dict[int, int] = {}
        # A plain dictionary looks for its first behind all that have gone.
        self._rows: OrderedDict[int, _Row] = OrderedDict()
        """In their order."""
        self._last = 0
        self.bytes = 0
        """Of the rows."""
        self.forgotten = dict.fromkeys(FORGOTTEN_BY, 0)
        """Memories that are no more, since the start, by why."""
        self.gone: list[int] = []
        """Rows that are to be deleted; emptied by whoever does."""
        self.find = self._row_of.get
        """The row of a key, by the key's hash; None where there certainly is no memory of it."""

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def all_gone_to(self) -> int:
        """Up to this one no row is left."""
        return next(iter(self._rows)) - 1 if self._rows else self._last

    def add(self, number: int, at: int, hashes: Iterable[int], size: int) -> None:
        """A row was stored: a higher number than all before, the moment, the keys' hashes, the oldest first, bytes."""
        row_of = self._row_of
        new = dict.fromkeys(reversed(list(hashes)), number)
        for key_hash in row_of.keys() & new.keys():
            self._leave(row_of[key_hash])
        row_of |= new
        self._rows[number] = _Row(at, list(new), len(new), size)
        self._last = number
        self.bytes += size

    def _leave(self, number: int) -> None:
        row = self._rows[number]
        row.live -= 1
        if not row.live:
            self._drop(number, row)

    def _drop(self, number: int, row: _Row) -> None:
        del self._rows[number]
        self.bytes -= row.size
        self.gone.append(number)

    def forget(self, now: int | None, shared: Callable[[int], int], *, counted: bool = True) -> None:
        """Forget what is too old, where the time is known, what is too many, and all rows but the last while too large.

        ``shared``: the bytes of what rows have in common, once none is left up to the one that it is given.
        """
        while self._rows:
            number, row = next(iter(self._rows.items()))
            if now is not None and row.at + self._remember <= now:
                why = _TIME
            elif len(self._row_of) > self._limit:
                why = _NUMBER
            elif len(self._rows) > 1 and self.bytes + shared(number - 1) > self._limit_bytes:
                why = _BYTES
            else:
                return
            self._forget_of(number, row, why, counted=counted)
            if row.live:
                return
            self._drop(number, row)

    def _forget_of(self, number: int, row: _Row, why: str, *, counted: bool) -> None:
        """As many of its keys as are to go, the oldest first."""
        row_of, hashes = self._row_of, row.hashes
        least = len(row_of) - self._limit if why == _NUMBER else len(row_of)
        while hashes and least > 0:
            key_hash = hashes.pop()
            # A newer memory of the key is in another row.
            if row_of.get(key_hash) == number:
                del row_of[key_hash]
                row.live -= 1
                least -= 1
                self.forgotten[why] += counted

    def clear(self) -> None:
        """There are none any more."""
        self._row_of.clear()
        self._rows.clear()
        self.gone.clear()
        self.bytes = self._last = 0


class _Resource(NamedTuple):
    last: int
    """The last row that names it."""
    written: int
    """The same as it stands in the table, or a later one."""
    size: int


class ResourceTable:
    """Resources that memories have in common, each once: by its digest, and with the last row that names it.

    A resource goes when no row up to that one is left. Written inside the transaction of ``MetadataDB.commit``, on its
    thread and connection. The table is made where it is missing, without a new format of the file: a version that does
    not know it reads memories without their resource. Methods raise sqlite3.Error.
    """

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._writer = writer
        self._reader = reader
        for statement in _RESOURCES:
            writer.execute(statement)
        (newest,) = reader.execute("SELECT coalesce(max(id), 0) FROM memory").fetchone()
        found = reader.execute("SELECT digest, last, length(bytes) FROM resource ORDER BY last")
        # In the order of the rows that name them last.
        self._known = OrderedDict((digest, _Resource(min(last, newest), last, size)) for digest, last, size in found)
        self._writing: dict[bytes, _Resource] = {}
        self._gone: set[bytes] = set()
        self.bytes: int = sum(one.size for one in self._known.values())
        """Of all of them."""

    def keep(self, row: int, resources: Mapping[bytes, bytes]) -> None:
        """These, by digest, are named in a row of memories."""
        for digest, resource in resources.items():
            known = self._writing.get(digest) or self._known.get(digest)
            written = 0 if known is None else known.written
            if written < row:
                written = row + _AHEAD
                self._writer.execute(_KEEP, (digest, written, resource))
            self._writing[digest] = _Resource(row, written, len(resource))

    def written(self) -> None:
        """What was to be kept is."""
        for digest, one in self._writing.items():
            if digest in self._known:
                self._known.move_to_end(digest)
            else:
                self.bytes += one.size
            self._known[digest] = one
        self._gone -= self._writing.keys()
        self._writing = {}

    def undo(self) -> None:
        """What was to be kept is not."""
        self._writing = {}

    def bytes_behind(self, row: int) -> int:
        """Of the resources that are named behind a row, up to which none is left; the others are to be deleted."""
        known = self._known
        while known:
            digest, one = next(iter(known.items()))
            if one.last > row:
                break
            del known[digest]
            self._gone.add(digest)
            self.bytes -= one.size
        return self.bytes

    def delete_gone(self) -> None:
        """Delete those that are to be. In a transaction of the caller's; ``gone_deleted`` when that is done."""
        self._writer.executemany("DELETE FROM resource WHERE digest = ?", [(digest,) for digest in self._gone])

    def gone_deleted(self) -> None:
        """Nothing is to be deleted any more."""
        self._gone.clear()

    def find(self, digest: bytes) -> bytes | None:
        """A resource; None where it was lost."""
        row = self._reader.execute("SELECT bytes FROM resource WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else bytes(row[0])
