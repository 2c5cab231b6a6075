"""What is held, in memory: an entry a key, what is known of each guest, and the sums of it all.

The log is the truth and this is its sum. One thread at a time uses a table. Two tables of one store may be merged: the
sums commute.

Memory is the reason for the shapes: a part is 50 packed bytes (records.CHUNK), a key one object without a dictionary.
"""

from operator import attrgetter
from typing import Any, Protocol

from grafter.core.model import Key, UnixNano
from grafter.core.state import GuestState
from grafter.store.base import Outcome
from grafter.store.records import FACTS, GUEST, chunk_arrival, unpack_chunks

_first = attrgetter("first")


class KnownMemories(Protocol):
    """The metadata, as far as placement needs it."""

    def host(self, key: Key, now: UnixNano) -> tuple[bool, Key | None]:
        """Whether the key is remembered, and the host that its memory names."""
        ...


class ExportAttempt:
    """Exports that were begun, and of which parts."""

    __slots__ = ("outcomes", "up_to")

    def __init__(self, up_to: int) -> None:
        self.up_to = up_to
        self.outcomes: dict[str, Outcome] = {}

    @property
    def is_open(self) -> bool:
        """Bytes may have left: until it is settled, a claim covers the same parts."""
        return any(outcome is not Outcome.WITHDRAWN for outcome in self.outcomes.values())


class TraceEntry:
    """One key."""

    __slots__ = (
        "appended",
        "attempt",
        "bytes",
        "chunks",
        "due",
        "facts",
        "first",
        "fresh",
        "guest_spans",
        "guests",
        "host_spans",
        "last",
        "lease",
        "objects",
        "queued",
        "remembered",
        "sums",
        "token",
    )

    def __init__(self, now: int, remembered: bool) -> None:
        self.chunks = bytearray()
        """records.CHUNK after records.CHUNK, by arrival."""
        self.objects: list[Any] | None = None
        """Without a log: payload, envelope and head of each chunk."""
        self.first = now
        self.last = now
        self.appended = now
        """``now`` of the latest append."""
        self.host_spans = 0
        self.guest_spans = 0
        self.bytes = 0
        self.facts = 0
        self.remembered = remembered
        self.guests: dict[int, tuple[Key, bytes]] | None = None
        """Guest's key and encoded facts, by arrival."""
        self.sums: dict[str, GuestState] | None = None
        self.attempt: ExportAttempt | None = None
        self.due: int | None = None
        """A time that was given and holds until the next claim; None: by the waits, from what is known now."""
        self.lease: int | None = None
        self.token = 0
        self.fresh = False
        """A part came during the lease."""
        self.queued: int | None = None
        """Its entry in the due queue; any other one there is an old one."""

    @property
    def arrival(self) -> int:
        """Of its latest part."""
        return chunk_arrival(self.chunks, len(self.chunks))

    @property
    def attempted(self) -> int:
        """Up to which arrival an export was begun; -1 where none was."""
        return self.attempt.up_to if self.attempt is not None and self.attempt.is_open else -1

    def count(self, spans: int, flags: int, size: int) -> None:
        """Add a part to the sums."""
        if flags & GUEST:
            self.guest_spans += spans
        else:
            self.host_spans += spans
            self.facts |= flags & FACTS
        self.bytes += size

    def absorb(self, newer: "TraceEntry") -> None:
        """Hold also what was appended since; ``newer`` must not be used afterwards."""
        self.chunks += newer.chunks
        self.host_spans += newer.host_spans
        self.guest_spans += newer.guest_spans
        self.bytes += newer.bytes
        self.facts |= newer.facts
        self.first, self.last = min(self.first, newer.first), max(self.last, newer.last)
        self.appended = newer.appended
        self.remembered |= newer.remembered
        self.sums = None
        if newer.guests is not None:
            self.guests = {**(self.guests or {}), **newer.guests}


class GuestEntry:
    """A guest with a part held or about to be."""

    __slots__ = ("host", "latest", "parts", "since", "strays")

    def __init__(self) -> None:
        self.parts = 0
        self.host: Key | None = None
        self.since: int | None = None
        """Arrival of the part by which the host is known; -1: by a memory; None while that part is not yet stored."""
        self.strays: list[int] = []
        """Arrivals of parts that are being written under the guest's own key."""
        self.latest: tuple[Key, bytes] | None = None
        """Its key and the facts of its latest part."""

    def shared_facts(self, own: Key, facts: bytes) -> tuple[Key, bytes]:
        """What is kept of a part: its guest's key and facts, one object where the parts of a call say the same."""
        if self.latest is None or self.latest[1] != facts:
            self.latest = (own, facts)
        return self.latest


class TraceTable:
    """Read and changed by the rooms of the index; nothing here decides anything."""

    def __init__(self, memories: KnownMemories, arrival: int) -> None:
        self.entries: dict[Key, TraceEntry] = {}
        self.guests: dict[Key, GuestEntry] = {}
        self.live: dict[int, int] = {}
        """Parts held, by segment."""
        self.parts = 0
        self.spans = 0
        self.bytes = 0
        self.arrival = arrival
        """The last number that was given."""
        self.busy: dict[Key, int] = {}
        """Keys about which something is being written: not handed out, and not copied, until it is."""
        self._oldest: tuple[int, Key] | None = None
        self._memories = memories

    def begin_write(self, key: Key) -> None:
        """Something about the key is being written."""
        self.busy[key] = self.busy.get(key, 0) + 1

    def end_write(self, key: Key) -> None:
        """What ``begin_write`` was called for is written, or will not be."""
        left = self.busy.pop(key) - 1
        if left:
            self.busy[key] = left

    def hold(self, key: Key, now: int) -> TraceEntry:
        """Begin to hold a key."""
        entry = self.entries[key] = TraceEntry(now, self._memories.host(key, UnixNano(now))[0])
        self.update_oldest(key, entry)
        return entry

    def enter(self, segment: int, parts: int = 1) -> None:
        """Parts that lie in the segment are held."""
        self.live[segment] = self.live.get(segment, 0) + parts

    def leave(self, segment: int, parts: int = 1) -> None:
        """Parts that lie in the segment are no longer held."""
        left = self.live[segment] - parts
        if left:
            self.live[segment] = left
        else:
            del self.live[segment]

    def sum_anew(self, key: Key, entry: TraceEntry) -> None:
        """Sum up anew after parts went; drop the key with its last part."""
        entry.host_spans = entry.guest_spans = entry.bytes = 0
        if not entry.chunks:
            del self.entries[key]
            return
        entry.facts = 0
        entry.sums = None
        moments = []
        for chunk in unpack_chunks(entry.chunks):
            entry.count(chunk.spans, chunk.flags, chunk.size)
            moments.append(chunk.now)
        entry.first, entry.last = min(moments), max(moments)
        if not entry.guests:
            entry.guests = None

    def update_oldest(self, key: Key, entry: TraceEntry) -> None:
        """The key's first part may be older than any."""
        if self._oldest is not None and entry.first < self._oldest[0]:
            self._oldest = (entry.first, key)

    def oldest(self) -> int | None:
        """Arrival of the oldest part; goes through all keys only when the oldest one went."""
        if not self.entries:
            self._oldest = None
            return None
        if self._oldest is not None:
            entry = self.entries.get(self._oldest[1])
            if entry is not None and entry.first == self._oldest[0]:
                return entry.first
        first: int = min(map(_first, self.entries.values()))
        self._oldest = next((first, key) for key, entry in self.entries.items() if entry.first == first)
        return first

    def absorb(self, older: "TraceTable") -> tuple[list[Key], list[Key]]:
        """Hold also what an older table of the same store holds; the keys and the guests that were known here.

        ``older`` must not be used afterwards.
        """
        # It is the larger one by far, so what is here goes into what is there.
        entries, guests, live = self.entries, self.guests, self.live
        self.entries, self.guests, self.live = older.entries, older.guests, older.live
        for key, entry in entries.items():
            known = self.entries.get(key)
            if known is None:
                entry.queued = None
                self.entries[key] = entry
            else:
                known.absorb(entry)
        for own, guest in guests.items():
            old = self.guests.setdefault(own, guest)
            if old is not guest:
                old.parts += guest.parts
                old.strays = guest.strays
                if old.host is None:
                    old.host, old.since = guest.host, guest.since
        for segment, count in live.items():
            self.enter(segment, count)
        self.parts += older.parts
        self.spans += older.spans
        self.bytes += older.bytes
        self.arrival = max(self.arrival, older.arrival)
        self._oldest = None
        return list(entries), list(guests)
