"""The endpoint for webhooks: signed events of OpenAI's, and of gateways that pass traces on in the same manner.

The rules it keeps: nothing unsigned is read; 200 means that what the delivery asks for is stored; whatever takes long
happens after the answer, which comes within a second of the body; a delivery that comes again, as it does for up to 72
hours, has no effect. An odd delivery is answered with a 4xx and a reason, for it will not get better; one that cannot
be stored now with 503, for the sender tries again by itself.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from grafter.calls.base import CallMap, of_note
from grafter.calls.ids import call_id
from grafter.consumer import Consumer
from grafter.core.calls import CallNote
from grafter.core.model import DedupeKey, Part, Source, UnixNano
from grafter.core.policy import HOUR, GraftPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.agents.intake import Intake, read_items
from grafter.guests.realtime.event_buffer import EventBuffer
from grafter.guests.realtime.stored_event import SIP
from grafter.guests.webhooks import Delivery, IncomingCall, JunkError, read_delivery
from grafter.receiver.compression import content_encoding
from grafter.receiver.http_body import read_json_body
from grafter.receiver.outcomes import OPENAI, Answered, NotFoundError, Outcome, UnsupportedError, openai_endpoint
from grafter.receiver.recorder import NotRecordedError, Recorders
from grafter.receiver.sessions import PullRequests
from grafter.receiver.signatures import Signatures, Signed
from grafter.store.base import Store
from grafter.tasks import in_thread_if
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

TRANSPORT = "webhook"

# A sender may join base and path with one slash, two, or one behind.
_PATH = "/{path:/*webhooks/+openai/*}"

# OpenAI delivers for up to 72 hours; the rest is for a sender whose clock or schedule is not that exact. What is
# signed for longer, from a clock that is ahead to one that is behind, is known for longer.
_REMEMBER_NS = 96 * HOUR
# Reading a body of this size takes some milliseconds, all of which the event loop would stand still.
_THREAD_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class WebhookSinks:
    consumer: Consumer
    store: Store
    """For what was delivered before, and for what is known of calls."""
    recorders: Recorders | None = None
    """Starts a recorder for each call that comes in; None: none is started."""
    pulls: PullRequests | None = None
    """None: sessions are not pulled."""
    calls: CallMap | None = None
    """None: nobody keeps calls."""


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """What a delivery may take; seconds."""

    body_bytes: int = 16 << 20
    body_seconds: float = 10.0
    store_seconds: float = 0.9
    """Between a body that is read and an answer; past it the sender is asked to come again."""
    late: int = 100
    """Deliveries that are stored after their answer, at a time."""


def webhook_routes(
    sinks: WebhookSinks,
    signatures: Signatures,
    metrics: Metrics,
    policy: GraftPolicy,
    clock: Callable[[], int],
    *,
    limits: WebhookLimits | None = None,
) -> list[web.RouteDef]:
    """The route of webhooks: POST to ``/webhooks/openai``.

    200 once the delivery is stored, and for one that came before or asks nothing; without a secret 404, always.
    ``clock`` gives Unix nanoseconds. A body is taken as it was signed: uncompressed.
    """
    webhooks = _Webhooks(sinks, signatures, metrics, policy, clock, limits or WebhookLimits())
    return [web.post(_PATH, openai_endpoint(webhooks.handle, metrics, TRANSPORT))]


@dataclass(slots=True, eq=False, repr=False)
class _Webhooks:
    sinks: WebhookSinks
    signatures: Signatures
    metrics: Metrics
    policy: GraftPolicy
    clock: Callable[[], int]
    limits: WebhookLimits
    _late: set[asyncio.Future[bool]] = field(default_factory=set)

    async def handle(self, request: web.Request) -> Answered:
        if not self.signatures:
            raise NotFoundError("no webhook_secrets under receivers.openai.projects: no webhook is taken")
        # The moment of arrival: a large body takes its time.
        now = UnixNano(self.clock())
        signed = self.signatures.read(request.headers, now)
        if content_encoding(request.headers.getall("Content-Encoding", ())) != "identity":
            raise UnsupportedError("a webhook is taken as it was signed, without a content encoding")
        body = await self._body(request)
        project, delivery, intake = await in_thread_if(len(body) > _THREAD_BYTES, self._read, signed, body)
        if not await self._store(project, signed, delivery, intake, now):
            return web.json_response({"status": "repeat"}), Outcome.REPEAT
        return web.json_response({"status": "accepted"}), Outcome.ACCEPTED

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                return await read_json_body(request, self.limits.body_bytes)
        except TimeoutError:
            raise RejectedError(f"the body took more than {self.limits.body_seconds:g} s", reason="truncated") from None

    def _read(self, signed: Signed, body: bytes) -> tuple[str, Delivery, Intake]:
        """The project that it is of, and what is in it. Raises RejectedError."""
        project = self.signatures.project(signed, body)
        try:
            delivery = read_delivery(body, self.policy.redact.secret)
        except ValueError as error:
            raise RejectedError(str(error), reason="junk" if isinstance(error, JunkError) else "json") from error
        return project, delivery, read_items(delivery.items, Source.WEBHOOK, self.policy)

    async def _store(self, project: str, signed: Signed, delivery: Delivery, intake: Intake, now: UnixNano) -> bool:
        """Hand the delivery on; False when it came before. Raises UnavailableError, RejectedError."""
        if not (intake.parts or delivery.calls or delivery.sessions):
            # Nothing follows from it, so nothing need be known of it.
            self._count(delivery, intake)
            return True
        # Not ended with the wait: what the store has taken by then it keeps, and it is to be counted when it has.
        work = asyncio.ensure_future(self._hand_on(project, signed, delivery, intake, now))
        done, _ = await asyncio.wait({work}, timeout=self.limits.store_seconds)
        if not done:
            self._leave(work)
            raise UnavailableError("the store did not answer in time", reason="slow")
        return work.result()

    async def _hand_on(self, project: str, signed: Signed, delivery: Delivery, intake: Intake, now: UnixNano) -> bool:
        # One project's ids say nothing of another's.
        remember_ns = max(_REMEMBER_NS, 2 * self.signatures.tolerance_ns)
        delivered = DedupeKey(f"webhook {project} {signed.id}", remember_ns)
        calls = {f"call {project} {name}": call for name, call in delivery.calls.items()}
        seen, *known = await self.sinks.store.seen([delivered.id, *calls], now)
        if seen:
            return False
        new = [call for call, one in zip(calls.values(), known, strict=True) if not one]
        # Of a call that is known too: what one event of it left open, another may say.
        known_calls = {
            name: CallNote(name, now, call.caller, call.callee, call.traceparent)
            for name, call in delivery.calls.items()
        }
        await self.sinks.store.put_calls(list(known_calls.values()), now)
        await self._keep_calls(delivery, known_calls)
        notes = [await self._incoming(call, project, now) for call in new]
        await self._pull(delivery, project)
        parts = [*intake.parts, *(note for note in notes if note is not None)]
        # Last, for these say that all of it is done.
        await self.sinks.consumer.consume(parts, [delivered, *(DedupeKey(name, _REMEMBER_NS) for name in calls)])
        self._count(delivery, intake)
        return True

    async def _keep_calls(self, delivery: Delivery, notes: Mapping[str, CallNote]) -> None:
        if self.sinks.calls is None:
            return
        for name, call in delivery.calls.items():
            sip = None if call.sip_call_id is None else call_id("sip_call_id", call.sip_call_id)
            await self.sinks.calls.record(of_note(notes[name], () if sip is None else (sip,)))

    def _leave(self, work: asyncio.Future[bool]) -> None:
        """Let it end without a sender who waits for it; a store that hangs does not gather them without end."""
        self._late.add(work)
        work.add_done_callback(self._late.discard)
        # The sender was asked to come again, whatever it raises.
        work.add_done_callback(lambda work: work.cancelled() or work.exception())
        if len(self._late) > self.limits.late:
            work.cancel()

    async def _pull(self, delivery: Delivery, project: str) -> None:
        if self.sinks.pulls is None:
            return
        for session in delivery.sessions:
            try:
                await self.sinks.pulls.request(session, project)
            except RejectedError:
                # It cannot be asked for under such an id, now or later.
                delivery.kinds["session"] -= 1
                delivery.kinds["odd"] += 1

    async def _incoming(self, call: IncomingCall, project: str, now: UnixNano) -> Part | None:
        """Start the call's recorder where there is to be one; else what is to be remembered of the call."""
        recorders = self.sinks.recorders
        if recorders is not None:
            try:
                headers = [("traceparent", call.traceparent)] if call.traceparent is not None else []
                await recorders.start(call.call_id, sip_headers=headers, project=project)
                return None
            except NotRecordedError as error:
                # Remembered without one, for a repeat would not come in time.
                _log.error("a call is not recorded: %s", error, extra={"call": call.call_id, "project": project})
                self.metrics.webhook_events.labels("not_recorded").inc()
        if call.traceparent is None:
            return None
        buffer = EventBuffer(call.call_id, self.policy)
        buffer.add_own({"type": SIP, "traceparent": call.traceparent}, now)
        return buffer.take()

    def _count(self, delivery: Delivery, intake: Intake) -> None:
        for kind, count in (+delivery.kinds).items():
            self.metrics.webhook_events.labels(kind).inc(count)
        for kind, count in intake.kinds.items():
            self.metrics.guest_items.labels(Source.WEBHOOK.value, kind).inc(count)
        if intake.spans:
            self.metrics.accepted_spans.labels(OPENAI, TRANSPORT).inc(intake.spans)
