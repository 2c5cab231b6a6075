"""Resources that memories have in common, each once: by its digest, and with the last row of memories that may name it.

Rows of memories go the oldest first, so that a resource goes when all rows up to that one have gone. Written inside the
transaction of ``MetadataDB.commit``, on its thread and connection. The table is made where it is missing, without a new
format of the file: a version that does not know it reads memories without their resource.
"""

import sqlite3
from collections.abc import Mapping

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS resource (digest BLOB PRIMARY KEY, last INTEGER NOT NULL, bytes BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS resource_last ON resource (last)",
)
_KEEP = "INSERT INTO resource VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET last = excluded.last"
# A resource is named by nearly every row, and is not to be written with each: it may stay for so many more.
_AHEAD = 256


class ResourceTable:
    """Methods raise sqlite3.Error."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        """Makes the table where it is missing."""
        self._writer = writer
        self._reader = reader
        for statement in _SCHEMA:
            writer.execute(statement)
        found = reader.execute("SELECT digest, last, length(bytes) FROM resource")
        self._last: dict[bytes, tuple[int, int]] = {digest: (last, size) for digest, last, size in found}
        self._writing: dict[bytes, tuple[int, int]] = {}
        self.bytes = sum(size for _, size in self._last.values())
        """Of all of them."""

    def keep(self, row: int, resources: Mapping[bytes, bytes]) -> None:
        """These, by digest, are named in a row of memories."""
        for digest, resource in resources.items():
            last, _ = self._writing.get(digest) or self._last.get(digest, (0, 0))
            if last < row:
                self._writer.execute(_KEEP, (digest, row + _AHEAD, resource))
                self._writing[digest] = (row + _AHEAD, len(resource))

    def written(self) -> None:
        """What was to be kept is."""
        if self._writing:
            self.bytes += sum(size for digest, (_, size) in self._writing.items() if digest not in self._last)
            self._last |= self._writing
            self._writing = {}

    def undo(self) -> None:
        """What was to be kept is not."""
        self._writing = {}

    def forget(self, row: int) -> None:
        """The rows up to this one have gone."""
        gone = self._writer.execute("SELECT digest FROM resource WHERE last <= ?", (row,)).fetchall()
        if gone:
            self._writer.execute("DELETE FROM resource WHERE last <= ?", (row,))
        for (digest,) in gone:
            self.bytes -= self._last.pop(digest, (0, 0))[1]

    def find(self, digest: bytes) -> bytes | None:
        """A resource; None where it was lost."""
        row = self._reader.execute("SELECT bytes FROM resource WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else bytes(row[0])
