"""How the doors at the address of OpenAI-shaped HTTP answer: what is the same whatever was asked.

Each request is counted once by what came of it and timed, whatever happens. A token that does not fit is 401, what will
not get better by itself 4xx with a reason, what may pass 503 with a Retry-After; the error is worded as OpenAI's API
words it, for the SDKs log its body.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import ceil

from aiohttp import web

from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.receiver.http_common import Tokens, http_status
from grafter.telemetry import Metrics

RECEIVER = "openai"

Answered = tuple[web.Response, str]
"""A response, and its name among the outcomes that are counted."""
Answer = Callable[[web.Request], Awaitable[Answered]]
"""What a door says to a request. Raises RejectedError and UnavailableError."""


def answering(
    answer: Answer,
    metrics: Metrics,
    transport: str,
    *,
    tokens: Tokens | None = None,
    outcomes: Mapping[str, str] | None = None,
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler for aiohttp around a door's answer; counted under ``transport``.

    ``tokens`` that do not allow a request keep it from the door. ``outcomes``: what a refusal of these reasons is
    counted as, where that is not ``rejected``.
    """

    async def handle(request: web.Request) -> web.Response:
        clock = asyncio.get_running_loop().time
        began = clock()
        outcome = "error"
        try:
            if tokens is not None and not tokens.allows(request.headers.get("Authorization")):
                response, outcome = _unauthenticated()
            else:
                try:
                    response, outcome = await answer(request)
                except RejectedError as error:
                    response, outcome = _rejected(error, outcomes or {})
                except UnavailableError as error:
                    response, outcome = unavailable(error), "unavailable"
            return response
        finally:
            metrics.receiver_requests.labels(RECEIVER, transport, outcome).inc()
            metrics.receiver_seconds.labels(RECEIVER).observe(clock() - began)

    return handle


def error_response(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as OpenAI's API words it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


def unavailable(error: UnavailableError) -> web.Response:
    """503, and when to come again: whole seconds and never 0, which is what every client understands."""
    wait = {"Retry-After": str(max(1, ceil(error.retry_after)))}
    return error_response(503, str(error), error.reason, wait)


def _unauthenticated() -> Answered:
    message = "the bearer token is not one of this receiver's tokens"
    return error_response(401, message, "invalid_api_key", {"WWW-Authenticate": "Bearer"}), "unauthenticated"


def _rejected(error: RejectedError, outcomes: Mapping[str, str]) -> Answered:
    outcome = "too_large" if isinstance(error, TooLargeError) else outcomes.get(error.reason, "rejected")
    return error_response(http_status(error), str(error), error.reason), outcome
