"""To which host a guest belongs, and how that is known.

A memory says it for good; else the earliest part that is held says it, by where it is filed or by what it names; and
while nothing that is stored says it, what is being written counts.
"""

from collections.abc import Iterable

from grafter.core.model import Key, Part, UnixNano
from grafter.store import records
from grafter.store.embedded.trace_entry import Guest, Remembers
from grafter.store.embedded.trace_table import Table
from grafter.store.records import CHUNK


class Links:
    """What a table's guests are known to belong to."""

    def __init__(self, table: Table, memories: Remembers, *, apart: bool) -> None:
        """``apart``: guests stay under their own keys, whatever they belong to."""
        self._table = table
        self._memories = memories
        self._apart = apart

    def learn(self, part: Part, now: int) -> None:
        """Take note of a guest's part that is about to be written, and of the link that it brings."""
        own = part.key
        guest = self._table.guests.get(own)
        if guest is None:
            guest = Guest()
            # A link that is only remembered counts before one that the part brings: it never changes.
            guest.host = self._memories.host(own, UnixNano(now))[1]
            guest.said = -1 if guest.host is not None else None
            self._table.guests[own] = guest
        guest.parts += 1
        if guest.host is None and part.guest is not None and part.guest.host is not None:
            guest.host = Key(part.guest.host)

    def take_evidence(self, guest: Guest, key: Key, own: Key, facts: bytes, arrival: int) -> None:
        """Learn the link from where a part is filed or from what it says; the earliest part counts."""
        if guest.said is not None and guest.said < arrival:
            return
        host = key if key != own else records.decode_guest(facts).host
        if host is not None:
            guest.host = Key(host)
            guest.said = arrival

    def derive(self, own: Key, guest: Guest) -> None:
        """Learn the link anew from what is held, after what said it went."""
        before, guest.host, guest.said = guest.host, None, None
        for key in (own, before):
            held = self._table.entries.get(key) if key is not None else None
            if key is None or held is None or held.guests is None:
                continue
            for arrival, (of, facts) in held.guests.items():
                if of == own:
                    self.take_evidence(guest, key, own, facts, arrival)

    def recall(self, now: int) -> None:
        """After reading the log back: take from the memories what filing would have taken from them."""
        for key, held in self._table.entries.items():
            held.remembered, _ = self._memories.host(key, UnixNano(now))
            # What was settled or moved since may have been the latest.
            held.seen = held.last
        for key, guest in self._table.guests.items():
            _, host = self._memories.host(key, UnixNano(now))
            if host is not None:
                guest.host, guest.said = host, -1

    def host_of(self, own: Key, now: int) -> Key | None:
        """The host under whose key the guest's parts are filed now; None while that is their own."""
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
            if guest.strays or self.movable(key):
                found.append((key, guest.host))
        return found

    def movable(self, key: Key) -> list[int]:
        """Arrivals of what is held under a guest's key and may leave it: of the rest an export was begun."""
        held = self._table.entries.get(key)
        if held is None:
            return []
        up_to = held.pin.up_to if held.pin is not None and held.pin.stands else -1
        return [chunk[2] for chunk in CHUNK.iter_unpack(held.chunks) if chunk[2] > up_to]

    def _released(self, host: Key, now: int) -> bool:
        held = self._table.entries.get(host)
        return held.remembered if held is not None else self._memories.host(host, UnixNano(now))[0]

    def _left_behind(self, own: Key, host: Key) -> bool:
        """Parts of the guest came during the host's release and are still held there."""
        held = self._table.entries.get(host)
        return held is not None and held.guests is not None and any(own == of for of, _ in held.guests.values())
