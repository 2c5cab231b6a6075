"""What is held, in memory: an entry a key, what is known of each guest, and the sums of it all.

The log is the truth and this is its sum. One thread at a time uses a table. Two tables of one store may be merged: the
sums commute.

Memory is the reason for the shapes: a part is 50 packed bytes (records.CHUNK), a key one object without a dictionary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from grafter.core.model import LARGE_ENVELOPE, Key, UnixNano
from grafter.core.state import GuestState
from grafter.store.embedded.metadata_db import MetadataDB
from grafter.store.model import Backlog, Outcome
from grafter.store.records import (
    CHUNK,
    CHUNK_BYTES,
    DEFERRED,
    FACTS,
    GUEST,
    Chunk,
    Place,
    chunk_arrival,
    find_arrival,
    unpack_chunks,
)

_first = attrgetter("first")


def envelope_place(chunk: Chunk) -> Place:
    """Where the envelope of a part lies."""
    return chunk.segment, chunk.body + chunk.envelope


@dataclass(slots=True, eq=False)
class ExportAttempt:
    """Exports that were begun, and of which parts."""

    up_to: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Bytes may have left: until it is settled, a claim covers the same parts."""
        return any(outcome is not Outcome.WITHDRAWN for outcome in self.outcomes.values())


@dataclass(slots=True, eq=False)
class TraceEntry:
    """One key."""

    first: int
    last: int
    appended: int
    """``now`` of the latest append."""
    remembered: bool
    chunks: bytearray = field(default_factory=bytearray)
    """records.CHUNK after records.CHUNK, by arrival."""
    objects: list[Any] | None = None
    """Without a log: payload, envelope and head of each chunk."""
    host_spans: int = 0
    guest_spans: int = 0
    size: int = 0
    """Bytes of its payloads and of its large envelopes."""
    envelopes: dict[Place, int] | None = None
    """Its large envelopes, with the number of its parts under each."""
    facts: int = 0
    guests: dict[int, tuple[Key, bytes]] | None = None
    """Guest's key and encoded facts, by arrival."""
    sums: dict[str, GuestState] | None = None
    attempt: ExportAttempt | None = None
    due: int | None = None
    """A time that was given and holds until the next claim; None: by the waits, from what is known now."""
    lease: int | None = None
    token: int = 0
    fresh: bool = False
    """A part came during the lease."""
    queued: int | None = None
    """Its entry in the due queue; any other one there is an old one."""

    @property
    def waits_for(self) -> str:
        """The exporter of whose backlog it is a batch; empty for what is held."""
        if self.facts & DEFERRED and self.attempt is not None:
            return next(iter(self.attempt.outcomes), "")
        return ""

    @property
    def arrival(self) -> int:
        """Of its latest part."""
        return chunk_arrival(self.chunks, len(self.chunks))

    @property
    def attempted(self) -> int:
        """Up to which arrival an export was begun; -1 where none was."""
        return self.attempt.up_to if self.attempt is not None and self.attempt.is_open else -1

    @property
    def up_to(self) -> int:
        """Up to which arrival a claim covers it."""
        attempted = self.attempted
        return attempted if attempted >= 0 else self.arrival

    def count(self, spans: int, flags: int, size: int) -> None:
        """Add a part to the sums."""
        if flags & GUEST:
            self.guest_spans += spans
        else:
            self.host_spans += spans
            self.facts |= flags & FACTS
        self.size += size

    def insert(self, chunk: Chunk, objects: Sequence[object] = ()) -> None:
        """Hold a part at its place by arrival; without a log with its ``objects``."""
        is_last = not self.chunks or chunk.arrival > self.arrival
        at = len(self.chunks) if is_last else find_arrival(self.chunks, chunk.arrival)
        self.chunks[at:at] = CHUNK.pack(*chunk)
        if objects:
            self.objects = self.objects or []
            self.objects[at // CHUNK_BYTES * 3 : at // CHUNK_BYTES * 3] = objects
        self.count(chunk.spans, chunk.flags, chunk.size)
        self.first, self.last = min(self.first, chunk.now), max(self.last, chunk.now)

    def add_guest(self, arrival: int, facts: tuple[Key, bytes]) -> None:
        """The part is a guest's; see ``guests``."""
        if self.guests is None:
            self.guests = {}
        self.guests[arrival] = facts

    def absorb(self, newer: "TraceEntry") -> None:
        """Hold also what was appended since; ``newer`` must not be used afterwards."""
        self.chunks += newer.chunks
        if newer.envelopes is not None:
            self.envelopes = {**(self.envelopes or {}), **newer.envelopes}
        self.host_spans += newer.host_spans
        self.guest_spans += newer.guest_spans
        self.size += newer.size
        self.facts |= newer.facts
        self.first, self.last = min(self.first, newer.first), max(self.last, newer.last)
        self.appended = newer.appended
        self.remembered |= newer.remembered
        self.sums = None
        if newer.guests is not None:
            self.guests = {**(self.guests or {}), **newer.guests}


@dataclass(slots=True, eq=False)
class GuestEntry:
    """A guest with a part held or about to be."""

    parts: int = 0
    host: Key | None = None
    since: int | None = None
    """Arrival of the part by which the host is known; -1: by a memory; None while that part is not yet stored."""
    strays: list[int] = field(default_factory=list)
    """Arrivals of parts that are being written under the guest's own key."""
    latest: tuple[Key, bytes] | None = None
    """Its key and the facts of its latest part."""

    def shared_facts(self, own: Key, facts: bytes) -> tuple[Key, bytes]:
        """What is kept of a part: its guest's key and facts, one object where the parts of a call have the same."""
        if self.latest is None or self.latest[1] != facts:
            self.latest = (own, facts)
        return self.latest


@dataclass(slots=True, eq=False)
class WaitingBatches:
    """The backlog of one exporter."""

    keys: dict[Key, None] = field(default_factory=dict)
    """In the order of the log."""
    spans: int = 0
    bytes: int = 0


class TraceTable:
    """Read and changed by the rooms of the index; nothing here decides anything."""

    def __init__(self, memories: MetadataDB, arrival: int) -> None:
        self.entries: dict[Key, TraceEntry] = {}
        self.guests: dict[Key, GuestEntry] = {}
        self.live: dict[int, int] = {}
        """Parts held, by segment."""
        self.spans = 0
        self.bytes = 0
        self.envelopes: dict[Place, list[int]] = {}
        """Large envelopes: how many parts are held under each, and its bytes, which count once."""
        self.arrival = arrival
        """The last number that was given."""
        self.backlogs: dict[str, WaitingBatches] = {}
        """What waits for one exporter alone, by its name."""
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
        entry = self.entries[key] = TraceEntry(now, now, now, self._memories.host(key, UnixNano(now))[0])
        self.update_oldest(key, entry)
        return entry

    @property
    def parts(self) -> int:
        """How many are held."""
        return sum(self.live.values())

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

    def enter_envelope(self, entry: TraceEntry, place: Place, size: int) -> None:
        """A part of the key lies under a large envelope."""
        if entry.envelopes is None:
            entry.envelopes = {}
        known = self.envelopes.setdefault(place, [0, size])
        if not known[0]:
            self.bytes += size
        known[0] += 1
        parts = entry.envelopes.get(place, 0)
        if not parts:
            entry.size += size
        entry.envelopes[place] = parts + 1

    def leave_envelopes(self, entry: TraceEntry, chunks: bytes | bytearray) -> None:
        """These parts of the key are no longer held; no other of its sums is changed."""
        own = entry.envelopes or {}
        for chunk in unpack_chunks(chunks):
            if chunk.envelope_size < LARGE_ENVELOPE:
                continue
            place = envelope_place(chunk)
            known = self.envelopes[place]
            known[0] -= 1
            if not known[0]:
                self.bytes -= self.envelopes.pop(place)[1]
            own[place] -= 1
            if not own[place]:
                del own[place]
                entry.size -= known[1]

    def sum_anew(self, key: Key, entry: TraceEntry) -> None:
        """Sum up anew after parts went; drop the key with its last part."""
        entry.host_spans = entry.guest_spans = 0
        entry.size = sum([self.envelopes[place][1] for place in entry.envelopes or ()])
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
        """Arrival of the oldest part that is in no backlog; goes through all keys only when the oldest one went."""
        if self._oldest is not None:
            entry = self.entries.get(self._oldest[1])
            if entry is not None and entry.first == self._oldest[0] and not entry.facts & DEFERRED:
                return entry.first
        self._oldest = None
        entries = self.entries
        if any(waiting.keys for waiting in self.backlogs.values()):
            entries = {key: entry for key, entry in entries.items() if not entry.facts & DEFERRED}
        if not entries:
            return None
        first: int = min(map(_first, entries.values()))
        self._oldest = next((first, key) for key, entry in entries.items() if entry.first == first)
        return first

    def enter_backlog(self, key: Key, entry: TraceEntry) -> None:
        """It is a batch of an exporter's backlog, as its outcomes say."""
        waiting = self.backlogs.setdefault(entry.waits_for, WaitingBatches())
        if key not in waiting.keys:
            waiting.keys[key] = None
            waiting.spans += entry.host_spans
            waiting.bytes += entry.size

    def leave_backlog(self, key: Key, entry: TraceEntry) -> None:
        """It is about to be forgotten."""
        waiting = self.backlogs.get(entry.waits_for)
        if waiting is not None and key in waiting.keys:
            del waiting.keys[key]
            waiting.spans -= entry.host_spans
            waiting.bytes -= entry.size

    def backlog(self, exporter: str) -> Backlog:
        """What waits for this exporter alone."""
        waiting = self.backlogs[exporter]
        first = next(iter(waiting.keys), None)
        oldest = None if first is None else UnixNano(self.entries[first].first)
        return Backlog(len(waiting.keys), waiting.spans, waiting.bytes, oldest)

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
        # None of these lies in a segment of the other table.
        self.envelopes |= older.envelopes
        newer, self.backlogs = self.backlogs, older.backlogs
        for waiting in newer.values():
            for key in waiting.keys:
                self.enter_backlog(key, self.entries[key])
        self.spans += older.spans
        self.bytes += older.bytes
        self.arrival = max(self.arrival, older.arrival)
        self._oldest = None
        return list(entries), list(guests)
