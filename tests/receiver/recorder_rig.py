"""What tests of recorders are built from: a store that can be waited for, and recorders of a stand-in server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from grafter.core.model import DedupeKey, NamedLink, Part, call_guest
from grafter.core.policy import GraftPolicy
from grafter.core.retry import RetryPolicy
from grafter.guests.realtime.stored_event import StoredEvent, decode
from grafter.receiver.openai_api import Account
from grafter.receiver.recorder import Recorders, recording
from grafter.receiver.recording import Timing
from grafter.telemetry import Metrics
from tests.e2e.realtime_server import KEY, RealtimeServer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
_RETRY = RetryPolicy(initial_interval=0.01, max_interval=0.05, multiplier=2.0)
QUICK = Timing(tick=0.01, store=0.05, retry=_RETRY, accept_retry=_RETRY, steady=0.05)
"""Far shorter than any real wait; nothing here waits for a time, only for what must come."""
POLICY = GraftPolicy()


@dataclass
class Store:
    """A consumer whose notes a test can wait for; raises the next of ``errors`` instead, while there is one."""

    parts: list[Part] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    refused: int = 0
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        async with self.news:
            self.news.notify_all()
            if self.errors:
                self.refused += 1
                raise self.errors.pop(0)
            self.parts += parts

    def stored_events(self, call: str = "rtc_1") -> list[StoredEvent]:
        mine = [part for part in self.parts if part.guest is not None and part.guest.guest == call_guest(call)]
        return [stored for part in mine for stored in decode(part.payload)]

    def types(self, call: str = "rtc_1") -> list[str]:
        return [str(stored.event["type"]) for stored in self.stored_events(call)]

    def ended_by(self, call: str = "rtc_1") -> list[object]:
        return [stored.event["by"] for stored in self.stored_events(call) if stored.event["type"] == "grafter.ended"]

    def at(self, kind: str, call: str = "rtc_1") -> list[int]:
        """When events of this type came."""
        return [stored.at for stored in self.stored_events(call) if stored.event["type"] == kind]

    def end(self, call: str = "rtc_1") -> StoredEvent:
        """The note of its end."""
        (found,) = [stored for stored in self.stored_events(call) if stored.event["type"] == "grafter.ended"]
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self.news:
            await self.news.wait_for(holds)

    async def until_type(self, kind: str, call: str = "rtc_1") -> None:
        await self.until(lambda: kind in self.types(call))

    async def until_ended(self, call: str = "rtc_1") -> object:
        """By what the call has ended."""
        await self.until(lambda: bool(self.ended_by(call)))
        (by,) = self.ended_by(call)
        return by


@asynccontextmanager
async def recorders_of(
    server: RealtimeServer,
    store: Store,
    metrics: Metrics | None = None,
    timing: Timing = QUICK,
    policy: GraftPolicy = POLICY,
    **more: object,
) -> AsyncIterator[Recorders]:
    account = Account(KEY, server.url)
    async with recording(store, metrics or Metrics(), policy, account, timing=timing, **more) as recorders:
        yield recorders


def ends(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("grafter_recorder_ends_total", {"reason": reason}) or 0


def connects(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("grafter_recorder_connects_total", {"outcome": outcome}) or 0


def recorded(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("grafter_recorders")


def items(metrics: Metrics, kind: str) -> float:
    return metrics.registry.get_sample_value("grafter_guest_items_total", {"source": "realtime", "kind": kind}) or 0
