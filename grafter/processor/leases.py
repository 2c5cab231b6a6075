"""What the process is at work on: its leases are kept, and a store that is away is waited for, and said."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from grafter.core.model import UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.logs import Throttle
from grafter.store.base import Store
from grafter.store.model import Claim, Claims

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_SECONDS_BETWEEN_WARNINGS = 30.0
# What a full store did not take it may take once something has left.
_PUT_OFF = 2 * SECOND


class Leases:
    def __init__(self, store: Store, clock: Callable[[], int], tick_seconds: float) -> None:
        """``tick_seconds``: the shortest time after which something is tried again."""
        self.tick_seconds = tick_seconds
        self._store = store
        self._clock = clock
        self._away = Throttle(_SECONDS_BETWEEN_WARNINGS)
        self._leased: dict[object, Sequence[Claims]] = {}

    @contextmanager
    def leased(self, *owned: Claims) -> Iterator[None]:
        # The same claims may be here twice, when they are sent while others that were claimed with them still wait.
        place = object()
        self._leased[place] = owned
        try:
            yield
        finally:
            del self._leased[place]

    async def renew(self) -> None:
        for claims in {id(claims): claims for owned in self._leased.values() for claims in owned}.values():
            await self._store.renew(claims, UnixNano(self._clock()))

    def store_is_away(self, error: UnavailableError) -> None:
        """Say so, now and then: each tick meets it; the metrics and /readyz say for how long."""
        if self._away.due():
            logger.warning("the store is not available: %s", error)

    async def put_off(self, claim: Claim, error: UnavailableError, now: UnixNano) -> None:
        """Have one claim wait for which the store did not do something: what is due beside it goes on.

        Raises UnavailableError where the store does not take this either; then nothing can go on.
        """
        self.store_is_away(error)
        await self._store.postpone([(claim, UnixNano(now + _PUT_OFF))])

    async def until_settled(self, settle: Callable[[], Awaitable[_T]]) -> _T:
        """What ``settle`` says, asked until the store answers.

        A backend has the spans by then. Left alone they would go out a second time when their lease ends, for nobody
        would know that they came. Raises UnavailableError when the store is stopping: there will be no answer.
        """
        while True:
            try:
                return await settle()
            except UnavailableError as error:
                if error.reason == "stopping":
                    raise
                self.store_is_away(error)
            await asyncio.sleep(self.tick_seconds)
