"""Reading parts back from the log: everything that a call wants, in as few reads as is sensible."""

from collections.abc import Sequence

from grafter.core.model import Envelope, GuestFacts
from grafter.store import records
from grafter.store.base import StoredPart
from grafter.store.embedded.segments import Segment, SegmentLog
from grafter.store.records import GUEST, Chunk, facts_of

# Parts lie scattered between those of other traces; reading over a gap is cheaper than another system call.
_GAP = 16 << 10
_READ = 4 << 20
# A few envelopes cover all that is held; sharing them makes the exporter's grouping cheap.
_SHARED = 1024
# A place is a segment's number and an offset in one integer, which is cheaper to look up than a pair. No two segments
# are closer than _GAP in it, since none is nearly as large as 2**_PLACE.
_PLACE = 40
_OFFSET = (1 << _PLACE) - 1
_EMPTY = (b"", 0)


class Reader:
    """Makes parts of chunks; usable from several threads at once."""

    def __init__(self) -> None:
        self._envelopes: dict[bytes, Envelope] = {}

    def fetch(self, wanted: Sequence[Sequence[Chunk]], segments: dict[int, Segment]) -> list[list[StoredPart]]:
        """The parts of these chunks, in their order. Raises OSError, and RecordError for a newer version's."""
        sizes: dict[int, int] = {}
        for chunks in wanted:
            for number, body, _, _, _, _, at, length, head, head_length, size in chunks:
                start = number << _PLACE | body
                # An empty part stands where the next one starts.
                if head_length + size:
                    sizes[start + head] = head_length + size
                if length:
                    sizes[start + at] = length
        found = _read(sizes, segments)
        envelopes: dict[int, Envelope] = {}
        result = []
        for chunks in wanted:
            parts = []
            for number, body, arrival, _, spans, flags, at, length, head, head_length, size in chunks:
                place = (number << _PLACE | body) + head
                data, first = found.get(place, _EMPTY)
                begin = place - first
                middle = begin + head_length
                guest: GuestFacts | None = None
                envelope: Envelope | None = None
                span_ids = b""
                if flags & GUEST:
                    guest = records.decode_guest(data[begin:middle])
                else:
                    span_ids = data[begin:middle]
                    place += at - head
                    envelope = envelopes.get(place)
                    if envelope is None:
                        data_of, first = found[place]
                        envelope = self._shared(data_of[place - first : place - first + length])
                        envelopes[place] = envelope
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
