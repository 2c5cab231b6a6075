"""What was held before the start: summed up on a thread while the doors already append, then taken in.

Until it is taken in nothing may be claimed: a key that is held now may have older parts, or may have left.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence

from grafter.core.model import Key
from grafter.store import records
from grafter.store.embedded.compaction import Counts
from grafter.store.embedded.index import Index
from grafter.store.embedded.segments import Damage, Record, Segment, SegmentLog
from grafter.store.embedded.writer import Place, Writer
from grafter.store.records import Move, RecordError, RecordType

_LOG = logging.getLogger(__name__)


class Recovery:
    """Made before anything is written to the log: what it has then is what is recovered."""

    def __init__(
        self,
        log: SegmentLog,
        older: Index,
        index: Index,
        writer: Writer,
        counts: Counts,
        clock: Callable[[], int],
        *,
        ended: Callable[[], None],
    ) -> None:
        """``older`` is empty, and filled on the thread; ``index`` then takes it in, and ``ended`` is called."""
        self.spans = 0
        """How many were taken in."""
        self._log = log
        self._segments = list(log.segments.values())
        self._older: Index | None = older
        self._index = index
        self._writer = writer
        self._counts = counts
        self._clock = clock
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._recover, args=(older,), name="grafter-store-recover", daemon=True)

    @property
    def bytes(self) -> int:
        """What was read so far and is not yet part of the index."""
        return self._older.table.bytes if self._older is not None else 0

    def start(self) -> None:
        """Begin the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end; it looks at each record whether the writer is stopping."""
        self._thread.join()

    def _recover(self, older: Index) -> None:
        """On the thread."""
        try:
            damage = _rebuild(self._log, self._segments, older, self._clock, stopping=lambda: self._writer.stopping)
        except Exception:  # noqa: BLE001  # without it a thread would end unseen, and claims wait for ever
            _LOG.exception("what was held before the start cannot be read; nothing is released")
            self._writer.up = False
            return
        if damage is not None:
            # The loop is gone when the store was left meanwhile.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._take_in, older, damage)

    def _take_in(self, older: Index, damage: Damage) -> None:
        """On the loop."""
        if self._writer.stopping:
            return
        self.spans = older.table.spans
        self._counts.lost_records += damage.records
        self._counts.torn_bytes += damage.torn
        if damage.records:
            _LOG.error(
                "%d damaged records (%d bytes) of the store are lost; everything else was read",
                damage.records,
                damage.bytes,
            )
        _LOG.info(
            "recovered %d spans of %d traces; %d bytes were never acknowledged and are cut off",
            self.spans,
            len(older.table.entries),
            damage.torn,
        )
        index = self._index
        guests = index.absorb(older)
        self._older, self._segments = None, []
        for key, host in index.links.stray_guests(guests, self._clock()):
            index.table.begin_write(key)
            self._move_stray(key, index.placement.move_all(key, host))
        self._ended()

    def _move_stray(self, key: Key, move: Move) -> None:
        index = self._index

        def apply(_: list[Place]) -> None:
            index.table.end_write(key)
            index.move(move)

        row = (RecordType.PARTS, records.move_body(move))
        future = self._writer.submit([row], apply, lambda: index.table.end_write(key)).future
        # Where this fails it stays under its own key, and is released from there.
        future.add_done_callback(lambda done: done.exception())


def _rebuild(
    log: SegmentLog,
    segments: Sequence[Segment],
    index: Index,
    clock: Callable[[], int],
    stopping: Callable[[], bool],
) -> Damage | None:
    """Sum up the old segments; None when it was told to stop. Raises OSError and sqlite3.Error."""
    damage = Damage()
    for segment in segments:
        for record in log.scan(segment, damage):
            if stopping():
                return None
            try:
                _replay(index, record, segment.number)
            except RecordError as error:
                damage.records += 1
                _LOG.error("a record in %s cannot be read: %s", segment.path.name, error)
    index.links.recall(clock())
    index.due_queue.refill(index.table.entries)
    return damage


def _replay(index: Index, record: Record, segment: int) -> None:
    """Apply one record. Raises RecordError for what this version cannot read."""
    if record.version > records.VERSION:
        raise RecordError(f"it has version {record.version}, this grafter reads {records.VERSION}")
    match record.type:
        case RecordType.PARTS:
            parts = records.decode_parts(record.body)
            for move in parts.moves:
                index.move(move)
            for key, row, (_, guest) in zip(parts.keys, parts.rows, records.guests_of(record.body, parts), strict=True):
                index.restore(key, row, segment, record.offset, guest)
        case RecordType.OUTCOME:
            exporter, outcome, keys = records.decode_outcome(record.body)
            for key, up_to in keys:
                index.outcome(key, up_to, exporter, outcome)
        case RecordType.SETTLE:
            for key, up_to in records.decode_keys(record.body):
                index.settle(key, up_to, None)
        case _:
            raise RecordError(f"it has the unknown type {record.type}")
