"""When keys are due: exact moments by the table of waits, the earliest first.

A request brings many keys and few moments, so the heap holds moments and a key costs one append. An entry is never
taken out before its time: whoever pops it knows whether the key still means it. Due times are not in the log: they
end with the process.
"""

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush

from grafter.core.lifecycle import GUEST_ONLY, OWN_KEY, REMEMBERED, due_table
from grafter.core.model import Facts, Key
from grafter.core.policy import Waits
from grafter.store.embedded.trace_table import TraceEntry
from grafter.store.records import DEFERRED, KEY_BYTES

_KNOWN_FACTS = int(Facts.ROOT | Facts.LOCAL_ROOT | Facts.ANCHOR)


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
