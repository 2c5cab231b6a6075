"""Claims: keys that are due, each to one owner for the time of a lease.

When keys are due: exact moments by the table of waits, the earliest first. A request brings many keys and few moments,
so the heap holds moments and a key costs one append. An entry is never taken out before its time: whoever pops it knows
whether the key still means it. Due times are not in the log: they end with the process.

Keys about which nothing is left to decide, which is nearly every trace, are handed out as one batch, with one lease and
one token for all of them; where its owner is not heard of in time, or something comes to be decided after all, it is
split, and its keys are like others. Leases and tokens are not in the log: they end with the process.
"""

import os
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush

from grafter.core.lifecycle import GUEST_ONLY, OWN_KEY, REMEMBERED, RULED, due_table
from grafter.core.model import Facts, Key, TraceId, UnixNano, guest_key
from grafter.core.policy import Waits
from grafter.core.state import GuestState, TraceState, guest_state
from grafter.store import records
from grafter.store.embedded.trace_table import ExportAttempt, TraceEntry, TraceTable
from grafter.store.model import Claim, Claims, Outcome, PlainBatch, PlainLimits
from grafter.store.records import DEFERRED, KEY_BYTES, chunk_arrival, unpack_chunks

# Below this a claim sums the guests' facts anew, which costs less memory than keeping the sums.
_KEEP_SUMS_FROM = 16
# Old entries of the due queue are skipped when they come up, but must not outnumber the keys by more than this.
_SPARE_ENTRIES = 4096
_KNOWN_FACTS = int(Facts.ROOT | Facts.LOCAL_ROOT | Facts.ANCHOR)
_RULE = int(Facts.RULE)


class DueQueue:
    """Keys by moment; those of one moment in the order in which they were put."""

    def __init__(self, waits: Waits, *, apart: bool, max_trace_bytes: int) -> None:
        """``apart``: guests stay under their own keys. A key of more than ``max_trace_bytes`` is due at once."""
        self.size = 0
        """Entries, those that nobody means any more included."""
        self._keys_at: dict[int, list[Key]] = {}
        self._moments: list[int] = []
        self._rows = due_table(waits)
        # Kept apart, nothing is held back: a host's spans leave from the first part on.
        self._always = REMEMBERED if apart else 0
        self._max_trace_bytes = max_trace_bytes

    def compute_due(self, key: Key, entry: TraceEntry) -> int:
        """When the key could be released, from what is known of it now."""
        if entry.size > self._max_trace_bytes or entry.facts & DEFERRED:
            return entry.appended
        kind = entry.facts & _KNOWN_FACTS | self._always
        if entry.remembered:
            kind |= REMEMBERED
        if len(key) == KEY_BYTES:
            kind |= OWN_KEY
        if entry.host_spans == 0:
            kind |= GUEST_ONLY
        if entry.facts & _RULE:
            kind |= RULED
        quiet, longest, _ = self._rows[kind]
        return min(entry.appended + quiet, entry.first + longest)

    def plain_due(self, entry: TraceEntry) -> int | None:
        """When nothing will be left to decide about the key, if no more of it comes; None where something is."""
        quiet, longest, plain = self._rows[entry.facts & _KNOWN_FACTS | self._always]
        if (
            not plain
            or entry.guests is not None
            or entry.lease is not None
            or entry.due is not None
            or entry.attempt is not None
            or entry.remembered
            or entry.size > self._max_trace_bytes
            or entry.last + quiet > entry.first + longest
        ):
            return None
        return entry.last + quiet

    def next_due(self, key: Key, entry: TraceEntry) -> int:
        """When its lease ends, or the time that it was given, or else by the waits."""
        if entry.lease is not None:
            return entry.lease
        return entry.due if entry.due is not None else self.compute_due(key, entry)

    def schedule(self, key: Key, entry: TraceEntry, at: int) -> None:
        """The key is due then, if not earlier."""
        if entry.queued is None or at < entry.queued:
            entry.queued = at
            self.put(at, [key])

    def put(self, at: int, keys: list[Key]) -> None:
        """All of them are due then; the list is not the caller's any more."""
        known = self._keys_at.get(at)
        if known is None:
            self._keys_at[at] = keys
            heappush(self._moments, at)
        else:
            known += keys
        self.size += len(keys)

    def pop(self, now: int) -> tuple[int, list[Key]] | None:
        """The earliest moment that has come, with its keys; None when none has."""
        if not self._moments or self._moments[0] > now:
            return None
        at = heappop(self._moments)
        keys = self._keys_at.pop(at)
        self.size -= len(keys)
        return at, keys

    def refill(self, entries: Mapping[Key, TraceEntry]) -> None:
        """Forget everything, and have each of these due at its time."""
        self._keys_at = {}
        for key, entry in entries.items():
            at = entry.queued = self.next_due(key, entry)
            self._keys_at.setdefault(at, []).append(key)
        self._moments = list(self._keys_at)
        heapify(self._moments)
        self.size = len(entries)

    def absorb(self, older: "DueQueue", entries: Mapping[Key, TraceEntry], keys: Iterable[Key]) -> None:
        """Go on with what an older queue of the same store has, and with these keys that were here; of ``entries``."""
        self.size = older.size
        self._keys_at, self._moments = older._keys_at, older._moments
        for key in keys:
            self.schedule(key, entries[key], self.compute_due(key, entries[key]))


class ClaimTable:
    """Hands out keys, one by one with all that is known of them, or many plain ones as one batch."""

    def __init__(self, table: TraceTable, due_queue: DueQueue, lease: int) -> None:
        """``lease`` in nanoseconds."""
        self._table = table
        self._due_queue = due_queue
        self._lease = lease
        self._batches: dict[int, PlainBatch] = {}
        """Those that are out, by token; few, since what is on its way is bounded."""
        # A claim of an earlier process must never fit: tokens start anywhere.
        self._token = int.from_bytes(os.urandom(6), "little") << 16

    def claim(
        self, now: int, limit: int, plain: PlainLimits | None, apart: Collection[Key] = ()
    ) -> list[Claim | PlainBatch]:
        """Hand out keys that are due, earliest first; with ``plain`` the plain ones as one batch before the others.

        It ends where one of both is full, at the latest. Those ``apart`` stay as they are.
        """
        due_queue = self._due_queue
        if due_queue.size > 2 * len(self._table.entries) + _SPARE_ENTRIES:
            due_queue.refill(self._table.entries)
        self._end_leases(now)
        batch = PlainBatch(self._next_token(), UnixNano(now), now + self._lease)
        others: list[Claim | PlainBatch] = []
        busy: list[tuple[int, Key]] = []
        full = False
        while not full and len(others) < limit:
            moment = due_queue.pop(now)
            if moment is None:
                break
            at, keys = moment
            if apart:
                busy += [(at, key) for key in keys if key in apart]
                keys = [key for key in keys if key not in apart]
            rest: list[Key] = []
            if plain is not None:
                keys, rest, full = self._fill(batch, at, keys, plain)
            for i, key in enumerate(keys):
                if len(others) >= limit:
                    rest[:0] = keys[i:]
                    break
                self._take(at, key, now, others, busy)
            if rest:
                due_queue.put(at, rest)
        for at, key in busy:
            due_queue.put(at, [key])
        if batch.keys:
            self._batches[batch.token] = batch
            others.insert(0, batch)
        return others

    def _take(self, at: int, key: Key, now: int, claims: list[Claim | PlainBatch], busy: list[tuple[int, Key]]) -> None:
        """Claim a key whose moment has come, if it still means it, or put it among those that are being written."""
        entry = self._table.entries.get(key)
        if entry is None or entry.queued != at:
            return
        if self._is_in_batch(entry) or entry.facts & DEFERRED:
            # Its batch's lease is the one that runs; where that ends the key is scheduled anew. A backlog's is claimed
            # by who works on that.
            entry.queued = None
            return
        due = self._due_queue.next_due(key, entry)
        if due > at:
            entry.queued = None
            self._due_queue.schedule(key, entry, due)
        elif key in self._table.busy:
            busy.append((at, key))
        else:
            claims.append(self.hand_out(key, entry, now))

    def claim_deferred(self, exporter: str, now: int, limit: int, *, postponed: bool = False) -> list[Claim]:
        """Hand out batches of an exporter's backlog, earliest first; see Store.claim_deferred."""
        claims: list[Claim] = []
        waiting = self._table.backlogs.get(exporter)
        for key in waiting.keys if waiting is not None else ():
            if len(claims) >= limit:
                break
            entry = self._table.entries[key]
            until = entry.lease if postponed or entry.lease is not None else entry.due
            if key not in self._table.busy and (until is None or until <= now):
                claims.append(self.hand_out(key, entry, now))
        return claims

    def owner(self, claim: Claim) -> TraceEntry | None:
        """The key, if the claim is still its own."""
        entry = self._table.entries.get(claim.key)
        return entry if entry is not None and entry.lease is not None and entry.token == claim.token else None

    def renew(self, claims: Claims, now: int) -> None:
        """Let their leases run from now again, where they are still their owner's."""
        if isinstance(claims, PlainBatch):
            if self.owns(claims):
                claims.lease = now + self._lease
            return
        for claim in claims:
            entry = self.owner(claim)
            if entry is not None:
                entry.lease = now + self._lease
                self._due_queue.schedule(claim.key, entry, entry.lease)

    def postpone(self, claim: Claim, due: int) -> None:
        """End its lease, if it is still its owner's; what came during it may make the key due earlier."""
        entry = self.owner(claim)
        if entry is None:
            return
        entry.lease = None
        entry.token = 0
        entry.due = min(due, self._due_queue.compute_due(claim.key, entry)) if entry.fresh else due
        entry.fresh = False
        self._due_queue.schedule(claim.key, entry, entry.due)

    def _fill(
        self, out: PlainBatch, at: int, keys: list[Key], limits: PlainLimits
    ) -> tuple[list[Key], list[Key], bool]:
        """Take the plain ones of these keys, which are due at one moment, into a batch.

        Those that are not plain, those that it did not come to, and whether the batch is full.
        """
        entries, busy, due_queue = self._table.entries, self._table.busy, self._due_queue
        plain_due, now, lease, token = due_queue.plain_due, out.at, out.lease, out.token
        taken, ends, counts = out.keys, out.ends, out.counts
        traces, spans_left, size_left = limits.traces, limits.spans - out.spans, limits.size - out.size
        others: list[Key] = []
        dealt_with, full = len(keys), False
        for i, key in enumerate(keys):
            entry = entries.get(key)
            if entry is None or entry.queued != at:
                continue
            due = plain_due(entry)
            if due is None or key in busy:
                others.append(key)
                continue
            if due > now:
                entry.queued = due
                due_queue.put(due, [key])
                continue
            size = entry.size if entry.envelopes is None else self._new_bytes(out, entry)
            if taken and (entry.host_spans > spans_left or size > size_left):
                out.more = full = True
                dealt_with = i
                break
            entry.queued = None
            entry.lease = lease
            entry.token = token
            entry.fresh = False
            taken.append(key)
            ends.append(len(entry.chunks))
            counts.append(entry.host_spans)
            spans_left -= entry.host_spans
            size_left -= size
            if entry.envelopes is not None:
                out.envelopes.update(entry.envelopes)
            if spans_left <= 0 or size_left <= 0 or len(taken) >= traces:
                full = True
                dealt_with = i + 1
                break
        out.spans, out.size = limits.spans - spans_left, limits.size - size_left
        return others, keys[dealt_with:], full

    def _new_bytes(self, out: PlainBatch, entry: TraceEntry) -> int:
        """What a key adds to a batch which has some of its large envelopes already."""
        envelopes = self._table.envelopes
        known = [envelopes[place][1] for place in entry.envelopes or () if place in out.envelopes]
        return entry.size - sum(known)

    def owns(self, batch: PlainBatch) -> bool:
        """The batch is still its owner's."""
        return self._batches.get(batch.token) is batch

    def covered(self, batch: PlainBatch) -> list[tuple[Key, int]]:
        """The keys of a batch, with the arrival of the last part of each that it covers."""
        entries = self._table.entries
        return [(key, chunk_arrival(entries[key].chunks, end)) for key, end in zip(batch.keys, batch.ends, strict=True)]

    def split(self, batch: PlainBatch) -> list[Claim]:
        """Make claims of a batch, and of its intent theirs; none when it is no longer its owner's."""
        if not self.owns(batch):
            return []
        claims = []
        for key, up_to in self._dissolve(batch):
            claim = self._claim_of(key, self._table.entries[key])
            claim.up_to = up_to
            claims.append(claim)
        return claims

    def end(self, batch: PlainBatch) -> None:
        """It is nobody's any more."""
        del self._batches[batch.token]

    def settled_soon(self, key: Key) -> bool:
        """Something about the key is being written, or will be soon: its parts are not worth copying, nor safe to."""
        return key in self._table.busy or self._is_in_batch(self._table.entries[key])

    def _next_token(self) -> int:
        self._token += 1
        return self._token

    def _is_in_batch(self, entry: TraceEntry) -> bool:
        return entry.lease is not None and entry.token in self._batches

    def _end_leases(self, now: int) -> None:
        """Split the batches whose owners have not been heard of."""
        ended = [batch for batch in self._batches.values() if batch.lease <= now and not batch.writing]
        for batch in ended:
            self._dissolve(batch)

    def _dissolve(self, batch: PlainBatch) -> list[tuple[Key, int]]:
        """Give each key a lease of its own, and the batch's intent; what ``covered`` gives."""
        self.end(batch)
        covered = self.covered(batch)
        for key, up_to in covered:
            entry = self._table.entries[key]
            if batch.intended:
                entry.attempt = ExportAttempt(up_to, dict.fromkeys(batch.intended, Outcome.INTENDED))
            entry.lease = batch.lease
            self._due_queue.schedule(key, entry, batch.lease)
        return covered

    def is_due(self, key: Key, now: int) -> bool:
        """Whether it could be handed out by itself."""
        entry = self._table.entries.get(key)
        return entry is not None and key not in self._table.busy and self._due_queue.next_due(key, entry) <= now

    def is_owned(self, key: Key, now: int) -> bool:
        """Somebody is at work on it, as far as is known."""
        entry = self._table.entries.get(key)
        return entry is not None and entry.lease is not None and entry.lease > now

    def hand_out(self, key: Key, entry: TraceEntry, now: int) -> Claim:
        """The key, to one owner; it is due."""
        entry.queued = None
        entry.lease = now + self._lease
        entry.due = None
        entry.fresh = False
        entry.token = self._next_token()
        self._due_queue.schedule(key, entry, entry.lease)
        return self._claim_of(key, entry)

    def _claim_of(self, key: Key, entry: TraceEntry) -> Claim:
        attempt = entry.attempt
        outcomes = dict(attempt.outcomes) if attempt is not None else {}
        envelopes = self._table.envelopes
        large: dict[Hashable, int] = {place: envelopes[place][1] for place in entry.envelopes or ()}
        state = self.state_of(entry)
        return Claim(key, entry.token, entry.up_to, state, outcomes, large, waits_for=entry.waits_for)

    def state_of(self, entry: TraceEntry) -> TraceState:
        """The sum of the facts of everything held under a key."""
        return TraceState(
            UnixNano(entry.first),
            UnixNano(entry.last),
            entry.host_spans,
            entry.guest_spans,
            entry.size,
            records.facts_of(entry.facts),
            {} if entry.guests is None else self._guest_states(entry),
            entry.remembered,
        )

    def _guest_states(self, entry: TraceEntry) -> dict[str, GuestState]:
        guests = entry.guests or {}
        if entry.sums is not None:
            states = {name: _copied(state) for name, state in entry.sums.items()}
        else:
            arrived = {chunk.arrival: chunk.now for chunk in unpack_chunks(entry.chunks) if chunk.arrival in guests}
            states = guest_state(
                (records.decode_guest(guests[arrival][1]), UnixNano(arrived[arrival])) for arrival in sorted(guests)
            )
            if len(guests) >= _KEEP_SUMS_FROM:
                entry.sums = {name: _copied(state) for name, state in states.items()}
        for state in states.values():
            # What the store knows of the link, from a memory or a move, may be more than its parts bring.
            host = self._table.guests[guest_key(state.guest)].host
            if host is not None and state.host != TraceId(host):
                state.host, state.sampled = TraceId(host), None
        return states


def _copied(state: GuestState) -> GuestState:
    return replace(state, ids=set(state.ids), parents=set(state.parents))
