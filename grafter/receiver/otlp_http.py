"""OTLP over HTTP: protobuf and JSON on one port, every answer in the encoding of its request.

Source: OTLP specification, "OTLP/HTTP"; the Fetch standard for what browsers ask first.
"""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from aiohttp import hdrs, web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from grafter.consumer import Consumer, PassThrough, Signal
from grafter.errors import RejectedError
from grafter.otlp.json import message_to_json, request_from_json, trace_request_from_json
from grafter.otlp.status import Code, Status
from grafter.receiver.http_common import TlsFiles, Tokens, http_status, read_body, serving, tls_context
from grafter.receiver.otlp import MAX_BYTES, Answer, Intake, SplitterLike
from grafter.telemetry import Metrics

_PROTOBUF = "application/x-protobuf"
_JSON = "application/json"

_STATUSES = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.RESOURCE_EXHAUSTED: 413,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}

# Reading JSON takes about a millisecond for this much; more would hold up the other requests.
_THREAD_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class Cors:
    """From which web pages browsers may send."""

    allowed_origins: tuple[str, ...]
    """Such as ``https://app.example.com``; ``*`` stands for any text, alone or within. None: no page may send."""
    allowed_headers: tuple[str, ...] = ()
    """Beyond those that OTLP itself needs; ``*`` alone stands for every header."""
    max_age: int = 0
    """Seconds for which a browser may remember the answer; 0 leaves it to the browser."""


@dataclass(frozen=True, slots=True)
class _Route:
    answer: Answer
    from_json: Callable[[bytes], bytes]


@asynccontextmanager
async def listening(
    consumer: Consumer,
    splitter: SplitterLike,
    metrics: Metrics,
    *,
    endpoint: str,
    tls: TlsFiles | None = None,
    tokens: Sequence[str] = (),
    cors: Cors | None = None,
    max_bytes: int = MAX_BYTES,
    grace_seconds: float,
    pass_through: PassThrough | None = None,
    signals: frozenset[Signal] = frozenset(),
    share_port: bool = False,
) -> AsyncIterator[int]:
    """Take OTLP at ``endpoint`` while the context is open; yields the port.

    Metrics and logs are taken for ``signals`` only and go to ``pass_through``; without it they are 404.
    ``share_port``: see ``serving``.
    On leaving, new connections are refused at once and requests in flight are waited for up to ``grace_seconds``.
    Raises ValueError for an endpoint or a TLS file that is wrong, OSError when the endpoint cannot be listened at.
    """
    intake = Intake(consumer, splitter, metrics, "http", pass_through)
    routes = {"/v1/traces": _Route(intake.traces, trace_request_from_json)}
    if pass_through is not None:
        for signal in signals:
            routes[f"/v1/{signal}"] = _Route(partial(intake.passed, signal), partial(request_from_json, signal))
    rules = _CorsRules(cors, bool(tokens)) if cors is not None and cors.allowed_origins else None
    door = _Door(intake, routes, Tokens(tokens), rules, max_bytes)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", door.handle)
    context = tls_context(tls.cert_file, tls.key_file, tls.client_ca_file) if tls is not None else None
    async with serving(app, endpoint, context, grace_seconds, share_port=share_port) as (_, port):
        yield port


class _Door:
    """Everything between a request and its answer."""

    def __init__(
        self, intake: Intake, routes: dict[str, _Route], tokens: Tokens, cors: "_CorsRules | None", max_bytes: int
    ) -> None:
        self._intake = intake
        self._routes = routes
        self._tokens = tokens
        self._cors = cors
        self._max_bytes = max_bytes

    async def handle(self, request: web.Request) -> web.Response:
        """Answer any request to the port."""
        route = self._routes.get(request.path)
        if self._cors is None:
            return await self._answer(request, route)
        if route is not None and request.method == hdrs.METH_OPTIONS and self._cors.is_preflight(request):
            return web.Response(status=204, headers=self._cors.preflight(request))
        response = await self._answer(request, route)
        response.headers.update(self._cors.headers(request))
        return response

    async def _answer(self, request: web.Request, route: _Route | None) -> web.Response:
        if route is None:
            self._intake.count("not_found")
            return _failure(request, 404, Status(Code.UNIMPLEMENTED, "nothing is served at this path"))
        if request.method != hdrs.METH_POST:
            self._intake.count("rejected")
            status = Status(Code.UNIMPLEMENTED, "only POST is served at this path")
            return _failure(request, 405, status, {hdrs.ALLOW: "OPTIONS, POST" if self._cors else "POST"})
        if not self._tokens.allows(request.headers.get(hdrs.AUTHORIZATION)):
            return _failure(request, 401, self._intake.unauthenticated(), {hdrs.WWW_AUTHENTICATE: "Bearer"})
        content_type = request.content_type
        if content_type not in (_PROTOBUF, _JSON):
            self._intake.count("rejected")
            status = Status(Code.INVALID_ARGUMENT, f"content type must be {_PROTOBUF} or {_JSON}")
            return _failure(request, 415, status)
        try:
            body = await read_body(request, self._max_bytes)
            if content_type == _PROTOBUF:
                return web.Response(body=await route.answer(body), content_type=_PROTOBUF)
            if len(body) > _THREAD_BYTES:
                body = await asyncio.to_thread(route.from_json, body)
            else:
                body = route.from_json(body)
            answer = await route.answer(body)
            # Only a partial success on traces has a body.
            text = message_to_json(ExportTraceServiceResponse.FromString(answer)) if answer else b"{}"
            return web.Response(body=text, content_type=_JSON)
        except Exception as error:  # noqa: BLE001  # whatever a request does, the door stays open
            status = self._intake.refusal(error)
            code = http_status(error) if isinstance(error, RejectedError) else _STATUSES[status.code]
            headers: dict[str, str] = {}
            if status.retry_after is not None:
                headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(status.retry_after)))
            return _failure(request, code, status, headers)


def _failure(request: web.Request, code: int, status: Status, headers: dict[str, str] | None = None) -> web.Response:
    """A google.rpc.Status in the request's encoding; JSON where that is neither, since a person may be reading."""
    if request.content_type == _PROTOBUF:
        return web.Response(status=code, body=status.to_bytes(), content_type=_PROTOBUF, headers=headers)
    return web.Response(status=code, body=status.to_json(), content_type=_JSON, headers=headers)


class _CorsRules:
    """What browsers are told about requests from other origins."""

    def __init__(self, cors: Cors, tokens: bool) -> None:
        patterns = [".*".join(re.escape(text) for text in origin.lower().split("*")) for origin in cors.allowed_origins]
        self._origins = re.compile("|".join(patterns))
        allowed = {"accept", "content-encoding", "content-type", "x-requested-with"}
        allowed |= {name.lower() for name in cors.allowed_headers} | ({"authorization"} if tokens else set())
        self._any_header = "*" in allowed
        self._allowed = frozenset(allowed)
        self._max_age = cors.max_age

    def is_preflight(self, request: web.Request) -> bool:
        """Whether a browser asks before it sends."""
        return hdrs.ORIGIN in request.headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers

    def preflight(self, request: web.Request) -> dict[str, str]:
        """The answer; without any permission in it when one of the things asked for is not allowed."""
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
        names = {name.strip().lower() for name in asked.split(",")} - {""}
        out: dict[str, str] = {hdrs.VARY: "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
        if (
            not self._is_allowed(request.headers[hdrs.ORIGIN])
            or request.headers[hdrs.ACCESS_CONTROL_REQUEST_METHOD] != hdrs.METH_POST
            or not ((self._any_header and asked.isascii()) or names <= self._allowed)
        ):
            return out
        out |= self._permission(request.headers[hdrs.ORIGIN])
        out[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = hdrs.METH_POST
        if names:
            out[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ", ".join(sorted(names))
        if self._max_age:
            out[hdrs.ACCESS_CONTROL_MAX_AGE] = str(self._max_age)
        return out

    def headers(self, request: web.Request) -> dict[str, str]:
        """What to add to any other answer."""
        out: dict[str, str] = {hdrs.VARY: "Origin"}
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and self._is_allowed(origin):
            out |= self._permission(origin)
            out[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = "Retry-After"
        return out

    def _is_allowed(self, origin: str) -> bool:
        return origin.isascii() and self._origins.fullmatch(origin.lower()) is not None

    @staticmethod
    def _permission(origin: str) -> dict[str, str]:
        # The origin itself instead of a star: sendBeacon sends with credentials, and then browsers refuse a star.
        out: dict[str, str] = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin}
        out[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        return out
