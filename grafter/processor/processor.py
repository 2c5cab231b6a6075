"""The driver of the core: what is due is claimed, decided, assembled, handed on and settled.

Everything after a claim may happen twice (a process dies, a lease ends), so everything after a claim gives the same
result for the same input. An exporter's intent is stored before bytes leave and its outcome after, so that only what
has an unknown outcome is ever sent again.

The order here is the order of a trace's life: ``consume``, ``_round``, ``_decide``, ``_release``, which has it
assembled; then it is the delivery's, which exports and settles. A plain batch goes the same way as one claim about
which nothing is left to decide; its members are told apart when an exporter does not take all of it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

from grafter.consumer import Exporter
from grafter.core.explain import lasting, waits
from grafter.core.lifecycle import Decision, Release, ReleaseReason, Wait, awaited, step_host
from grafter.core.model import DedupeKey, Key, NamedLink, Part, UnixNano, is_guest_key
from grafter.core.policy import SECOND, GraftPolicy
from grafter.errors import UnavailableError
from grafter.guests.sources import RULES
from grafter.processor.assembling import Assembler
from grafter.processor.call_records import CallRecords
from grafter.processor.delivery import FINAL, Delivery
from grafter.processor.guest_keys import Found, GuestKeys
from grafter.processor.lanes import Lane, Limits, Place
from grafter.processor.linking import Linking
from grafter.processor.releasing import Due, Releases, export_begun, in_slices
from grafter.processor.rules import RuleMoves, Target
from grafter.store.base import Store
from grafter.store.model import Claim, PlainBatch, PlainLimits
from grafter.tasks import beside, task_group
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

# One claim is one pass over the due keys; more than a few hundred at a time would hold the loop for too long.
_CLAIM_LIMIT = 400
# The same for plain traces, of which little is done for each.
_PLAIN_TRACES = 1000


class Processor:
    """A Consumer for the receivers; the tick runs inside ``running``."""

    def __init__(
        self,
        store: Store,
        exporters: Sequence[Exporter],
        policy: GraftPolicy,
        assembler: Assembler,
        metrics: Metrics,
        clock: Callable[[], int],
        limits: Limits,
        calls: CallRecords | None = None,
    ) -> None:
        """``calls``: writes down what is of a call; None: nobody does."""
        self._store = store
        self._policy = policy
        self._clock = clock
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.in_flight)
        self._sends: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._delivery = Delivery(store, exporters, metrics, clock, limits, calls)
        self._linking = Linking(store, policy.waits.remember)
        self._guest_keys = GuestKeys(store, policy, assembler, self._linking, self._delivery.leases)
        self._moves = RuleMoves(store, policy, self._linking)
        self._releases = Releases(store, policy, assembler, self._guest_keys, self._delivery, limits)
        self._plain: PlainLimits | None = None
        if assembler.takes_plain:
            self._plain = PlainLimits(_PLAIN_TRACES, limits.batch_spans, limits.batch_bytes)

    @property
    def memory_bytes(self) -> int:
        """About what the batches on their way hold."""
        return len(self._sends) * self._limits.batch_bytes

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        """Store the parts of one request; see Consumer."""
        now = UnixNano(self._clock())
        new = await self._linking.note(links, now) if links else ()
        # Guests come last: a request of spans shows by its last part that it has none.
        if parts and parts[-1].guest is not None:
            parts = await self._linking.linked(parts, now)
        await self._store.append(parts, now, dedupe_keys)
        if new:
            await self._linking.wake(new, now)

    @asynccontextmanager
    async def running(self, grace_seconds: float = 30.0) -> AsyncIterator[Self]:
        """Tick until left; leaving waits up to the grace for what is on its way and keeps what is held."""
        # Leaving ``sends`` waits for the batches that are on their way; their leases must not end meanwhile.
        async with beside(self._renew(), "processor.renew"), task_group() as sends:
            tick = sends.create_task(self._tick(sends), name="processor.tick")
            try:
                yield self
            finally:
                self._stopping.set()
                asyncio.get_running_loop().call_later(grace_seconds, self._give_up, tick)

    def _give_up(self, tick: asyncio.Task[None]) -> None:
        """Cut off what is still on its way: its outcome is unknown and it goes out again after the next start."""
        for task in self._sends:
            task.cancel()
        # It may wait for a store that is away.
        tick.cancel()

    async def _tick(self, tasks: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            try:
                busy = await self._round(tasks) >= _CLAIM_LIMIT
            except UnavailableError as error:
                self._delivery.leases.store_is_away(error)
                busy = False
            except Exception:
                # A bug in one round must not stop all traces for ever; what was claimed is due again by its lease.
                logger.exception("a round of the processor failed")
                busy = False
            if not busy:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.tick_seconds):
                        await self._stopping.wait()

    async def _renew(self) -> None:
        """Keep the leases of what is still on its way."""
        while True:
            await asyncio.sleep(self._limits.lease_seconds / 3)
            try:
                await self._delivery.leases.renew()
            except UnavailableError as error:
                # Whoever takes them over meanwhile sends them marked; until then they are still owned.
                self._delivery.leases.store_is_away(error)

    async def drain(self) -> None:
        """Release all that is due by the clock's present moment; returns when it has left.

        For a caller that turns the clock itself, instead of ``running``.
        """
        claimed = 1
        while claimed:
            async with task_group() as sends:
                claimed = await self._round(sends)

    async def _round(self, tasks: asyncio.TaskGroup) -> int:
        """Claim what is due and see it on its way; how many claims those were, _CLAIM_LIMIT when more is due."""
        if self._delivery.down_for(self._delivery.lanes) > 0:
            return 0
        now = UnixNano(self._clock())
        taken_up = await self._take_up_backlogs(tasks, now)
        claims = await self._store.claim(now, _CLAIM_LIMIT, self._plain)
        plain = [one for one in claims if isinstance(one, PlainBatch)]
        others = [one for one in claims if isinstance(one, Claim) and not one.waits_for]
        if len(plain) + len(others) < len(claims):
            # Those on which an earlier process ended come like this.
            for one in claims:
                if isinstance(one, Claim) and one.waits_for:
                    self._resume(tasks, self._delivery.lanes.of(one.waits_for), [one])
        # Some take longer to read and join than a lease lasts, and the others wait for them.
        with self._delivery.leases.leased(*plain, others):
            # First what needs no decision: one that fails must not hold it up.
            for batch in plain:
                await self._release(tasks, batch, now)
            if any(one.deaths for one in others):
                others = await self._delivery.quarantine.deadly(others, now)
            for due in in_slices(await self._decide(others, now)):
                await self._release(tasks, due, now)
        return _CLAIM_LIMIT if any(map(self._is_large, plain)) else len(claims) + taken_up

    async def _take_up_backlogs(self, tasks: asyncio.TaskGroup, now: UnixNano) -> int:
        """See on its way what waits for one exporter alone, as far as that takes it; how many batches."""
        taken_up = 0
        for lane in self._delivery.lanes:
            sends = await self._delivery.deferring.take_up(lane, now)
            for claims in sends:
                self._resume(tasks, lane, claims)
            taken_up += len(sends)
        return taken_up

    def _resume(self, tasks: asyncio.TaskGroup, lane: Lane | None, claims: Sequence[Claim]) -> None:
        task = tasks.create_task(self._delivery.deferring.send(lane, claims), name="processor.resume")
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        if lane is not None:
            # From now on: this round, or the next, may ask for the lane's places before the task begins.
            task.add_done_callback(lane.take(backlog=True).leave)

    async def _release(self, tasks: asyncio.TaskGroup, some: Sequence[Due] | PlainBatch, now: UnixNano) -> None:
        """Assemble these, and see them on their way as soon as there is a place.

        What is not yet begun at a stop is as it was before, and due again at the next start.
        """
        if self._stopping.is_set():
            return
        for released in await self._releases.assemble(some, now):
            await self._slots.acquire()
            if self._stopping.is_set():
                self._slots.release()
                return
            place = Place(self._slots.release)
            task = tasks.create_task(self._delivery.send(released, place), name="processor.send")
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)
            # Also of one that was cancelled before its first step.
            task.add_done_callback(place.leave)

    def _is_large(self, batch: PlainBatch) -> bool:
        """It is near one of its limits, or ends before what is large, so that more may be due.

        After one that has all there was, what comes due leaves together at the next tick: looking is not free.
        """
        limits, traces = self._plain, len(batch.keys)
        assert limits is not None
        return (
            batch.more
            or 2 * batch.spans >= limits.spans
            or 2 * batch.size >= limits.size
            or 2 * traces >= limits.traces
        )

    async def _decide(self, claims: Sequence[Claim], now: UnixNano) -> list[Due]:
        """The claims that are to be released now; the others are given back with their next moment."""
        decided: list[tuple[Claim, Decision, Found | None]] = []
        guests: list[Claim] = []
        targets: dict[Key, Target | None] = {}
        for claim in claims:
            begun = self._again(claim, now) if export_begun(claim) else None
            if self._moves.concerns(claim):
                decision, targets[claim.key] = await self._moves.decide(claim, now, begun)
                decided.append((claim, decision, None))
            elif begun is not None:
                decided.append((claim, begun, None))
            elif is_guest_key(claim.key):
                guests.append(claim)
            else:
                decided.append((claim, step_host(claim.state, now, self._policy, RULES), None))
        if guests:
            decided += await self._guest_keys.decide(guests, now)
        later = [(claim, decision.until) for claim, decision, _ in decided if isinstance(decision, Wait)]
        if later:
            await self._store.postpone(later)
        if logger.isEnabledFor(logging.DEBUG):
            self._log(decided, now)
        return [
            Due(claim, each.reason, each.due, found, targets.get(claim.key))
            for claim, each, found in decided
            if isinstance(each, Release)
        ]

    def _log(self, decided: Sequence[tuple[Claim, Decision, Found | None]], now: UnixNano) -> None:
        """A line a hold and a release, for whoever follows one trace."""
        for claim, decision, _ in decided:
            if isinstance(decision, Wait):
                waiting = waits(awaited(claim.state, RULES))
                logger.debug("%s is held for %s: %s", claim.key.hex(), lasting(decision.until - now), waiting)
            else:
                logger.debug("%s leaves: %s", claim.key.hex(), decision.reason)

    def _again(self, claim: Claim, now: UnixNano) -> Decision:
        """Of a claim whose export was begun: its parts are those of the first attempt, so what came since must not
        change the answer."""
        waiting = self._delivery.down_for(self._delivery.pending(claim))
        # What somebody has taken leaves all the same, and is put off for the others.
        if waiting > 0 and FINAL.isdisjoint(claim.outcomes.values()):
            return Wait(UnixNano(now + int(waiting * SECOND)))
        return Release(self._delivery.begun.get(claim.key, ReleaseReason.COMPLETE))
