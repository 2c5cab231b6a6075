"""Under which numbers this process works, and what stands in its books.

A key is its replica's: the number under which the part that began it was stored. The store keeps a tally of each number
(lua/common.lua), in the same step in which a part comes or leaves, so that it is as true as what is held. A number is
one process's while that lives, which it says once a second (lua/register_replica.lua); what a dead one has left is
taken over by one that lives, number and all. So each span that is held stands in the books of one process, and
what others did with its keys, and it with theirs, is the difference of two readings.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from grafter.errors import UnavailableError
from grafter.store.base import Share, Stats
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import BUCKETS
from grafter.store.redis.scripts import Argument, Item

_LOG = logging.getLogger(__name__)

BUCKET = 0
_OWN, _LIVES = 1, 2
LEAST_LEASE_SECONDS = 5.0
"""A shorter lease does not make a process dead."""


@dataclass(slots=True)
class _Registration:
    """What the store says of who is there."""

    had: bool
    """This process had a number before."""
    taken: int
    handed: int
    own: list[int]
    living: set[int]
    """Of others."""


class Replicas:
    """Over an engine."""

    def __init__(self, engine: Engine, token: bytes, least_lease_seconds: float = LEAST_LEASE_SECONDS) -> None:
        """``token``: 8 bytes; who comes with that of a process before it goes on with its books."""
        self.recovered = 0
        self._engine = engine
        self._token = engine.owner = token
        self._heard: set[bytes] | None = None
        self._lease = max(engine.lease_ns / 1e9, least_lease_seconds)
        self._numbers: list[int] = []
        # What the tallies of the numbers were when they were taken; less, where that itself belongs into the books.
        self._taken_before = self._handed_before = self._put_before = 0
        self._unanswered = 0
        """Spans of parts that were stored without an answer."""
        self._alone_since: dict[int, float] = {}
        """Numbers of the dead under which something is held, since when this process knows that they are dead."""

    async def start(self) -> None:
        """Have a number, and take over what nobody has. Raises UnavailableError."""
        found = await self._register()
        await self._engine.read_totals(range(BUCKETS))
        if found.had:
            # Another process began these books; what it stored last may have had no answer.
            self._numbers = found.own
            self._taken_before, self._handed_before = found.taken, found.handed
            self._put_before = self._engine.totals.tally(found.own).put - self._engine.totals.stored
        else:
            for number in found.own:
                self.recovered += self._begin(number)
            orphans = self._held_by_nobody(found)
            if orphans:
                found = await self._register(sorted(orphans))
                await self._engine.read_totals(range(BUCKETS))
                for number in found.own:
                    if number not in self._numbers:
                        self.recovered += self._begin(number)
        self._use_numbers()

    async def check(self, *, still: bool) -> None:
        """Say that this process lives, and take over from who does not. ``still``: the tallies were read while this
        process did nothing. Raises UnavailableError."""
        totals = self._engine.totals
        if still:
            # What was stored, less what was acknowledged.
            lost = totals.tally(self._numbers).put - self._put_before - totals.stored - totals.moved
            self.recovered += max(0, lost - self._unanswered)
            self._unanswered = lost
        empty = [number for number in self._numbers[1:] if not totals.tally([number]).traces]
        found = await self._register(self._ripe(), empty)
        if not found.had:
            _LOG.warning("this process was taken for dead, or Redis has forgotten it; it goes on as a new one")
        gone = [number for number in self._numbers if not found.had or number not in found.own]
        fresh = [number for number in found.own if number not in self._numbers]
        if fresh:
            await self._engine.read_totals(range(BUCKETS))
            for number in fresh:
                held = self._begin(number)
                self._taken_before -= held
        if gone:
            # What was stored under them until now was handed over too: it is read behind the last of it.
            self._engine.numbers = bytes(number for number in self._numbers if number not in gone)
            await self._engine.read_totals(range(BUCKETS), writing=True)
            for number in gone:
                self._end(number)
        if gone or fresh:
            self._use_numbers()
        now = asyncio.get_running_loop().time()
        self._alone_since = {number: self._alone_since.get(number, now) for number in self._held_by_nobody(found)}

    async def leave(self) -> None:
        """Live under the numbers no longer. Who starts next takes the lowest; else they go as those of the dead do."""
        await self._ask(0, [], [])

    def stats(self) -> Stats:
        """What is held, and the books."""
        engine, totals = self._engine, self._engine.totals
        mine = totals.tally(self._numbers)
        own = mine.share()
        unseen = [sum(column) for column in zip(*totals.unseen(), strict=True)]
        oldest = own.oldest
        if unseen[0] and oldest is None:
            oldest = totals.oldest
        return Stats(
            traces=totals.traces,
            spans=totals.spans,
            bytes=totals.held,
            limit_bytes=totals.max_bytes,
            oldest=totals.oldest,
            remembered=totals.remembered,
            recovering=False,
            backlogs=totals.backlogs(),
            recovered_spans=self.recovered,
            disk_bytes=totals.held,
            # What was stored since counts as its own until the tallies say whose it is.
            own=Share(own.traces + unseen[0], own.spans + unseen[1], own.bytes + unseen[2], oldest),
            taken_over_spans=max(0, mine.taken_over - self._taken_before),
            handed_over_spans=max(0, mine.handed_over - self._handed_before),
            replicas={
                number: tally.share()
                for number in sorted(totals.numbers())
                if (tally := totals.tally([number])).traces or number in engine.numbers
            },
        )

    def _begin(self, number: int) -> int:
        """Let a number stand in the books from what its tally says now; the spans that it holds."""
        tally = self._engine.totals.tally([number])
        self._taken_before += tally.taken_over
        self._handed_before += tally.handed_over
        self._put_before += tally.put
        self._numbers.append(number)
        return tally.held

    def _end(self, number: int) -> None:
        """It was given up, or is another's: what it holds was handed over."""
        tally = self._engine.totals.tally([number])
        self._taken_before -= tally.taken_over
        self._handed_before -= tally.handed_over + tally.held
        self._put_before -= tally.put
        self._numbers.remove(number)

    def _use_numbers(self) -> None:
        self._engine.numbers = bytes(self._numbers)

    def _held_by_nobody(self, found: _Registration) -> set[int]:
        totals = self._engine.totals
        return {n for n in totals.numbers() - found.living - set(found.own) if n and totals.tally([n]).traces}

    def _ripe(self) -> list[int]:
        """Those that are dead for so long that they are not only late: Redis may have been away for all."""
        now = asyncio.get_running_loop().time()
        return sorted(number for number, at in self._alone_since.items() if now - at >= self._lease)

    async def _register(self, wanted: list[int] | None = None, given_up: list[int] | None = None) -> _Registration:
        had, taken, handed, heard, *rest = await self._ask(int(self._lease * 1000), wanted or [], given_up or [])
        self._hear(heard)
        whose_by_number = dict(zip(rest[::2], rest[1::2], strict=True))
        # It files on under the number that it had.
        own = [number for number in self._numbers if whose_by_number.get(number) == _OWN]
        own += sorted(number for number, whose in whose_by_number.items() if whose == _OWN and number not in own)
        if not own:
            raise UnavailableError("255 grafters share this store already", reason="store_down")
        living = {number for number, whose in whose_by_number.items() if whose == _LIVES}
        return _Registration(had == 1, int(taken), int(handed), own, living)

    def _hear(self, tokens: bytes) -> None:
        """Who lives: a process is dead that was not heard of twice, a look apart. Once may be Redis' own absence."""
        heard = {tokens[i : i + 8] for i in range(0, len(tokens), 8)}
        if self._heard is not None:
            self._engine.living = b"".join(sorted(heard | self._heard))
        self._heard = heard

    async def _ask(self, milliseconds: int, wanted: list[int], given_up: list[int]) -> list[Any]:
        notes: list[Argument] = [b"", b""]
        if self._numbers:
            notes = [str(number).encode() for number in (self._taken_before, self._handed_before)]
        item: Item = (BUCKET, [BUCKET, self._token, milliseconds, *notes, bytes(wanted), bytes(given_up)])
        runs = await self._engine.run("register_replica", [item])
        return list(runs[0][1])
