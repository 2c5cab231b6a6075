"""When keys are to be looked at: exact moments by the table of waits, the earliest first.

A request brings many keys and few moments, so the heap holds moments and a key costs one append. An entry is never
taken out before its time: whoever pops it knows whether the key still means it. Due times are not in the log: they
end with the process.
"""

from collections import deque
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from grafter.core.model import Key, UnixNano
from grafter.core.policy import Waits
from grafter.store.embedded.trace_entry import Held, LookAt
from grafter.store.records import KEY_BYTES, facts_of


class Agenda:
    """Keys by moment; those of one moment in the order in which they were put."""

    def __init__(self, look_at: LookAt, waits: Waits, *, apart: bool, max_trace_bytes: int) -> None:
        """``apart``: guests stay under their own keys. A key of more than ``max_trace_bytes`` is due at once."""
        self.size = 0
        """Entries, those that nobody means any more included."""
        self.ripe: deque[tuple[int, Key]] = deque()
        """Entries that were popped, and whose keys are still to be looked at."""
        self._keys_at: dict[int, list[Key]] = {}
        self._moments: list[int] = []
        self._look_at = look_at
        self._waits = waits
        self._apart = apart
        self._max_trace_bytes = max_trace_bytes

    def by_table(self, key: Key, held: Held) -> int:
        """When the key could be released, from what is known of it now."""
        if held.bytes > self._max_trace_bytes:
            return held.seen
        return self._look_at(
            facts_of(held.facts),
            UnixNano(held.first),
            UnixNano(held.seen),
            self._waits,
            guest_only=held.host_spans == 0,
            # Kept apart, nothing is held back: a host's spans leave from the first part on.
            remembered=held.remembered or self._apart,
            apart=len(key) == KEY_BYTES,
        )

    def due(self, key: Key, held: Held) -> int:
        """The time that the key was given, or else by the table."""
        return held.due if held.due is not None else self.by_table(key, held)

    def schedule(self, key: Key, held: Held, at: int) -> None:
        """Look at the key then, if not earlier."""
        if held.queued is None or at < held.queued:
            held.queued = at
            self.put(at, key)

    def put(self, at: int, key: Key) -> None:
        """Look at the key then."""
        keys = self._keys_at.get(at)
        if keys is None:
            self._keys_at[at] = [key]
            heappush(self._moments, at)
        else:
            keys.append(key)
        self.size += 1

    def put_all(self, at: int, keys: list[Key]) -> None:
        """Look at all of them then; the list is not the caller's any more."""
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

    def refill(self, entries: Mapping[Key, Held]) -> None:
        """Forget everything, and look at each of these at its time."""
        self._keys_at = {}
        for key, held in entries.items():
            at = held.queued = held.lease if held.lease is not None else self.due(key, held)
            self._keys_at.setdefault(at, []).append(key)
        self._moments = list(self._keys_at)
        heapify(self._moments)
        self.size = len(entries)
        self.ripe.clear()
