"""Giving up space: whole segments from the oldest end, after copying what is still live in them.

Only the oldest segment is ever given up, so that no settlement is lost before the parts that it settled. Copying is
done a step at a time, through the writer's queue: a step decides on the loop, by the index as it is then, what is live,
and whatever is queued behind it is behind it in the log too.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

from grafter.core.model import Key
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.embedded.index import Index
from grafter.store.embedded.segment_file import Damage, Segment
from grafter.store.embedded.segments import SegmentLog
from grafter.store.embedded.trace_table import TraceTable
from grafter.store.embedded.writer import Op, Row, Writer
from grafter.store.model import Outcome
from grafter.store.records import (
    CHUNK_BYTES,
    LOCATION,
    ROW,
    Chunk,
    Place,
    RecordError,
    RecordType,
    find_arrival,
    unpack_chunk,
    unpack_chunks,
)

_LOG = logging.getLogger(__name__)

# The log is cleaned when it is this many times as large as what is live, and two segments more.
_WASTE = 4
# On a full disk it is cleaned when a share of a segment less would do, again when it has grown by a share of the room
# that is left (each attempt to reach a backend that stays away costs a record, which comes out of that room), and again
# when of what is live so much has been settled.
_SHARE_WHEN_FULL = 4
_ROOM_SHARE = 8
_SETTLED_WHEN_FULL = 1.25
# What a part costs in the log beside its payload and span ids: its row and key, and its share of the rest.
_PART_COST = ROW.size + records.KEY_BYTES + 8
# How much the log grows, as a share of a segment, before one of which something had to be left is gone through again.
_AGAIN_SHARE = 8
_COPY_BYTES = 1 << 20
# Of a small segment less, for a step may make one larger than it should be by that much.
_COPY_SHARE = 16
_COPY_ROWS = 4000


class _LogPart(NamedTuple):
    """A part as its record has it."""

    key: Key
    own: Key | None
    """Its guest's key."""
    row: bytes
    body: int
    """Where the record's body begins in the segment."""


@dataclass(slots=True)
class Counts:
    """What happened inside since the start."""

    copied_parts: int = 0
    """Parts that were copied so that their segment could be given up."""
    given_up_segments: int = 0
    lost_records: int = 0
    """Records that were damaged on disk; each is also an ERROR in the log."""
    torn_bytes: int = 0
    """Unacknowledged bytes that an earlier process left behind when it died."""


class Compactor:
    """Keeps the log's size within a bound; ``run`` is called after each group that was written."""

    def __init__(self, log: SegmentLog, index: Index, writer: Writer, pool: Executor, counts: Counts) -> None:
        self._log = log
        self._index = index
        self._writer = writer
        self._reserve = writer.reserve
        self._pool = pool
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._giving_up: set[int] = set()
        self._busy = False
        self._copying: asyncio.Task[None] | None = None
        self._pass_end = 0
        self._copied = 0
        """Bytes that were written again since all is being gone through."""
        self._floor = 0
        self._cleaned_to = 0
        """What the log came down to when all of it had been gone through."""
        self._rested_at = 0

    def run(self) -> None:
        """Give up what is dead, and begin to copy when too much is."""
        log, table = self._log, self._index.table
        for number in list(log.segments):
            if number >= self._writer.applied or number == log.newest or number in table.live:
                break
            if number not in self._giving_up:
                self._giving_up.add(number)
                self._discard(number)
        if self._busy:
            return
        self._reserve.cleanable = False
        if len(log.segments) < 3:
            return
        live = table.bytes + table.parts * _PART_COST + table.spans * 8
        short = self._reserve.short
        enough = live + log.segment_bytes // _SHARE_WHEN_FULL if short else _WASTE * live + 2 * log.segment_bytes
        if log.disk_bytes <= enough:
            self._pass_end = self._floor = self._cleaned_to = 0
            return
        if short and live * _SETTLED_WHEN_FULL < self._rested_at:
            self._floor = self._cleaned_to = 0
        self._reserve.cleanable = bool(self._pass_end) or log.disk_bytes > self._cleaned_to
        oldest = next(iter(log.segments))
        starved = short and self._reserve.starved and self._reserve.cleanable
        resting = log.disk_bytes <= self._floor and not starved
        if resting or oldest >= self._writer.applied or oldest in self._giving_up:
            return
        if self._pass_end and oldest > self._pass_end:
            if short or self._copied * 2 >= log.disk_bytes:
                # Everything was copied once and it is still as large: envelopes that nobody shares. Not again at once.
                self._cleaned_to = log.disk_bytes
                self._reserve.cleanable = False
                self._rest()
                return
            # Most of it came while all was gone through, and may be dead by now.
            self._pass_end = 0
        if not self._pass_end:
            self._pass_end, self._copied = log.newest, 0
        self._busy = True
        self._copying = self._loop.create_task(self._copy(log.segments[oldest]), name="store.compaction")

    async def stop(self) -> None:
        """Wait for what was begun; called when the writer has stopped."""
        if self._copying is not None:
            await asyncio.wait([self._copying])

    def _rest(self) -> None:
        """Copy no more before the log has grown by half; on a full disk by less, or until much more of it is dead."""
        growth = self._log.disk_bytes // 2
        if self._reserve.short:
            growth = min(growth, self._reserve.for_attempts // _ROOM_SHARE)
        self._busy, self._floor, self._pass_end = False, self._log.disk_bytes + growth, 0
        self._rested_at = self._index.table.bytes

    def _discard(self, number: int) -> None:
        def discard() -> None:
            self._log.discard(number)
            self._counts.given_up_segments += 1

        def done(future: asyncio.Future[None]) -> None:
            if (error := future.exception()) is not None:
                self._failed(error)

        if not self._writer.stopping:
            self._writer.submit(Op(lambda _: None, prepare=discard)).add_done_callback(done)

    def _failed(self, error: BaseException) -> None:
        # A full disk is no news, and it is tried again as soon as something changes.
        _LOG.log(logging.DEBUG if self._reserve.short else logging.WARNING, "the log could not be cleaned: %s", error)
        self._rest()

    async def _copy(self, segment: Segment) -> None:
        """Have those parts of the oldest segment written again that are live, a step at a time."""
        try:
            parts = await self._loop.run_in_executor(self._pool, _parts_of, self._log, segment)
        except (OSError, RecordError) as error:
            _LOG.error("a segment that is still needed could not be read: %s", error)
            self._rest()
            return
        ended = skipped = False
        try:
            while not ended:
                live, some_skipped, ended = self._choose(segment, parts)
                skipped = skipped or some_skipped
                if live:
                    await self._write(segment, live)
                else:
                    await asyncio.sleep(0)
        except UnavailableError as error:
            if not self._writer.stopping:
                self._failed(error)
            return
        self._busy = False
        if skipped:
            # Each pass reads the whole segment, and a batch may be out for as long as its peer is slow.
            self._floor = self._log.disk_bytes + self._log.segment_bytes // _AGAIN_SHARE
        elif segment.number in self._index.table.live:
            _LOG.error("held parts of segment %d are damaged and keep it on the disk", segment.number)
            self._rest()
        elif not self._writer.stopping:
            self.run()

    def _choose(self, segment: Segment, parts: Iterator[_LogPart]) -> tuple[list[tuple[Key, Chunk]], bool, bool]:
        """One step: those of the next parts that are live, by key; whether some were left out; whether that was all."""
        live: list[tuple[Key, Chunk]] = []
        enough = min(_COPY_BYTES, self._log.segment_bytes // _COPY_SHARE)
        skipped = False
        size = 0
        for examined, part in enumerate(parts, 1):
            found = _located(self._index.table, part, segment.number)
            if found is not None and self._index.claims.settled_soon(found[0]):
                # It may be settled or moved by what is being written, and must not come back behind that.
                skipped = True
            elif found is not None:
                live.append(found)
                size += found[1].head_size + found[1].size
            if size >= enough or examined >= _COPY_ROWS:
                return live, skipped, False
        return live, skipped, True

    async def _write(self, segment: Segment, live: Sequence[tuple[Key, Chunk]]) -> None:
        """Write these parts again, with what is known of their exports. Raises UnavailableError."""
        outcomes = _outcomes(self._index.table, {key for key, _ in live})
        copies: list[bytes] = []

        def prepare() -> Sequence[Row]:
            body, copies[:] = _copied_parts(live, segment)
            self._counts.copied_parts += len(live)
            rows: list[Row] = [(RecordType.PARTS, body)]
            for (exporter, outcome), keys in outcomes.items():
                rows.append((RecordType.OUTCOME, [records.encode_outcome(exporter, outcome, keys)]))
            self._copied += sum(len(buffer) for _, buffers in rows for buffer in buffers)
            return rows

        def apply(places: list[Place]) -> None:
            location = LOCATION.pack(*places[0])
            for (key, _), row in zip(live, copies, strict=True):
                self._index.relocate(key, location + row)

        await self._writer.submit(Op(apply, prepare=prepare))


def _parts_of(log: SegmentLog, segment: Segment) -> Iterator[_LogPart]:
    """What a segment once held. It is read at once, and made into parts as they are asked for.

    Raises OSError and RecordError.
    """
    found = []
    for record in log.scan(segment, Damage()):
        if record.type == RecordType.PARTS and record.version <= records.VERSION:
            parts = records.decode_parts(record.body)
            found.append((record.offset, parts, [own for own, _ in records.guests_of(record.body, parts)]))
    return (
        _LogPart(key, own, row, body)
        for body, parts, owns in found
        for key, own, row in zip(parts.keys, owns, parts.rows, strict=True)
    )


def _located(table: TraceTable, part: _LogPart, segment: int) -> tuple[Key, Chunk] | None:
    """Under which key, and as which chunk, a part of the segment is held; None when it is not. It may have moved."""
    own = part.own
    guest = table.guests.get(own) if own is not None else None
    written = unpack_chunk(LOCATION.pack(segment, part.body) + part.row)
    for candidate in (part.key, own, guest.host if guest is not None else None):
        entry = table.entries.get(candidate) if candidate is not None else None
        if candidate is None or entry is None:
            continue
        at = find_arrival(entry.chunks, written.arrival)
        if at < len(entry.chunks):
            chunk = unpack_chunk(entry.chunks[at : at + CHUNK_BYTES])
            if chunk._replace(arrival=written.arrival) == written:
                return candidate, chunk
        if own is None:
            continue
        # It was numbered anew when it moved, so it has to be looked for by its place.
        place = written.segment, written.body, written.head
        for chunk in unpack_chunks(entry.chunks):
            if (chunk.segment, chunk.body, chunk.head) == place:
                return candidate, chunk
    return None


def _outcomes(table: TraceTable, keys: Collection[Key]) -> Mapping[tuple[str, Outcome], list[tuple[Key, int]]]:
    """What is known of exports of these keys, as records have it."""
    known: dict[tuple[str, Outcome], list[tuple[Key, int]]] = {}
    for key in keys:
        entry = table.entries[key]
        if entry.attempt is not None:
            for exporter, outcome in entry.attempt.outcomes.items():
                known.setdefault((exporter, outcome), []).append((key, entry.attempt.up_to))
    return known


def _copied_parts(live: Sequence[tuple[Key, Chunk]], segment: Segment) -> tuple[Sequence[bytes], list[bytes]]:
    """A PARTS body with these parts as they are held now, and its rows. Raises OSError."""
    position = records.PARTS_HEAD.size + len(live) * (records.KEY_BYTES + ROW.size)
    blobs: list[bytes] = []
    rows = []
    envelopes: dict[bytes, int] = {}
    for _, chunk in live:
        envelope = 0
        if chunk.envelope_size:
            blob = SegmentLog.read(segment, chunk.body + chunk.envelope, chunk.envelope_size)
            if blob not in envelopes:
                envelopes[blob] = position
                blobs.append(blob)
                position += len(blob)
            envelope = envelopes[blob]
        blobs.append(SegmentLog.read(segment, chunk.body + chunk.head, chunk.head_size + chunk.size))
        rows.append(ROW.pack(*chunk._replace(envelope=envelope, head=position)[2:]))
        position += chunk.head_size + chunk.size
    return records.parts_body([key for key, _ in live], rows, blobs, position, ()), rows
