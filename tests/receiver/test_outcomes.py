"""One table says how each error is counted and answered, in both dialects."""

import errno

import orjson
import pytest
from grpc import StatusCode

from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.otlp.status import read_failure
from grafter.receiver.outcomes import (
    MethodError,
    NotFoundError,
    UnauthenticatedError,
    UnsignedError,
    UnsupportedError,
    headers_of,
    openai_failure,
    otlp_failure,
    refusal_of,
)
from grafter.receiver.recorder import NotRecordedError

NO_MEMORY = "out of memory; this was not taken"

HANGS_UP = {"Retry-After": "2", "Connection": "close"}
"""Where memory was not to be had, the rest of the connection is not read either."""


class OfNoRowError(TooLargeError):
    """A kind of what is in the table, and not in it."""


@pytest.mark.parametrize(
    ("error", "outcome", "http", "grpc", "headers"),
    [
        (UnavailableError("m", retry_after=1.2), "unavailable", 503, StatusCode.UNAVAILABLE, {"Retry-After": "2"}),
        (NotRecordedError("m", retry_after=0.0), "unavailable", 503, StatusCode.UNAVAILABLE, {"Retry-After": "1"}),
        (MemoryError("m"), "unavailable", 503, StatusCode.UNAVAILABLE, HANGS_UP),
        (OSError(errno.ENOMEM, "m"), "unavailable", 503, StatusCode.UNAVAILABLE, HANGS_UP),
        (RuntimeError("can't start new thread"), "unavailable", 503, StatusCode.UNAVAILABLE, HANGS_UP),
        (OSError(errno.EIO, "m"), "error", 500, StatusCode.INTERNAL, {}),
        (RuntimeError("m"), "error", 500, StatusCode.INTERNAL, {}),
        (RejectedError("m"), "rejected", 400, StatusCode.INVALID_ARGUMENT, {}),
        (TooLargeError("m"), "too_large", 413, StatusCode.RESOURCE_EXHAUSTED, {}),
        (OfNoRowError("m"), "too_large", 413, StatusCode.RESOURCE_EXHAUSTED, {}),
        (UnsupportedError("m"), "rejected", 415, StatusCode.INVALID_ARGUMENT, {}),
        (UnsignedError("m"), "unsigned", 400, StatusCode.INVALID_ARGUMENT, {}),
        (NotFoundError("m"), "not_found", 404, StatusCode.UNIMPLEMENTED, {}),
        (MethodError("m", "POST"), "rejected", 405, StatusCode.UNIMPLEMENTED, {"Allow": "POST"}),
        (
            UnauthenticatedError("m"),
            "unauthenticated",
            401,
            StatusCode.UNAUTHENTICATED,
            {"WWW-Authenticate": "Bearer"},
        ),
        (KeyError("m"), "error", 500, StatusCode.INTERNAL, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_has_its_row(
    error: Exception, outcome: str, http: int, grpc: StatusCode, headers: dict[str, str]
) -> None:
    """A kind that is in no row has that of the nearest class it is of; a hint is given where a repeat makes sense."""
    refusal = refusal_of(error)
    assert (refusal.outcome, refusal.http, refusal.grpc, headers_of(error)) == (outcome, http, grpc, headers)
    assert otlp_failure(error).code == grpc.value[0]
    assert openai_failure(error).status == http
    message, hint = read_failure(otlp_failure(error).SerializeToString())
    assert (hint is not None) == (outcome == "unavailable")
    known = isinstance(error, RejectedError | UnavailableError)
    assert message == ("m" if known else "internal error" if outcome == "error" else NO_MEMORY)


def test_a_bug_does_not_speak() -> None:
    """An exception's text may quote what was posted, so neither dialect has it."""
    error = ValueError("a user's prompt")
    assert orjson.loads(openai_failure(error).body)["error"] == {  # type: ignore[arg-type]
        "message": "internal error",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert b"prompt" not in otlp_failure(error).SerializeToString()
