"""What follows from the log: each record is applied here when it is written, in the order of the log.

By the same methods whether it was written a moment ago or is read back at start; so a write that failed needs no
undoing.

An index is also where the rooms that share its table meet: placement before the write, claims afterwards.
"""

from grafter.core.model import LARGE_ENVELOPE, Key, UnixNano, guest_key
from grafter.core.policy import Waits
from grafter.core.state import TraceState
from grafter.store import records
from grafter.store.embedded.claims import ClaimTable, DueQueue
from grafter.store.embedded.metadata_db import MetadataDB
from grafter.store.embedded.placement import PlacedParts, Placement
from grafter.store.embedded.trace_table import ExportAttempt, GuestEntry, TraceEntry, TraceTable, envelope_place
from grafter.store.model import Outcome, PlainBatch
from grafter.store.records import (
    CHUNK,
    CHUNK_BYTES,
    DEFERRED,
    GUEST,
    HOST_KEY,
    LOCATION,
    Chunk,
    Move,
    chunk_arrival,
    count_segments,
    find_arrival,
    unpack_chunk,
    unpack_chunks,
)


class Index:
    """See the module's docstring. Nothing here waits, reads a file or knows the clock."""

    def __init__(
        self,
        memories: MetadataDB,
        waits: Waits,
        *,
        apart: bool,
        max_trace_bytes: int,
        lease: int,
        arrival: int,
        keeps_objects: bool,
    ) -> None:
        """``lease`` in nanoseconds; ``arrival``: the last number that was given; ``keeps_objects``: without a log."""
        self.table = TraceTable(memories, arrival)
        self.placement = Placement(self.table, memories, apart=apart, keeps_objects=keeps_objects)
        self.due_queue = DueQueue(waits, apart=apart, max_trace_bytes=max_trace_bytes)
        self.claims = ClaimTable(self.table, self.due_queue, lease)
        self._max_trace_bytes = max_trace_bytes
        self._keeps_objects = keeps_objects

    def add(self, placed: PlacedParts, segment: int, body: int) -> None:
        """Hold what placement decided; its record's body is at this place."""
        table = self.table
        for move in placed.moves:
            self.move(move)
            table.end_write(move.guest)
        location = LOCATION.pack(segment, body)
        now, large = placed.now, placed.large
        entries, due_queue = table.entries, self.due_queue
        keeps_objects, max_trace_bytes = self._keeps_objects, self._max_trace_bytes
        begun: dict[tuple[int, bool], tuple[int, list[Key]]] = {}
        for i, (key, row, fact, part) in enumerate(
            zip(placed.keys, placed.rows, placed.facts, placed.parts, strict=True)
        ):
            entry = entries.get(key)
            is_new = entry is None
            if entry is None:
                entry = table.hold(key, now)
            entry.chunks += location + row
            entry.size += len(part.payload)
            if keeps_objects:
                objects = entry.objects
                if objects is None:
                    objects = entry.objects = []
                objects += (part.payload, part.envelope, part.span_ids)
            if large and i in large:
                at, length = large[i]
                table.enter_envelope(entry, (segment, body + at), length)
            changed = False
            if fact >= 0:
                changed = entry.host_spans == 0 or fact | entry.facts != entry.facts
                entry.facts |= fact
                entry.host_spans += part.spans
            else:
                entry.guest_spans += part.spans
                self._add_guest(key, entry, *placed.guests[i], now)
            if now > entry.last:
                entry.last = now
            elif now < entry.first:
                entry.first = now
                table.update_oldest(key, entry)
            # From here on: when it is due. Skipped where it can only be later than the queue has it.
            backwards = now < entry.appended
            entry.appended = now
            if entry.lease is not None:
                entry.fresh = True
            elif entry.due is not None:
                entry.due = min(entry.due, due_queue.compute_due(key, entry))
                due_queue.schedule(key, entry, entry.due)
            elif is_new and fact >= 0 and entry.size <= max_trace_bytes:
                kind = (fact, entry.remembered)
                alike = begun.get(kind)
                if alike is None:
                    alike = begun[kind] = (due_queue.compute_due(key, entry), [])
                entry.queued = alike[0]
                alike[1].append(key)
            elif is_new or changed or backwards or entry.size > max_trace_bytes:
                due_queue.schedule(key, entry, due_queue.compute_due(key, entry))
        for at, keys in begun.values():
            due_queue.put(at, keys)
        if placed.rows:
            table.enter(segment, len(placed.rows))
        table.spans += placed.spans
        table.bytes += placed.size

    def restore(self, key: Key, row: bytes, segment: int, body: int, guest: bytes | None) -> None:
        """Hold a part that is read back, in any order. One that is held already was copied: it now lies here."""
        table = self.table
        packed = LOCATION.pack(segment, body) + row
        chunk = unpack_chunk(packed)
        table.arrival = max(table.arrival, chunk.arrival)
        entry = table.entries.get(key)
        if entry is None:
            entry = table.hold(key, chunk.now)
        elif chunk.arrival <= entry.arrival and self.relocate(key, packed):
            return
        entry.insert(chunk)
        table.enter(segment)
        table.spans += chunk.spans
        table.bytes += chunk.size
        if waiting := table.backlogs.get(entry.waits_for) if entry.waits_for else None:
            # It was copied in pieces.
            waiting.spans += chunk.spans
            waiting.bytes += chunk.size
        if chunk.envelope_size >= LARGE_ENVELOPE:
            table.enter_envelope(entry, envelope_place(chunk), chunk.envelope_size)
        if guest is not None:
            self._restore_guest(key, entry, guest, chunk)

    def relocate(self, key: Key, packed: bytes) -> bool:
        """A part was copied; it now lies elsewhere. False when it was settled or moved meanwhile."""
        table = self.table
        entry = table.entries.get(key)
        if entry is None:
            return False
        chunk = unpack_chunk(packed)
        at = find_arrival(entry.chunks, chunk.arrival)
        before = entry.chunks[at : at + CHUNK_BYTES]
        if not before or (old := unpack_chunk(before)).arrival != chunk.arrival:
            return False
        if chunk.envelope_size >= LARGE_ENVELOPE:
            table.leave_envelopes(entry, before)
            table.enter_envelope(entry, envelope_place(chunk), chunk.envelope_size)
        entry.chunks[at : at + CHUNK_BYTES] = packed
        table.leave(old.segment)
        table.enter(chunk.segment)
        return True

    def move(self, move: Move) -> bool:
        """File a guest's parts under its host; what an export was begun of stays. False when nothing was moved."""
        table = self.table
        entry = table.entries.get(move.guest)
        if entry is None or entry.guests is None:
            return False
        numbers = {arrival: move.base + i for i, arrival in enumerate(move.arrivals) if arrival > entry.attempted}
        moved, stay, stay_objects = [], bytearray(), []
        for i, chunk in enumerate(unpack_chunks(entry.chunks)):
            objects = entry.objects[3 * i : 3 * i + 3] if entry.objects is not None else []
            if chunk.arrival in numbers:
                moved.append((chunk, objects))
            else:
                stay += CHUNK.pack(*chunk)
                stay_objects += objects
        if not moved:
            return False
        host = table.entries.get(move.host)
        if host is None:
            # From what moves: what stays, because an export of it was begun, may be older.
            host = table.hold(move.host, min(chunk.now for chunk, _ in moved))
        for chunk, objects in moved:
            arrival = numbers[chunk.arrival]
            flags = chunk.flags & ~HOST_KEY | (HOST_KEY if len(move.host) == 16 else 0)
            host.insert(chunk._replace(arrival=arrival, flags=flags), objects)
            host.add_guest(arrival, entry.guests.pop(chunk.arrival))
            host.appended = max(host.appended, chunk.now)
        host.sums = None
        table.update_oldest(move.host, host)
        entry.chunks = stay
        if entry.objects is not None:
            entry.objects = stay_objects
        table.sum_anew(move.guest, entry)
        guest = table.guests[move.guest]
        guest.host, guest.since = move.host, move.base
        if host.lease is not None:
            host.fresh = True
        elif host.due is None:
            self.due_queue.schedule(move.host, host, self.due_queue.compute_due(move.host, host))
        return True

    def outcome(self, key: Key, up_to: int, exporter: str, outcome: Outcome) -> bool:
        """Keep what is known of an export; False when no part that it was of is held."""
        entry = self.table.entries.get(key)
        if entry is None or chunk_arrival(entry.chunks) > up_to:
            return False
        if entry.attempt is None:
            entry.attempt = ExportAttempt(up_to)
        elif not entry.attempt.is_open:
            entry.attempt.up_to = up_to
        entry.attempt.outcomes[exporter] = outcome
        if entry.facts & DEFERRED:
            self.table.enter_backlog(key, entry)
        return True

    def settle(self, key: Key, up_to: int, due: int | None) -> bool:
        """Forget the parts up to ``up_to``. What is left is due at ``due``. False when there was nothing."""
        table = self.table
        entry = table.entries.get(key)
        if entry is None or chunk_arrival(entry.chunks) > up_to:
            return False
        end = len(entry.chunks) if entry.arrival <= up_to else find_arrival(entry.chunks, up_to + 1)
        for segment, parts in count_segments(entry.chunks[:end]):
            table.leave(segment, parts)
        if entry.envelopes is not None:
            table.leave_envelopes(entry, entry.chunks[:end])
        before, size = entry.host_spans + entry.guest_spans, entry.size
        entry.chunks = entry.chunks[end:]
        if entry.objects is not None:
            entry.objects = entry.objects[end // CHUNK_BYTES * 3 :]
        if entry.facts & DEFERRED:
            table.leave_backlog(key, entry)
        entry.attempt = None
        entry.lease = None
        entry.token = 0
        entry.fresh = False
        doubtful = [] if entry.guests is None else self._settle_guests(entry.guests, up_to)
        table.sum_anew(key, entry)
        for own in doubtful:
            if own in table.guests:
                self.placement.derive(own, table.guests[own])
        table.spans -= before - entry.host_spans - entry.guest_spans
        table.bytes -= size - entry.size
        if entry.chunks and due is not None:
            entry.due = due
            self.due_queue.schedule(key, entry, due)
        return True

    def settle_batch(self, batch: PlainBatch, now: int) -> None:
        """Forget the parts that a batch covers. What came since is due at once, and its key is remembered."""
        self.claims.end(batch)
        table = self.table
        gone = []
        entries = table.entries
        spans = size = 0
        for key, end, count in zip(batch.keys, batch.ends, batch.counts, strict=True):
            entry = entries[key]
            if len(entry.chunks) == end:
                del entries[key]
                gone.append(entry.chunks)
                spans += count
                if entry.envelopes is not None:
                    table.leave_envelopes(entry, entry.chunks)
                size += entry.size
            else:
                self.settle(key, chunk_arrival(entry.chunks, end), now)
                entry.remembered = True
        for segment, parts in count_segments(b"".join(gone)):
            table.leave(segment, parts)
        table.spans -= spans
        table.bytes -= size

    def released(self, key: Key, host: Key | None) -> None:
        """A memory of the key was stored."""
        table = self.table
        entry = table.entries.get(key)
        if entry is not None:
            entry.remembered = True
            if entry.lease is None and entry.due is None:
                self.due_queue.schedule(key, entry, self.due_queue.compute_due(key, entry))
        guest = table.guests.get(key)
        if guest is not None and host is not None:
            guest.host, guest.since = host, -1

    def absorb(self, older: "Index") -> list[Key]:
        """Hold also what an index of the same store read back; the guests that were known here.

        ``older`` must not be used afterwards.
        """
        keys, guests = self.table.absorb(older.table)
        self.due_queue.absorb(older.due_queue, self.table.entries, keys)
        return guests

    def _add_guest(self, key: Key, entry: TraceEntry, own: Key, facts: bytes, arrival: int, now: int) -> None:
        guest = self.table.guests[own]
        entry.add_guest(arrival, guest.shared_facts(own, facts))
        if entry.sums is not None:
            state = TraceState(UnixNano(entry.first), UnixNano(entry.last), guests=entry.sums)
            state.absorb_guest(records.decode_guest(facts), UnixNano(now))
        if key == own and arrival in guest.strays:
            guest.strays.remove(arrival)
        if guest.since is None and guest.host is not None:
            self.placement.take_evidence(guest, key, own, facts, arrival)

    def _restore_guest(self, key: Key, entry: TraceEntry, facts: bytes, chunk: Chunk) -> None:
        is_own = chunk.flags & GUEST and not chunk.flags & HOST_KEY
        own = key if is_own else guest_key(records.decode_guest(facts).guest)
        guest = self.table.guests.setdefault(own, GuestEntry())
        guest.parts += 1
        entry.add_guest(chunk.arrival, guest.shared_facts(own, facts))
        entry.sums = None
        self.placement.take_evidence(guest, key, own, facts, chunk.arrival)

    def _settle_guests(self, guests: dict[int, tuple[Key, bytes]], up_to: int) -> list[Key]:
        """Forget a key's guest parts up to there; the guests of which the part went by which their host was known."""
        doubtful = []
        for arrival in [arrival for arrival in guests if arrival <= up_to]:
            own, _ = guests.pop(arrival)
            guest = self.table.guests[own]
            guest.parts -= 1
            if guest.parts == 0:
                del self.table.guests[own]
            elif guest.since == arrival:
                doubtful.append(own)
        return doubtful
