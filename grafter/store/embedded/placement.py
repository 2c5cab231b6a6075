"""Under which key a part is held: decided before the write, on what is known then.

A guest's link is known for good from a memory; else by the earliest part that is held, from where it is placed or what
it names; and while nothing is stored by which it is known, what is being written counts.

The parts of a request are numbered, given their keys and laid out as one record. Until that is written nothing of it
is held; ``undo`` forgets what was taken for granted meanwhile.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from grafter.core.model import LARGE_ENVELOPE, Envelope, Key, Part, UnixNano
from grafter.store import records
from grafter.store.embedded.metadata_db import MetadataDB
from grafter.store.embedded.trace_table import GuestEntry, TraceTable
from grafter.store.records import GUEST, HOST_KEY, KEY_BYTES, PARTS_HEAD, ROW, Move, unpack_chunks

_MAX_OFFSET = 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class PlacedParts:
    """The parts of one append: where each is placed, and its row."""

    now: int
    parts: Sequence[Part]
    spans: int = 0
    size: int = 0
    """Bytes of their payloads."""
    keys: list[Key] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    facts: list[int] = field(default_factory=list)
    """-1 for a guest's part."""
    large: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By position: where in the record a large envelope lies, and its length."""
    guests: dict[int, tuple[Key, bytes, int]] = field(default_factory=dict)
    """By position: the guest's key, its encoded facts, and the arrival."""
    body: bytes = b""
    """With a log: of the record."""
    moves: list[Move] = field(default_factory=list)
    guests_known: list[Key] = field(default_factory=list)
    """The guests of whose parts and links the table knows before they are stored."""


class Placement:
    """Decides where parts belong, by what guests are known to belong to, and what has to move because of it."""

    def __init__(self, table: TraceTable, memories: MetadataDB, *, apart: bool, keeps_objects: bool) -> None:
        """``apart``: guests stay under their own keys, whatever they belong to. ``keeps_objects``: there is no log, so
        no record has to be laid out."""
        self._table = table
        self._memories = memories
        self._apart = apart
        self._keeps_objects = keeps_objects
        self._envelopes = 0
        """The last that got a number, without a log."""

    def place(self, parts: Sequence[Part], now: int) -> PlacedParts:
        """Decide where parts belong, and number them. Undone by ``undo`` when they could not be written."""
        placed = PlacedParts(now, parts)
        try:
            self._lay_out(placed, self._place_guests(placed))
        except BaseException:
            self.undo(placed)
            raise
        return placed

    def undo(self, placed: PlacedParts) -> None:
        """Forget what ``place`` took for granted: nothing of it was stored."""
        for move in placed.moves:
            self._table.end_write(move.guest)
        for key, _, arrival in placed.guests.values():
            strays = self._table.guests[key].strays
            if arrival in strays:
                strays.remove(arrival)
        for key in placed.guests_known:
            guest = self._table.guests[key]
            guest.parts -= 1
            if guest.parts == 0:
                del self._table.guests[key]
            elif guest.since is None:
                self.derive(key, guest)

    def move_all(self, key: Key, host: Key) -> Move:
        """A move of everything that is held, or being written, under a guest's key."""
        guest = self._table.guests[key]
        return self._move(key, host, (*self._movable(key), *guest.strays))

    def _place_guests(self, placed: PlacedParts) -> dict[Key, Key]:
        """The key under which each guest of the request is placed.

        A link holds for the whole request, wherever in it the part stands that brings it. What it moves is numbered
        before the request's own parts.
        """
        for part in [part for part in placed.parts if part.guest is not None]:
            self._expect(part, placed.now)
            placed.guests_known.append(part.key)
        places = {}
        for own in dict.fromkeys(placed.guests_known):
            host = self._host_of(own, placed.now)
            places[own] = host or own
            arrivals = () if host is None else (*self._movable(own), *self._table.guests[own].strays)
            if host is not None and arrivals:
                placed.moves.append(self._move(own, host, arrivals))
                self._table.begin_write(own)
        return places

    def _lay_out(self, placed: PlacedParts, places: dict[Key, Key]) -> None:
        """Number the parts, and make the rows of their record, and the record."""
        table, keeps_objects = self._table, self._keeps_objects
        position = PARTS_HEAD.size + len(placed.parts) * (KEY_BYTES + ROW.size)
        envelopes: dict[int, tuple[int, int]] = {}
        # Parts that follow one another mostly share theirs.
        last: Envelope | None = None
        envelope = 0, 0
        blobs: list[bytes] = []
        add_key, add_row, add_fact, add_blob = placed.keys.append, placed.rows.append, placed.facts.append, blobs.append
        pack, now = ROW.pack, placed.now
        spans = total = 0
        head: bytes
        for part in placed.parts:
            size = len(part.payload)
            spans += part.spans
            total += size
            facts = part.guest
            table.arrival = arrival = table.arrival + 1
            if facts is None:
                key = part.key
                if part.envelope is not last or last is None:
                    last = part.envelope
                    known = envelopes.get(id(last))
                    if known is None:
                        known = envelopes[id(last)] = self._lay_out_envelope(last, position, blobs)
                        position += 0 if keeps_objects else known[1]
                    envelope = known
                at, length = envelope
                if length >= LARGE_ENVELOPE:
                    placed.large[len(placed.rows)] = envelope
                head = part.span_ids
                flags = fact = int(part.facts)
            else:
                at = length = 0
                key = places[part.key]
                head = records.encode_guest(facts)
                flags, fact = GUEST, -1
                if key == part.key:
                    table.guests[key].strays.append(arrival)
                placed.guests[len(placed.rows)] = (part.key, head, arrival)
            if len(key) == 16:
                flags |= HOST_KEY
            elif len(key) != KEY_BYTES:
                raise ValueError(f"a key has {len(key)} bytes, expected 16 or {KEY_BYTES}")
            if not keeps_objects:
                add_blob(head)
                add_blob(part.payload)
            add_key(key)
            add_row(pack(arrival, now, part.spans, flags, at, length, position, len(head), size))
            add_fact(fact)
            position += len(head) + size
        placed.spans, placed.size = spans, total
        if not keeps_objects:
            placed.body = b"".join(records.parts_body(placed.keys, placed.rows, blobs, position, placed.moves))

    def _lay_out_envelope(self, envelope: Envelope | None, position: int, blobs: list[bytes]) -> tuple[int, int]:
        """Where in the record it lies, and its length."""
        if envelope is None:
            raise ValueError("a host part has no envelope")
        if self._keeps_objects:
            # All that it is known by: there is no place where it lies.
            self._envelopes = self._envelopes % _MAX_OFFSET + 1
            return self._envelopes, records.envelope_length(envelope)
        blob = records.encode_envelope(envelope)
        blobs.append(blob)
        return position, len(blob)

    def _move(self, own: Key, host: Key, arrivals: tuple[int, ...]) -> Move:
        base = self._table.arrival + 1
        self._table.arrival += len(arrivals)
        return Move(own, host, base, arrivals)

    def _expect(self, part: Part, now: int) -> None:
        """Count a guest's part that is about to be written, and take the link that it brings."""
        own = part.key
        guest = self._table.guests.get(own)
        if guest is None:
            guest = self._table.guests[own] = GuestEntry()
            # A link that is only remembered counts before one that the part brings: it never changes.
            guest.host = self._memories.host(own, UnixNano(now))[1]
            guest.since = -1 if guest.host is not None else None
        guest.parts += 1
        if guest.host is None and part.guest is not None and part.guest.host is not None:
            guest.host = Key(part.guest.host)

    def take_evidence(self, guest: GuestEntry, key: Key, own: Key, facts: bytes, arrival: int) -> None:
        """Learn the link from where a part is placed or from what it names; the earliest part counts."""
        if guest.since is not None and guest.since < arrival:
            return
        host = key if key != own else records.decode_guest(facts).host
        if host is not None:
            guest.host = Key(host)
            guest.since = arrival

    def derive(self, own: Key, guest: GuestEntry) -> None:
        """Learn the link anew from what is held, after the part by which it was known went."""
        before, guest.host, guest.since = guest.host, None, None
        for key in (own, before):
            entry = self._table.entries.get(key) if key is not None else None
            if key is None or entry is None or entry.guests is None:
                continue
            for arrival, (of, facts) in entry.guests.items():
                if of == own:
                    self.take_evidence(guest, key, own, facts, arrival)

    def recall(self, now: int) -> None:
        """After reading the log back: take from the memories what placement would have taken from them."""
        for key, entry in self._table.entries.items():
            entry.remembered, _ = self._memories.host(key, UnixNano(now))
            # What was settled or moved since may have been the latest.
            entry.appended = entry.last
        for key, guest in self._table.guests.items():
            _, host = self._memories.host(key, UnixNano(now))
            if host is not None:
                guest.host, guest.since = host, -1

    def _host_of(self, own: Key, now: int) -> Key | None:
        """The host under whose key the guest's parts are placed now; None while that is their own."""
        host = self._table.guests[own].host
        if host is None or self._apart or (self._released(host, now) and not self._left_behind(own, host)):
            return None
        return host

    def stray_guests(self, keys: Iterable[Key], now: int) -> list[tuple[Key, Key]]:
        """Those of the guests whose parts are held under their own key though they belong to a host, with the host."""
        found = []
        for key in keys:
            guest = self._table.guests.get(key)
            if guest is None or guest.host is None or self._apart or self._released(guest.host, now):
                continue
            if guest.strays or self._movable(key):
                found.append((key, guest.host))
        return found

    def _movable(self, key: Key) -> list[int]:
        """Arrivals of what is held under a guest's key and may leave it: of the rest an export was begun."""
        entry = self._table.entries.get(key)
        if entry is None:
            return []
        return [chunk.arrival for chunk in unpack_chunks(entry.chunks) if chunk.arrival > entry.attempted]

    def _released(self, host: Key, now: int) -> bool:
        entry = self._table.entries.get(host)
        return entry.remembered if entry is not None else self._memories.host(host, UnixNano(now))[0]

    def _left_behind(self, own: Key, host: Key) -> bool:
        """Parts of the guest came during the host's release and are still held there."""
        entry = self._table.entries.get(host)
        return entry is not None and entry.guests is not None and any(own == of for of, _ in entry.guests.values())
