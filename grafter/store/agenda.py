"""When keys are to be looked at: exact moments, the earliest first.

A request brings many keys and few moments, so the heap holds moments and a key costs one append. An entry is never
taken out before its time: whoever pops it knows whether the key still means it.
"""

from heapq import heapify, heappop, heappush

from grafter.core.model import Key


class Agenda:
    """Keys by moment; those of one moment in the order in which they were put."""

    def __init__(self) -> None:
        self.size = 0
        """Entries, those that nobody means any more included."""
        self._keys_at: dict[int, list[Key]] = {}
        self._moments: list[int] = []

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

    def refill(self, entries: list[tuple[int, Key]]) -> None:
        """Forget everything but these."""
        self._keys_at = {}
        for at, key in entries:
            self._keys_at.setdefault(at, []).append(key)
        self._moments = list(self._keys_at)
        heapify(self._moments)
        self.size = len(entries)
