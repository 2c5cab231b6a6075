"""Recorders of Realtime and Live calls: grafter listens to them itself where their app posts nothing.

One task a call reads its sideband (recording.py); one task for all of them looks after time and hands what they heard
to the store (recorder_outbox.py). The rules it keeps: at most one recorder a call; a start is acknowledged only when
the store has what it brings, so that the host trace stays open.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic_ns, time_ns

import aiohttp

from grafter.consumer import Consumer
from grafter.core.lifecycle import sign_of_life_every
from grafter.core.link import from_headers
from grafter.core.model import DedupeKey, NamedLink, Part, Source, called
from grafter.core.policy import SECOND, GraftPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.realtime.event_buffer import EventBuffer, kind_of
from grafter.guests.realtime.stored_event import ALIVE, ENDED, METADATA, SIP, STARTED
from grafter.logs import log_bug
from grafter.receiver.openai_api import Account, ApiAnswer, is_call_id, openai_api, sideband_url
from grafter.receiver.recorder_outbox import Outbox, RecorderLimits
from grafter.receiver.recording import Clock, Connect, End, Recording, Timing
from grafter.tasks import beside, task_group
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

# Of what starts of one call have brought; what was before comes again at the worst, and does no harm.
_MOST_ANNOUNCED = 32
# Of all calls, so that starts of one call meet at one lock and nothing is left of a call that is over.
_STARTS_A_SECOND = 20
_START_LOCKS = 64
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)


class Started(StrEnum):
    STARTED = "started"
    RUNNING = "running"
    """The call is recorded already."""


class NotRecordedError(UnavailableError):
    """There is no recorder for this call, for now at least: no key, or too many calls."""


@dataclass(slots=True, eq=False, repr=False)
class Recorders:
    """The calls that are recorded now. Made by ``recording``."""

    consumer: Consumer
    """Takes what a start brings."""
    outbox: Outbox
    """Takes what recorders hear."""
    metrics: Metrics
    policy: GraftPolicy
    peers: Mapping[str, Connect]
    """By project."""
    tasks: asyncio.TaskGroup
    timing: Timing
    wall: Clock
    steady: Clock
    _live: dict[str, Recording] = field(default_factory=dict)
    _ending: list[Recording] = field(default_factory=list)
    _kinds: Counter[str] = field(default_factory=Counter)
    _starts_left: float = 0.0
    _counted: int = -(1 << 62)
    _starts: Sequence[asyncio.Lock] = field(default_factory=lambda: [asyncio.Lock() for _ in range(_START_LOCKS)])

    def __len__(self) -> int:
        return len(self._live)

    async def start(
        self,
        call_id: str,
        *,
        metadata: Mapping[str, object] | None = None,
        sip_headers: Iterable[tuple[str, str]] = (),
        project: str = "",
    ) -> Started:
        """Record a call, from now until it ends. Returns when the store has what it brings.

        ``metadata`` is the app's own, with ``traceparent`` or a trace id that links the call; of ``sip_headers``, which
        the caller may have written, only what names a trace is read (``from_headers``). ``project``: in whose name; the
        default one's, unless given. A call that is recorded already goes on so, and learns what is new here.

        Raises RejectedError for what is no call id, NotRecordedError without a key (reason ``no_api_key``) and with
        too many recorders (``recorders``), UnavailableError when the store does not take it.
        """
        if not is_call_id(call_id):
            raise RejectedError("call id is not 1 to 256 printable ASCII characters", reason="call_id")
        connect = self.peers.get(project)
        if connect is None:
            name = f"receivers.openai.projects.{project}" if project else "receivers.openai.projects"
            raise NotRecordedError(f"no api_key under {name}", retry_after=60.0, reason="no_api_key")
        events = list(_start_events(metadata, from_headers(sip_headers)))
        # Two starts of one call take turns, so that the second never hears of a recorder whose start then failed.
        async with self._starts[hash(call_id) % _START_LOCKS]:
            return await self._start(call_id, events, connect)

    async def _start(self, call_id: str, events: list[Mapping[str, object]], connect: Connect) -> Started:
        running = self._live.get(call_id)
        if running is not None and running.end is None:
            events = [event for event in events if event not in running.announced]
            if events:
                await self._announce(running, events)
            return Started.RUNNING
        limit = self.outbox.limits.recorders
        if len(self._live) >= limit:
            raise NotRecordedError(f"{limit} calls are recorded already", reason="recorders")
        self._take_start()
        recording = Recording(
            call_id,
            EventBuffer(call_id, self.policy, beside=True),
            connect,
            self.timing,
            self.wall,
            self.steady,
            self._count,
            self.metrics,
            self.tasks,
        )
        await self._announce(recording, [*events, {"type": STARTED}])
        self._live[call_id] = recording
        self.metrics.recorders.inc()
        recording.task = self.tasks.create_task(recording.listen(), name="recorder: call")
        recording.task.add_done_callback(lambda _: self._over(recording))
        return Started.STARTED

    def _take_start(self) -> None:
        """Count a start: each opens a socket in the operator's name, which nobody may ask for at any rate."""
        now = self.steady()
        refilled = self._starts_left + (now - self._counted) / SECOND * _STARTS_A_SECOND
        self._starts_left = min(self.outbox.limits.burst, refilled)
        self._counted = now
        if self._starts_left < 1:
            raise NotRecordedError(f"more than {_STARTS_A_SECOND} recorders a second are asked for", reason="rate")
        self._starts_left -= 1

    def stop(self, call_id: str) -> bool:
        """End the recorder of a call that was said to be over; False when it has none. What it heard is stored some
        time."""
        recording = self._live.get(call_id)
        if recording is None:
            return False
        recording.finish(End.POSTED)
        return True

    def ended_by(self, consumer: Consumer) -> Consumer:
        """A Consumer in front of another: the recorder of a call whose end is stored by it ends too."""
        return _Ending(consumer, self)

    async def tend(self) -> None:
        """Look after all recorders until cancelled."""
        alive_ns = sign_of_life_every(self.policy.waits)
        while True:
            await asyncio.sleep(self.timing.tick)
            now = self.steady()
            try:
                for recording in list(self._live.values()):
                    recording.check(now)
                    if now - recording.stored >= alive_ns and not recording.buffer.pending:
                        recording.buffer.add_own({"type": ALIVE}, recording.now)
                await self._store_beside(now)
            except Exception as error:  # noqa: BLE001  # a bug must not end the recorders, and the receivers beside them
                self.outbox.pause(now, self.timing.bug)
                log_bug(_log, "storing recorded calls failed", error)
            self._publish()

    async def close(self, grace_seconds: float) -> None:
        """End every recorder without an end for its call, and store what they heard within ``grace_seconds``."""
        tasks = [recording.task for recording in self._live.values() if recording.task is not None]
        for recording in list(self._live.values()):
            recording.finish(End.STOPPED)
        if tasks:
            await asyncio.wait(tasks)
        try:
            async with asyncio.timeout(grace_seconds):
                while self._ending:
                    await self._store(self.steady(), everything=True)
                    if self._ending:
                        await asyncio.sleep(self.timing.tick)
        except TimeoutError:
            self.outbox.lose(self._ending, "stopping")
        finally:
            self._publish()

    async def _store_beside(self, now: int) -> None:
        """Store what is due; while the store neither takes nor refuses it, what is heard meanwhile is bounded."""
        async with beside(self._watch(), "recorders: bound"):
            await self._store(now)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.timing.tick)
            self.outbox.put_aside(self._live.values(), self.steady())

    async def _store(self, now: int, *, everything: bool = False) -> None:
        await self.outbox.store([*self._ending, *self._live.values()], now, everything=everything)
        self._ending = self.outbox.left(self._ending, now)

    def _over(self, recording: Recording) -> None:
        end = recording.end or End.STOPPED
        if end.ended_by is not None:
            more: dict[str, object] = {"recorder": True}
            if not recording.end_timed:
                more["untimed"] = True
            deaf = recording.deaf_until
            if deaf is not None:
                more["deaf_until"] = deaf
            recording.buffer.add_own({"type": ENDED, "by": end.ended_by, **more}, recording.now)
        if self._live.get(recording.call_id) is recording:
            del self._live[recording.call_id]
        self._ending.append(recording)
        self.metrics.recorders.dec()
        self.metrics.recorder_ends.labels(end.value).inc()

    async def _announce(self, recording: Recording, events: list[Mapping[str, object]]) -> None:
        """Add what a start brought, and return when the store has it."""
        for event in events:
            # By the recording's own buffer, for what links its first part links all that follow.
            recording.buffer.add_own(event, recording.now)
        self.outbox.take(recording, self.steady())
        parts = list(recording.parts)
        try:
            await self.consumer.consume(parts)
        except BaseException:
            if self._live.get(recording.call_id) is not recording:
                self.outbox.forget(recording, parts)
            raise
        recording.announced = [*recording.announced, *events][-_MOST_ANNOUNCED:]
        recording.stored = self.steady()
        self.outbox.forget(recording, parts)

    def _count(self, name: str) -> None:
        self._kinds[kind_of(name)] += 1

    def _publish(self) -> None:
        # Once a tick, for a labelled counter costs more than all else that is done for an audio delta.
        for kind, count in self._kinds.items():
            self.metrics.guest_items.labels(Source.REALTIME.value, kind).inc(count)
        self._kinds.clear()


class _Ending(Consumer):
    def __init__(self, consumer: Consumer, recorders: Recorders) -> None:
        self._consumer = consumer
        self._recorders = recorders

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        await self._consumer.consume(parts, dedupe_keys, links)
        for part in parts:
            if part.guest is not None and part.guest.ended:
                self._recorders.stop(called(part.guest.guest))


def _start_events(metadata: Mapping[str, object] | None, traceparent: str | None) -> Iterable[Mapping[str, object]]:
    if metadata:
        yield {"type": METADATA, "origin": "start", "metadata": dict(metadata)}
    if traceparent is not None:
        yield {"type": SIP, "traceparent": traceparent}


@asynccontextmanager
async def recording(
    consumer: Consumer,
    metrics: Metrics,
    policy: GraftPolicy,
    account: Account | None,
    *,
    projects: Mapping[str, Account] | None = None,
    storing: Consumer | None = None,
    timing: Timing | None = None,
    steady: Callable[[], int] = monotonic_ns,
    limits: RecorderLimits | None = None,
    grace_seconds: float = 5.0,
) -> AsyncIterator[Recorders]:
    """Recorders while the context is open; without an ``account``, or one of ``projects``, none can be started.

    ``account`` is the default one, ``projects`` has those that a start may name.
    ``consumer`` takes what a start brings, ``storing`` (the same, unless given) what recorders hear: also while the
    context is left, when new input is refused already. On leaving, calls are no longer listened to, which is no end
    of theirs, and what was heard is stored within ``grace_seconds``.
    """
    async with AsyncExitStack() as stack:
        # An account that two names stand for, as the default one's usually do, needs one set of connections.
        opened: dict[Account, Connect] = {}
        peers: dict[str, Connect] = {}
        for name, one in {**(projects or {}), **({} if account is None else {"": account})}.items():
            if one not in opened:
                opened[one] = await stack.enter_async_context(_sideband(one))
            peers[name] = opened[one]
        tasks = await stack.enter_async_context(task_group())
        timing = timing or Timing()
        outbox = Outbox(storing or consumer, metrics, timing, limits or RecorderLimits())
        recorders = Recorders(consumer, outbox, metrics, policy, peers, tasks, timing, time_ns, steady)
        tending = tasks.create_task(recorders.tend(), name="recorders")
        try:
            yield recorders
        finally:
            tending.cancel()
            await asyncio.wait([tending])
            await recorders.close(grace_seconds)


@asynccontextmanager
async def _sideband(account: Account) -> AsyncIterator[Connect]:
    async with openai_api(account.base_url, account.headers, timeout=_TIMEOUT, connections=0) as api:

        async def connect(call_id: str) -> ApiAnswer:
            return await api.connect(sideband_url(account.base_url, call_id))

        yield connect
