"""What the requests of all receivers may hold while they are read and stored: bytes of one budget, and a turn.

What a sender declares is asked for before its body is read, what grows is asked for while it grows, and all of it is
given back when the request is answered. So the memory that requests take has one bound, however many come at once and
whatever they unpack to, and by the turns so has the time; past either they are refused with a hint, and the sender
keeps what it has.
"""

import asyncio
import resource
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from grafter.errors import UnavailableError
from grafter.receiver.turns import Turn, Turns

BUDGET_BYTES = 256 << 20
"""For all requests of a process at once, where memory allows: four of the largest."""

# Large bodies that are unpacked at once: a thread that puts one together lets nothing else run for some 20 ms, and
# where each of many does so when it gets its chance, whatever the loop has to do waits for all of them at each step.
_UNPACKED = 1

# A body that takes longer to come lets others have its turn meanwhile.
_READ_SECONDS = 0.1

_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def memory_may_be_refused() -> bool:
    """Whether this process may be told that there is no memory, instead of getting it or being killed: under a limit of
    its address space (``ulimit -v``), or where the kernel promises no more than there is."""
    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    if any(resource.getrlimit(limit)[0] != resource.RLIM_INFINITY for limit in limits):
        return True
    try:
        return _OVERCOMMIT.read_text().strip() == "2"
    except OSError:
        return False


class InFlight:
    """The budget. Threads that unpack bodies ask it too."""

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        """``limit`` in bytes."""
        self.limit = limit
        self.turns = Turns()
        self.unpacking = asyncio.Semaphore(_UNPACKED)
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

    @property
    def unpacking(self) -> asyncio.Semaphore:
        """To be held while a large body is unpacked."""
        return self._budget.unpacking

    @property
    def limit(self) -> int:
        """Bytes that there are for all requests."""
        return self._budget.limit

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
        """The body has come, with so many bytes, and may be computed. Raises UnavailableError when the turn was given
        up and does not come again in time."""
        if self._turn is None:
            await self.turn()
        if self._turn is not None:
            self._turn.weigh(size)
            await self._turn.compute(size)

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
