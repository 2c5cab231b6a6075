"""What a claim or a bundle covers, from where it is cheapest to get: memory, the records written last, the disk.

What is read from the disk is read on a thread. A segment stays while somebody reads it, whatever is settled meanwhile.
"""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from grafter.core.model import Facts
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.base import Bundle, Claim, Plain, StoredPart
from grafter.store.embedded.reading import Reader
from grafter.store.embedded.recent import Recent
from grafter.store.embedded.segments import Segment, SegmentLog
from grafter.store.embedded.trace_entry import CHUNK_BYTES
from grafter.store.embedded.trace_table import Table
from grafter.store.records import CHUNK, LOCATION, Chunk, RecordError, facts_of

# The low byte of each part's flags, in a key's chunks.
_FACTS_OF = slice(LOCATION.size + 20, None, CHUNK_BYTES)
_ROOT, _LOCAL_ROOT = int(Facts.ROOT), int(Facts.LOCAL_ROOT)


class Fetcher:
    """Gives parts back. Without a log they are where the table has them; with one there is a pool."""

    def __init__(self, table: Table, log: SegmentLog | None, recent: Recent, pool: ThreadPoolExecutor | None) -> None:
        self._table = table
        self._log = log
        self._recent = recent
        self._pool = pool
        self._reader = Reader()
        self._loop = asyncio.get_running_loop()

    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]:
        """The parts that each claim covers."""
        if self._log is None:
            return [self._from_memory(claim) for claim in claims]
        entries = self._table.entries
        wanted = []
        for claim in claims:
            held = entries.get(claim.key)
            wanted.append([] if held is None else [c for c in CHUNK.iter_unpack(held.chunks) if c[2] <= claim.up_to])
        return await self._fetch(wanted)

    async def read_bundle(self, bundle: Bundle) -> Sequence[Plain]:
        """The parts of each key of a bundle."""
        if self._log is None:
            return self._plain_objects(bundle)
        recent = self._recent
        found: list[Plain | None] = []
        missing: list[tuple[int, list[Chunk]]] = []
        for i, chunks in enumerate(self._plain_chunks(bundle)):
            plain = recent.plain(chunks, _first_root(chunks))
            if plain is None:
                missing.append((i, list(CHUNK.iter_unpack(chunks))))
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
        segments: dict[int, Segment] = {}
        for chunks in wanted:
            for chunk in chunks:
                if chunk[0] not in segments:
                    segments[chunk[0]] = self._log.segments[chunk[0]]
        for segment in segments.values():
            segment.readers += 1
        try:
            return await self._loop.run_in_executor(self._pool, self._reader.fetch, wanted, segments)
        except (OSError, RecordError) as error:
            raise UnavailableError(f"held parts could not be read: {error}", reason="store_down") from error
        finally:
            for segment in segments.values():
                segment.readers -= 1
                self._log.released(segment)

    def _from_memory(self, claim: Claim) -> list[StoredPart]:
        held = self._table.entries.get(claim.key)
        if held is None or held.objects is None:
            return []
        chunks: Iterable[tuple[int, ...]] = CHUNK.iter_unpack(held.chunks)
        if held.arrival > claim.up_to:
            chunks = [chunk for chunk in chunks if chunk[2] <= claim.up_to]
        objects, guests = held.objects, held.guests
        parts = [
            StoredPart(chunk[2], payload, chunk[4], envelope, head, None, facts_of(chunk[5]))
            for chunk, payload, envelope, head in zip(chunks, objects[0::3], objects[1::3], objects[2::3], strict=False)
        ]
        if guests is not None:
            for part in parts:
                if part.arrival in guests:
                    part.guest = records.decode_guest(guests[part.arrival][1])
        return parts

    def _plain_objects(self, bundle: Bundle) -> list[Plain]:
        """Without a log: the parts of each key of a bundle."""
        found: list[Plain] = []
        entries = self._table.entries
        for key, end in zip(bundle.keys, bundle.ends, strict=True):
            held = entries[key]
            objects = held.objects
            assert objects is not None
            if len(held.chunks) != end:
                objects = objects[: end // CHUNK_BYTES * 3]
            root = 0 if len(objects) == 3 else _first_root(held.chunks)
            found.append((objects[0::3], objects[1::3], objects[2::3], root))
        return found

    def _plain_chunks(self, bundle: Bundle) -> Iterable[bytes | bytearray]:
        """With a log: what ``records.CHUNK`` says of the parts of each key of a bundle."""
        entries = self._table.entries
        for key, end in zip(bundle.keys, bundle.ends, strict=True):
            chunks = entries[key].chunks
            yield chunks if len(chunks) == end else chunks[:end]


def _first_root(chunks: bytes | bytearray) -> int:
    """Which of a plain key's parts is the first with a root: its facts are that, alone or with LOCAL_ROOT."""
    facts = chunks[_FACTS_OF]
    alone, both = facts.find(_ROOT), facts.find(_ROOT | _LOCAL_ROOT)
    return max(alone, both) if alone < 0 or both < 0 else min(alone, both)


def _plain(parts: Sequence[StoredPart]) -> Plain:
    """Host parts that were read back, as a bundle gives them."""
    root = next(i for i, part in enumerate(parts) if int(part.facts) & _ROOT)
    envelopes = [part.envelope for part in parts if part.envelope is not None]
    return [part.payload for part in parts], envelopes, [part.span_ids for part in parts], root
