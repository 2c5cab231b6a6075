"""Notifying others of calls: whoever follows them takes up what waits in the outbox, at its own pace.

Nothing here is on the way of a span or of the calls' own database. A follower that is away is asked again by the one
backoff, for as long as the calls are kept.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from grafter.calls.model import CallRow
from grafter.core.policy import SECOND
from grafter.core.retry import RetryPolicy
from grafter.errors import UnavailableError
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

_LEASE = 60 * SECOND
_BATCH = 50
_POLL_SECONDS = 2.0
_RETRY = RetryPolicy(initial_interval=1.0, max_interval=30.0)


@dataclass(frozen=True, slots=True)
class Due:
    """A call of which a follower is to be notified."""

    call: str
    """A key that it had."""
    at: int
    """When it changed last."""
    change: int
    failures: int
    until: int
    """When the lease ends under which it was claimed; from then on somebody else may notify of it."""


class NotifyOutcome(StrEnum):
    """What came of notifying a follower of one call. The value is a metric label."""

    TAKEN = "taken"
    FAILED = "failed"
    """It is tried again."""
    REFUSED = "refused"
    """It would be refused again, and is not tried any more until the call changes."""


@dataclass(frozen=True, slots=True)
class Notified:
    outcome: NotifyOutcome
    reason: str = ""
    """For a log and ``/readyz``."""
    wait: float = 0.0
    """Seconds that the other side asks for."""


class Follower(Protocol):
    """Somebody who is notified of calls."""

    @property
    def name(self) -> str:
        """By which its part of the outbox is known, up to 64 characters."""
        ...

    @property
    def title(self) -> str:
        """For people."""
        ...

    @property
    def kind(self) -> str:
        """A metric label."""
        ...

    @property
    def everything(self) -> bool:
        """False: only calls of which a trace has left."""
        ...

    async def notify(self, some: Sequence[tuple[Due, CallRow]]) -> Sequence[Notified]:
        """Notify of each, within its lease. Raises UnavailableError where that could be done of none."""
        ...


class Outbox(Protocol):
    """What waits for a follower; both raise UnavailableError."""

    async def claim(self, follower: str, lease: int, limit: int) -> Sequence[tuple[Due, CallRow | None]]: ...

    async def settle(self, follower: str, done: Sequence[Due], later: Sequence[tuple[Due, int]]) -> None:
        """What became of it. Of what somebody else has claimed since the follower is notified once more: nobody knows
        who did it last."""
        ...


class Following:
    """One follower, kept up to date."""

    def __init__(self, follower: Follower, outbox: Outbox, metrics: Metrics, clock: Callable[[], int]) -> None:
        self.follower = follower
        self.error = ""
        """Why it cannot be notified now; empty while all is well."""
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._wake = asyncio.Event()
        self._failures = 0

    def wake(self) -> None:
        self._wake.set()

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Notify of what comes, until cancelled."""
        while True:
            self._wake.clear()
            try:
                taken = await self.once()
            except UnavailableError as error:
                # The calls' own database; it reports that itself.
                logger.debug("%s", error)
                taken = 0
            except Exception:
                logger.exception("%s could not be notified of calls; it is tried again", self.follower.title)
                self._failures += 1
                taken = 0
            if self._failures:
                await sleep(_RETRY.wait(self._failures, random.random()))
            elif not taken:
                try:
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def once(self) -> int:
        """Notify of what is due now; how many calls that were. Raises UnavailableError where the outbox is away."""
        name = self.follower.name
        claimed = await self._outbox.claim(name, _LEASE, _BATCH)
        if not claimed:
            return 0
        by_call: dict[str, tuple[Due, CallRow]] = {row.key: (due, row) for due, row in claimed if row is not None}
        try:
            answers = await self.follower.notify(list(by_call.values()))
        except UnavailableError as error:
            answers = [Notified(NotifyOutcome.FAILED, str(error), error.retry_after)] * len(by_call)
        by_key = dict(zip(by_call, answers, strict=True))
        done, later = [], []
        for due, row in claimed:
            answer = None if row is None else by_key[row.key]
            if answer is not None and answer.outcome is NotifyOutcome.FAILED:
                wait = _RETRY.wait(due.failures + 1, random.random(), answer.wait)
                later.append((due, self._clock() + round(wait * SECOND)))
            else:
                done.append(due)
        self._count(answers)
        await self._outbox.settle(name, done, later)
        return len(claimed)

    def _count(self, answers: Sequence[Notified]) -> None:
        for answer in answers:
            self._metrics.followed_calls.labels(self.follower.kind, answer.outcome.value).inc()
        if refused := [answer for answer in answers if answer.outcome is NotifyOutcome.REFUSED]:
            details = {"calls": len(refused), "reason": refused[0].reason}
            logger.warning("%s refuses calls", self.follower.title, extra=details)
        failed = [answer for answer in answers if answer.outcome is NotifyOutcome.FAILED]
        if len(failed) < len(answers) or not answers:
            if self.error:
                logger.info("%s can be notified of calls again", self.follower.title)
            self._failures, self.error = 0, ""
            return
        self._failures += 1
        if failed[0].reason != self.error:
            logger.warning("%s cannot be notified of calls: %s", self.follower.title, failed[0].reason)
        self.error = failed[0].reason
