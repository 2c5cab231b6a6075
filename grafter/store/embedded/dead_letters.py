"""The dead letters, in two tables of the metadata: the letters themselves, and which of them are being sent again.

Written inside the transaction of ``MetadataDB.commit``, on its thread and connection; any thread may ask. ``retried``
is made where it is missing, without a new format of the file.
"""

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from grafter.core.model import Key, UnixNano
from grafter.store.base import DeadLetter, LettersAdded, LettersOf

_COLUMNS = "id, key, exporter, reason, at, spans, payload, id IN (SELECT id FROM retried)"


@dataclass(slots=True)
class LetterChange:
    """What is to be done with letters in one commit, and what came of it."""

    add: Sequence[DeadLetter] = ()
    together: bool = False
    """All of these are kept, or none."""
    remove: Sequence[int] = ()
    retry: Sequence[tuple[int, bool]] = ()
    """Whether an attempt to send each of these again is begun, or over with an outcome that is known."""
    added: LettersAdded = field(default_factory=lambda: LettersAdded(0))
    removed: Sequence[bool] = ()


class LetterTable:
    """Bounded in bytes. Methods raise sqlite3.Error."""

    def __init__(
        self,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        lock: threading.Lock,
        limit: int,
        *,
        drop_oldest: bool,
    ) -> None:
        """``lock`` is the reader's; past ``limit`` payload bytes the oldest go, or no more are taken."""
        self._writer = writer
        self._reader = reader
        self._lock = lock
        self._limit = limit
        self._drop_oldest = drop_oldest
        writer.execute("CREATE TABLE IF NOT EXISTS retried (id INTEGER PRIMARY KEY)")
        sums = "SELECT exporter, count(*), sum(spans), sum(length(payload)) FROM letter GROUP BY exporter"
        self._held = {name: LettersOf(*counts) for name, *counts in writer.execute(sums)}
        self._next = self._held

    @property
    def held(self) -> dict[str, LettersOf]:
        """What the box has, by exporter."""
        return self._held

    def write(self, changes: Sequence[LetterChange]) -> None:
        """Within the writer's open transaction; ``written`` is to follow its commit."""
        self._next = dict(self._held)
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
        self._held = self._next

    def page(self, limit: int, skip: int, *, oldest: bool) -> list[DeadLetter]:
        """See Store.dead_letters."""
        order = "ASC" if oldest else "DESC"
        with self._lock:
            rows = self._reader.execute(
                f"SELECT {_COLUMNS} FROM letter ORDER BY id {order} LIMIT ? OFFSET ?", (limit, skip)
            ).fetchall()
        return [
            DeadLetter(Key(key), exporter, reason, UnixNano(at), spans, payload, str(number), bool(retried))
            for number, key, exporter, reason, at, spans, payload, retried in rows
        ]

    def _add(self, letters: Sequence[DeadLetter], together: bool) -> LettersAdded:
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
                return LettersAdded(0)
        for letter in letters[:kept]:
            self._writer.execute(
                "INSERT INTO letter (key, exporter, reason, at, spans, payload) VALUES (?, ?, ?, ?, ?, ?)",
                (letter.key, letter.exporter, letter.reason, letter.at, letter.spans, letter.payload),
            )
            self._count(letter.exporter, 1, letter.spans, len(letter.payload))
        return LettersAdded(kept, self._push_out() if self._drop_oldest and letters else 0)

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
        of = self._next.get(exporter, LettersOf(0, 0, 0))
        self._next[exporter] = replace(of, letters=of.letters + letters, spans=of.spans + spans, bytes=of.bytes + size)
