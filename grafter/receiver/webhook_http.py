"""The door for webhooks: signed events of OpenAI's, and of gateways that pass traces on in the same manner.

The rules it keeps: nothing unsigned is read; 200 means that what the delivery asks for is stored; whatever takes long
happens after the answer, which comes within a second of the body; a delivery that comes again, as it does for up to 72
hours, has no effect. An odd delivery is answered with a 4xx and a reason, for it will not get better; one that cannot
be stored now with 503, for the sender tries again by itself.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from grafter.consumer import Consumer
from grafter.core.calls import CallNote
from grafter.core.model import Mark, Part, Source, UnixNano
from grafter.core.policy import HOUR, GraftPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.agents.intake import Intake, read_items
from grafter.guests.realtime.event_buffer import Gathering
from grafter.guests.realtime.stored_event import SIP
from grafter.guests.webhooks import Delivery, IncomingCall, JunkError, read_delivery
from grafter.receiver.answering import RECEIVER, Answered, answering, error_response
from grafter.receiver.http_common import content_encoding, read_body
from grafter.receiver.recorder import Recorders
from grafter.receiver.signatures import Signatures, Signed
from grafter.store.base import Store
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

TRANSPORT = "webhook"

# A sender may join base and path with one slash, two, or one behind.
_PATH = "/{path:/*webhooks/+openai/*}"

# OpenAI delivers for up to 72 hours; the rest is for a sender whose clock or schedule is not that exact. What is
# signed for longer, from a clock that is ahead to one that is behind, is known for longer.
_REMEMBER_NS = 96 * HOUR
# What may pass between a body that is read and an answer. Past it the sender is told to come again.
_STORE_SECONDS = 0.9
_MOST_LATE = 100
_BODY_SECONDS = 10.0
# Reading a body of this size takes some milliseconds, all of which the event loop would stand still.
_THREAD_BYTES = 128 << 10
# Refusals of a recorder after which the call is remembered without one: a repeat would not come in time.
_NOT_RECORDED = frozenset({"no_api_key", "recorders"})


class PullRequests(Protocol):
    """Whoever pulls the traces of hosted Agents sessions."""

    async def request(self, session_id: str, project: str) -> None:
        """See to it that the session's traces are pulled, some time, in the name of this project.

        Returns when that is stored. A repeat does no harm. Raises UnavailableError, and RejectedError for what can be
        no session's id.
        """
        ...


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the door hands on what it reads."""

    consumer: Consumer
    store: Store
    """For what was delivered before, and for what is told of calls."""
    recorders: Recorders | None = None
    """Starts a recorder for each call that comes in; None: none is started."""
    pulls: PullRequests | None = None
    """None: sessions are not pulled."""


def webhook_routes(
    desk: Desk,
    signatures: Signatures,
    metrics: Metrics,
    policy: GraftPolicy,
    clock: Callable[[], int],
    *,
    max_bytes: int = 16 << 20,
) -> list[web.RouteDef]:
    """The route of webhooks: POST to ``/webhooks/openai``.

    200 once the delivery is stored, and for one that came before or asks nothing; without a secret 404, always.
    ``clock`` gives Unix nanoseconds. ``max_bytes`` bounds the body, which is taken as it was signed: uncompressed.
    """
    webhooks = _Webhooks(desk, signatures, metrics, policy, clock, max_bytes)
    # Told apart, for it is what a wrong secret and a stranger look like.
    outcomes = {"bad_signature": "unsigned"}
    return [web.post(_PATH, answering(webhooks.answer, metrics, TRANSPORT, outcomes=outcomes))]


class _Webhooks:
    def __init__(
        self,
        desk: Desk,
        signatures: Signatures,
        metrics: Metrics,
        policy: GraftPolicy,
        clock: Callable[[], int],
        max_bytes: int,
    ) -> None:
        self._desk = desk
        self._signatures = signatures
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._max_bytes = max_bytes
        self._remember_ns = max(_REMEMBER_NS, 2 * signatures.tolerance_ns)
        self._late: set[asyncio.Future[bool]] = set()

    async def answer(self, request: web.Request) -> Answered:
        """See ``answering.Answer``."""
        if not self._signatures:
            message = "no webhook_secrets under receivers.openai.projects: no webhook is taken"
            return error_response(404, message, "not_found"), "not_found"
        # The moment of arrival: a large body takes its time.
        now = UnixNano(self._clock())
        signed = self._signatures.read(request.headers, now)
        if content_encoding(request.headers.getall("Content-Encoding", ())) != "identity":
            message = "a webhook is taken as it was signed, without a content encoding"
            raise RejectedError(message, reason="unsupported_encoding")
        body = await self._body(request)
        if len(body) > _THREAD_BYTES:
            project, delivery, intake = await asyncio.to_thread(self._read, signed, body)
        else:
            project, delivery, intake = self._read(signed, body)
        if not await self._store(project, signed, delivery, intake, now):
            return web.json_response({"status": "repeat"}), "repeat"
        return web.json_response({"status": "accepted"}), "accepted"

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await read_body(request, self._max_bytes)
        except TimeoutError:
            raise RejectedError(f"the body took more than {_BODY_SECONDS:g} s", reason="truncated") from None

    def _read(self, signed: Signed, body: bytes) -> tuple[str, Delivery, Intake]:
        """The project that it is of, and what is in it. Raises RejectedError."""
        project = self._signatures.project(signed, body)
        try:
            delivery = read_delivery(body, self._policy.redact.secret)
        except ValueError as error:
            raise RejectedError(str(error), reason="junk" if isinstance(error, JunkError) else "json") from error
        return project, delivery, read_items(delivery.items, Source.WEBHOOK, self._policy)

    async def _store(self, project: str, signed: Signed, delivery: Delivery, intake: Intake, now: UnixNano) -> bool:
        """Hand the delivery on; False when it came before. Raises UnavailableError, RejectedError."""
        if not (intake.parts or delivery.calls or delivery.sessions):
            # Nothing follows from it, so nothing need be known of it.
            self._count(delivery, intake)
            return True
        # Not ended with the wait: what the store has taken by then it keeps, and it is to be counted when it has.
        work = asyncio.ensure_future(self._hand_on(project, signed, delivery, intake, now))
        done, _ = await asyncio.wait({work}, timeout=_STORE_SECONDS)
        if not done:
            self._leave(work)
            raise UnavailableError("the store did not answer in time", reason="slow")
        return work.result()

    async def _hand_on(self, project: str, signed: Signed, delivery: Delivery, intake: Intake, now: UnixNano) -> bool:
        # One project's ids say nothing of another's.
        mark = Mark(f"webhook {project} {signed.id}", self._remember_ns)
        calls = {f"call {project} {call_id}": call for call_id, call in delivery.calls.items()}
        seen, *known = await self._desk.store.seen([mark.id, *calls], now)
        if seen:
            return False
        new = [call for call, one in zip(calls.values(), known, strict=True) if not one]
        # Of a call that is known too: what one event of it left open, another may say.
        await self._desk.store.note_calls(
            [CallNote(call.call_id, now, call.caller, call.callee, call.traceparent) for call in calls.values()], now
        )
        notes = [await self._incoming(call, project, now) for call in new]
        await self._pull(delivery, project)
        parts = [*intake.parts, *(note for note in notes if note is not None)]
        # Last, for these marks say that all of it is done.
        await self._desk.consumer.consume(parts, [mark, *(Mark(name, _REMEMBER_NS) for name in calls)])
        self._count(delivery, intake)
        return True

    def _leave(self, work: asyncio.Future[bool]) -> None:
        """Let it end without a sender who waits for it; a store that hangs does not gather them without end."""
        self._late.add(work)
        work.add_done_callback(self._late.discard)
        # The sender was told to come again, whatever it raises.
        work.add_done_callback(lambda work: work.cancelled() or work.exception())
        if len(self._late) > _MOST_LATE:
            work.cancel()

    async def _pull(self, delivery: Delivery, project: str) -> None:
        if self._desk.pulls is None:
            return
        for session in delivery.sessions:
            try:
                await self._desk.pulls.request(session, project)
            except RejectedError:
                # It cannot be asked for under such an id, now or later.
                delivery.kinds["session"] -= 1
                delivery.kinds["odd"] += 1

    async def _incoming(self, call: IncomingCall, project: str, now: UnixNano) -> Part | None:
        """Start the call's recorder where there is to be one; else what is to be remembered of the call."""
        recorders = self._desk.recorders
        if recorders is not None:
            try:
                headers = [("traceparent", call.traceparent)] if call.traceparent is not None else []
                await recorders.start(call.call_id, sip_headers=headers, project=project)
                return None
            except UnavailableError as error:
                if error.reason not in _NOT_RECORDED:
                    raise
                _log.error("a call is not recorded: %s", error, extra={"call": call.call_id, "project": project})
                self._metrics.webhook_events.labels("not_recorded").inc()
        if call.traceparent is None:
            return None
        gathering = Gathering(call.call_id, self._policy)
        gathering.say({"type": SIP, "traceparent": call.traceparent}, now)
        return gathering.take()

    def _count(self, delivery: Delivery, intake: Intake) -> None:
        for kind, count in (+delivery.kinds).items():
            self._metrics.webhook_events.labels(kind).inc(count)
        for kind, count in intake.kinds.items():
            self._metrics.guest_items.labels(Source.WEBHOOK.value, kind).inc(count)
        if intake.spans:
            self._metrics.accepted_spans.labels(RECEIVER, TRANSPORT).inc(intake.spans)
