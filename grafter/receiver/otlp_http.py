"""OTLP over HTTP: protobuf and JSON on one port, every answer in the encoding of its request.

Source: OTLP specification, "OTLP/HTTP"; the Fetch standard for what browsers ask first.
"""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from aiohttp import hdrs, web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from grafter.consumer import Signal
from grafter.otlp.from_json import Oddities, request_from_json, trace_request_from_json
from grafter.otlp.status import failure_to_json
from grafter.otlp.to_json import message_to_json
from grafter.receiver.config import Cors, ServerTls
from grafter.receiver.http_body import read_body, read_json_body
from grafter.receiver.http_server import HELD, Tokens, comes_from_a_page, serving, tls_context
from grafter.receiver.in_flight import InFlight
from grafter.receiver.otlp import MAX_BYTES, NOTHING_ODD, Export, Intake
from grafter.receiver.outcomes import (
    MethodError,
    NotFoundError,
    PageError,
    UnauthenticatedError,
    UnsupportedError,
    headers_of,
    otlp_failure,
    refusal_of,
)
from grafter.tasks import in_thread_if

_PROTOBUF = "application/x-protobuf"
_JSON = "application/json"

_Response = ExportTraceServiceResponse | ExportMetricsServiceResponse | ExportLogsServiceResponse
_PASSED_RESPONSES: dict[Signal, type[_Response]] = {
    Signal.METRICS: ExportMetricsServiceResponse,
    Signal.LOGS: ExportLogsServiceResponse,
}

# Reading JSON takes about a millisecond for this much; more would hold up the other requests.
_THREAD_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class _Route:
    export: Export
    stores: bool
    """Otherwise the answer is a backend's, which may take long."""
    from_json: Callable[[bytes, Oddities], bytes]
    response: type[_Response]


@asynccontextmanager
async def listening(
    intake: Intake,
    *,
    endpoint: str,
    tls: ServerTls | None = None,
    tokens: Sequence[str] = (),
    cors: Cors | None = None,
    max_bytes: int = MAX_BYTES,
    grace_seconds: float,
    share_port: bool = False,
    in_flight: InFlight | None = None,
) -> AsyncIterator[int]:
    """Take OTLP at ``endpoint`` while the context is open; yields the port.

    Metrics and logs that the intake does not take are 404.
    ``share_port``, ``in_flight``: see ``serving``.
    On leaving, new connections are refused at once and requests in flight are waited for up to ``grace_seconds``.
    Raises ValueError for an endpoint or a TLS file that is wrong, OSError when the endpoint cannot be listened at.
    """
    routes = {"/v1/traces": _Route(intake.traces, True, trace_request_from_json, ExportTraceServiceResponse)}
    for signal in intake.signals:
        read, response = partial(request_from_json, signal), _PASSED_RESPONSES[signal]
        routes[f"/v1/{signal}"] = _Route(partial(intake.passed, signal), False, read, response)
    rules = _CorsRules(cors, bool(tokens)) if cors is not None and cors.allowed_origins else None
    handler = _Handler(intake, routes, Tokens(tokens), rules, max_bytes)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler.handle)
    context = tls_context(tls.cert_file, tls.key_file, tls.client_ca_file) if tls is not None else None
    async with serving(app, endpoint, context, grace_seconds, share_port=share_port, in_flight=in_flight) as (_, port):
        yield port


@dataclass(slots=True, eq=False, repr=False)
class _Handler:
    intake: Intake
    routes: dict[str, _Route]
    tokens: Tokens
    cors: "_CorsRules | None"
    max_bytes: int

    async def handle(self, request: web.Request) -> web.Response:
        route = self.routes.get(request.path)
        if self.cors is None:
            return await self._answer(request, route)
        if route is not None and request.method == hdrs.METH_OPTIONS and self.cors.is_preflight(request):
            return web.Response(status=204, headers=self.cors.preflight(request))
        response = await self._answer(request, route)
        response.headers.update(self.cors.headers(request))
        return response

    async def _answer(self, request: web.Request, route: _Route | None) -> web.Response:
        try:
            return await self._export(request, route)
        except Exception as error:  # noqa: BLE001  # whatever a request does, the server stays up
            self.intake.count_refusal(error)
            return _failure(request, error)

    async def _export(self, request: web.Request, route: _Route | None) -> web.Response:
        if route is None:
            raise NotFoundError("nothing is served at this path")
        if request.method != hdrs.METH_POST:
            raise MethodError("only POST is served at this path", "OPTIONS, POST" if self.cors else "POST")
        if not self.tokens.allows(request.headers.get(hdrs.AUTHORIZATION)):
            raise UnauthenticatedError("a bearer token that is known here is required")
        allowed = self.cors is not None and self.cors.allows(request)
        if not self.tokens and not allowed and comes_from_a_page(request):
            raise PageError
        if request.content_type not in (_PROTOBUF, _JSON):
            raise UnsupportedError(f"content type must be {_PROTOBUF} or {_JSON}")
        if request.content_type == _PROTOBUF:
            body = await read_body(request, self.max_bytes)
            return web.Response(body=await _handed_on(request, route, body), content_type=_PROTOBUF)
        body = await read_json_body(request, self.max_bytes)
        odd = Oddities()
        body = await in_thread_if(len(body) > _THREAD_BYTES, route.from_json, body, odd)
        answer = await _handed_on(request, route, body, odd)
        # Only a partial success has a body.
        text = message_to_json(route.response.FromString(answer)) if answer else b"{}"
        return web.Response(body=text, content_type=_JSON)


async def _handed_on(request: web.Request, route: _Route, body: bytes, odd: Oddities = NOTHING_ODD) -> bytes:
    if not route.stores:
        request[HELD].end_turn()
    return await route.export(body, odd)


def _failure(request: web.Request, error: Exception) -> web.Response:
    """A google.rpc.Status in the request's encoding; JSON where that is neither, since a person may be reading."""
    status, headers = otlp_failure(error), headers_of(error)
    is_protobuf = request.content_type == _PROTOBUF
    return web.Response(
        status=refusal_of(error).http,
        body=status.SerializeToString() if is_protobuf else failure_to_json(status),
        content_type=_PROTOBUF if is_protobuf else _JSON,
        headers=headers,
    )


class _CorsRules:
    """What browsers may do for pages of other origins."""

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
        header = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
        names = {name.strip().lower() for name in header.split(",")} - {""}
        out: dict[str, str] = {hdrs.VARY: "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
        if (
            not self._is_allowed(request.headers[hdrs.ORIGIN])
            or request.headers[hdrs.ACCESS_CONTROL_REQUEST_METHOD] != hdrs.METH_POST
            or not ((self._any_header and header.isascii()) or names <= self._allowed)
        ):
            return out
        out |= self._permission(request.headers[hdrs.ORIGIN])
        out[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = hdrs.METH_POST
        if names:
            out[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ", ".join(sorted(names))
        if self._max_age:
            out[hdrs.ACCESS_CONTROL_MAX_AGE] = str(self._max_age)
        return out

    def allows(self, request: web.Request) -> bool:
        return hdrs.ORIGIN in request.headers and self._is_allowed(request.headers[hdrs.ORIGIN])

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
