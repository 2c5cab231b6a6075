"""The endpoints for Realtime and Live calls: the app posts what it saw of a call, or asks grafter to listen to it.

OpenAI exports no trace of a call, so whoever reads its socket passes on what it saw (POST /v1/realtime/events), or asks
for a recorder (POST /v1/realtime/calls). The rule they keep: 204 means stored, 202 that what was brought of the call is
stored and somebody listens; a sender may let go of what was answered so, and of nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from grafter.calls.base import CallMap, of_note
from grafter.calls.model import Origin
from grafter.consumer import Consumer
from grafter.core.calls import CallNote, Phone, phone_in
from grafter.core.link import Malformed, from_metadata
from grafter.core.model import Source, UnixNano
from grafter.core.policy import GraftPolicy
from grafter.errors import RejectedError
from grafter.guests.realtime.content import ODD
from grafter.guests.realtime.intake import EXPECTED, NoCallError, RealtimeIntake, read_posts
from grafter.logs import Throttle
from grafter.receiver.http_body import json_object, read_json_body
from grafter.receiver.http_server import Tokens
from grafter.receiver.openai_api import is_call_id
from grafter.receiver.outcomes import Answered, Outcome, log_skipped, openai_endpoint
from grafter.receiver.recorder import Recorders
from grafter.store.base import CallStore
from grafter.tasks import in_thread_if
from grafter.telemetry import Metrics

_EVENTS, _CALLS = "realtime", "realtime_calls"

# A sender may join base and path with one slash, two, or one behind.
_EVENTS_PATH = "/{path:/*v1/+realtime/+events/*}"
_CALLS_PATH = "/{path:/*v1/+realtime/+calls/*}"

# A body of this size takes some milliseconds to read, all of which the event loop would stand still.
_THREAD_BYTES = 128 << 10
_START_BYTES = 64 << 10
"""Of a body that starts a recorder, before and after decompression."""

_LINES = ("ndjson", "jsonl", "json-lines", "jsonlines", "json-seq")


def event_routes(
    consumer: Consumer,
    metrics: Metrics,
    policy: GraftPolicy,
    clock: Callable[[], int],
    *,
    tokens: Sequence[str] = (),
    max_bytes: int = 64 << 20,
) -> list[web.RouteDef]:
    """The routes of posted Realtime events: POST to ``/v1/realtime/events``.

    Envelopes as JSON, or lines of them or of single events where the Content-Type says so (``application/x-ndjson``),
    as ``read_posts`` has them; 204 out once the consumer has it. ``clock`` gives Unix nanoseconds. ``tokens`` are the
    bearer tokens that open it, none opens it to everybody. ``max_bytes`` bounds the body before and after
    decompression.
    """

    throttle = Throttle()

    async def handle(request: web.Request) -> Answered:
        # When it arrived, and not when it was read: a large body takes its time.
        now = UnixNano(clock())
        body = await read_json_body(request, max_bytes)
        lines = request.content_type.lower().endswith(_LINES)
        intake = await in_thread_if(len(body) > _THREAD_BYTES, _read_events, body, lines, policy, now)
        if intake.parts:
            await consumer.consume(intake.parts)
        for kind, count in intake.kinds.items():
            metrics.guest_items.labels(Source.REALTIME.value, kind).inc(count)
        if intake.kinds[ODD] and not intake.parts:
            # 204 means stored; a sender of something else entirely should not take it for that.
            raise RejectedError(f"no event can be read; expected {EXPECTED}", reason="shape")
        log_skipped(throttle, intake.kinds[ODD], _EVENTS, EXPECTED)
        return web.Response(status=204), Outcome.ACCEPTED

    return [web.post(_EVENTS_PATH, openai_endpoint(handle, metrics, _EVENTS, tokens=Tokens(tokens)))]


def _read_events(body: bytes, lines: bool, policy: GraftPolicy, now: UnixNano) -> RealtimeIntake:
    try:
        return read_posts(body, lines, policy, now)
    except NoCallError as error:
        raise RejectedError(str(error), reason="shape") from error
    except ValueError as error:
        raise RejectedError(str(error), reason="json") from error


def call_routes(
    recorders: Recorders,
    metrics: Metrics,
    clock: Callable[[], int],
    *,
    store: CallStore | None = None,
    calls: CallMap | None = None,
    secret: bytes = b"",
    tokens: Sequence[str] = (),
) -> list[web.RouteDef]:
    """The route that starts recorders: POST to ``/v1/realtime/calls``.

    ``{"call_id": "rtc_…", "traceparent": "00-…" | "metadata": {…}, "from": "+1…", "to": "+1…"}`` in, 202 out, also for
    a call that is recorded already; a Live session's id is ``live_…``. ``from`` and ``to`` may be left out; ``store``
    notes the call with them, as ``secret`` makes them: without it, without them; so does ``calls``. ``clock`` gives
    Unix nanoseconds. ``tokens`` are the bearer tokens that open it, none opens it to everybody.
    """

    async def handle(request: web.Request) -> Answered:
        start = read_start(await read_json_body(request, _START_BYTES), secret)
        found = await recorders.start(start.call_id, metadata=start.metadata)
        if store is not None:
            now = UnixNano(clock())
            note = CallNote(start.call_id, now, start.caller, start.callee)
            await store.put_calls([note], now)
            if calls is not None:
                await calls.record(of_note(note, origin=Origin.APP))
        body = {"call_id": start.call_id, "status": found.value}
        return web.json_response(body, status=202), Outcome.ACCEPTED

    return [web.post(_CALLS_PATH, openai_endpoint(handle, metrics, _CALLS, tokens=Tokens(tokens)))]


@dataclass(frozen=True, slots=True)
class CallStart:
    """What a body asks for."""

    call_id: str
    metadata: Mapping[str, object] = field(default_factory=dict)
    caller: Phone | None = None
    callee: Phone | None = None


def read_start(body: bytes, secret: bytes) -> CallStart:
    """What a body asks for, with its numbers hashed under this secret.

    Raises RejectedError, with a message that quotes nothing, unless the body is as ``call_routes`` says.
    """
    posted = json_object(body, "call_id")
    call_id = posted.get("call_id")
    if not isinstance(call_id, str) or not is_call_id(call_id):
        raise RejectedError("call_id is not a string of 1 to 256 printable ASCII characters", reason="call_id")
    metadata = posted.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise RejectedError("metadata is no JSON object", reason="shape")
    caller, callee = (_phone(posted, name, secret) for name in ("from", "to"))
    start = dict(metadata or {})
    traceparent = posted.get("traceparent")
    if traceparent is not None:
        # Metadata is taken as it is, as at every endpoint; what stands under this name was meant to be one.
        if isinstance(from_metadata({"traceparent": traceparent}, ()), Malformed):
            raise RejectedError("traceparent is not 00-<32 hex>-<16 hex>-<2 hex>, ids not zero", reason="traceparent")
        start["traceparent"] = traceparent
    return CallStart(call_id, start, caller, callee)


def _phone(posted: Mapping[str, object], name: str, secret: bytes) -> Phone | None:
    value = posted.get(name)
    if not isinstance(value, str | None):
        raise RejectedError(f"{name} is no string", reason="shape")
    return None if value is None else phone_in(value, secret)
