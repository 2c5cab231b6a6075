"""Under which numbers this process works, and what stands in its books.

A key is its replica's: the number under which the part that began it was stored. The store keeps a tally of each number
(lua/common.lua), in the same step in which a part comes or leaves, so that it is as true as what is held. A number is
one process's while that lives, which it says once a second (lua/register_replica.lua); what a dead one has left is
taken over by one that lives, number and all. So each span that is held stands in the books of one process, and
what others did with its keys, and it with theirs, is the difference of two readings.

A process that was only frozen, or cut off, finds its number with another one. Both have to part the tally at the same
point, for the other one settles what it took over: whoever comes to it first says what it was, and nobody counts under
it meanwhile. The one that takes it begins only then; the one that was silent stops before anybody may take it, and asks
first (Engine.run_booked).
"""

import asyncio
import logging
from dataclasses import dataclass
from struct import Struct
from typing import Any

from grafter.errors import UnavailableError
from grafter.store.model import Share, Stats
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import BUCKETS
from grafter.store.redis.scripts import Argument, Item

_LOG = logging.getLogger(__name__)

BUCKET = 0
_OWN, _LIVES = 1, 2
LEAST_LEASE_SECONDS = 5.0
"""A shorter lease does not make a process dead."""
_SURE_SHARE = 0.8
"""Of a lease: so long after it was asked for what counts under the numbers is sent without asking again."""
_PARTED = Struct("<4q")
_PARTED_MS = 24 * 3600 * 1000
"""A process that is frozen for longer does not come back."""


@dataclass(slots=True)
class _Books:
    """Of a tally, what a process's books need."""

    taken_over: int
    handed_over: int
    put: int
    held: int


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
    others: set[int]
    """Those, and of the dead."""
    heard: bytes
    """The tokens of who has been heard of lately, joined."""


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
        self._alone: dict[int, float] = {}
        """Numbers of the dead under which something is held: for how many seconds this process has known that."""
        self._looked_at = self._asked_at = 0.0
        self._silent: dict[int, bytes] = {}
        """Numbers that were taken from a process that may wake, its token; until they stand in the books."""
        self._checking = asyncio.Lock()
        engine.confirm = self._confirm

    async def start(self) -> None:
        """Have a number, and take over what nobody has. Raises UnavailableError."""
        found = await self._register()
        self._hear(found.heard)
        await self._engine.read_totals(range(BUCKETS))
        if found.had:
            # Another process began these books; what it stored last may have had no answer.
            self._numbers = found.own
            self._taken_before, self._handed_before = found.taken, found.handed
            self._put_before = self._engine.totals.tally(found.own).put - self._engine.totals.stored
        else:
            for number in found.own:
                self.recovered += await self._begin(number)
            orphans = self._held_by_nobody(found)
            if orphans:
                found = await self._register(sorted(orphans))
                await self._engine.read_totals(range(BUCKETS))
                for number in found.own:
                    if number not in self._numbers:
                        self.recovered += await self._begin(number)
        self._engine.numbers = bytes(self._numbers)
        self._are_sure()

    async def check(self, *, still: bool) -> None:
        """Say that this process lives, and take over from who does not. ``still``: the tallies were read while this
        process did nothing. Raises UnavailableError."""
        async with self._checking:
            # Not at each time that it is made sure of the numbers: those come close together.
            self._hear((await self._check(still=still)).heard)

    async def _confirm(self) -> None:
        async with self._checking:
            # Of many that wait the first asks for all.
            if asyncio.get_running_loop().time() >= self._engine.sure_until:
                await self._check(still=False)

    async def _check(self, *, still: bool) -> _Registration:
        engine, totals = self._engine, self._engine.totals
        empty = [number for number in self._numbers[1:] if not totals.tally([number]).traces]
        ripe = [number for number, seconds in self._alone.items() if seconds >= self._lease]
        found = await self._register(sorted(ripe), empty)
        if not found.had:
            _LOG.warning("this process was taken for dead, or Redis has forgotten it; it goes on as a new one")
        # The same number may be another one: it was taken over, settled, given up, and is free again.
        gone = [number for number in self._numbers if not found.had or number not in found.own]
        fresh = [number for number in found.own if number in gone or number not in self._numbers]
        if gone or fresh:
            # What comes now waits for the end of this; what is on its way counts under the numbers that it began with.
            engine.sure_until = 0.0
            await engine.under_way()
            await engine.read_totals(range(BUCKETS), writing=True)
            for number in gone:
                await self._end(number, found)
            for number in fresh:
                held = await self._begin(number)
                self._taken_before -= held
            engine.numbers = bytes(self._numbers)
        elif still:
            # What was stored, less what was acknowledged.
            lost = totals.tally(self._numbers).put - self._put_before - totals.stored - totals.moved
            self.recovered += max(0, lost - self._unanswered)
            self._unanswered = lost
        self._are_sure()
        self._count_alone(found)
        return found

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

    def _are_sure(self) -> None:
        self._engine.sure_until = self._asked_at + _SURE_SHARE * self._lease

    async def _begin(self, number: int) -> int:
        """Let a number stand in the books from what its tally says now; the spans that it holds."""
        # A word of an earlier time under it would be taken for one of the next.
        await self._engine.commands([(BUCKET, ("DEL", self._name_of_parted(self._token, number)))])
        token = self._silent.get(number)
        books = self._books(number) if token is None else await self._parted(token, number)
        self._taken_before += books.taken_over
        self._handed_before += books.handed_over
        self._put_before += books.put
        self._numbers.append(number)
        self._silent.pop(number, None)
        return books.held

    async def _end(self, number: int, found: _Registration) -> None:
        """It was given up, or is another's: what it held was handed over."""
        books = await self._parted(self._token, number, ask=number not in found.others)
        self._taken_before -= books.taken_over
        self._handed_before -= books.handed_over + books.held
        self._put_before -= books.put
        self._numbers.remove(number)

    async def _parted(self, token: bytes, number: int, *, ask: bool = False) -> _Books:
        """What the tally of a number was when it went from the process of a token to another; what it is now, unless
        the other one of the two has said it. ``ask``: nobody has it now, and so nobody waits for this one's word."""
        name, books = self._name_of_parted(token, number), self._books(number)
        said = True
        if not ask:
            mine = _PARTED.pack(books.taken_over, books.handed_over, books.put, books.held)
            (said,) = await self._engine.commands([(BUCKET, ("SET", name, mine, "NX", "PX", _PARTED_MS))])
        if ask or not said:
            raw, _ = await self._engine.commands([(BUCKET, ("GET", name)), (BUCKET, ("DEL", name))])
            if raw is not None:
                return _Books(*_PARTED.unpack(raw))
        return books

    def _books(self, number: int) -> _Books:
        tally = self._engine.totals.tally([number])
        return _Books(tally.taken_over, tally.handed_over, tally.put, tally.held)

    def _name_of_parted(self, token: bytes, number: int) -> bytes:
        return self._engine.layout.tags[BUCKET] + b"e:%s:%d" % (token, number)

    def _held_by_nobody(self, found: _Registration) -> set[int]:
        totals = self._engine.totals
        return {n for n in totals.numbers() - found.living - set(found.own) if n and totals.tally([n]).traces}

    def _count_alone(self, found: _Registration) -> None:
        """For how long which numbers are of the dead. While Redis is away for all nobody can say that it lives: of the
        time since the last look only so much counts as passes between two when it is there."""
        now = asyncio.get_running_loop().time()
        passed = min(now - self._looked_at, self._lease / 3)
        self._looked_at = now
        held_by_nobody = self._held_by_nobody(found)
        self._alone = {
            number: self._alone[number] + passed if number in self._alone else 0.0 for number in held_by_nobody
        }

    async def _register(self, wanted: list[int] | None = None, given_up: list[int] | None = None) -> _Registration:
        self._asked_at = asyncio.get_running_loop().time()
        had, taken, handed, heard, *rest = await self._ask(int(self._lease * 1000), wanted or [], given_up or [])
        whose_by_number = dict(zip(rest[::3], rest[1::3], strict=True))
        # It files on under the number that it had.
        own = [number for number in self._numbers if whose_by_number.get(number) == _OWN]
        own += sorted(number for number, whose in whose_by_number.items() if whose == _OWN and number not in own)
        if not own:
            raise UnavailableError("255 grafters share this store already", reason="store_down")
        living = {number for number, whose in whose_by_number.items() if whose == _LIVES}
        self._silent |= {number: token for number, token in zip(rest[::3], rest[2::3], strict=True) if token}
        return _Registration(had == 1, int(taken), int(handed), own, living, whose_by_number.keys() - own, heard)

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
