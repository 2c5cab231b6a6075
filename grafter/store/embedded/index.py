"""What follows from the log: each record is applied here when it is written, in the order of the log.

By the same methods whether it was written a moment ago or is read back at start; so a write that failed needs no
undoing.

An index is also where the rooms that share its table meet: filing before the write, claims and bundles afterwards.
"""

from collections import Counter
from struct import Struct

from grafter.core.model import Envelope, GuestFacts, Key, UnixNano, guest_key
from grafter.core.policy import Waits
from grafter.core.state import GuestState
from grafter.store import records
from grafter.store.base import Bundle, Outcome
from grafter.store.embedded.bundles import Bundles
from grafter.store.embedded.claims import Claims
from grafter.store.embedded.due_queue import Agenda
from grafter.store.embedded.links import Links
from grafter.store.embedded.placement import Filing
from grafter.store.embedded.trace_entry import (
    ARRIVAL,
    CHUNK_BYTES,
    Filed,
    Guest,
    Held,
    LookAt,
    Pin,
    Remembers,
    position,
)
from grafter.store.embedded.trace_table import Table
from grafter.store.records import CHUNK, GUEST, HOST_KEY, LOCATION, ROW, Move

_SEGMENT_OF = Struct(f"<I{CHUNK_BYTES - 4}x")


class Index:
    """See the module's docstring. Nothing here waits, reads a file or knows the clock."""

    def __init__(
        self,
        memories: Remembers,
        look_at: LookAt,
        waits: Waits,
        *,
        apart: bool,
        max_trace_bytes: int,
        arrival: int,
        keeps_objects: bool,
    ) -> None:
        agenda = Agenda(look_at, waits, apart=apart, max_trace_bytes=max_trace_bytes)
        self.table = Table(memories, agenda, arrival)
        self.links = Links(self.table, memories, apart=apart)
        self.filing = Filing(self.table, self.links, keeps_objects=keeps_objects)
        self.bundles = Bundles(self.table, waits, apart=apart, max_trace_bytes=max_trace_bytes)
        self.claims = Claims(self.table, self.bundles)
        self._max_trace_bytes = max_trace_bytes
        self._keeps_objects = keeps_objects

    def add(self, filed: Filed, segment: int, body: int) -> None:
        """Hold what filing decided; its record's body is at this place."""
        table = self.table
        for move in filed.moves:
            self.move(move)
            table.end(move.guest)
        location = LOCATION.pack(segment, body)
        now = filed.now
        entries, agenda = table.entries, table.agenda
        keeps_objects, max_trace_bytes = self._keeps_objects, self._max_trace_bytes
        begun: dict[tuple[int, bool], tuple[int, list[Key]]] = {}
        for i, (key, row, fact, spans, size) in enumerate(
            zip(filed.keys, filed.rows, filed.facts, filed.spans, filed.sizes, strict=True)
        ):
            held = entries.get(key)
            is_new = held is None
            if held is None:
                held = table.hold(key, now)
            held.chunks += location + row
            held.bytes += size
            if keeps_objects:
                objects = held.objects
                if objects is None:
                    objects = held.objects = []
                part = filed.parts[i]
                objects += (part.payload, part.envelope, part.span_ids)
            changed = False
            if fact >= 0:
                changed = held.host_spans == 0 or fact | held.facts != held.facts
                held.facts |= fact
                held.host_spans += spans
            else:
                held.guest_spans += spans
                self._add_guest(key, held, *filed.guests[i], now)
            if now > held.last:
                held.last = now
            elif now < held.first:
                held.first = now
                table.note_oldest(key, held)
            # From here on: when to look at it. Skipped where the table can only say "later than the heap has it".
            backwards = now < held.seen
            held.seen = now
            if held.lease is not None:
                held.fresh = True
            elif held.due is not None:
                held.due = min(held.due, agenda.by_table(key, held))
                agenda.schedule(key, held, held.due)
            elif is_new and fact >= 0 and size <= max_trace_bytes:
                kind = (fact, held.remembered)
                alike = begun.get(kind)
                if alike is None:
                    alike = begun[kind] = (agenda.by_table(key, held), [])
                held.queued = alike[0]
                alike[1].append(key)
            elif is_new or changed or backwards or held.bytes > max_trace_bytes:
                agenda.schedule(key, held, agenda.by_table(key, held))
        for at, keys in begun.values():
            agenda.put_all(at, keys)
        count = len(filed.rows)
        if count:
            table.live[segment] = table.live.get(segment, 0) + count
        table.parts += count
        table.spans += sum(filed.spans)
        table.bytes += filed.bytes

    def _add_guest(self, key: Key, held: Held, own: Key, facts: bytes, arrival: int, now: int) -> None:
        table = self.table
        if held.guests is None:
            held.guests = {}
        guest = table.guests[own]
        held.guests[arrival] = guest.kept(own, facts)
        if held.sums is not None:
            _absorb(held.sums, records.decode_guest(facts), now)
        if key == own and arrival in guest.strays:
            guest.strays.remove(arrival)
        if guest.said is None and guest.host is not None:
            self.links.take_evidence(guest, key, own, facts, arrival)

    def restore(self, key: Key, row: bytes, segment: int, body: int, guest: bytes | None) -> None:
        """Hold a part that is read back, in any order. One that is held already was copied: it now lies here."""
        table = self.table
        arrival, now, spans, flags, *_, size = ROW.unpack(row)
        chunk = LOCATION.pack(segment, body) + row
        table.arrival = max(table.arrival, arrival)
        held = table.entries.get(key)
        if held is None:
            held = table.hold(key, now)
            at = 0
        elif arrival > held.arrival:
            at = len(held.chunks)
        else:
            at = position(held.chunks, arrival)
            if held.chunks[at : at + CHUNK_BYTES][ARRIVAL] == chunk[ARRIVAL]:
                self.relocate(key, chunk)
                return
        held.chunks[at:at] = chunk
        table.live[segment] = table.live.get(segment, 0) + 1
        table.parts += 1
        table.spans += spans
        table.bytes += size
        held.count(spans, flags, size)
        if guest is not None:
            own = key if flags & GUEST and not flags & HOST_KEY else guest_key(records.decode_guest(guest).guest)
            known = table.guests.setdefault(own, Guest())
            known.parts += 1
            if held.guests is None:
                held.guests = {}
            held.guests[arrival] = known.kept(own, guest)
            held.sums = None
            self.links.take_evidence(known, key, own, guest, arrival)
        held.first, held.last = min(held.first, now), max(held.last, now)
        held.seen = held.last

    def relocate(self, key: Key, chunk: bytes) -> None:
        """A part was copied; it now lies elsewhere. Nothing happens when it was settled or moved meanwhile."""
        table = self.table
        held = table.entries.get(key)
        if held is None:
            return
        arrival = int.from_bytes(chunk[ARRIVAL], "little")
        at = position(held.chunks, arrival)
        old = held.chunks[at : at + CHUNK_BYTES]
        if len(old) == CHUNK_BYTES and old[ARRIVAL] == chunk[ARRIVAL]:
            held.chunks[at : at + CHUNK_BYTES] = chunk
            table.leave(LOCATION.unpack_from(old)[0])
            segment = LOCATION.unpack_from(chunk)[0]
            table.live[segment] = table.live.get(segment, 0) + 1

    def move(self, move: Move) -> bool:
        """File a guest's parts under its host; what an export was begun of stays. False when nothing was moved."""
        table = self.table
        held = table.entries.get(move.guest)
        if held is None or held.guests is None:
            return False
        pinned = held.pin.up_to if held.pin is not None and held.pin.stands else -1
        numbers = {arrival: move.base + i for i, arrival in enumerate(move.arrivals) if arrival > pinned}
        stay = bytearray()
        stay_objects: list[bytes | Envelope | None] = []
        moved = []
        for i, at in enumerate(range(0, len(held.chunks), CHUNK_BYTES)):
            chunk = bytes(held.chunks[at : at + CHUNK_BYTES])
            objects = held.objects[3 * i : 3 * i + 3] if held.objects is not None else []
            arrival = int.from_bytes(chunk[ARRIVAL], "little")
            if arrival in numbers:
                moved.append((arrival, numbers[arrival], chunk, objects))
            else:
                stay += chunk
                stay_objects += objects
        if not moved:
            return False
        host = table.entries.get(move.host)
        is_new = host is None
        if host is None:
            # From what moves: what stays, because an export of it was begun, may be older.
            host = table.hold(move.host, min(CHUNK.unpack(chunk)[3] for _, _, chunk, _ in moved))
        if host.guests is None:
            host.guests = {}
        host.sums = None
        last = 0
        for old, arrival, chunk, objects in moved:
            fields = list(CHUNK.unpack(chunk))
            fields[2] = arrival
            fields[5] = fields[5] & ~HOST_KEY | (HOST_KEY if len(move.host) == 16 else 0)
            at = position(host.chunks, arrival)
            host.chunks[at:at] = CHUNK.pack(*fields)
            if held.objects is not None:
                if host.objects is None:
                    host.objects = []
                at = at // CHUNK_BYTES * 3
                host.objects[at:at] = objects
            host.guests[arrival] = held.guests.pop(old)
            now, spans, size = fields[3], fields[4], fields[10]
            last = max(last, now)
            host.first, host.last = min(host.first, now), max(host.last, now)
            host.guest_spans += spans
            host.bytes += size
        host.seen = last if is_new else max(host.seen, last)
        table.note_oldest(move.host, host)
        held.chunks = stay
        if held.objects is not None:
            held.objects = stay_objects
        table.resum(move.guest, held)
        guest = table.guests[move.guest]
        guest.host = move.host
        guest.said = move.base
        if host.lease is not None:
            host.fresh = True
        elif host.due is None:
            table.agenda.schedule(move.host, host, table.agenda.by_table(move.host, host))
        return True

    def outcome(self, key: Key, up_to: int, exporter: str, outcome: Outcome) -> bool:
        """Note what is known of an export; False when no part that it was of is held."""
        held = self.table.entries.get(key)
        if held is None or int.from_bytes(held.chunks[ARRIVAL], "little") > up_to:
            return False
        if held.pin is None:
            held.pin = Pin(up_to)
        elif not held.pin.stands:
            held.pin.up_to = up_to
        held.pin.outcomes[exporter] = outcome
        return True

    def settle(self, key: Key, up_to: int, due: int | None) -> bool:
        """Forget the parts up to ``up_to``. What is left is due at ``due``. False when there was nothing."""
        table = self.table
        held = table.entries.get(key)
        if held is None or int.from_bytes(held.chunks[ARRIVAL], "little") > up_to:
            return False
        if held.guests is None and held.arrival <= up_to:
            # The way of nearly every trace: all of it goes, and nobody else has to know.
            for (segment,) in _SEGMENT_OF.iter_unpack(held.chunks):
                table.leave(segment)
            table.parts -= len(held.chunks) // CHUNK_BYTES
            table.spans -= held.host_spans
            table.bytes -= held.bytes
            held.chunks = bytearray()
            table.resum(key, held)
            return True
        end = len(held.chunks) if held.arrival <= up_to else position(held.chunks, up_to + 1)
        gone = held.chunks[:end]
        for (segment,) in _SEGMENT_OF.iter_unpack(gone):
            table.leave(segment)
        table.parts -= end // CHUNK_BYTES
        before = held.host_spans + held.guest_spans
        size = held.bytes
        held.chunks = held.chunks[end:]
        if held.objects is not None:
            held.objects = held.objects[end // CHUNK_BYTES * 3 :]
        held.pin = None
        held.lease = None
        held.token = 0
        held.fresh = False
        doubtful = []
        if held.guests is not None:
            for arrival in [arrival for arrival in held.guests if arrival <= up_to]:
                own, _ = held.guests.pop(arrival)
                guest = table.guests[own]
                guest.parts -= 1
                if guest.parts == 0:
                    del table.guests[own]
                elif guest.said == arrival:
                    doubtful.append(own)
        table.resum(key, held)
        for own in doubtful:
            if own in table.guests:
                self.links.derive(own, table.guests[own])
        table.spans -= before - held.host_spans - held.guest_spans
        table.bytes -= size - held.bytes
        if held.chunks and due is not None:
            held.due = due
            table.agenda.schedule(key, held, due)
        return True

    def settle_bundle(self, bundle: Bundle, now: int) -> None:
        """Forget the parts that a bundle covers. What came since is due at once, and its key is remembered."""
        self.bundles.ended(bundle)
        table = self.table
        gone = []
        entries = table.entries
        spans = size = 0
        for key, end, count in zip(bundle.keys, bundle.ends, bundle.counts, strict=True):
            held = entries[key]
            if len(held.chunks) == end:
                del entries[key]
                gone.append(held.chunks)
                spans += count
                size += held.bytes
            else:
                start = end - CHUNK_BYTES + LOCATION.size
                up_to = int.from_bytes(held.chunks[start : start + 8], "little")
                self.settle(key, up_to, now)
                held.remembered = True
        chunks = b"".join(gone)
        for (segment,), number in Counter(_SEGMENT_OF.iter_unpack(chunks)).items():
            table.leave(segment, number)
        table.parts -= len(chunks) // CHUNK_BYTES
        table.spans -= spans
        table.bytes -= size

    def released(self, key: Key, host: Key | None) -> None:
        """A memory of the key was stored."""
        table = self.table
        held = table.entries.get(key)
        if held is not None:
            held.remembered = True
            if held.lease is None and held.due is None:
                table.agenda.schedule(key, held, table.agenda.by_table(key, held))
        guest = table.guests.get(key)
        if guest is not None and host is not None:
            guest.host, guest.said = host, -1


def _absorb(sums: dict[str, GuestState], facts: GuestFacts, now: int) -> None:
    known = sums.get(facts.guest)
    if known is None:
        known = sums[facts.guest] = GuestState(facts.guest, facts.source, UnixNano(now), UnixNano(now))
    known.absorb(facts, UnixNano(now))
