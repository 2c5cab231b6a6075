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

Of all this any step may have no answer, or none may come after it. What has no number any more when it asks is parted
from its books however often that is begun, and what it has taken is noted only when the books have come to it. Until
then the store says with each answer whose the number was, also to who takes it next where this one dies.

A worker's place is taken by another process with its token, which goes on with its books. Where its number went to
somebody meanwhile, what it had noted of them is kept under the token (lua/register_replica.lua).

One that was silent may have sent what Redis comes to later, when the next one has the number already. So who takes a
number writes its token to the tallies in the step in which it reads them: from there on nothing is done that was sent
under the number by another one.
"""

import asyncio
import logging
from collections.abc import Sequence

from grafter.errors import UnavailableError
from grafter.store.model import Share, Stats
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import BUCKETS
from grafter.store.redis.registration import Books, Notes, Registered, Registration

_LOG = logging.getLogger(__name__)

LEAST_LEASE_SECONDS = 5.0
"""A shorter lease does not make a process dead."""
_SURE_SHARE = 0.8
"""Of a lease: so long after it was asked for what counts under the numbers is sent without asking again."""


class Replicas:
    """Over an engine."""

    def __init__(self, engine: Engine, token: bytes, least_lease_seconds: float = LEAST_LEASE_SECONDS) -> None:
        """``token``: 8 bytes; who comes with that of a process before it goes on with its books."""
        self.recovered = 0
        self._engine = engine
        engine.owner = token
        self._token = token
        self._registration = Registration(engine, token)
        self._heard: set[bytes] | None = None
        self._lease = max(engine.lease_ns / 1e9, least_lease_seconds)
        self._numbers: list[int] = []
        self._noting = False
        self._unnoted = False
        """The books are parted or begun just now, and not noted since."""
        self._parting: set[int] = set()
        """Numbers that it had lost, whoever has them now, and that stand in the books still."""
        # What the tallies of the numbers were when they were taken; less, where that itself belongs into the books.
        self._taken_before = self._handed_before = self._put_before = 0
        self._unanswered = 0
        """Spans of parts that were stored without an answer."""
        self._alone: dict[int, float] = {}
        """Numbers of the dead under which something is held: for how many seconds this process has known that."""
        self._looked_at = self._asked_at = 0.0
        self._checking = asyncio.Lock()
        engine.confirm = self._confirm

    async def start(self) -> None:
        """Have a number, and take over what nobody has. Raises UnavailableError; called again it begins anew, for Redis
        may have done what was asked before it went away, but where the books were begun and are still its own it keeps
        them: whether they were noted only Redis knew."""
        if not (self._unnoted and await self._stands()):
            await self._begin_books()
        await self._note()
        self._are_sure()

    async def _stands(self) -> bool:
        """Whether what an earlier attempt has begun is this process's still."""
        found = await self._register()
        self._hear(found.heard)
        return found.had_number and set(found.own) == set(self._numbers)

    async def _begin_books(self) -> None:
        """In memory: what was noted by others under this token, and what the tallies say now."""
        self.recovered = 0
        self._taken_before = self._handed_before = self._put_before = 0
        self._numbers, self._noting, self._unnoted = [], False, False
        found = await self._register()
        self._hear(found.heard)
        await self._engine.read_totals(range(BUCKETS), begun=found.own)
        # Of another process with this token, while it was away.
        gone = await self._registration.went_to_others()
        if found.had_books or gone:
            # That process began these books.
            notes = next(iter(gone.values())) if gone else found.notes
            self._taken_before, self._handed_before = notes
            for number in gone:
                await self._hand_over(number, found)
        if found.had_books:
            # What it stored last may have had no answer.
            self._numbers = found.own
            self._put_before = self._engine.totals.tally(found.own).put - self._engine.totals.stored
        else:
            for number in found.own:
                self.recovered += await self._begin(number, found)
            orphans = self._held_by_nobody(found)
            if orphans:
                found = await self._register(sorted(orphans))
                more = [number for number in found.own if number not in self._numbers]
                await self._engine.read_totals(range(BUCKETS), begun=more)
                for number in more:
                    self.recovered += await self._begin(number, found)
        # Noted at once, for it may end at any time; and not before, for the books have begun only now.
        self._noting = self._unnoted = True

    async def check(self, *, still: bool) -> None:
        """Say that this process lives, and take over from who does not. ``still``: the tallies have just been read,
        while this process did nothing. Raises UnavailableError."""
        # Now: what is stored while this asks is in no tally yet.
        begun, lost = self._begun(), self._lost() if still else None
        async with self._checking:
            # Not at each time that it is made sure of the numbers: those come close together.
            self._hear((await self._check(lost if begun == self._begun() else None)).heard)

    async def _confirm(self) -> None:
        async with self._checking:
            # Of many that wait the first asks for all.
            if asyncio.get_running_loop().time() >= self._engine.sure_until:
                await self._check(None)

    def _begun(self) -> tuple[int, ...]:
        """Tells apart from which points of which tallies the books began."""
        return (self._put_before, *self._numbers)

    def _lost(self) -> int:
        """Spans that were stored, less those that were acknowledged."""
        totals = self._engine.totals
        return totals.tally(self._numbers).put - self._put_before - totals.stored

    async def _check(self, lost: int | None) -> Registered:
        """``lost``: as it was when the tallies were read, where that is known."""
        engine, totals = self._engine, self._engine.totals
        empty = [number for number in self._numbers[1:] if not totals.tally([number]).traces]
        ripe = [number for number, seconds in self._alone.items() if seconds >= self._lease]
        found = await self._register(sorted(ripe), empty)
        if not found.had_books and not (found.had_number and self._unnoted):
            _LOG.warning("this process was taken for dead, or Redis has forgotten it; it goes on as a new one")
            # The same number may be another one: it was taken over, settled, given up, and is free again.
            self._parting |= set(self._numbers)
        if engine.taken_over:
            # Also where the record of the number, which may lie on another server, does not say so.
            self._parting |= set(self._numbers)
        gone = [number for number in self._numbers if number in self._parting or number not in found.own]
        fresh = [number for number in found.own if number in gone or number not in self._numbers]
        if gone or fresh or self._unnoted:
            # What comes now waits for the end of this; what is on its way counts under the numbers that it began with.
            engine.sure_until, self._unnoted = 0.0, True
            await engine.under_way()
            engine.taken_over = False
            await engine.read_totals(range(BUCKETS), writing=True, begun=fresh)
            for number in gone:
                self._put_before -= (await self._hand_over(number, found)).put
                self._numbers.remove(number)
                self._parting.discard(number)
            for number in fresh:
                held = await self._begin(number, found)
                self._taken_before -= held
            await self._note()
        elif lost is not None:
            self.recovered += max(0, lost - self._unanswered)
            self._unanswered = lost
        self._are_sure()
        self._count_alone(found)
        return found

    async def leave(self) -> None:
        """Live under the numbers no longer. Who starts next takes the lowest; else they go as those of the dead do."""
        await self._registration.leave(self._notes(), [] if self._unnoted else self._numbers)

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
            remembered_bytes=totals.remembered_bytes,
            recovering=False,
            backlogs=totals.backlogs(),
            recovered_spans=self.recovered,
            disk_bytes=totals.held + totals.remembered_bytes,
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

    async def _note(self) -> None:
        """The books have come to what this process has: from now on it counts under that."""
        found = await self._register(closed=self._numbers)
        if not found.had_number or set(found.own) != set(self._numbers):
            # Then it was taken for dead once more, and the next look finds that.
            self._unnoted = False
            raise UnavailableError("the numbers went to another grafter meanwhile", reason="store_down")
        self._unnoted = False
        self._engine.numbers = bytes(self._numbers)

    def _are_sure(self) -> None:
        self._engine.sure_until = self._asked_at + _SURE_SHARE * self._lease

    async def _begin(self, number: int, found: Registered) -> int:
        """Let a number stand in the books from what its tally says now; the spans that it holds."""
        await self._registration.begin(number)
        token, registration = found.before.get(number), self._registration
        books = registration.books(number) if token is None else await registration.part(token, number)
        self._taken_before += books.taken_over
        self._handed_before += books.handed_over
        self._put_before += books.put
        self._numbers.append(number)
        return books.held

    async def _hand_over(self, number: int, found: Registered) -> Books:
        """It was given up, or is another's: what it held was handed over."""
        books = await self._registration.part(self._token, number, ask=number not in found.others)
        self._taken_before -= books.taken_over
        self._handed_before -= books.handed_over + books.held
        return books

    def _held_by_nobody(self, found: Registered) -> set[int]:
        totals = self._engine.totals
        return {n for n in totals.numbers() - found.living - set(found.own) if n and totals.tally([n]).traces}

    def _count_alone(self, found: Registered) -> None:
        """For how long which numbers are of the dead. While Redis is away for all nobody can say that it lives: of the
        time since the last look only so much counts as passes between two when it is there."""
        now = asyncio.get_running_loop().time()
        passed = min(now - self._looked_at, self._lease / 3)
        self._looked_at = now
        held_by_nobody = self._held_by_nobody(found)
        self._alone = {
            number: self._alone[number] + passed if number in self._alone else 0.0 for number in held_by_nobody
        }

    async def _register(
        self, wanted: Sequence[int] = (), given_up: Sequence[int] = (), closed: Sequence[int] = ()
    ) -> Registered:
        """See ``Registration.register``."""
        self._asked_at = asyncio.get_running_loop().time()
        found = await self._registration.register(self._lease, self._notes(), wanted, given_up, closed)
        # It files on under the number that it had.
        kept = [number for number in self._numbers if number in found.own]
        found.own = kept + [number for number in found.own if number not in kept]
        return found

    def _notes(self) -> Notes | None:
        """What is to be noted of these books; nothing before they have begun."""
        return (self._taken_before, self._handed_before) if self._noting else None

    def _hear(self, tokens: bytes) -> None:
        """Who lives: a process is dead that was not heard of twice, a look apart. Once may be Redis' own absence."""
        heard = {tokens[i : i + 8] for i in range(0, len(tokens), 8)}
        if self._heard is not None:
            self._engine.living = b"".join(sorted(heard | self._heard))
        self._heard = heard
