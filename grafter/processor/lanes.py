"""A lane an exporter: how much is on its way to it, and whether it may hold up what others wait for as well.

With several exporters a batch goes to those that take part now: their peers are up, they have a place, and they answer
soon. What the others have not got is deferred (``processor.deferring``), and goes to each of them when it has time.
Only where nobody answers soon those that are slow take part, and where all are full the first that is not is waited
for.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from grafter.consumer import Exporter

_T = TypeVar("_T")

# An answer that takes longer holds up nobody else: what a batch still has to do waits for it, its place does not.
SOON_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    batch_spans: int = 4000
    batch_bytes: int = 3 << 20
    in_flight: int = 8
    """Batches that are on their way at once, all exporters that answer soon counted as one; and to each exporter."""
    tick_seconds: float = 0.1
    lease_seconds: float = 10.0


class Lane:
    def __init__(self, exporter: Exporter, places: int, freed: asyncio.Event) -> None:
        """``places``: batches on their way at once; ``freed`` is set when one of them ends."""
        self.exporter = exporter
        self.name = exporter.name
        self.slow = False
        """Its last answer took longer than SOON_SECONDS, or one that is awaited does."""
        self._places = places
        self._freed = freed
        self._taken = 0
        self._deferred = 0

    @property
    def is_down(self) -> bool:
        """Its peer takes nothing now."""
        return self.exporter.retry_in() > 0

    @property
    def has_place(self) -> bool:
        return self._taken < self._places

    @property
    def places_for_backlog(self) -> int:
        """How many batches of its backlog may begin now. Half of its places are for what has just been released, as
        long as it takes part in that."""
        if self.is_down:
            return 0
        mine = self._places if self.slow else max(1, self._places // 2)
        return max(0, min(mine - self._deferred, self._places - self._taken))

    def take(self, *, backlog: bool = False) -> "Place":
        """A place for a batch that is on its way, until that is left."""
        self._taken += 1
        self._deferred += backlog

        def leave() -> None:
            self._taken -= 1
            self._deferred -= backlog
            self._freed.set()

        return Place(leave)

    async def timed(self, export: Callable[[Exporter], Awaitable[_T]]) -> _T:
        """The result of the export; how long it took is noted."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await export(self.exporter)
        finally:
            self.slow = clock() - began > SOON_SECONDS


class Lanes:
    """Those of all exporters, in their order."""

    def __init__(self, exporters: Sequence[Exporter], places: int) -> None:
        self._freed = asyncio.Event()
        self._lanes = {one.name: Lane(one, places, self._freed) for one in exporters}

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def alone(self) -> Lane | None:
        """The only one; None where there are several."""
        return next(iter(self)) if len(self) == 1 else None

    def of(self, exporter: str) -> Lane | None:
        """The lane of an exporter that is configured."""
        return self._lanes.get(exporter)

    @asynccontextmanager
    async def taking_part(self) -> AsyncIterator[dict[Lane, "Place"]]:
        """Those to whom a batch goes now, each with its place there, which is left at the end at the latest. Where all
        are down it is all of them: each says when to try again."""
        # Taken in the same step: several may wait for one that is freed.
        places = {lane: lane.take() for lane in await self._ready()}
        try:
            yield places
        finally:
            for place in places.values():
                place.leave()

    async def _ready(self) -> list[Lane]:
        while True:
            up = [lane for lane in self if not lane.is_down]
            if not up:
                return list(self)
            if free := [lane for lane in up if lane.has_place]:
                return [lane for lane in free if not lane.slow] or free
            self._freed.clear()
            # One that is down may be up again before any of the others answers.
            soonest = min([wait for lane in self if (wait := lane.exporter.retry_in()) > 0], default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout(soonest):
                    await self._freed.wait()


class Place:
    """One of the batches that may be on their way at once; left once."""

    def __init__(self, leave: Callable[[], object]) -> None:
        """It is the caller's already; ``leave`` makes it somebody else's."""
        self._leave: Callable[[], object] | None = leave

    def leave(self, _: object = None) -> None:
        """It is somebody else's from now on."""
        if self._leave is not None:
            self._leave()
            self._leave = None
