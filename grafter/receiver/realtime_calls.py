"""The door at which an app asks for a recorder: POST /v1/realtime/calls.

The rule it keeps: 202 means that the call's head is stored and somebody listens. A call that is recorded already is
answered alike, so that a sender may repeat itself.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from aiohttp import web

from grafter.core.link import Malformed, from_metadata
from grafter.core.openai.items import parse_json
from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.receiver.http_common import Tokens, http_status, read_body
from grafter.receiver.openai_http import RECEIVER, error_response
from grafter.receiver.recorder import Recorders
from grafter.receiver.sideband import is_call_id
from grafter.telemetry import Metrics

# A sender may join base and path with one slash, two, or one behind.
_CALLS_PATH = "/{path:/*v1/+realtime/+calls/*}"

_TRANSPORT = "realtime_calls"


def call_routes(
    recorders: Recorders, metrics: Metrics, *, tokens: Sequence[str] = (), max_bytes: int = 64 << 10
) -> list[web.RouteDef]:
    """The route that starts recorders: POST to ``/v1/realtime/calls``.

    ``{"call_id": "rtc_…", "traceparent": "00-…" | "metadata": {…}, "from": "+1…", "to": "+1…"}`` in, 202 out; a Live
    session's id is ``live_…``. ``from`` and ``to`` may be left out and are not kept. ``tokens`` are the bearer tokens
    that open it, none opens it to everybody. ``max_bytes`` bounds the body before and after decompression.
    """
    calls = _Calls(recorders, metrics, Tokens(tokens), max_bytes)
    return [web.post(_CALLS_PATH, calls.handle)]


@dataclass(frozen=True, slots=True)
class CallStart:
    """What a body asks for."""

    call_id: str
    metadata: Mapping[str, object] = field(default_factory=dict)


def read_start(body: bytes) -> CallStart:
    """Raises RejectedError, with a message that quotes nothing, unless the body is as ``call_routes`` says."""
    try:
        posted = parse_json(body)
    except ValueError as error:
        raise RejectedError(f"{error}; expected a JSON object with call_id", reason="json") from error
    if not isinstance(posted, dict):
        raise RejectedError("body is no JSON object; expected one with call_id", reason="shape")
    call_id = posted.get("call_id")
    if not isinstance(call_id, str) or not is_call_id(call_id):
        raise RejectedError("call_id is not a string of 1 to 256 printable ASCII characters", reason="call_id")
    metadata = posted.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise RejectedError("metadata is no JSON object", reason="shape")
    for name in ("from", "to"):
        if not isinstance(posted.get(name), str | None):
            raise RejectedError(f"{name} is no string", reason="shape")
    start = dict(metadata or {})
    traceparent = posted.get("traceparent")
    if traceparent is not None:
        # Metadata is taken as it is, as at every door; what stands under this name was meant to be one.
        if isinstance(from_metadata({"traceparent": traceparent}, ()), Malformed):
            raise RejectedError("traceparent is not 00-<32 hex>-<16 hex>-<2 hex>, ids not zero", reason="traceparent")
        start["traceparent"] = traceparent
    return CallStart(call_id, start)


class _Calls:
    def __init__(self, recorders: Recorders, metrics: Metrics, tokens: Tokens, max_bytes: int) -> None:
        self._recorders = recorders
        self._metrics = metrics
        self._tokens = tokens
        self._max_bytes = max_bytes

    async def handle(self, request: web.Request) -> web.Response:
        clock = asyncio.get_running_loop().time
        began = clock()
        outcome = "error"
        try:
            response, outcome = await self._answer(request)
            return response
        finally:
            self._metrics.receiver_requests.labels(RECEIVER, _TRANSPORT, outcome).inc()
            self._metrics.receiver_seconds.labels(RECEIVER).observe(clock() - began)

    async def _answer(self, request: web.Request) -> tuple[web.Response, str]:
        """The answer, and its name among the outcomes."""
        if not self._tokens.allows(request.headers.get("Authorization")):
            message = "the bearer token is not one of this receiver's tokens"
            return error_response(401, message, "invalid_api_key", {"WWW-Authenticate": "Bearer"}), "unauthenticated"
        try:
            start = read_start(await read_body(request, self._max_bytes))
            found = await self._recorders.start(start.call_id, metadata=start.metadata)
        except RejectedError as error:
            return error_response(http_status(error), str(error), error.reason), (
                "too_large" if isinstance(error, TooLargeError) else "rejected"
            )
        except UnavailableError as error:
            wait = {"Retry-After": str(max(1, ceil(error.retry_after)))}
            return error_response(503, str(error), error.reason, wait), "unavailable"
        return web.json_response({"call_id": start.call_id, "status": found.value}, status=202), "accepted"
