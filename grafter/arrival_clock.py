"""The clock that waits, leases and memories run on: Unix nanoseconds that never go back.

It starts at the wall clock's moment, or at the last one that the store has seen where that is later, and goes on with
a steady clock that no correction of the wall clock moves. So a wall clock that jumps, while the process runs or between
two, neither holds traces back nor lets them go early.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from grafter.core.model import UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.store.base import MomentStore
from grafter.tasks import beside
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

# Less is what a clock is set right by as a matter of course, or what lies between two machines.
_JUMP = 2 * SECOND
_WATCH_SECONDS = 1.0
_LAST_SECONDS = 0.5
"""How long a stop waits for a store that is away; the moment before it was kept seconds ago."""
_KEEP_EVERY = 5
"""The moment is kept each time that the clocks were compared so often."""


def steady_ns() -> int:
    """Nanoseconds of a clock that goes on while the machine sleeps, and is never set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ArrivalClock:
    """Called, it gives the moment. It begins at ``start``; ``wall`` is what it is compared with."""

    def __init__(
        self, start: int, wall: Callable[[], int] = time.time_ns, steady: Callable[[], int] = steady_ns
    ) -> None:
        self._steady = steady
        self._wall = wall
        self._base = start - steady()
        self._ahead = 0

    def __call__(self) -> int:
        return self._base + self._steady()

    def advance(self, moment: int) -> None:
        """Go on from this moment, where it is later."""
        ahead = moment - self()
        if ahead <= 0:
            return
        self._base += ahead
        if ahead > _JUMP:
            logger.warning(
                "what is held came %.1f s later than it was by the time that waits run on, which goes on from there",
                ahead / SECOND,
            )

    def compare(self) -> float:
        """Seconds that the wall clock is ahead of this one; says so in the log where that has changed by a jump."""
        ahead = self._wall() - self()
        if abs(ahead - self._ahead) > _JUMP:
            logger.warning(
                "the wall clock is %.1f s %s the time that waits run on, %s before; waits, leases and what is "
                "remembered go on undisturbed",
                abs(ahead) / SECOND,
                "ahead of" if ahead > 0 else "behind",
                f"{self._ahead / SECOND:+.1f} s",
            )
            self._ahead = ahead
        return ahead / SECOND


@asynccontextmanager
async def keeping_time(store: MomentStore, metrics: Metrics) -> AsyncIterator[ArrivalClock]:
    """The clock of a store: later than all that the store has seen, but for the last seconds before a crash.

    It is compared with the wall clock, and kept in the store, until left.
    """
    clock = ArrivalClock(store.moment)

    async def watch() -> None:
        rounds = 0
        while True:
            # What is held may come to light only now.
            clock.advance(store.moment)
            metrics.wall_clock_ahead.set(clock.compare())
            if rounds % _KEEP_EVERY == 0:
                await _keep(store, clock)
            rounds += 1
            await asyncio.sleep(_WATCH_SECONDS)

    try:
        async with beside(watch(), "arrival_clock.watch"):
            yield clock
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await _keep(store, clock)


async def _keep(store: MomentStore, clock: ArrivalClock) -> None:
    try:
        await store.keep_moment(UnixNano(clock()))
    except UnavailableError as error:
        # The next time does; a store that is away says so itself.
        logger.debug("the time could not be kept: %s", error)
