"""What the requests of all receivers may hold while they are read and stored: bytes of one budget, and a turn.

What a sender declares is asked for before its body is read, what grows is asked for while it grows, and all of it is
given back when the request is answered. So the memory that requests take has one bound, however many come at once and
whatever they unpack to, and by the turns so has the time; past either they are refused with a hint, and the sender
keeps what it has.
"""

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from threading import Lock

from grafter.errors import UnavailableError
from grafter.receiver.turns import Turn, Turns

BUDGET_BYTES = 256 << 20
"""For all requests of a process at once, where memory allows: four of the largest."""

# A body that takes longer to come lets others have its turn meanwhile.
_READ_SECONDS = 0.1


class InFlight:
    """The budget. Threads that unpack bodies ask it too."""

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        """``limit`` in bytes."""
        self.limit = limit
        self.turns = Turns()
        self._lock = Lock()
        self.bytes = 0
        """What requests hold now."""

    @contextmanager
    def request(self, connection: Hashable = None) -> Iterator["Held"]:
        """What one request of a connection holds, given back on leaving."""
        held = Held(self, connection)
        try:
            yield held
        finally:
            held.release()

    def move(self, size: int, held: int = 0) -> None:
        """Take ``size`` bytes more for a request that has ``held``, or give back where it is negative.

        Raises UnavailableError past the limit; a request that is alone has room for itself, or it would never pass.
        """
        with self._lock:
            if size > 0 and self.bytes > held and self.bytes + size > self.limit:
                raise UnavailableError(
                    "the requests that are being read take all the memory that there is for them",
                    reason="in_flight",
                )
            self.bytes += size


class Held:
    """What one request holds of the budget, and its turn."""

    __slots__ = ("_budget", "_connection", "_turn", "size")

    def __init__(self, budget: InFlight, connection: Hashable) -> None:
        self._budget = budget
        self._connection = connection
        self._turn: Turn | None = None
        self.size = 0

    def take(self, size: int) -> None:
        """Hold ``size`` bytes more. Raises UnavailableError, and then holds what it held before."""
        self._budget.move(size, self.size)
        self.size += size

    def begin(self) -> None:
        """Have the turn at once: it is read already."""
        self._turn = self._budget.turns.begin(self._connection)

    async def turn(self) -> None:
        """Wait for the turn, before anything is read. Raises UnavailableError when it does not come in time."""
        self._turn = await self._budget.turns.wait(self._connection)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While the body comes. Whoever is slow gives up the turn meanwhile; ``read`` waits for it again."""
        timer = None
        if self._turn is not None:
            timer = asyncio.get_running_loop().call_later(_READ_SECONDS, self.end_turn)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    async def read(self, size: int) -> None:
        """The body has come, with so many bytes. Raises UnavailableError when the turn was given up and does not come
        again in time."""
        if self._turn is None:
            await self.turn()
        if self._turn is not None:
            self._turn.weigh(size)

    def end_turn(self) -> None:
        """Somebody else may have the turn: this request waits for something that takes no time of this process."""
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    def release(self) -> None:
        """Give all of it back."""
        if self._turn is not None:
            self._turn.end(answered=True)
            self._turn = None
        self._budget.move(-self.size)
        self.size = 0
