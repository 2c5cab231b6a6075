"""What is held, in memory: keys, where their parts lie, and the sums of it all.

The log is the truth and this is its sum. One thread at a time uses a table. Two tables of one store may be merged: the
sums commute.
"""

from operator import attrgetter

from grafter.core.model import Key, UnixNano
from grafter.store.embedded.due_queue import Agenda
from grafter.store.embedded.trace_entry import Guest, Held, Remembers
from grafter.store.records import CHUNK

_first = attrgetter("first")


class Table:
    """Read and changed by the rooms of the index; nothing here decides anything."""

    def __init__(self, memories: Remembers, agenda: Agenda, arrival: int) -> None:
        self.entries: dict[Key, Held] = {}
        self.guests: dict[Key, Guest] = {}
        self.live: dict[int, int] = {}
        """Parts held, by segment."""
        self.parts = 0
        self.spans = 0
        self.bytes = 0
        self.arrival = arrival
        """The last number that was given."""
        self.busy: dict[Key, int] = {}
        """Keys about which something is being written: not handed out, and not copied, until it is."""
        self.agenda = agenda
        self._oldest: tuple[int, Key] | None = None
        self._memories = memories

    def begin(self, key: Key) -> None:
        """Something about the key is being written."""
        self.busy[key] = self.busy.get(key, 0) + 1

    def end(self, key: Key) -> None:
        """What ``begin`` was called for is written, or will not be."""
        left = self.busy.pop(key) - 1
        if left:
            self.busy[key] = left

    def hold(self, key: Key, now: int) -> Held:
        """Begin to hold a key."""
        held = self.entries[key] = Held(now, self._memories.host(key, UnixNano(now))[0])
        self.note_oldest(key, held)
        return held

    def leave(self, segment: int, parts: int = 1) -> None:
        """Parts that lie in the segment are no longer held."""
        left = self.live[segment] - parts
        if left:
            self.live[segment] = left
        else:
            del self.live[segment]

    def resum(self, key: Key, held: Held) -> None:
        """Sum up anew after parts went; drop the key with its last part."""
        if not held.chunks:
            held.host_spans = held.guest_spans = held.bytes = 0
            del self.entries[key]
            return
        held.host_spans = held.guest_spans = held.bytes = held.facts = 0
        held.sums = None
        rows = [fields[3:6] + fields[10:] for fields in CHUNK.iter_unpack(held.chunks)]
        for _, spans, flags, length in rows:
            held.count(spans, flags, length)
        held.first, held.last = min(row[0] for row in rows), max(row[0] for row in rows)
        if not held.guests:
            held.guests = None

    def note_oldest(self, key: Key, held: Held) -> None:
        """The key's first part may be older than any."""
        if self._oldest is not None and held.first < self._oldest[0]:
            self._oldest = (held.first, key)

    def oldest(self) -> int | None:
        """Arrival of the oldest part; looks at every key only when the oldest one went."""
        if not self.entries:
            self._oldest = None
            return None
        if self._oldest is not None:
            held = self.entries.get(self._oldest[1])
            if held is not None and held.first == self._oldest[0]:
                return held.first
        first: int = min(map(_first, self.entries.values()))
        self._oldest = next((first, key) for key, held in self.entries.items() if held.first == first)
        return first

    def absorb(self, older: "Table") -> list[Key]:
        """Hold also what an older table of the same store holds; the guests that were known here.

        ``older`` must not be used afterwards.
        """
        # It is the larger one by far, so what is here goes into what is there.
        entries, guests, live, agenda = self.entries, self.guests, self.live, older.agenda
        self.entries, self.guests, self.live, self.agenda = older.entries, older.guests, older.live, agenda
        for key, held in entries.items():
            known = self.entries.get(key)
            if known is None:
                held.queued = None
                self.entries[key] = held
                continue
            known.chunks += held.chunks
            known.host_spans += held.host_spans
            known.guest_spans += held.guest_spans
            known.bytes += held.bytes
            known.facts |= held.facts
            known.first, known.last = min(known.first, held.first), max(known.last, held.last)
            known.seen = held.seen
            known.remembered |= held.remembered
            known.sums = None
            if held.guests is not None:
                known.guests = {**(known.guests or {}), **held.guests}
        for own, guest in guests.items():
            old = self.guests.get(own)
            if old is None:
                self.guests[own] = guest
                continue
            old.parts += guest.parts
            old.strays = guest.strays
            if old.host is None:
                old.host, old.said = guest.host, guest.said
        for segment, count in live.items():
            self.live[segment] = self.live.get(segment, 0) + count
        self.parts += older.parts
        self.spans += older.spans
        self.bytes += older.bytes
        self.arrival = max(self.arrival, older.arrival)
        self._oldest = None
        for key in entries:
            held = self.entries[key]
            agenda.schedule(key, held, agenda.by_table(key, held))
        return list(guests)
