"""The door that apps post the events of their Realtime calls to, at the address where OpenAI-shaped HTTP comes in.

OpenAI exports no trace of a Realtime session, so whoever reads its socket passes on what it saw. The rule it keeps is
that of the other doors: 204 means stored, and a refusal that may pass is 503 with a Retry-After, so that a sender can
let go of what it has sent and of nothing else.
"""

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from grafter.consumer import Consumer
from grafter.core.model import Source, UnixNano
from grafter.core.policy import GraftPolicy
from grafter.errors import RejectedError
from grafter.guests.realtime.intake import RealtimeIntake, read_posts
from grafter.receiver.answering import Answered, answering
from grafter.receiver.http_common import Tokens, read_body
from grafter.telemetry import Metrics

TRANSPORT = "realtime"

_EVENTS_PATH = "/{path:/*v1/+realtime/+events/*}"

# A body of this size takes some milliseconds to read, all of which the event loop would stand still.
_THREAD_BYTES = 128 << 10

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
    events = _Events(consumer, metrics, policy, clock, max_bytes)
    return [web.post(_EVENTS_PATH, answering(events.answer, metrics, TRANSPORT, tokens=Tokens(tokens)))]


class _Events:
    def __init__(
        self,
        consumer: Consumer,
        metrics: Metrics,
        policy: GraftPolicy,
        clock: Callable[[], int],
        max_bytes: int,
    ) -> None:
        self._consumer = consumer
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._max_bytes = max_bytes

    async def answer(self, request: web.Request) -> Answered:
        """See ``answering.Answer``."""
        # When it arrived, and not when it was read: a large body takes its time.
        now = UnixNano(self._clock())
        body = await read_body(request, self._max_bytes)
        lines = request.content_type.lower().endswith(_LINES)
        if len(body) > _THREAD_BYTES:
            intake = await asyncio.to_thread(_read, body, lines, self._policy, now)
        else:
            intake = _read(body, lines, self._policy, now)
        if intake.parts:
            await self._consumer.consume(intake.parts)
        for kind, count in intake.kinds.items():
            self._metrics.guest_items.labels(Source.REALTIME.value, kind).inc(count)
        return web.Response(status=204), "accepted"


def _read(body: bytes, lines: bool, policy: GraftPolicy, now: UnixNano) -> RealtimeIntake:
    try:
        return read_posts(body, lines, policy, now)
    except ValueError as error:
        raise RejectedError(str(error), reason="shape" if "call" in str(error) else "json") from error
