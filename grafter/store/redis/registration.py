"""What processes say to each other in Redis of the numbers under which they work.

Who lives (lua/register_replica.lua), and where a tally was parted when its number went from one process to another.
replicas.py has what that means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any

from grafter.errors import UnavailableError
from grafter.store.redis.engine import Engine
from grafter.store.redis.scripts import Argument, Item

BUCKET = 0
_OWN, _LIVES = 1, 2
_PARTED = Struct("<4q")
_NOTES = Struct("<2d")
_PARTED_MS = 24 * 3600 * 1000
"""A process that is frozen for longer does not come back."""

Notes = tuple[int, int]
"""What the tallies of a process's numbers were when they came into its books: taken over, handed over."""


@dataclass(slots=True)
class Books:
    """Of a tally, what a process's books need."""

    taken_over: int
    handed_over: int
    put: int
    held: int


@dataclass(slots=True)
class Registered:
    """What the store says of who is there."""

    had_books: bool
    """This process had a number before, and had noted something under it."""
    had_number: bool
    """It had one, be it that it has noted nothing yet."""
    notes: Notes
    own: list[int]
    living: set[int]
    """Of others."""
    others: set[int]
    """Those, and of the dead."""
    heard: bytes
    """The tokens of who has been heard of lately, joined."""
    before: dict[int, bytes]
    """Of its own numbers that it has not noted yet: the token of who had noted something under each last, and may come
    back."""


class Registration:
    """Of the process of a token, over an engine. All raise UnavailableError."""

    def __init__(self, engine: Engine, token: bytes) -> None:
        self._engine = engine
        self._token = token

    async def register(
        self,
        seconds: float,
        notes: Notes | None,
        wanted: Sequence[int] = (),
        given_up: Sequence[int] = (),
        closed: Sequence[int] = (),
    ) -> Registered:
        """Say that this process lives, for so long. ``wanted``, ``given_up``: numbers to take where nobody lives under
        them, and to give up; ``closed``: those to which its books have come, and for which the notes are the last word.
        """
        had, taken, handed, heard, *rest = await self._run(seconds, notes, wanted, given_up, closed)
        whose_by_number = dict(zip(rest[::3], rest[1::3], strict=True))
        own = sorted(number for number, whose in whose_by_number.items() if whose == _OWN)
        if not own:
            raise UnavailableError("255 grafters share this store already", reason="store_down")
        living = {number for number, whose in whose_by_number.items() if whose == _LIVES}
        before = {number: token for number, token in zip(rest[::3], rest[2::3], strict=True) if token}
        others = whose_by_number.keys() - own
        return Registered(had == 1, had != 0, (int(taken), int(handed)), own, living, others, heard, before)

    async def leave(self, notes: Notes | None, closed: Sequence[int]) -> None:
        """Live no longer, and maybe come back."""
        await self._run(0, notes, (), (), closed)

    async def _run(
        self,
        seconds: float,
        notes: Notes | None,
        wanted: Sequence[int],
        given_up: Sequence[int],
        closed: Sequence[int],
    ) -> list[Any]:
        noted: list[Argument] = [b"", b""] if notes is None else [str(number).encode() for number in notes]
        numbers = map(bytes, (wanted, given_up, closed))
        item: Item = (BUCKET, [BUCKET, self._token, int(seconds * 1000), *noted, *numbers])
        ((_, answer),) = await self._engine.run("register_replica", [item])
        return list(answer)

    async def went_to_others(self) -> dict[int, Notes]:
        """The numbers of this token that did and stand in its books still; with what was noted of those."""
        name = self._engine.layout.tags[BUCKET] + b"n:" + self._token
        (flat,) = await self._engine.commands([(BUCKET, ("HGETALL", name))])
        notes = (_NOTES.unpack(raw) for raw in flat[1::2])
        return {
            int(number): (int(taken), int(handed)) for number, (taken, handed) in zip(flat[::2], notes, strict=True)
        }

    async def part(self, token: bytes, number: int, *, ask: bool = False) -> Books:
        """What the tally of a number was when it went from the process of a token to another; what it is now, unless
        the other one of the two has said it. ``ask``: nobody has it now, and so nobody waits for this one's word.
        What was said stays for whoever has to ask again, having noted nothing; it goes when the number is begun."""
        name, books = self._name_of_parted(token, number), self.books(number)
        said = True
        if not ask:
            mine = _PARTED.pack(books.taken_over, books.handed_over, books.put, books.held)
            (said,) = await self._engine.commands([(BUCKET, ("SET", name, mine, "NX", "PX", _PARTED_MS))])
        if ask or not said:
            (raw,) = await self._engine.commands([(BUCKET, ("GET", name))])
            if raw is not None:
                return Books(*_PARTED.unpack(raw))
        return books

    async def begin(self, number: int) -> None:
        """What was said of this process's number at an earlier time would be taken for a word of the next."""
        await self._engine.commands([(BUCKET, ("DEL", self._name_of_parted(self._token, number)))])

    def books(self, number: int) -> Books:
        """Of the tally of a number, as it was read last."""
        tally = self._engine.totals.tally([number])
        return Books(tally.taken_over, tally.handed_over, tally.put, tally.held)

    def _name_of_parted(self, token: bytes, number: int) -> bytes:
        return self._engine.layout.tags[BUCKET] + b"e:%s:%d" % (token, number)
