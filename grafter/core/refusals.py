"""Whether a refusal is about the trace that was refused, or about a peer that refuses whatever it is sent.

The codes do not tell the two apart: a backend that is broken, or set up wrongly, answers a healthy trace by the same
INVALID_ARGUMENT, INTERNAL or HTTP 400 as a healthy backend a bad one. What tells them apart is what the peer takes
beside it. The rule:

* A refusal is *believed*, as being about its trace, when the peer has refused that trace, then taken another one, and
  then refuses that trace again.
* Until then the trace is a *suspect*: it stays held, and is asked again later, or as soon as another one was taken.
* When FIRST_SUSPECTS traces, or all that there are, were refused one after the other and nothing was taken since, the
  peer is out: nothing is believed, everything stays held, and the backoff begins. In the middle of a request of which
  the peer has taken something, it takes SUSPECTS_IN_A_ROW: bad traces come in groups.
* A lone trace that is refused while the peer took something within LATELY_SECONDS says nothing against the peer yet.

So a bad trace leaves for the dead letters as soon as anything else is taken, and until then costs its own wait; a peer
that takes nothing gets nothing into the dead letters, whatever its code is.
"""

from collections.abc import Iterable
from enum import Enum, auto

FIRST_SUSPECTS = 3
SUSPECTS_IN_A_ROW = 16
LATELY_SECONDS = 30.0
# A trace that is forgotten here is a suspect once more when it is refused again, and no more than that.
_MOST_KEPT = 10_000


class Blame(Enum):
    """What a refusal of one trace is taken for."""

    TRACE = auto()
    """It is about the trace."""
    OPEN = auto()
    """Not known yet."""
    PEER = auto()
    """The peer takes nothing."""


class Refusals:
    """What one peer took and refused lately. Moments are seconds on any clock that only goes on."""

    def __init__(self) -> None:
        self.taken = 0
        """Requests that the peer took so far."""
        self._taken_at: float | None = None
        self._first: dict[bytes, int] = {}
        """The suspects, and how many requests had been taken when each was refused first."""
        self._row: set[bytes] = set()
        """The traces that were refused since the peer took something."""

    @property
    def any(self) -> bool:
        """There are suspects."""
        return bool(self._first)

    def suspects(self, key: bytes) -> bool:
        """The trace was refused before, and neither taken nor given up since."""
        return key in self._first

    def took(self, keys: Iterable[bytes], now: float) -> None:
        """The peer took a request with these traces in it."""
        self.taken += 1
        self._taken_at = now
        self._row.clear()
        for key in keys if self._first else ():
            self._first.pop(key, None)

    def refused(self, key: bytes, *, since: int) -> Blame:
        """The peer refused this trace alone; ``since`` is what ``taken`` was when it began to refuse this batch."""
        self._row.add(key)
        if len(self._row) >= (FIRST_SUSPECTS if self.taken == since else SUSPECTS_IN_A_ROW):
            self._suspect(key)
            return Blame.PEER
        if self._first.get(key, self.taken) < self.taken:
            del self._first[key]
            return Blame.TRACE
        self._suspect(key)
        return Blame.OPEN

    def out(self, now: float) -> bool:
        """There is nothing more to ask with: whether the peer is to be taken for out."""
        lately = self._taken_at is not None and now - self._taken_at < LATELY_SECONDS
        return bool(self._row) and not lately

    def _suspect(self, key: bytes) -> None:
        self._first[key] = min(self._first.get(key, self.taken), self.taken)
        if len(self._first) > _MOST_KEPT:
            del self._first[next(iter(self._first))]
