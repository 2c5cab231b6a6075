"""What was held before the start: summed up on a thread while receivers already append, then taken in.

Until it is taken in nothing may be claimed: a key that is held now may have older parts, or may have left.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from grafter.core.model import Key, UnixNano
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.base import Outcome
from grafter.store.embedded.compaction import Counts
from grafter.store.embedded.index import Index
from grafter.store.embedded.segments import Damage, Record, SegmentLog
from grafter.store.embedded.writer import Place, Writer
from grafter.store.records import Move, RecordError, RecordType

_LOG = logging.getLogger(__name__)

_ANSWERED = frozenset({Outcome.ACCEPTED, Outcome.REFUSED})
_ROW_KEYS = 10_000


class Recovery:
    """Made before anything is written to the log: what it has then is what is recovered."""

    def __init__(
        self,
        log: SegmentLog,
        older: Index,
        index: Index,
        writer: Writer,
        counts: Counts,
        now: UnixNano,
        *,
        ended: Callable[[], None],
        left_to: Sequence[str] = (),
        seen_to: Callable[[], None] = lambda: None,
    ) -> None:
        """``older`` is empty, and filled on the thread; ``index`` then takes it in, and ``ended`` is called.

        ``left_to``: exporters to which whatever was due may have left, for a power cut took the last that was written.
        An intent stands for it from now on; when those are on the disk ``seen_to`` is called, on the pool.
        """
        self.spans = 0
        """How many were taken in."""
        self.latest = 0
        """When the last of them came."""
        self._log = log
        self._segments = list(log.segments.values())
        self._older: Index | None = older
        self._index = index
        self._writer = writer
        self._counts = counts
        self._now = now
        self._ended = ended
        self._nobodys: list[tuple[Key, int]] = []
        """Batches of which nothing says for whom they wait."""
        self._left_to = left_to
        self._seen_to = seen_to
        self._may_have_left: dict[str, list[tuple[Key, int]]] = {}

    @property
    def bytes(self) -> int:
        """What was read so far and is not yet part of the index."""
        return self._older.table.bytes if self._older is not None else 0

    @property
    def traces(self) -> int:
        """How many those are."""
        return len(self._older.table.entries) if self._older is not None else 0

    async def run(self, pool: Executor) -> None:
        """Read on the pool, and take in; ends early, at the next record, when the writer is stopping."""
        older = self._older
        assert older is not None
        try:
            damage = await asyncio.get_running_loop().run_in_executor(pool, self._rebuild, older)
        except Exception:  # noqa: BLE001  # without it this would end unseen, and claims wait for ever
            _LOG.exception("what was held before the start cannot be read; nothing is released")
            self._writer.up = False
            return
        if damage is not None and not self._writer.stopping:
            self._take_in(older, damage)
            if self._left_to:
                await self._write_intents(pool)
            self._ended()

    def _rebuild(self, older: Index) -> Damage | None:
        """Sum up the old segments, on a thread; None when the writer is stopping. Raises OSError and sqlite3.Error."""
        damage = Damage()
        for segment in self._segments:
            for record in self._log.scan(segment, damage):
                if self._writer.stopping:
                    return None
                try:
                    _replay(older, record, segment.number)
                except RecordError as error:
                    damage.records += 1
                    _LOG.error("a record in %s cannot be read: %s", segment.path.name, error)
        self.latest = max([entry.last for entry in older.table.entries.values()], default=0)
        older.links.recall(self._now)
        for exporter in self._left_to:
            self._may_have_left[exporter] = _intend_all(older, exporter, self._now)
        older.due_queue.refill(older.table.entries)
        self._nobodys = [
            (key, entry.arrival)
            for key, entry in older.table.entries.items()
            if entry.facts & records.DEFERRED and not entry.waits_for
        ]
        return damage

    def _take_in(self, older: Index, damage: Damage) -> None:
        nobodys = sum([older.table.entries[key].host_spans for key, _ in self._nobodys])
        self.spans = older.table.spans - nobodys - sum([one.spans for one in older.table.backlogs.values()])
        self._counts.lost_records += damage.records
        self._counts.torn_bytes += damage.torn
        if damage.records:
            _LOG.error(
                "%d damaged records (%d bytes) of the store are lost; everything else was read",
                damage.records,
                damage.bytes,
            )
            if nobodys:
                _LOG.error(
                    "among them those that say for which exporter %d put off spans waited: these are lost", nobodys
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
        for key, host in index.links.stray_guests(guests, self._now):
            index.table.begin_write(key)
            self._move_stray(key, index.placement.move_all(key, host))
        if self._nobodys:
            # A power cut took what came behind them: for whom they wait, and the settlement of what they are of.
            row = (RecordType.SETTLE, [records.encode_keys(self._nobodys)])
            future = self._writer.submit([row], self._forget_nobodys).future
            future.add_done_callback(lambda done: done.exception())

    async def _write_intents(self, pool: Executor) -> None:
        traces = max(map(len, self._may_have_left.values()))
        if traces:
            _LOG.warning(
                "the machine ended while grafter was at work, and what was written last is gone: %d traces that were "
                "due may have left, and are sent marked grafter.resend=true",
                traces,
            )
        rows = [
            (RecordType.OUTCOME, [records.encode_outcome(exporter, Outcome.INTENDED, keys[i : i + _ROW_KEYS])])
            for exporter, keys in self._may_have_left.items()
            for i in range(0, len(keys), _ROW_KEYS)
        ]
        self._may_have_left = {}
        try:
            for row in rows:
                await self._writer.submit([row], lambda _: None).future
            await asyncio.get_running_loop().run_in_executor(pool, self._sync)
        except (OSError, UnavailableError) as error:
            # They stand in memory, and the next start does the same again.
            _LOG.warning("that traces may have left could not be written: %s", error)

    def _sync(self) -> None:
        self._log.sync()
        self._seen_to()

    def _forget_nobodys(self, _: list[Place]) -> None:
        for key, up_to in self._nobodys:
            self._index.settle(key, up_to, None)

    def _move_stray(self, key: Key, move: Move) -> None:
        index = self._index

        def apply(_: list[Place]) -> None:
            index.table.end_write(key)
            index.move(move)

        row = (RecordType.PARTS, records.move_body(move))
        future = self._writer.submit([row], apply, lambda: index.table.end_write(key)).future
        # Where this fails it stays under its own key, and is released from there.
        future.add_done_callback(lambda done: done.exception())


def _intend_all(index: Index, exporter: str, now: UnixNano) -> list[tuple[Key, int]]:
    """Let an intent stand for each key that was due, where no answer of the exporter's does."""
    intended = []
    for key, entry in index.table.entries.items():
        attempt = entry.attempt
        if attempt is not None and attempt.outcomes.get(exporter) in _ANSWERED:
            continue
        if entry.facts & records.DEFERRED:
            # A batch of a backlog waits for nothing but its exporter.
            if entry.waits_for != exporter:
                continue
        elif attempt is None and index.due_queue.compute_due(key, entry) > now:
            continue
        up_to = attempt.up_to if attempt is not None and attempt.is_open else entry.arrival
        index.outcome(key, up_to, exporter, Outcome.INTENDED)
        intended.append((key, up_to))
    return intended


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
