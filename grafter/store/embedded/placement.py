"""Filing: decided before the write, on what is known then.

The parts of a request are numbered, given their keys and laid out as one record. Until that is written nothing of it
is held; ``refused`` forgets what was taken for granted meanwhile.
"""

from collections.abc import Sequence

from grafter.core.model import Key, Part
from grafter.store import records
from grafter.store.embedded.links import Links
from grafter.store.embedded.trace_entry import Filed
from grafter.store.embedded.trace_table import Table
from grafter.store.records import GUEST, HOST_KEY, KEY_BYTES, PARTS_HEAD, ROW, Move


class Filing:
    """Decides where parts belong, and what has to move because of it."""

    def __init__(self, table: Table, links: Links, *, keeps_objects: bool) -> None:
        """``keeps_objects``: there is no log, so no record has to be laid out."""
        self._table = table
        self._links = links
        self._keeps_objects = keeps_objects

    def file(self, parts: Sequence[Part], now: int) -> Filed:
        """Decide where parts belong, and number them. Undone by ``refused`` when they could not be written."""
        filed = Filed(now)
        table = self._table
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
                self._links.learn(part, now)
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
                    table.arrival = arrival = table.arrival + 1
                    if not keeps_objects:
                        add_blob(head)
                        add_blob(payload)
                else:
                    at = length = 0
                    head = records.encode_guest(facts)
                    key = places[part.key]
                    flags, fact = GUEST, -1
                    table.arrival = arrival = table.arrival + 1
                    if key == part.key:
                        table.guests[key].strays.append(arrival)
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
            self._table.end(move.guest)
        for key, _, arrival in filed.guests.values():
            strays = self._table.guests[key].strays
            if arrival in strays:
                strays.remove(arrival)
        for key in filed.learned:
            guest = self._table.guests[key]
            guest.parts -= 1
            if guest.parts == 0:
                del self._table.guests[key]
            elif guest.said is None:
                self._links.derive(key, guest)

    def _place(self, own: Key, now: int, filed: Filed) -> Key:
        host = self._links.host_of(own, now)
        if host is None:
            return own
        arrivals = (*self._links.movable(own), *self._table.guests[own].strays)
        if arrivals:
            filed.moves.append(self._move(own, host, arrivals))
            self._table.begin(own)
        return host

    def move_all(self, key: Key, host: Key) -> Move:
        """A move of everything that is held, or being written, under a guest's key."""
        guest = self._table.guests[key]
        return self._move(key, host, (*self._links.movable(key), *guest.strays))

    def _move(self, own: Key, host: Key, arrivals: tuple[int, ...]) -> Move:
        base = self._table.arrival + 1
        self._table.arrival += len(arrivals)
        return Move(own, host, base, arrivals)
