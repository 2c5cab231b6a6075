"""Reading parts back from the log: everything that a call wants, in as few reads as is sensible."""

from collections.abc import Iterator, Sequence

from grafter.core.model import Envelope, GuestFacts
from grafter.store import records
from grafter.store.base import StoredPart
from grafter.store.records import GUEST, Chunk, facts_of
from grafter.store.segments import Segment, SegmentLog

# Parts lie scattered between those of other traces; reading over a gap is cheaper than another system call.
_GAP = 16 << 10
_READ = 4 << 20
# A few envelopes cover all that is held; sharing them makes the exporter's grouping cheap.
_SHARED = 1024


class Reader:
    """Makes parts of chunks; usable from several threads at once."""

    def __init__(self) -> None:
        self._envelopes: dict[bytes, Envelope] = {}

    def fetch(self, wanted: Sequence[Sequence[Chunk]], segments: dict[int, Segment]) -> list[list[StoredPart]]:
        """The parts of these chunks, in their order. Raises OSError, and RecordError for a newer version's."""
        ranges: dict[tuple[int, int], int] = {}
        for chunks in wanted:
            for number, body, _, _, _, _, at, length, head, head_length, size in chunks:
                ranges[number, body + head] = head_length + size
                if length:
                    ranges[number, body + at] = length
        found = dict(_read_ranges(sorted(ranges.items()), segments))
        envelopes: dict[tuple[int, int], Envelope] = {}
        result = []
        for chunks in wanted:
            parts = []
            for number, body, arrival, _, spans, flags, at, length, head, head_length, size in chunks:
                data, start = found[number, body + head]
                middle = start + head_length
                guest: GuestFacts | None = None
                envelope: Envelope | None = None
                span_ids = b""
                if flags & GUEST:
                    guest = records.decode_guest(data[start:middle])
                else:
                    span_ids = data[start:middle]
                    place = (number, body + at)
                    envelope = envelopes.get(place)
                    if envelope is None:
                        raw, first = found[place]
                        envelope = envelopes[place] = self._shared(raw[first : first + length])
                parts.append(
                    StoredPart(arrival, data[middle : middle + size], spans, envelope, span_ids, guest, facts_of(flags))
                )
            result.append(parts)
        return result

    def _shared(self, blob: bytes) -> Envelope:
        known = self._envelopes.get(blob)
        if known is None:
            if len(self._envelopes) >= _SHARED:
                self._envelopes.clear()
            known = self._envelopes[blob] = records.decode_envelope(blob)
        return known


def _read_ranges(
    ranges: Sequence[tuple[tuple[int, int], int]], segments: dict[int, Segment]
) -> Iterator[tuple[tuple[int, int], tuple[bytes, int]]]:
    """For each (segment, offset) the bytes read and where in them it starts; neighbours share one read."""
    i = 0
    while i < len(ranges):
        (number, start), length = ranges[i]
        end = start + length
        j = i + 1
        while j < len(ranges):
            (other, at), length = ranges[j]
            if other != number or at > end + _GAP or at + length > start + _READ:
                break
            end = max(end, at + length)
            j += 1
        data = SegmentLog.read(segments[number], start, end - start)
        for place, _ in ranges[i:j]:
            yield place, (data, place[1] - start)
        i = j
