"""What claims cover, from where it is cheapest to get: memory, the records written last, the disk.

Without a log the parts are objects in memory. With one, most traces are released from the records written last, which
are still in memory, and never read back. What is kept of those is bounded in bytes and in time, so that a long call
costs no memory however much is held; while nobody asks for plain batches, because there are several exporters or the
only one is down, nothing is kept. What is read from the disk is read on a thread, in as few reads as is sensible; a
segment stays while somebody reads it, whatever is settled meanwhile.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from grafter.core.model import Envelope, EnvelopeCache, Facts, UnixNano
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.embedded.segment_file import Segment
from grafter.store.embedded.segments import SegmentLog
from grafter.store.embedded.trace_table import TraceTable
from grafter.store.model import Claim, Plain, PlainBatch, StoredPart
from grafter.store.records import CHUNK, CHUNK_BYTES, GUEST, Chunk, RecordError, facts_of, first_root, unpack_chunks

_ROOT = int(Facts.ROOT)

RECENT_BYTES = 64 << 20
# The rest of a small container is for everything else.
_SHARE = 16

# Parts lie scattered between those of other traces; reading over a gap is cheaper than another system call.
_GAP = 16 << 10
_READ = 4 << 20
# A place is a segment's number and an offset in one integer, which is cheaper to look up than a pair. No two segments
# are closer than _GAP in it, since none is nearly as large as 2**_PLACE.
_PLACE = 40
_OFFSET = (1 << _PLACE) - 1
_EMPTY = (b"", 0)


def affordable(total: int | None) -> int:
    """How many bytes may be kept where there is so much memory; None: not known."""
    return RECENT_BYTES if total is None else min(RECENT_BYTES, total // _SHARE)


class RecentRecords:
    """Bodies of PARTS records by their place."""

    def __init__(self, limit: int, keep: int) -> None:
        """``limit``: bytes; ``keep``: nanoseconds after which a body is dropped."""
        self._limit = limit
        self._keep = keep
        self._bodies: OrderedDict[records.Place, tuple[bytes, dict[int, Envelope], int]] = OrderedDict()
        """With its envelopes as far as they were asked for, and when it was written; the oldest first."""
        self.bytes = 0
        """What is kept now."""
        self._used_at: int | None = None
        self._envelopes = EnvelopeCache()

    def add(self, now: int, place: records.Place, body: bytes) -> None:
        """Keep a body that was just written, if anybody is going to ask for it."""
        if self._used_at is None or now > self._used_at + self._keep:
            self._forget(None)
            return
        self._bodies[place] = (body, {}, now)
        self.bytes += len(body)
        while self.bytes > self._limit:
            self._drop()

    def ask(self, now: UnixNano) -> None:
        """Somebody asks for plain batches; what is too old is dropped."""
        self._used_at = now
        self._forget(now)

    def _forget(self, now: int | None) -> None:
        while self._bodies and (now is None or next(iter(self._bodies.values()))[2] + self._keep <= now):
            self._drop()

    def _drop(self) -> None:
        _, (body, _, _) = self._bodies.popitem(last=False)
        self.bytes -= len(body)

    def plain(self, chunks: bytes | bytearray, root: int) -> Plain | None:
        """The host parts of these chunks; None when one of them is no longer here."""
        payloads: list[bytes] = []
        envelopes: list[Envelope] = []
        ids: list[bytes] = []
        bodies = self._bodies
        for segment, body, _, _, _, _, at, length, head, head_length, size in CHUNK.iter_unpack(chunks):
            found = bodies.get((segment, body))
            if found is None:
                return None
            data, known, _ = found
            envelope = known.get(at)
            if envelope is None:
                envelope = known[at] = _shared(self._envelopes, data[at : at + length])
            middle = head + head_length
            ids.append(data[head:middle])
            payloads.append(data[middle : middle + size])
            envelopes.append(envelope)
        return payloads, envelopes, ids, root


class PartReader:
    """Gives parts back. Without a log they are where the table has them; with one there is a pool."""

    def __init__(
        self, table: TraceTable, log: SegmentLog | None, recent: RecentRecords, pool: ThreadPoolExecutor | None
    ) -> None:
        self._table = table
        self._log = log
        self.recent = recent
        self._pool = pool
        self._envelopes = EnvelopeCache()

    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]:
        """The parts that each claim covers."""
        if self._log is None:
            return [self._from_memory(claim) for claim in claims]
        return await self._fetch([self._covered(claim) for claim in claims])

    async def read_plain(self, batch: PlainBatch) -> Sequence[Plain]:
        """The parts of each key of a batch."""
        if self._log is None:
            return self._plain_objects(batch)
        recent = self.recent
        found: list[Plain | None] = []
        missing: list[tuple[int, list[Chunk]]] = []
        for i, chunks in enumerate(self._plain_chunks(batch)):
            plain = recent.plain(chunks, first_root(chunks))
            if plain is None:
                missing.append((i, list(unpack_chunks(chunks))))
            found.append(plain)
        if missing:
            read = await self._fetch([chunks for _, chunks in missing])
            for (i, _), parts in zip(missing, read, strict=True):
                found[i] = _plain(parts)
        return [plain for plain in found if plain is not None]

    async def _fetch(self, wanted: Sequence[Sequence[Chunk]]) -> Sequence[list[StoredPart]]:
        """The parts of these chunks, from the disk. Raises UnavailableError."""
        assert self._log is not None
        assert self._pool is not None
        numbers = {chunk.segment for chunks in wanted for chunk in chunks}
        segments = {number: self._log.segments[number] for number in numbers}
        for segment in segments.values():
            segment.readers += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._parts, wanted, segments)
        except (OSError, RecordError) as error:
            raise UnavailableError(f"held parts could not be read: {error}", reason="store_down") from error
        finally:
            for segment in segments.values():
                segment.readers -= 1
                self._log.released(segment)

    def _parts(self, wanted: Sequence[Sequence[Chunk]], segments: dict[int, Segment]) -> list[list[StoredPart]]:
        """The parts of these chunks, in their order; on a thread, of which there may be several. Raises OSError, and
        RecordError for a newer version's."""
        sizes: dict[int, int] = {}
        for chunks in wanted:
            for chunk in chunks:
                start = chunk.segment << _PLACE | chunk.body
                # An empty part stands where the next one starts.
                if chunk.head_size + chunk.size:
                    sizes[start + chunk.head] = chunk.head_size + chunk.size
                if chunk.envelope_size:
                    sizes[start + chunk.envelope] = chunk.envelope_size
        found = _read(sizes, segments)
        envelopes: dict[int, Envelope] = {}
        return [[self._part(chunk, found, envelopes) for chunk in chunks] for chunks in wanted]

    def _part(self, chunk: Chunk, found: dict[int, tuple[bytes, int]], envelopes: dict[int, Envelope]) -> StoredPart:
        """A part of what was found by place; ``envelopes`` are those that were decoded so far, by place."""
        start = chunk.segment << _PLACE | chunk.body
        data, first = found.get(start + chunk.head, _EMPTY)
        begin = start + chunk.head - first
        middle = begin + chunk.head_size
        head, payload = data[begin:middle], data[middle : middle + chunk.size]
        facts = facts_of(chunk.flags)
        if chunk.flags & GUEST:
            return StoredPart(chunk.arrival, payload, chunk.spans, None, b"", records.decode_guest(head), facts)
        place = start + chunk.envelope
        envelope = envelopes.get(place)
        if envelope is None:
            data, first = found[place]
            envelope = _shared(self._envelopes, data[place - first : place - first + chunk.envelope_size])
            envelopes[place] = envelope
        return StoredPart(chunk.arrival, payload, chunk.spans, envelope, head, None, facts)

    def _from_memory(self, claim: Claim) -> list[StoredPart]:
        entry = self._table.entries.get(claim.key)
        if entry is None or entry.objects is None:
            return []
        objects, guests = entry.objects, entry.guests
        parts = [
            StoredPart(chunk.arrival, payload, chunk.spans, envelope, head, None, facts_of(chunk.flags))
            for chunk, payload, envelope, head in zip(
                self._covered(claim), objects[0::3], objects[1::3], objects[2::3], strict=False
            )
        ]
        if guests is not None:
            for part in parts:
                if part.arrival in guests:
                    part.guest = records.decode_guest(guests[part.arrival][1])
        return parts

    def _covered(self, claim: Claim) -> list[Chunk]:
        entry = self._table.entries.get(claim.key)
        if entry is None:
            return []
        return [chunk for chunk in unpack_chunks(entry.chunks) if chunk.arrival <= claim.up_to]

    def _plain_objects(self, batch: PlainBatch) -> list[Plain]:
        """Without a log: the parts of each key of a batch."""
        found: list[Plain] = []
        entries = self._table.entries
        for key, end in zip(batch.keys, batch.ends, strict=True):
            entry = entries[key]
            objects = entry.objects
            assert objects is not None
            if len(entry.chunks) != end:
                objects = objects[: end // CHUNK_BYTES * 3]
            root = 0 if len(objects) == 3 else first_root(entry.chunks)
            found.append((objects[0::3], objects[1::3], objects[2::3], root))
        return found

    def _plain_chunks(self, batch: PlainBatch) -> Iterable[bytes | bytearray]:
        """With a log: what ``records.CHUNK`` says of the parts of each key of a batch."""
        entries = self._table.entries
        for key, end in zip(batch.keys, batch.ends, strict=True):
            chunks = entries[key].chunks
            yield chunks if len(chunks) == end else chunks[:end]


def _shared(known: EnvelopeCache, blob: bytes) -> Envelope:
    """Equal envelopes as one object: a few cover all that is held, and grouping by them is what an exporter does."""
    return known.get(blob) or known.put(blob, records.decode_envelope(blob))


def _read(sizes: dict[int, int], segments: dict[int, Segment]) -> dict[int, tuple[bytes, int]]:
    """For each place, of which ``sizes`` says how much is wanted: bytes, and the place at which they begin."""
    places = sorted(sizes)
    found: dict[int, tuple[bytes, int]] = {}
    i = 0
    while i < len(places):
        first = places[i]
        end = first + sizes[first]
        j = i + 1
        while j < len(places):
            place = places[j]
            until = place + sizes[place]
            if place > end + _GAP or until > first + _READ:
                break
            end = max(end, until)
            j += 1
        data = SegmentLog.read(segments[first >> _PLACE], first & _OFFSET, end - first)
        found.update(dict.fromkeys(places[i:j], (data, first)))
        i = j
    return found


def _plain(parts: Sequence[StoredPart]) -> Plain:
    """Host parts that were read back, as a batch gives them."""
    root = next(i for i, part in enumerate(parts) if int(part.facts) & _ROOT)
    envelopes = [part.envelope for part in parts if part.envelope is not None]
    return [part.payload for part in parts], envelopes, [part.span_ids for part in parts], root
