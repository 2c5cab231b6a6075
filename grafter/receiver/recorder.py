"""Recorders of Realtime and Live calls: grafter's own ear on calls whose app posts nothing.

One task a call reads its sideband (recording.py); one task for all of them looks after time and hands what they heard
to the store. The rules it keeps: at most one recorder a call; a start is acknowledged only when the store has its head,
so that the host trace stays open; what may end a turn is stored within a fraction of a second, everything else within
seconds; while the store does not take it, it is kept, within bounds, and tried again.
"""

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from time import monotonic_ns, time_ns

from grafter.consumer import Consumer
from grafter.core.link import from_headers
from grafter.core.model import Mark, Part, Source, called
from grafter.core.policy import GraftPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.realtime.event_buffer import Gathering, kind_of
from grafter.guests.realtime.stored_event import ALIVE, ENDED, METADATA, SIP, STARTED
from grafter.receiver.recording import SECOND, Clock, End, Recording, Timing
from grafter.receiver.sideband import Account, Attempt, Sideband, is_call_id, sideband
from grafter.tasks import task_group
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

_MAX_RECORDERS = 5_000
# Of all calls together, while the store does not take it. An event is about 300 bytes as it is kept, so this is an
# hour of some hundred calls, or minutes of thousands.
_MAX_WAITING_BYTES = 64 << 20
# A call's notes are put aside as a part at this count while the store does not take parts, to know their size.
_MAX_PENDING = 500
# Of what starts of one call have said; what was said before comes again at the worst, and does no harm.
_MOST_TOLD = 32
# As much as one append should hold.
_BATCH_PARTS = 256
_BATCH_BYTES = 4 << 20
# Of all calls, so that starts of one call meet at one lock and nothing is left of a call that is over.
_START_LOCKS = 64
_SECONDS_BETWEEN_WARNINGS = 60.0
_SECONDS_AFTER_A_BUG = 5.0


class Started(StrEnum):
    """What a start found."""

    STARTED = "started"
    RUNNING = "running"
    """The call is recorded already."""


class Recorders:
    """The calls that are recorded now. Made by ``recording``."""

    def __init__(
        self,
        consumer: Consumer,
        storing: Consumer,
        metrics: Metrics,
        policy: GraftPolicy,
        peers: Mapping[str, Sideband],
        tasks: asyncio.TaskGroup,
        timing: Timing,
        wall: Clock,
        steady: Clock,
        limit: int,
    ) -> None:
        self._consumer = consumer
        self._storing = storing
        self._metrics = metrics
        self._policy = policy
        self._peers = peers
        self._tasks = tasks
        self._timing = timing
        self._wall = wall
        self._steady = steady
        self._limit = limit
        self._live: dict[str, Recording] = {}
        self._starts = tuple(asyncio.Lock() for _ in range(_START_LOCKS))
        self._ending: list[Recording] = []
        self._kinds: Counter[str] = Counter()
        self._waiting_bytes = 0
        self._try_after = 0
        self._say_after = 0
        # A third of what the lifecycle waits for a silent trace: a lost note does not end it.
        self._alive_ns = policy.waits.idle // 3

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
        """Record a call, from now until it ends. Returns when the store has what was said of it.

        ``metadata`` is the app's own, with ``traceparent`` or a trace id that links the call; of ``sip_headers``, which
        the caller may have written, only what names a trace is read (``from_headers``). ``project``: in whose name; the
        default one's, unless given. A call that is recorded already goes on so, and learns what is new here.

        Raises RejectedError for what is no call id, UnavailableError without a key (reason ``no_api_key``), with too
        many recorders (``recorders``), and when the store does not take it.
        """
        if not is_call_id(call_id):
            raise RejectedError("call id is not 1 to 256 printable ASCII characters", reason="call_id")
        peer = self._peers.get(project)
        if peer is None:
            name = f"receivers.openai.projects.{project}" if project else "receivers.openai.projects"
            raise UnavailableError(f"no api_key under {name}", retry_after=60.0, reason="no_api_key")
        said = list(_said(metadata, from_headers(sip_headers)))
        # Two starts of one call take turns, so that the second is never told of a recorder whose start then failed.
        async with self._starts[hash(call_id) % _START_LOCKS]:
            return await self._start(call_id, said, peer)

    async def _start(self, call_id: str, said: list[Mapping[str, object]], peer: Sideband) -> Started:
        running = self._live.get(call_id)
        if running is not None and running.end is None:
            said = [event for event in said if event not in running.told]
            if said:
                await self._tell(running, said)
            return Started.RUNNING
        if len(self._live) >= self._limit:
            raise UnavailableError(f"{self._limit} calls are recorded already", reason="recorders")
        recording = Recording(
            call_id,
            Gathering(call_id, self._policy, beside=True),
            peer,
            self._timing,
            self._wall,
            self._steady,
            self._count,
            self._attempted,
            lambda work: self._spawn(work, "recorder: frame"),
        )
        await self._tell(recording, [*said, {"type": STARTED}])
        self._live[call_id] = recording
        self._metrics.recorders.inc()
        recording.task = self._tasks.create_task(recording.listen(), name="recorder: call")
        recording.task.add_done_callback(lambda _: self._over(recording))
        return Started.STARTED

    def stop(self, call_id: str, end: End = End.POSTED) -> bool:
        """End a call's recorder; False when it has none. What it has heard is stored, some time."""
        recording = self._live.get(call_id)
        if recording is None:
            return False
        recording.finish(end)
        return True

    def ended_by(self, consumer: Consumer) -> Consumer:
        """A Consumer in front of another: the recorder of a call whose end is stored by it ends too."""
        return _Ending(consumer, self)

    async def tend(self) -> None:
        """Look after all recorders until cancelled."""
        while True:
            await asyncio.sleep(self._timing.tick)
            now = self._steady()
            try:
                for recording in list(self._live.values()):
                    recording.look(now)
                    if now - recording.stored >= self._alive_ns and not recording.gathering.pending:
                        recording.gathering.say({"type": ALIVE}, recording.now)
                await self._store_beside(now)
            except Exception as error:  # noqa: BLE001  # a bug must not end the recorders, and the doors beside them
                self._try_after = now + int(_SECONDS_AFTER_A_BUG * SECOND)
                where = "".join(traceback.format_tb(error.__traceback__))
                _log.error("storing recorded calls failed", extra={"error": type(error).__name__, "where": where})
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
                    await self.store(self._steady(), everything=True)
                    if self._ending:
                        await asyncio.sleep(self._timing.tick)
        except TimeoutError:
            for recording in self._ending:
                self._lost(recording, "stopping")
        finally:
            self._publish()

    async def _store_beside(self, now: int) -> None:
        """``store``; a store that neither takes nor refuses must not let what is heard meanwhile grow without end."""
        async with task_group() as beside:
            watching = beside.create_task(self._watch(), name="recorders: bound")
            try:
                await self.store(now)
            finally:
                watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._timing.tick)
            for recording in self._live.values():
                self._put_aside(recording, self._steady())

    async def store(self, now: int, *, everything: bool = False) -> None:
        """Hand on what is due. Never raises for what the store does."""
        if now < self._try_after and not everything:
            for recording in self._live.values():
                self._put_aside(recording, now)
            return
        batch: list[tuple[Recording, Part]] = []
        size = 0
        for recording in [*self._ending, *self._live.values()]:
            if recording.parts and not everything:
                # It was refused before; first that.
                self._put_aside(recording, now)
            elif everything or self._is_due(recording, now):
                self._take(recording, now)
            for part in list(recording.parts):
                batch.append((recording, part))
                size += len(part.payload)
                if len(batch) >= _BATCH_PARTS or size >= _BATCH_BYTES:
                    await self._hand_on(batch, now)
                    batch, size = [], 0
        await self._hand_on(batch, now)
        self._settle(now)

    async def _hand_on(self, batch: list[tuple[Recording, Part]], now: int) -> None:
        if not batch:
            return
        try:
            await self._storing.consume([part for _, part in batch])
        except UnavailableError as error:
            self._try_after = now + int(max(error.retry_after, self._timing.tick) * SECOND)
            return
        except RejectedError as error:
            if len(batch) > 1:
                # One of them is refused; which one, only each alone can say.
                for one in batch:
                    await self._hand_on([one], now)
                return
            recording, part = batch[0]
            _log.error("the store refused events of a call", extra={"call": recording.call_id, "reason": error.reason})
            self._metrics.recorder_lost_events.labels("refused").inc()
            self._forget(recording, part)
            return
        for recording, part in batch:
            recording.stored = now
            self._forget(recording, part)

    def _is_due(self, recording: Recording, now: int) -> bool:
        gathering = recording.gathering
        if not gathering.pending:
            return False
        late = now - recording.taken >= self._timing.store * SECOND
        return late or gathering.urgent or recording.end is not None

    def _take(self, recording: Recording, now: int) -> None:
        part = recording.gathering.take()
        recording.taken = now
        if part is not None:
            recording.parts.append(part)
            self._waiting_bytes += len(part.payload)

    def _forget(self, recording: Recording, part: Part) -> None:
        for at, one in enumerate(recording.parts):
            if one is part:
                del recording.parts[at]
                self._waiting_bytes -= len(part.payload)
                return

    def _put_aside(self, recording: Recording, now: int) -> None:
        """While the store does not take parts: keep what fits. The oldest is kept, for it has the call's head."""
        gathering = recording.gathering
        if gathering.pending < _MAX_PENDING:
            return
        if self._waiting_bytes < _MAX_WAITING_BYTES:
            self._take(recording, now)
            return
        count = gathering.pending
        gathering.take()
        self._metrics.recorder_lost_events.labels("unavailable").inc(count)
        if now >= self._say_after:
            self._say_after = now + int(_SECONDS_BETWEEN_WARNINGS * SECOND)
            _log.error("recorded calls lose events: the store does not take them", extra={"events": count})

    def _settle(self, now: int) -> None:
        """Let go of what has ended and is stored, or will never be."""
        kept = []
        for recording in self._ending:
            if recording.parts or recording.gathering.pending:
                if now - recording.stored < self._timing.outage * SECOND:
                    kept.append(recording)
                else:
                    self._lost(recording, "unavailable")
        self._ending = kept

    def _lost(self, recording: Recording, reason: str) -> None:
        count = len(recording.parts) + recording.gathering.pending
        self._metrics.recorder_lost_events.labels(reason).inc(count)
        _log.error("the end of a recorded call is lost", extra={"call": recording.call_id, "reason": reason})
        for part in list(recording.parts):
            self._forget(recording, part)

    def _over(self, recording: Recording) -> None:
        """A recording's task has ended."""
        end = recording.end or End.STOPPED
        if end.ended_by is not None:
            recording.gathering.say({"type": ENDED, "by": end.ended_by}, recording.now)
        if self._live.get(recording.call_id) is recording:
            del self._live[recording.call_id]
        self._ending.append(recording)
        self._metrics.recorders.dec()
        self._metrics.recorder_ends.labels(end.value).inc()

    async def _tell(self, recording: Recording, said: list[Mapping[str, object]]) -> None:
        """Add what a start said, and return when the store has it."""
        for event in said:
            # By the recording's own gathering, for what links the head links all that follows.
            recording.gathering.say(event, recording.now)
        self._take(recording, self._steady())
        parts = list(recording.parts)
        try:
            await self._consumer.consume(parts)
        except BaseException:
            if self._live.get(recording.call_id) is not recording:
                self._waiting_bytes -= sum(len(part.payload) for part in recording.parts)
            raise
        recording.told = [*recording.told, *said][-_MOST_TOLD:]
        recording.stored = self._steady()
        for part in parts:
            self._forget(recording, part)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.create_task(work, name=name)

    def _count(self, name: str) -> None:
        self._kinds[kind_of(name)] += 1

    def _attempted(self, attempt: Attempt) -> None:
        self._metrics.recorder_connects.labels(attempt.value).inc()

    def _publish(self) -> None:
        # Once a tick, for a labelled counter costs more than all else that is done for an audio delta.
        for kind, count in self._kinds.items():
            self._metrics.guest_items.labels(Source.REALTIME.value, kind).inc(count)
        self._kinds.clear()


class _Ending(Consumer):
    def __init__(self, consumer: Consumer, recorders: Recorders) -> None:
        self._consumer = consumer
        self._recorders = recorders

    async def consume(self, parts: Sequence[Part], marks: Sequence[Mark] = ()) -> None:
        await self._consumer.consume(parts, marks)
        for part in parts:
            if part.guest is not None and part.guest.ended:
                self._recorders.stop(called(part.guest.guest))


def _said(metadata: Mapping[str, object] | None, traceparent: str | None) -> Iterable[Mapping[str, object]]:
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
    wall: Callable[[], int] = time_ns,
    steady: Callable[[], int] = monotonic_ns,
    limit: int = _MAX_RECORDERS,
    grace_seconds: float = 5.0,
) -> AsyncIterator[Recorders]:
    """Recorders while the context is open; without an ``account``, or one of ``projects``, none can be started.

    ``account`` is the default one, ``projects`` has those that a start may name.
    ``consumer`` takes the head of a start, ``storing`` (the same, unless given) what recorders hear: also while the
    context is left, when new input is refused already. On leaving, calls are no longer listened to, which is no end
    of theirs, and what was heard is stored within ``grace_seconds``.
    """
    async with AsyncExitStack() as stack:
        # An account that two names stand for, as the default one's usually do, needs one set of connections.
        opened: dict[Account, Sideband] = {}
        peers: dict[str, Sideband] = {}
        for name, one in {**(projects or {}), **({} if account is None else {"": account})}.items():
            if one not in opened:
                opened[one] = await stack.enter_async_context(sideband(one))
            peers[name] = opened[one]
        tasks = await stack.enter_async_context(task_group())
        recorders = Recorders(
            consumer, storing or consumer, metrics, policy, peers, tasks, timing or Timing(), wall, steady, limit
        )
        tending = tasks.create_task(recorders.tend(), name="recorders")
        try:
            yield recorders
        finally:
            tending.cancel()
            await asyncio.wait([tending])
            await recorders.close(grace_seconds)
