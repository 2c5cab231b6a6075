"""The handwritten google.rpc.Status, held against the real one."""

import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from hypothesis import given, settings
from hypothesis import strategies as st

from grafter.otlp.status import Code, Status


def expected(status: Status) -> RpcStatus:
    rpc = RpcStatus(code=int(status.code), message=status.message)
    if status.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(round(status.retry_after * 1_000_000_000))
        rpc.details.add().Pack(RetryInfo(retry_delay=delay))
    if status.violation:
        rpc.details.add().Pack(BadRequest(field_violations=[BadRequest.FieldViolation(description=status.violation)]))
    return rpc


@given(
    code=st.sampled_from(Code),
    message=st.text(min_size=1, max_size=300),
    retry_after=st.none() | st.floats(0, 100_000),
    violation=st.text(max_size=300),
)
@settings(max_examples=100, deadline=None)
def test_both_encodings_are_the_real_ones(code, message, retry_after, violation):
    """Bytes and JSON read as google.rpc.Status with the same content."""
    status = Status(code, message, retry_after, violation)
    assert RpcStatus.FromString(status.to_bytes()) == expected(status)
    assert json_format.Parse(status.to_json(), RpcStatus()) == expected(status)


@pytest.mark.parametrize("delay", [0.0, -1.0])
def test_a_delay_is_never_negative(delay):
    """No delay, or a negative one, is zero seconds."""
    status = Status(Code.UNAVAILABLE, "later", delay)
    assert RetryInfo.FromString(status.retry_info()).retry_delay.ToNanoseconds() == 0
    assert orjson.loads(status.to_json())["details"][0]["retryDelay"] == "0s"
