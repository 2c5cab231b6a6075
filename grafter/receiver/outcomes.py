"""What came of a request, and how it is answered: one table from errors to statuses, in OTLP's words and OpenAI's.

Receivers raise and do not choose statuses. What will not get better by itself is a 4xx, what may pass 503 with a
Retry-After. OTLP senders read a google.rpc.Status; OpenAI's clients read, and log, an error as OpenAI's API words it.
Source: OTLP specification, "Failures"; openai-python 3.54.0, ``_exceptions.py``.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from aiohttp import hdrs, web
from grpc import StatusCode

from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.logs import Throttle
from grafter.otlp.status import Status, failure
from grafter.receiver.http_server import Tokens, comes_from_a_page
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

OPENAI = "openai"
"""The receivers that speak as OpenAI's API does, among the receivers that are counted."""


class Outcome(StrEnum):
    """What came of a request. The value is a metric label."""

    ACCEPTED = "accepted"
    REPEAT = "repeat"
    """A delivery that came before."""
    REJECTED = "rejected"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    UNAUTHENTICATED = "unauthenticated"
    UNSIGNED = "unsigned"
    """Apart from the rest, for it is what a wrong secret and a stranger come to."""
    UNAVAILABLE = "unavailable"
    ERROR = "error"
    """A bug of grafter's."""


class PageError(RejectedError):
    """A web page sent it, to a receiver that asks for no token."""

    def __init__(self) -> None:
        super().__init__(
            "a web page may not send here: requests with an Origin, or a Host that is not this machine's, need a token",
            reason="cross_site",
        )


class UnauthenticatedError(RejectedError):
    """The sender did not show what opens the receiver."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="invalid_api_key")


class NotFoundError(RejectedError):
    def __init__(self, message: str) -> None:
        super().__init__(message, reason="not_found")


class MethodError(RejectedError):
    """Something is served here, by the methods of ``allow``."""

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message, reason="method_not_allowed")
        self.allow = allow


class ConflictError(RejectedError):
    """What stands already is another thing, and stays."""


class UnsupportedError(RejectedError):
    """A content type or encoding that nothing here reads."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="unsupported_encoding")


class UnsignedError(RejectedError):
    """No known secret signed the body."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="bad_signature")


class UpstreamError(RejectedError):
    """OpenAI refuses what was asked for, and would again."""


class UpstreamMissingError(UpstreamError):
    """OpenAI does not know what was asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How one kind of error is counted and answered."""

    outcome: Outcome
    http: int
    grpc: StatusCode


REFUSALS: Mapping[type[BaseException], Refusal] = {
    UnavailableError: Refusal(Outcome.UNAVAILABLE, 503, StatusCode.UNAVAILABLE),
    MemoryError: Refusal(Outcome.UNAVAILABLE, 503, StatusCode.UNAVAILABLE),
    RejectedError: Refusal(Outcome.REJECTED, 400, StatusCode.INVALID_ARGUMENT),
    TooLargeError: Refusal(Outcome.TOO_LARGE, 413, StatusCode.RESOURCE_EXHAUSTED),
    ConflictError: Refusal(Outcome.REJECTED, 409, StatusCode.ALREADY_EXISTS),
    UnsupportedError: Refusal(Outcome.REJECTED, 415, StatusCode.INVALID_ARGUMENT),
    PageError: Refusal(Outcome.UNAUTHENTICATED, 403, StatusCode.PERMISSION_DENIED),
    UnauthenticatedError: Refusal(Outcome.UNAUTHENTICATED, 401, StatusCode.UNAUTHENTICATED),
    UnsignedError: Refusal(Outcome.UNSIGNED, 400, StatusCode.INVALID_ARGUMENT),
    NotFoundError: Refusal(Outcome.NOT_FOUND, 404, StatusCode.UNIMPLEMENTED),
    MethodError: Refusal(Outcome.REJECTED, 405, StatusCode.UNIMPLEMENTED),
    UpstreamError: Refusal(Outcome.REJECTED, 502, StatusCode.INVALID_ARGUMENT),
    UpstreamMissingError: Refusal(Outcome.REJECTED, 404, StatusCode.NOT_FOUND),
    Exception: Refusal(Outcome.ERROR, 500, StatusCode.INTERNAL),
}
"""By the nearest class of an error; anything that is in no other row is a bug."""


# Within these seconds other requests give back what they hold.
_MEMORY_RETRY_SECONDS = 2.0
_NO_THREAD = "can't start new thread"


def refusal_of(error: Exception) -> Refusal:
    """The row of the table that an error falls under."""
    kinds = MemoryError.__mro__ if _is_out_of_memory(error) else type(error).__mro__
    return next(REFUSALS[kind] for kind in kinds if kind in REFUSALS)


def _is_out_of_memory(error: BaseException) -> bool:
    """Also as the system says it, and as Python does where there is no room for a thread's stack."""
    match error:
        case OSError():
            return error.errno == errno.ENOMEM
        case RuntimeError():
            return str(error) == _NO_THREAD
    return isinstance(error, MemoryError)


def retry_after(error: Exception) -> float | None:
    """Seconds after which a new attempt makes sense; None where it does not."""
    if isinstance(error, UnavailableError):
        return error.retry_after
    return _MEMORY_RETRY_SECONDS if _is_out_of_memory(error) else None


def reason_of(error: Exception) -> str:
    """A short constant for what is wrong."""
    if isinstance(error, RejectedError | UnavailableError):
        return error.reason
    return "memory" if _is_out_of_memory(error) else "internal_error"


def log_refusal(throttle: Throttle, error: Exception, transport: str) -> None:
    """Say what a receiver refuses, and why, once a minute for each kind: few senders keep what a 4xx says."""
    outcome = refusal_of(error).outcome
    if requests := throttle.due(outcome):
        extra = {"transport": transport, "reason": _message(error), "requests": requests}
        _log.warning("requests were refused", extra=extra)


def log_skipped(throttle: Throttle, count: int, transport: str, reason: str) -> None:
    """Say once a minute that a receiver skips what it cannot read of a body that it takes; senders are not told."""
    if skipped := throttle.due("skipped", count) if count else 0:
        _log.warning("odd items were skipped", extra={"transport": transport, "reason": reason, "items": skipped})


def headers_of(error: Exception) -> dict[str, str]:
    """What HTTP says of an error beside its status."""
    seconds = retry_after(error)
    if seconds is not None:
        # Whole and never 0, which is what every client understands.
        headers: dict[str, str] = {hdrs.RETRY_AFTER: str(max(1, ceil(seconds)))}
        if _is_out_of_memory(error):
            # The rest of the body still comes, and where there is no memory for that either the connection is lost, and
            # with it a request that was sent behind this one.
            headers[hdrs.CONNECTION] = "close"
        return headers
    match error:
        case UnauthenticatedError():
            return {hdrs.WWW_AUTHENTICATE: "Bearer"}
        case MethodError():
            return {hdrs.ALLOW: error.allow}
    return {}


def otlp_failure(error: Exception) -> Status:
    """The google.rpc.Status that OTLP senders are given; of a bug without the exception's text."""
    code, message = refusal_of(error).grpc, _message(error)
    violation = message if code is StatusCode.INVALID_ARGUMENT else ""
    return failure(code.value[0], message, retry_after=retry_after(error), violation=violation)


def openai_failure(error: Exception) -> web.Response:
    """An error as OpenAI's API words it; of a bug without the exception's text."""
    status = refusal_of(error).http
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": _message(error), "type": kind, "param": None, "code": reason_of(error)}}
    return web.json_response(body, status=status, headers=headers_of(error))


def _message(error: Exception) -> str:
    if isinstance(error, RejectedError | UnavailableError):
        return str(error)
    return "out of memory; this was not taken" if _is_out_of_memory(error) else "internal error"


Answered = tuple[web.Response, Outcome]
Handle = Callable[[web.Request], Awaitable[Answered]]
"""What a receiver makes of a request. Raises RejectedError and UnavailableError."""


def openai_endpoint(
    handle: Handle, metrics: Metrics, transport: str, *, tokens: Tokens | None = None, timed: bool = True
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """An aiohttp handler around a receiver's own; each request is counted once under ``transport``, whatever happens.

    ``tokens`` that do not allow a request keep it out; where there are none, web pages are kept out.
    ``timed``: its time stands in the histogram.
    """

    throttle = Throttle()

    async def answer(request: web.Request) -> web.Response:
        clock = asyncio.get_running_loop().time
        began = clock()
        outcome = Outcome.ERROR
        try:
            if tokens is not None and not tokens.allows(request.headers.get(hdrs.AUTHORIZATION)):
                raise UnauthenticatedError("the bearer token is not one of this receiver's tokens")
            if tokens is not None and not tokens and comes_from_a_page(request):
                raise PageError
            response, outcome = await handle(request)
        except Exception as error:
            outcome = refusal_of(error).outcome
            if outcome is Outcome.ERROR:
                raise
            response = openai_failure(error)
            log_refusal(throttle, error, transport)
        finally:
            metrics.receiver_requests.labels(OPENAI, transport, outcome.value).inc()
            if timed:
                metrics.receiver_seconds.labels(OPENAI).observe(clock() - began)
        return response

    return answer
