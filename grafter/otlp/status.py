"""What OTLP peers answer beside success: google.rpc.Status and partial success, written for senders and read from
backends.

Reading is forgiving: what a peer says beside its status code is advice, and advice that cannot be read must never
change what became of the spans. Which detail goes with which code: OTLP specification, "Failures".
"""

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status as Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

_NANOS = 1_000_000_000


def failure(code: int, message: str, *, retry_after: float | None = None, violation: str = "") -> Status:
    """A Status of this gRPC code; ``retry_after`` (seconds) becomes its RetryInfo, ``violation`` its BadRequest."""
    status = Status(code=code, message=_utf8(message))
    if retry_after is not None:
        status.details.add().Pack(retry_info(retry_after))
    if violation:
        described = BadRequest.FieldViolation(description=_utf8(violation))
        status.details.add().Pack(BadRequest(field_violations=[described]))
    return status


def retry_info(seconds: float) -> RetryInfo:
    """When to come again; a negative time is none."""
    whole, nanos = divmod(round(max(seconds, 0.0) * _NANOS), _NANOS)
    return RetryInfo(retry_delay=Duration(seconds=whole, nanos=nanos))


def failure_to_json(status: Status) -> bytes:
    """The Status in proto3 JSON."""
    return orjson.dumps(MessageToDict(status))


def read_failure(status: bytes) -> tuple[str, float | None]:
    """The message of a serialised Status, and the seconds of its RetryInfo; empty and None where it has none."""
    try:
        read = Status.FromString(status)
        for detail in read.details:
            if detail.Is(RetryInfo.DESCRIPTOR):
                delay = RetryInfo.FromString(detail.value).retry_delay
                return read.message, max(delay.seconds + delay.nanos / _NANOS, 0.0)
    except DecodeError:
        return "", None
    return read.message, None


def read_partial_success(response: bytes) -> tuple[int, str]:
    """How many items of a request the peer threw away, and why, from its serialised Export…ServiceResponse.

    The responses of all signals have these in the same fields.
    """
    try:
        partial = ExportTraceServiceResponse.FromString(response).partial_success
    except DecodeError:
        return 0, ""
    return max(partial.rejected_spans, 0), partial.error_message


def partial_success(rejected: int, message: str) -> bytes:
    """A serialised ExportTraceServiceResponse that says so."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return response.SerializeToString()


def _utf8(text: str) -> str:
    """The text without what UTF-8 cannot say, which protobuf refuses."""
    return text.encode("utf-8", "replace").decode()
