"""One budget for the bytes that all doors hold while they read and store requests.

What a sender declares is asked for before its body is read, what grows is asked for while it grows, and all of it is
given back when the request is answered. So the memory that requests take has one bound, however many come at once and
whatever they unpack to; past it they are refused with a hint, and the sender keeps what it has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from grafter.errors import UnavailableError

BUDGET_BYTES = 256 << 20
"""For all requests of a process at once, where memory allows: four of the largest."""


class InFlight:
    """The budget. Threads that unpack bodies ask it too."""

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        """``limit`` in bytes."""
        self._limit = limit
        self._lock = Lock()
        self.bytes = 0
        """What requests hold now."""

    @contextmanager
    def request(self) -> Iterator["Held"]:
        """What one request holds, given back on leaving."""
        held = Held(self)
        try:
            yield held
        finally:
            held.release()

    def move(self, size: int, held: int = 0) -> None:
        """Take ``size`` bytes more for a request that has ``held``, or give back where it is negative.

        Raises UnavailableError past the limit; a request that is alone has room for itself, or it would never pass.
        """
        with self._lock:
            if size > 0 and self.bytes > held and self.bytes + size > self._limit:
                raise UnavailableError(
                    "the requests that are being read take all the memory that there is for them",
                    reason="in_flight",
                )
            self.bytes += size


class Held:
    """What one request holds of the budget."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: InFlight) -> None:
        self._budget = budget
        self.size = 0

    def take(self, size: int) -> None:
        """Hold ``size`` bytes more. Raises UnavailableError, and then holds what it held before."""
        self._budget.move(size, self.size)
        self.size += size

    def release(self) -> None:
        """Give all of it back."""
        self._budget.move(-self.size)
        self.size = 0
