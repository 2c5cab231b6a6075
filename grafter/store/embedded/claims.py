"""Claims: keys that are due, each to one owner for the time of a lease.

Leases and tokens are not in the log: they end with the process.
"""

from collections.abc import Callable
from dataclasses import replace

from grafter.core.model import Key, TraceId, UnixNano, guest_key
from grafter.core.state import GuestState, TraceState, guest_state
from grafter.store import records
from grafter.store.base import Bundle, Claim
from grafter.store.embedded.bundles import Bundles
from grafter.store.embedded.trace_entry import Held
from grafter.store.embedded.trace_table import Table
from grafter.store.records import CHUNK, GUEST

# Below this a claim sums the guests' facts anew, which costs less memory than keeping the sums.
_KEEP_SUMS_FROM = 16
# Old entries of the agenda are skipped when they come up, but must not outnumber the keys by more than this.
_SPARE_ENTRIES = 4096


class Claims:
    """Hands out keys one by one, with all that is known of them."""

    def __init__(self, table: Table, bundles: Bundles) -> None:
        self._table = table
        self._bundles = bundles

    def claim(self, now: int, limit: int, lease: int, token: Callable[[], int], *, bundles: bool) -> list[Claim]:
        """Hand out keys that are due, earliest first; with ``bundles`` only what ``bundle`` has passed over."""
        claims: list[Claim] = []
        entries, busy, agenda = self._table.entries, self._table.busy, self._table.agenda
        if agenda.size > 2 * len(entries) + _SPARE_ENTRIES:
            agenda.refill(entries)
        self._bundles.end_leases(now)
        ripe = agenda.ripe
        again: list[tuple[int, Key]] = []
        while len(claims) < limit:
            if not ripe:
                moment = None if bundles else agenda.pop(now)
                if moment is None:
                    break
                ripe.extend([(moment[0], key) for key in moment[1]])
            at, key = ripe.popleft()
            held = entries.get(key)
            if held is None or held.queued != at:
                continue
            if self._bundles.has(held):
                # Its bundle's lease is the one that runs; where that ends the key is scheduled anew.
                held.queued = None
                continue
            due = held.lease if held.lease is not None else agenda.due(key, held)
            if due > (now if bundles else at):
                held.queued = None
                agenda.schedule(key, held, due)
            elif key in busy:
                again.append((at, key))
            else:
                held.queued = None
                held.lease = now + lease
                held.due = None
                held.fresh = False
                held.token = token()
                agenda.schedule(key, held, held.lease)
                claims.append(self._claimed(key, held))
        ripe.extendleft(reversed(again))
        return claims

    def open_bundle(self, bundle: Bundle) -> list[Claim]:
        """Make claims of a bundle, and of its intent theirs."""
        claims = []
        for key, up_to in self._bundles.open(bundle):
            claim = self._claimed(key, self._table.entries[key])
            claim.up_to = up_to
            claims.append(claim)
        return claims

    def owner(self, claim: Claim) -> Held | None:
        """The key, if the claim is still its own."""
        held = self._table.entries.get(claim.key)
        return held if held is not None and held.lease is not None and held.token == claim.token else None

    def renew(self, key: Key, held: Held, lease: int) -> None:
        """Let a lease end at another time."""
        held.lease = lease
        self._table.agenda.schedule(key, held, lease)

    def postpone(self, key: Key, held: Held, due: int) -> None:
        """End a lease; what came during it may make the key due earlier."""
        held.lease = None
        held.token = 0
        held.due = min(due, self._table.agenda.by_table(key, held)) if held.fresh else due
        held.fresh = False
        self._table.agenda.schedule(key, held, held.due)

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
            host = self._table.guests[guest_key(state.guest)].host
            if host is not None and state.host != TraceId(host):
                state.host, state.sampled = TraceId(host), None
        return states


def _copied(state: GuestState) -> GuestState:
    return replace(state, ids=set(state.ids), parents=set(state.parents))
