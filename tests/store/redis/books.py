"""Processes that share a Redis, and what would stand in the books of each."""

import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any

from grafter.core.model import Part, UnixNano
from grafter.errors import UnavailableError
from grafter.store.model import Memory, Settlement, Stats
from grafter.store.redis.store import RedisStore
from tests.store.contract import LATER, START, Settings
from tests.store.redis.places import store

_NUMBERS = count()
BY_HAND = {"upkeep_seconds": inf}
"""What a process does each second it does when the test looks."""


def new_prefix() -> str:
    return f"books-{next(_NUMBERS)}"


@dataclass
class Process:
    """A store, and what its process would have counted."""

    store: RedisStore
    accepted: int = 0
    gone: int = 0

    async def take(self, *parts: Part) -> None:
        await self.store.append(parts, START)
        self.accepted += sum(part.spans for part in parts)

    async def let_go(self, *memories: Memory, now: UnixNano = LATER) -> None:
        """Everything that is due."""
        claims = await self.store.claim(now, 100)
        read = await self.store.read(claims)
        settled = await self.store.settle([Settlement(claim, memories) for claim in claims], now)
        assert all(settled)
        self.gone += sum(part.spans for parts in read for part in parts)

    async def look(self) -> Stats:
        """What it shows once it has looked, as it does each second."""
        await self.store.replicas.check(still=await self.store.engine.refresh_totals())
        stats = self.store.stats()
        assert stats.own is not None
        came = self.accepted + stats.recovered_spans + stats.taken_over_spans
        assert came == self.gone + stats.own.spans + stats.handed_over_spans, stats
        return stats


@asynccontextmanager
async def processes(url: str, number: int = 2, prefix: str = "", **more: Any) -> AsyncIterator[list[Process]]:
    prefix = prefix or new_prefix()
    async with AsyncExitStack() as stack:
        yield [Process(await stack.enter_async_context(store(url, prefix, Settings(), **more))) for _ in range(number)]


def flows(*stats: Stats) -> list[tuple[int, int, int]]:
    """Of each: held for it, taken over, handed over."""
    return [(one.own.spans if one.own else -1, one.taken_over_spans, one.handed_over_spans) for one in stats]


async def be_silent(one: Process) -> int:
    """As if nothing had been heard of it for long; its number, the last one."""
    engine = one.store.engine
    number = engine.numbers[-1]
    name = engine.layout.tags[0] + b"replicas"
    (raw,) = await engine.commands([(0, ("HGET", name, number))])
    # Of the record: when its lease ends, which is one millisecond after 1970.
    silent = raw[:9] + struct.pack("<d", 1.0) + raw[17:]
    await engine.commands([(0, ("HSET", name, number, silent))])
    return number


async def take_over(other: Process, frozen: Process) -> None:
    """As if the frozen one had been silent for long: its number becomes the other's, which begins it."""
    number = await be_silent(frozen)
    frozen.store.engine.sure_until = 0.0
    other.store.replicas._alone[number] = inf
    await other.look()
    assert other.store.engine.numbers[1:] == bytes([number])


def cut_off(one: Process, what: str, time: int = 1, *, done: bool = True) -> None:
    """Redis does that, this many times from now on, and the answer to the last is lost; or that was not ``done``."""
    run, left = one.store.engine.run, time

    async def unanswered(asked: str, *args: Any, **more: Any) -> Any:
        nonlocal left
        left -= asked == what
        answer = await run(asked, *args, **more) if left or done else None
        if left == 0:
            one.store.engine.run = run  # type: ignore[method-assign]
            raise UnavailableError("the connection was lost", reason="store_down")
        return answer

    one.store.engine.run = unanswered  # type: ignore[method-assign]
