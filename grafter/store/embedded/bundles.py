"""Bundles: the way of nearly every trace, a hundred at a time.

A bundle is of keys about which nothing is left to decide. It is one lease and one token for all of them; where its
owner is not heard of in time, or something comes to be decided after all, it is opened, and its keys are like others.
"""

from collections.abc import Callable

from grafter.core.model import Facts, Key, UnixNano
from grafter.core.policy import Waits
from grafter.store.base import Bundle, Outcome
from grafter.store.embedded.trace_entry import CHUNK_BYTES, Held, Pin
from grafter.store.embedded.trace_table import Table
from grafter.store.records import LOCATION

_ROOT, _ANCHOR = int(Facts.ROOT), int(Facts.ANCHOR)


class Bundles:
    """Those that are out."""

    def __init__(self, table: Table, waits: Waits, *, apart: bool, max_trace_bytes: int) -> None:
        """With ``apart`` there are none. What holds more than ``max_trace_bytes`` is in none."""
        self._table = table
        self._waits = waits
        self._apart = apart
        self._max_trace_bytes = max_trace_bytes
        self._out: dict[int, Bundle] = {}
        """By token; few, since what is on its way is bounded."""

    def bundle(
        self, now: int, traces: int, spans: int, size: int, lease: int, token: Callable[[], int]
    ) -> Bundle | None:
        """Hand out due keys about which nothing is left to decide; None when there are none.

        As many as stay within these limits, and one in any case. Keys whose time has come and that are not like that
        are left to ``claim``.
        """
        self.end_leases(now)
        after_root = self._waits.after_root
        # Where another wait always ends first nothing is plain, but what is due must still be seen by ``claim``.
        longest = self._waits.max - after_root if after_root <= self._waits.idle else -1
        until = now + lease
        mine = token()
        out = Bundle(mine, UnixNano(now), until)
        keys, ends, counts = out.keys, out.ends, out.counts
        entries, busy, agenda = self._table.entries, self._table.busy, self._table.agenda
        ripe = agenda.ripe
        spans_left, size_left = spans, size
        full = False
        while not full:
            moment = agenda.pop(now)
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
                    agenda.put(due, key)
                    continue
                if keys and (held.host_spans > spans_left or held.bytes > size_left):
                    full = out.more = True
                    agenda.put_all(at, some[i:])
                    break
                held.queued = None
                held.lease = until
                held.token = mine
                held.fresh = False
                keys.append(key)
                ends.append(len(held.chunks))
                counts.append(held.host_spans)
                spans_left -= held.host_spans
                size_left -= held.bytes
                full = spans_left <= 0 or size_left <= 0 or len(keys) >= traces
                if full:
                    if i + 1 < len(some):
                        agenda.put_all(at, some[i + 1 :])
                    break
        if not keys:
            return None
        out.spans, out.size = spans - spans_left, size - size_left
        self._out[mine] = out
        return out

    def end_leases(self, now: int) -> None:
        """Open the bundles whose owners have not been heard of."""
        ended = [bundle for bundle in self._out.values() if bundle.lease <= now and not bundle.writing]
        for bundle in ended:
            self.open(bundle)

    def has(self, held: Held) -> bool:
        """The key is in a bundle that is out."""
        return held.lease is not None and held.token in self._out

    def bundled(self, bundle: Bundle) -> bool:
        """The bundle is still its owner's."""
        return self._out.get(bundle.token) is bundle

    def up_tos(self, bundle: Bundle) -> list[tuple[Key, int]]:
        """The keys of a bundle, with the arrival of the last part that it covers."""
        found = []
        for key, end in zip(bundle.keys, bundle.ends, strict=True):
            last = self._table.entries[key].chunks[
                end - CHUNK_BYTES + LOCATION.size : end - CHUNK_BYTES + LOCATION.size + 8
            ]
            found.append((key, int.from_bytes(last, "little")))
        return found

    def open(self, bundle: Bundle) -> list[tuple[Key, int]]:
        """Give each key a lease of its own, and the bundle's intent; the keys as ``up_tos`` says them."""
        self.ended(bundle)
        entries, agenda = self._table.entries, self._table.agenda
        covered = self.up_tos(bundle)
        for key, up_to in covered:
            held = entries[key]
            if bundle.intended:
                held.pin = Pin(up_to)
                held.pin.outcomes[bundle.intended] = Outcome.INTENDED
            held.lease = bundle.lease
            agenda.schedule(key, held, bundle.lease)
        return covered

    def ended(self, bundle: Bundle) -> None:
        """It is nobody's any more."""
        del self._out[bundle.token]

    def settled_soon(self, key: Key) -> bool:
        """Something about the key is being written, or will be soon: its parts are not worth copying, nor safe to."""
        return key in self._table.busy or self.has(self._table.entries[key])
