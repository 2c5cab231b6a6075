"""The endpoint that the Agents SDKs post their traces to, at the address where OpenAI-shaped HTTP comes in.

The rule it keeps: 204 means stored. Until then the SDK holds the batch and sends it again, so a refusal that may pass
is always 503 (Python SDKs up to 0.22.0 never repeat a 429), and nothing is ever answered with a redirect: the JS SDK
would follow it with a GET, take that for success, and forget the batch.

``application`` stands apart from ``ingest_routes``, for this address is shared by several endpoints.
"""

import logging
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from grafter.consumer import Consumer
from grafter.core.model import Source
from grafter.core.policy import GraftPolicy
from grafter.errors import RejectedError
from grafter.guests.agents.intake import Intake, read_items
from grafter.guests.json_values import parse_json
from grafter.logs import Throttle, log_bug
from grafter.receiver.http_body import read_json_body
from grafter.receiver.http_server import Tokens
from grafter.receiver.outcomes import (
    OPENAI,
    Answered,
    MethodError,
    NotFoundError,
    Outcome,
    log_skipped,
    openai_endpoint,
    openai_failure,
    reason_of,
)
from grafter.receiver.tee import Tee
from grafter.tasks import in_thread_if
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

_INGEST = "ingest"
_EXPECTED = 'objects with "object": "trace" and an id, or "object": "trace.span" with an id and a trace_id'

# A sender may be given any prefix, and joins base and path with one slash, two, or one behind.
_INGEST_PATH = "/{path:(?:.*/)?traces/+ingest/*}"

# Reading a body of this size takes some milliseconds, all of which the event loop would stand still.
_THREAD_BYTES = 256 << 10


def ingest_routes(
    consumer: Consumer,
    metrics: Metrics,
    policy: GraftPolicy,
    *,
    tokens: Sequence[str] = (),
    tee: Tee | None = None,
    max_bytes: int = 64 << 20,
) -> list[web.RouteDef]:
    """The routes of the Agents SDK ingest: POST to any path that ends in ``/traces/ingest``.

    ``{"data": [item, …]}`` in, 204 out once the consumer has it; then ``tee`` gets a copy. ``tokens`` are the bearer
    tokens that open it, none opens it to everybody. ``max_bytes`` bounds the body before and after decompression.
    """

    throttle = Throttle()

    async def handle(request: web.Request) -> Answered:
        spans = 0
        try:
            body = await read_json_body(request, max_bytes)
            size = len(body)
            items, intake = await in_thread_if(size > _THREAD_BYTES, _read, body, policy)
            del body
            spans = intake.spans
            if intake.parts:
                await consumer.consume(intake.parts)
        except Exception as error:
            if spans:
                metrics.refused_spans.labels(OPENAI, _INGEST, reason_of(error)).inc(spans)
            raise
        for kind, count in intake.kinds.items():
            metrics.guest_items.labels(Source.SDK.value, kind).inc(count)
        if intake.kinds["odd"] and not intake.parts:
            # 204 means stored; a sender of something else entirely should not take it for that.
            raise RejectedError(f"nothing under data can be read; expected {_EXPECTED}", reason="shape")
        log_skipped(throttle, intake.kinds["odd"], _INGEST, _EXPECTED)
        metrics.accepted_spans.labels(OPENAI, _INGEST).inc(spans)
        if tee is not None:
            # Only now: a batch that was refused comes again, and must not be copied twice.
            tee.offer(items, request.headers, size=size)
        return web.Response(status=204), Outcome.ACCEPTED

    return [web.post(_INGEST_PATH, openai_endpoint(handle, metrics, _INGEST, tokens=Tokens(tokens)))]


def application(routes: Sequence[web.AbstractRouteDef]) -> web.Application:
    """An application of these routes in which every error, wrong paths and methods included, is OpenAI-shaped JSON."""
    app = web.Application(middlewares=[_json_errors])
    app.add_routes(routes)
    return app


def _read(body: bytes, policy: GraftPolicy) -> tuple[list[object], Intake]:
    """The posted items and what was read from them. Raises RejectedError unless the body is as the SDKs write it."""
    try:
        posted = parse_json(body)
    except ValueError as error:
        raise RejectedError(f"{error}; expected a JSON object with a list under data", reason="json") from error
    if not isinstance(posted, dict):
        raise RejectedError(
            f"body is a JSON {_kind(posted)}; expected an object with a list under data", reason="shape"
        )
    data = posted.get("data")
    if not isinstance(data, list):
        found = f"a JSON {_kind(data)} under data" if "data" in posted else "no data"
        if "traces" in posted:
            found += ", but traces"
        raise RejectedError(f"body has {found}; expected a list of items under data", reason="shape")
    return data, read_items(data, Source.SDK, policy)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "list"
    return "object"


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return openai_failure(NotFoundError("nothing is received at this path"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return openai_failure(MethodError(f"this path does not take the method; it takes {allowed}", allowed))
    except Exception as error:  # noqa: BLE001  # an answer is owed, whatever went wrong
        # The sender gets an answer after which it tries again.
        log_bug(_log, "request failed", error)
        return openai_failure(error)
