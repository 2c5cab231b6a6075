"""What is held, in memory: keys, where their parts lie, when they are due, who owns them.

The log is the truth and this is its sum. Whatever is written is applied here afterwards, in the order of the log and
by the same methods whether it was written a moment ago or is read back at start; so a write that failed needs no
undoing. Due times and leases are not in the log: they end with the process.

One thread at a time uses an index. Two indexes of one store may be merged: the sums commute.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from struct import Struct

from grafter.core.model import Envelope, Facts, GuestFacts, Key, Part, TraceId, UnixNano, guest_key
from grafter.core.policy import Waits
from grafter.core.state import GuestState, TraceState, guest_state
from grafter.store import records
from grafter.store.agenda import Agenda
from grafter.store.base import Bundle, Claim, Outcome, Plain
from grafter.store.held import ARRIVAL, CHUNK_BYTES, Filed, Guest, Held, LookAt, Pin, Remembers, position
from grafter.store.records import CHUNK, GUEST, HOST_KEY, KEY_BYTES, LOCATION, PARTS_HEAD, ROW, Move

_SEGMENT_OF = Struct(f"<I{CHUNK_BYTES - 4}x")
# Below this a claim sums the guests' facts anew, which costs less memory than keeping the sums.
_KEEP_SUMS_FROM = 16
_first = attrgetter("first")
# Old entries of the agenda are skipped when they come up, but must not outnumber the keys by more than this.
_SPARE_ENTRIES = 4096
# The low byte of each part's flags, in a key's chunks.
_FACTS_OF = slice(LOCATION.size + 20, None, CHUNK_BYTES)
_ROOT, _LOCAL_ROOT, _ANCHOR = int(Facts.ROOT), int(Facts.LOCAL_ROOT), int(Facts.ANCHOR)


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
        self._agenda = Agenda()
        self._ripe: deque[tuple[int, Key]] = deque()
        """Entries whose time has come and that no bundle could take."""
        self._bundles: dict[int, Bundle] = {}
        """Those that are out, by token."""
        self._leases: deque[tuple[int, int]] = deque()
        """When somebody should see whether a bundle is still out, and its token."""
        self._oldest: tuple[int, Key] | None = None
        self._memories = memories
        self._look_at = look_at
        self._waits = waits
        self._apart = apart
        self._max_trace_bytes = max_trace_bytes
        self._keeps_objects = keeps_objects

    # Filing: decided before the write, on what is known then.

    def file(self, parts: Sequence[Part], now: int) -> Filed:
        """Decide where parts belong, and number them. Undone by ``refused`` when they could not be written."""
        filed = Filed(now)
        position = PARTS_HEAD.size + len(parts) * (KEY_BYTES + ROW.size)
        keeps_objects = self._keeps_objects
        envelopes: dict[int, tuple[int, int]] = {}
        add_key, add_row, add_blob = filed.keys.append, filed.rows.append, filed.blobs.append
        add_fact, add_spans, add_size = filed.facts.append, filed.spans.append, filed.sizes.append
        pack = ROW.pack
        head: bytes
        try:
            # A link holds for the whole request, wherever in it the part stands that brings it. What it moves is
            # numbered before the request's own parts.
            for part in [part for part in parts if part.guest is not None]:
                self._learn(part, now)
                filed.learned.append(part.key)
            places = {own: self._place(own, now, filed) for own in dict.fromkeys(filed.learned)}
            for part in parts:
                payload = part.payload
                size = len(payload)
                facts = part.guest
                if facts is None:
                    key = part.key
                    envelope = part.envelope
                    known = envelopes.get(id(envelope))
                    if known is None:
                        if envelope is None:
                            raise ValueError("a host part has no envelope")
                        if keeps_objects:
                            known = (1, 0)
                        else:
                            blob = records.encode_envelope(envelope)
                            known = (position, len(blob))
                            add_blob(blob)
                            position += len(blob)
                        envelopes[id(envelope)] = known
                    at, length = known
                    head = part.span_ids
                    flags = fact = int(part.facts)
                    self.arrival = arrival = self.arrival + 1
                    if not keeps_objects:
                        add_blob(head)
                        add_blob(payload)
                else:
                    at = length = 0
                    head = records.encode_guest(facts)
                    key = places[part.key]
                    flags, fact = GUEST, -1
                    self.arrival = arrival = self.arrival + 1
                    if key == part.key:
                        self.guests[key].strays.append(arrival)
                    filed.guests[len(filed.rows)] = (part.key, head, arrival)
                    if not keeps_objects:
                        filed.blobs += (head, payload)
                if len(key) == 16:
                    flags |= HOST_KEY
                elif len(key) != KEY_BYTES:
                    raise ValueError(f"a key has {len(key)} bytes, expected 16 or {KEY_BYTES}")
                add_key(key)
                add_row(pack(arrival, now, part.spans, flags, at, length, position, len(head), size))
                add_fact(fact)
                add_spans(part.spans)
                add_size(size)
                position += len(head) + size
        except BaseException:
            self.refused(filed)
            raise
        if keeps_objects:
            filed.parts = parts
        filed.bytes = sum(filed.sizes)
        filed.length = position
        return filed

    def refused(self, filed: Filed) -> None:
        """Forget what ``file`` took for granted: nothing of it was stored."""
        for move in filed.moves:
            self.end(move.guest)
        for key, _, arrival in filed.guests.values():
            strays = self.guests[key].strays
            if arrival in strays:
                strays.remove(arrival)
        for key in filed.learned:
            guest = self.guests[key]
            guest.parts -= 1
            if guest.parts == 0:
                del self.guests[key]
            elif guest.said is None:
                self._derive_link(key, guest)

    def _learn(self, part: Part, now: int) -> None:
        own = part.key
        guest = self.guests.get(own)
        if guest is None:
            guest = Guest()
            # A link that is only remembered counts before one that the part brings: it never changes.
            guest.host = self._memories.host(own, UnixNano(now))[1]
            guest.said = -1 if guest.host is not None else None
            self.guests[own] = guest
        guest.parts += 1
        if guest.host is None and part.guest is not None and part.guest.host is not None:
            guest.host = Key(part.guest.host)

    def _place(self, own: Key, now: int, filed: Filed) -> Key:
        guest = self.guests[own]
        host = guest.host
        if host is None or self._apart or (self._released(host, now) and not self._left_behind(own, host)):
            return own
        arrivals = (*self._movable(own), *guest.strays)
        if arrivals:
            filed.moves.append(self._move(own, host, arrivals))
            self.begin(own)
        return host

    def _move(self, own: Key, host: Key, arrivals: tuple[int, ...]) -> Move:
        base = self.arrival + 1
        self.arrival += len(arrivals)
        return Move(own, host, base, arrivals)

    def _movable(self, key: Key) -> list[int]:
        held = self.entries.get(key)
        if held is None:
            return []
        up_to = held.pin.up_to if held.pin is not None and held.pin.stands else -1
        return [chunk[2] for chunk in CHUNK.iter_unpack(held.chunks) if chunk[2] > up_to]

    def _released(self, host: Key, now: int) -> bool:
        held = self.entries.get(host)
        return held.remembered if held is not None else self._memories.host(host, UnixNano(now))[0]

    def _left_behind(self, own: Key, host: Key) -> bool:
        """Parts of the guest came during the host's release and are still held there."""
        held = self.entries.get(host)
        return held is not None and held.guests is not None and any(own == of for of, _ in held.guests.values())

    def begin(self, key: Key) -> None:
        """Something about the key is being written."""
        self.busy[key] = self.busy.get(key, 0) + 1

    def end(self, key: Key) -> None:
        left = self.busy.pop(key) - 1
        if left:
            self.busy[key] = left

    def move_all(self, key: Key, host: Key) -> Move:
        """A move of everything that is held, or being written, under a guest's key."""
        guest = self.guests[key]
        return self._move(key, host, (*self._movable(key), *guest.strays))

    # Applying: in the order of the log.

    def add(self, filed: Filed, segment: int, body: int) -> None:
        """Hold what ``file`` decided; its record's body is at this place."""
        for move in filed.moves:
            self.move(move)
            self.end(move.guest)
        location = LOCATION.pack(segment, body)
        now = filed.now
        entries = self.entries
        begun: dict[tuple[int, bool], tuple[int, list[Key]]] = {}
        for i, (key, row, fact, spans, size) in enumerate(
            zip(filed.keys, filed.rows, filed.facts, filed.spans, filed.sizes, strict=True)
        ):
            held = entries.get(key)
            is_new = held is None
            if held is None:
                held = self._begun(key, now)
            held.chunks += location + row
            held.bytes += size
            if self._keeps_objects:
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
                self._note_oldest(key, held)
            # From here on: when to look at it. Skipped where the table can only say "later than the heap has it".
            backwards = now < held.seen
            held.seen = now
            if held.lease is not None:
                held.fresh = True
            elif held.due is not None:
                held.due = min(held.due, self._by_table(key, held))
                self._schedule(key, held, held.due)
            elif is_new and fact >= 0 and size <= self._max_trace_bytes:
                kind = (fact, held.remembered)
                alike = begun.get(kind)
                if alike is None:
                    alike = begun[kind] = (self._by_table(key, held), [])
                held.queued = alike[0]
                alike[1].append(key)
            elif is_new or changed or backwards or held.bytes > self._max_trace_bytes:
                self._schedule(key, held, self._by_table(key, held))
        for at, keys in begun.values():
            self._agenda.put_all(at, keys)
        count = len(filed.rows)
        if count:
            self.live[segment] = self.live.get(segment, 0) + count
        self.parts += count
        self.spans += sum(filed.spans)
        self.bytes += filed.bytes

    def _begun(self, key: Key, now: int) -> Held:
        held = self.entries[key] = Held(now, self._memories.host(key, UnixNano(now))[0])
        self._note_oldest(key, held)
        return held

    def _add_guest(self, key: Key, held: Held, own: Key, facts: bytes, arrival: int, now: int) -> None:
        if held.guests is None:
            held.guests = {}
        guest = self.guests[own]
        held.guests[arrival] = guest.kept(own, facts)
        if held.sums is not None:
            _absorb(held.sums, records.decode_guest(facts), now)
        if key == own and arrival in guest.strays:
            guest.strays.remove(arrival)
        if guest.said is None and guest.host is not None:
            self._take_evidence(guest, key, own, facts, arrival)

    def _take_evidence(self, guest: Guest, key: Key, own: Key, facts: bytes, arrival: int) -> None:
        """Learn the link from where a part is filed or from what it says; the earliest part counts."""
        if guest.said is not None and guest.said < arrival:
            return
        host = key if key != own else records.decode_guest(facts).host
        if host is not None:
            guest.host = Key(host)
            guest.said = arrival

    def _derive_link(self, own: Key, guest: Guest) -> None:
        """Learn the link anew from what is held, after what said it went."""
        before, guest.host, guest.said = guest.host, None, None
        for key in (own, before):
            held = self.entries.get(key) if key is not None else None
            if key is None or held is None or held.guests is None:
                continue
            for arrival, (of, facts) in held.guests.items():
                if of == own:
                    self._take_evidence(guest, key, own, facts, arrival)

    def restore(self, key: Key, row: bytes, segment: int, body: int, guest: bytes | None) -> None:
        """Hold a part that is read back, in any order. One that is held already was copied: it now lies here."""
        arrival, now, spans, flags, *_, size = ROW.unpack(row)
        chunk = LOCATION.pack(segment, body) + row
        self.arrival = max(self.arrival, arrival)
        held = self.entries.get(key)
        if held is None:
            held = self._begun(key, now)
            at = 0
        elif arrival > held.arrival:
            at = len(held.chunks)
        else:
            at = position(held.chunks, arrival)
            if held.chunks[at : at + CHUNK_BYTES][ARRIVAL] == chunk[ARRIVAL]:
                self.relocate(key, chunk)
                return
        held.chunks[at:at] = chunk
        self.live[segment] = self.live.get(segment, 0) + 1
        self.parts += 1
        self.spans += spans
        self.bytes += size
        held.count(spans, flags, size)
        if guest is not None:
            own = key if flags & GUEST and not flags & HOST_KEY else guest_key(records.decode_guest(guest).guest)
            known = self.guests.setdefault(own, Guest())
            known.parts += 1
            if held.guests is None:
                held.guests = {}
            held.guests[arrival] = known.kept(own, guest)
            held.sums = None
            self._take_evidence(known, key, own, guest, arrival)
        held.first, held.last = min(held.first, now), max(held.last, now)
        held.seen = held.last

    def relocate(self, key: Key, chunk: bytes) -> None:
        """A part was copied; it now lies elsewhere. Nothing happens when it was settled or moved meanwhile."""
        held = self.entries.get(key)
        if held is None:
            return
        arrival = int.from_bytes(chunk[ARRIVAL], "little")
        at = position(held.chunks, arrival)
        old = held.chunks[at : at + CHUNK_BYTES]
        if len(old) == CHUNK_BYTES and old[ARRIVAL] == chunk[ARRIVAL]:
            held.chunks[at : at + CHUNK_BYTES] = chunk
            self._leave(LOCATION.unpack_from(old)[0])
            segment = LOCATION.unpack_from(chunk)[0]
            self.live[segment] = self.live.get(segment, 0) + 1

    def move(self, move: Move) -> bool:
        """File a guest's parts under its host; what an export was begun of stays. False when nothing was moved."""
        held = self.entries.get(move.guest)
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
        host = self.entries.get(move.host)
        is_new = host is None
        if host is None:
            # From what moves: what stays, because an export of it was begun, may be older.
            host = self._begun(move.host, min(CHUNK.unpack(chunk)[3] for _, _, chunk, _ in moved))
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
        self._note_oldest(move.host, host)
        held.chunks = stay
        if held.objects is not None:
            held.objects = stay_objects
        self._resum(move.guest, held)
        guest = self.guests[move.guest]
        guest.host = move.host
        guest.said = move.base
        if host.lease is not None:
            host.fresh = True
        elif host.due is None:
            self._schedule(move.host, host, self._by_table(move.host, host))
        return True

    def outcome(self, key: Key, up_to: int, exporter: str, outcome: Outcome) -> bool:
        """Note what is known of an export; False when no part that it was of is held."""
        held = self.entries.get(key)
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
        held = self.entries.get(key)
        if held is None or int.from_bytes(held.chunks[ARRIVAL], "little") > up_to:
            return False
        if held.guests is None and held.arrival <= up_to:
            # The way of nearly every trace: all of it goes, and nobody else has to know.
            for (segment,) in _SEGMENT_OF.iter_unpack(held.chunks):
                self._leave(segment)
            self.parts -= len(held.chunks) // CHUNK_BYTES
            self.spans -= held.host_spans
            self.bytes -= held.bytes
            held.chunks = bytearray()
            self._resum(key, held)
            return True
        end = len(held.chunks) if held.arrival <= up_to else position(held.chunks, up_to + 1)
        gone = held.chunks[:end]
        for (segment,) in _SEGMENT_OF.iter_unpack(gone):
            self._leave(segment)
        self.parts -= end // CHUNK_BYTES
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
                guest = self.guests[own]
                guest.parts -= 1
                if guest.parts == 0:
                    del self.guests[own]
                elif guest.said == arrival:
                    doubtful.append(own)
        self._resum(key, held)
        for own in doubtful:
            if own in self.guests:
                self._derive_link(own, self.guests[own])
        self.spans -= before - held.host_spans - held.guest_spans
        self.bytes -= size - held.bytes
        if held.chunks and due is not None:
            held.due = due
            self._schedule(key, held, due)
        return True

    def released(self, key: Key, host: Key | None) -> None:
        """A memory of the key was stored."""
        held = self.entries.get(key)
        if held is not None:
            held.remembered = True
            if held.lease is None and held.due is None:
                self._schedule(key, held, self._by_table(key, held))
        guest = self.guests.get(key)
        if guest is not None and host is not None:
            guest.host, guest.said = host, -1

    def _leave(self, segment: int, parts: int = 1) -> None:
        left = self.live[segment] - parts
        if left:
            self.live[segment] = left
        else:
            del self.live[segment]

    def _resum(self, key: Key, held: Held) -> None:
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

    # Due times and claims.

    def _by_table(self, key: Key, held: Held) -> int:
        if held.bytes > self._max_trace_bytes:
            return held.seen
        return self._look_at(
            records.facts_of(held.facts),
            UnixNano(held.first),
            UnixNano(held.seen),
            self._waits,
            guest_only=held.host_spans == 0,
            # Kept apart, nothing is held back: a host's spans leave from the first part on.
            remembered=held.remembered or self._apart,
            apart=len(key) == KEY_BYTES,
        )

    def _due(self, key: Key, held: Held) -> int:
        return held.due if held.due is not None else self._by_table(key, held)

    def _schedule(self, key: Key, held: Held, at: int) -> None:
        if held.queued is None or at < held.queued:
            held.queued = at
            self._agenda.put(at, key)

    def schedule_all(self) -> None:
        """Make the agenda anew."""
        entries = []
        for key, held in self.entries.items():
            held.queued = held.lease if held.lease is not None else self._due(key, held)
            entries.append((held.queued, key))
        self._agenda.refill(entries)
        self._ripe.clear()

    def claim(self, now: int, limit: int, lease: int, token: Callable[[], int], *, bundles: bool) -> list[Claim]:
        """Hand out keys that are due, earliest first; with ``bundles`` only what ``bundle`` has passed over."""
        claims: list[Claim] = []
        if self._agenda.size > 2 * len(self.entries) + _SPARE_ENTRIES:
            self.schedule_all()
        self._end_leases(now)
        ripe = self._ripe
        again: list[tuple[int, Key]] = []
        while len(claims) < limit:
            if not ripe:
                moment = None if bundles else self._agenda.pop(now)
                if moment is None:
                    break
                ripe.extend([(moment[0], key) for key in moment[1]])
            at, key = ripe.popleft()
            held = self.entries.get(key)
            if held is None or held.queued != at:
                continue
            due = held.lease if held.lease is not None else self._due(key, held)
            if due > (now if bundles else at):
                held.queued = None
                self._schedule(key, held, due)
            elif key in self.busy:
                again.append((at, key))
            else:
                held.queued = None
                held.lease = now + lease
                held.due = None
                held.fresh = False
                held.token = token()
                self._schedule(key, held, held.lease)
                claims.append(self._claimed(key, held))
        ripe.extendleft(reversed(again))
        return claims

    def _end_leases(self, now: int) -> None:
        """Open the bundles whose owners have not been heard of."""
        leases = self._leases
        while leases and leases[0][0] <= now:
            _, token = leases.popleft()
            bundle = self._bundles.get(token)
            if bundle is None:
                continue
            if bundle.lease > now:
                leases.append((bundle.lease, token))
            elif bundle.writing:
                leases.append((now + 1, token))
                break
            else:
                self.open_bundle(token)

    # Bundles: the way of nearly every trace, a hundred at a time.

    def bundle(
        self, now: int, traces: int, spans: int, size: int, lease: int, token: Callable[[], int]
    ) -> Bundle | None:
        """Hand out due keys about which nothing is left to decide, up to these limits; None when there are none.

        Keys whose time has come and that are not like that are left to ``claim``.
        """
        self._end_leases(now)
        after_root = self._waits.after_root
        if after_root > self._waits.idle:
            return None
        longest = self._waits.max - after_root
        until = now + lease
        mine = token()
        out = Bundle(mine, UnixNano(now), until)
        keys, ends, counts = out.keys, out.ends, out.counts
        entries, ripe, busy = self.entries, self._ripe, self.busy
        spans_left, size_left = spans, size
        while spans_left > 0 and size_left > 0 and len(keys) < traces:
            moment = self._agenda.pop(now)
            if moment is None:
                break
            at, some = moment
            for i, key in enumerate(some):
                held = entries.get(key)
                if held is None or held.queued != at:
                    continue
                if (
                    held.facts & (_ROOT | _ANCHOR) != _ROOT
                    or held.guests is not None
                    or held.lease is not None
                    or held.due is not None
                    or held.pin is not None
                    or held.remembered
                    or self._apart
                    or held.bytes > self._max_trace_bytes
                    or held.last - held.first > longest
                    or key in busy
                ):
                    ripe.append((at, key))
                    continue
                due = held.last + after_root
                if due > now:
                    held.queued = due
                    self._agenda.put(due, key)
                    continue
                held.queued = None
                held.lease = until
                held.token = mine
                held.fresh = False
                keys.append(key)
                ends.append(len(held.chunks))
                counts.append(held.host_spans)
                spans_left -= held.host_spans
                size_left -= held.bytes
                if spans_left <= 0 or size_left <= 0 or len(keys) >= traces:
                    if i + 1 < len(some):
                        self._agenda.put_all(at, some[i + 1 :])
                    break
        if not keys:
            return None
        out.spans, out.size = spans - spans_left, size - size_left
        self._bundles[mine] = out
        self._leases.append((until, mine))
        return out

    def plain_objects(self, bundle: Bundle) -> list[Plain]:
        """Without a log: the parts of each key of a bundle."""
        found: list[Plain] = []
        entries = self.entries
        for key, end in zip(bundle.keys, bundle.ends, strict=True):
            held = entries[key]
            objects = held.objects
            assert objects is not None
            if len(held.chunks) != end:
                objects = objects[: end // CHUNK_BYTES * 3]
            root = 0 if len(objects) == 3 else first_root(held.chunks)
            found.append((objects[0::3], objects[1::3], objects[2::3], root))
        return found

    def plain_chunks(self, bundle: Bundle) -> Iterable[bytes | bytearray]:
        """With a log: what ``records.CHUNK`` says of the parts of each key of a bundle."""
        entries = self.entries
        for key, end in zip(bundle.keys, bundle.ends, strict=True):
            chunks = entries[key].chunks
            yield chunks if len(chunks) == end else chunks[:end]

    def bundled(self, bundle: Bundle) -> bool:
        """The bundle is still its owner's."""
        return self._bundles.get(bundle.token) is bundle

    def up_tos(self, bundle: Bundle) -> list[tuple[Key, int]]:
        """The keys of a bundle, with the arrival of the last part that it covers."""
        found = []
        for key, end in zip(bundle.keys, bundle.ends, strict=True):
            last = self.entries[key].chunks[end - CHUNK_BYTES + LOCATION.size : end - CHUNK_BYTES + LOCATION.size + 8]
            found.append((key, int.from_bytes(last, "little")))
        return found

    def open_bundle(self, token: int) -> list[Claim]:
        """Make claims of a bundle, and of its intent theirs."""
        bundle = self._bundles.pop(token)
        claims = []
        for key, up_to in self.up_tos(bundle):
            held = self.entries[key]
            if bundle.intended:
                held.pin = Pin(up_to)
                held.pin.outcomes[bundle.intended] = Outcome.INTENDED
            self.renew(key, held, bundle.lease)
            claim = self._claimed(key, held)
            claim.up_to = up_to
            claims.append(claim)
        return claims

    def settle_bundle(self, bundle: Bundle, now: int) -> None:
        """Forget the parts that a bundle covers. What came since is due at once, and its key is remembered."""
        del self._bundles[bundle.token]
        gone = []
        entries = self.entries
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
            self._leave(segment, number)
        self.parts -= len(chunks) // CHUNK_BYTES
        self.spans -= spans
        self.bytes -= size

    def _claimed(self, key: Key, held: Held) -> Claim:
        pin = held.pin
        up_to = pin.up_to if pin is not None and pin.stands else held.arrival
        state = TraceState(
            UnixNano(held.first),
            UnixNano(held.last),
            held.host_spans,
            held.guest_spans,
            held.bytes,
            records.facts_of(held.facts),
            {} if held.guests is None else self._guest_states(held),
            held.remembered,
        )
        return Claim(key, held.token, up_to, state, dict(pin.outcomes) if pin is not None else {})

    def _guest_states(self, held: Held) -> dict[str, GuestState]:
        guests = held.guests or {}
        if held.sums is not None:
            states = {name: _copied(state) for name, state in held.sums.items()}
        else:
            arrived = {fields[2]: fields[3] for fields in CHUNK.iter_unpack(held.chunks) if fields[5] & GUEST}
            states = guest_state(
                (records.decode_guest(guests[arrival][1]), UnixNano(arrived[arrival])) for arrival in sorted(guests)
            )
            if len(guests) >= _KEEP_SUMS_FROM:
                held.sums = {name: _copied(state) for name, state in states.items()}
        for state in states.values():
            # What the store knows of the link, from a memory or a move, may be more than the parts say.
            host = self.guests[guest_key(state.guest)].host
            if host is not None and state.host != TraceId(host):
                state.host, state.sampled = TraceId(host), None
        return states

    def owner(self, claim: Claim) -> Held | None:
        """The key, if the claim is still its own."""
        held = self.entries.get(claim.key)
        return held if held is not None and held.lease is not None and held.token == claim.token else None

    def renew(self, key: Key, held: Held, lease: int) -> None:
        """Let a lease end at another time."""
        held.lease = lease
        self._schedule(key, held, lease)

    def postpone(self, key: Key, held: Held, due: int) -> None:
        """End a lease; what came during it may make the key due earlier."""
        held.lease = None
        held.token = 0
        held.due = min(due, self._by_table(key, held)) if held.fresh else due
        held.fresh = False
        self._schedule(key, held, held.due)

    # The whole.

    def _note_oldest(self, key: Key, held: Held) -> None:
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

    def recall_links(self, now: int) -> None:
        """After a recovery: take from the memories what append would have taken from them."""
        for key, held in self.entries.items():
            held.remembered, _ = self._memories.host(key, UnixNano(now))
            # What was settled or moved since may have been the latest.
            held.seen = held.last
        for key, guest in self.guests.items():
            _, host = self._memories.host(key, UnixNano(now))
            if host is not None:
                guest.host, guest.said = host, -1

    def absorb(self, newer: "Index") -> list[Key]:
        """Take over what a newer index of the same store holds; the guests that it knows.

        ``newer`` must not be used afterwards.
        """
        for key, held in newer.entries.items():
            mine = self.entries.get(key)
            if mine is None:
                held.queued = None
                self.entries[key] = held
                continue
            mine.chunks += held.chunks
            mine.host_spans += held.host_spans
            mine.guest_spans += held.guest_spans
            mine.bytes += held.bytes
            mine.facts |= held.facts
            mine.first, mine.last = min(mine.first, held.first), max(mine.last, held.last)
            mine.seen = held.seen
            mine.remembered |= held.remembered
            mine.sums = None
            if held.guests is not None:
                mine.guests = {**(mine.guests or {}), **held.guests}
        for own, guest in newer.guests.items():
            old = self.guests.get(own)
            if old is None:
                self.guests[own] = guest
                continue
            old.parts += guest.parts
            old.strays = guest.strays
            if old.host is None:
                old.host, old.said = guest.host, guest.said
        for segment, count in newer.live.items():
            self.live[segment] = self.live.get(segment, 0) + count
        self.parts += newer.parts
        self.spans += newer.spans
        self.bytes += newer.bytes
        self.arrival = max(self.arrival, newer.arrival)
        self.busy = newer.busy
        self._oldest = None
        for key in newer.entries:
            held = self.entries[key]
            self._schedule(key, held, self._by_table(key, held))
        return list(newer.guests)

    def stray_guests(self, keys: Iterable[Key], now: int) -> list[tuple[Key, Key]]:
        """Those of the guests whose parts are held under their own key though they belong to a host, with the host."""
        found = []
        for key in keys:
            guest = self.guests.get(key)
            if guest is None or guest.host is None or self._apart or self._released(guest.host, now):
                continue
            if guest.strays or self._movable(key):
                found.append((key, guest.host))
        return found

    def locate(self, key: Key, own: Key | None, row: bytes, segment: int, body: int) -> tuple[Key, bytes] | None:
        """Under which key, and as which chunk, a part that lies at this place is held; None when it is not.

        ``key`` and ``row`` are what its record says, ``own`` is its guest's key: it may have been moved since.
        """
        guest = self.guests.get(own) if own is not None else None
        place = LOCATION.pack(segment, body)
        for candidate in (key, own, guest.host if guest is not None else None):
            held = self.entries.get(candidate) if candidate is not None else None
            if candidate is None or held is None:
                continue
            at = position(held.chunks, int.from_bytes(row[:8], "little"))
            chunk = bytes(held.chunks[at : at + CHUNK_BYTES])
            if chunk[: LOCATION.size] == place and chunk[LOCATION.size + 8 :] == row[8:]:
                return candidate, chunk
            if own is None:
                continue
            # It was numbered anew when it moved, so it has to be looked for by its place.
            for at in range(0, len(held.chunks), CHUNK_BYTES):
                chunk = bytes(held.chunks[at : at + CHUNK_BYTES])
                if chunk[: LOCATION.size] == place and CHUNK.unpack(chunk)[8] == ROW.unpack(row)[6]:
                    return candidate, chunk
        return None

    def outcomes(self, keys: Collection[Key]) -> Mapping[tuple[str, Outcome], list[tuple[Key, int]]]:
        """What is known of exports of these keys, as records say it."""
        known: dict[tuple[str, Outcome], list[tuple[Key, int]]] = {}
        for key in keys:
            held = self.entries[key]
            if held.pin is not None:
                for exporter, outcome in held.pin.outcomes.items():
                    known.setdefault((exporter, outcome), []).append((key, held.pin.up_to))
        return known

    def settled_soon(self, key: Key) -> bool:
        """Something about the key is being written, or will be soon: its parts are not worth copying, nor safe to."""
        return key in self.busy or self.entries[key].token in self._bundles


def first_root(chunks: bytes | bytearray) -> int:
    """Which of a plain key's parts is the first with a root: its facts are that, alone or with LOCAL_ROOT."""
    facts = chunks[_FACTS_OF]
    alone, both = facts.find(_ROOT), facts.find(_ROOT | _LOCAL_ROOT)
    return max(alone, both) if alone < 0 or both < 0 else min(alone, both)


def _absorb(sums: dict[str, GuestState], facts: GuestFacts, now: int) -> None:
    known = sums.get(facts.guest)
    if known is None:
        known = sums[facts.guest] = GuestState(facts.guest, facts.source, UnixNano(now), UnixNano(now))
    known.absorb(facts, UnixNano(now))


def _copied(state: GuestState) -> GuestState:
    return replace(state, ids=set(state.ids), parents=set(state.parents))
