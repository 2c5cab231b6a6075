"""What a replica does beside its work: it learns what the others did, and keeps what is held from expiring.

Every record has an expiry, so that a Redis which every replica has left empties itself. A replica that lives puts
that off.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from grafter.errors import UnavailableError
from grafter.store.redis.connection import Command
from grafter.store.redis.dead_letters import BUCKET, KEPT_MS, NAMES, DeadLetters
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import BUCKETS, FIXED, lane
from grafter.store.redis.replicas import Replicas
from grafter.store.redis.scripts import RUBBISH_MS

_LOG = logging.getLogger(__name__)

_LISTS_EVERY, _HELD_EVERY = 60, 6 * 3600
_PAGE = 500


class Upkeep:
    """Over an engine, once in so many seconds."""

    def __init__(
        self,
        engine: Engine,
        replicas: Replicas,
        letters: DeadLetters,
        seconds: float = 1.0,
        *,
        fixed: Sequence[bytes | int] = (),
        emptied: Callable[[], None] = lambda: None,
    ) -> None:
        """``fixed``: what the prefix began with, names and values; where it is gone ``emptied`` is called, and it is
        put there again."""
        self._fixed = fixed
        self._emptied = emptied
        self._engine = engine
        self._replicas = replicas
        self._letters = letters
        self._seconds = seconds

    async def run(self) -> None:
        """Until cancelled."""
        rounds = 0
        while True:
            try:
                if self._fixed:
                    await self.check_not_emptied()
                if rounds % _LISTS_EVERY == 0:
                    await self.keep_lists()
                if rounds % _HELD_EVERY == _HELD_EVERY - 1:
                    await self.keep_held()
                if rounds:
                    # A start has just done the same.
                    await self._replicas.check(still=await self._engine.refresh_totals())
                    await self._letters.refresh()
            except UnavailableError as error:
                # It stands in /readyz and in the metrics; each request that needs Redis hears of it.
                _LOG.debug("upkeep: %s", error)
            rounds += 1
            await asyncio.sleep(self._seconds)

    async def check_not_emptied(self) -> None:
        """See that Redis has not been emptied, which it would not say by itself."""
        name = self._engine.layout.tags[BUCKET] + FIXED
        (there,) = await self._engine.commands([(BUCKET, ("EXISTS", name))])
        if there:
            return
        # Others that find it missing have the same to say, and say it too.
        await self._engine.commands([(BUCKET, ("HSET", name, *self._fixed)), (BUCKET, ("PEXPIRE", name, KEPT_MS))])
        _LOG.error("Redis was emptied, or has lost what it had: what was held until now is lost; input is taken")
        self._emptied()

    async def keep_lists(self) -> None:
        """Put off the end of what every bucket has."""
        tags = self._engine.layout.tags
        commands: list[tuple[int, Command]] = [
            (bucket, ("PEXPIRE", tags[bucket] + name, RUBBISH_MS))
            for bucket in range(BUCKETS)
            for name in (*_LISTS, *self._began())
        ]
        commands += [(BUCKET, ("PEXPIRE", tags[BUCKET] + name, KEPT_MS)) for name in (FIXED, *NAMES)]
        await self._engine.commands(commands)

    async def keep_held(self) -> None:
        """Put off the end of everything that is held."""
        engine = self._engine
        for bucket in range(BUCKETS):
            tag = engine.layout.tags[bucket]
            for name in self._began():
                at = 0
                while True:
                    (keys,) = await engine.commands([(bucket, ("ZRANGE", tag + name, at, at + _PAGE - 1))])
                    commands: list[tuple[int, Command]] = [
                        (bucket, ("PEXPIRE", tag + kind + key, RUBBISH_MS)) for key in keys for kind in _OF_A_KEY
                    ]
                    await engine.commands(commands)
                    at += len(keys)
                    if len(keys) < _PAGE:
                        break

    def _began(self) -> list[bytes]:
        """The names of what each replica began, and of what waits for each exporter."""
        totals = self._engine.totals
        numbers = [b"f:%d" % number for number in {*self._engine.numbers, *totals.numbers()}]
        return [*numbers, *[b"f:" + lane(exporter) for exporter in totals.backlogs()]]


_LISTS = (b"s", b"w", b"d", b"o", b"z")
_OF_A_KEY = (b"m:", b"p:", b"g:", b"x:", b"l:")
