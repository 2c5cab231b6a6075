"""What is said beside yes reads back as what was meant, whoever reads it."""

import grpc
import orjson
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from grafter.otlp.status import (
    failure,
    failure_to_json,
    partial_success,
    read_failure,
    read_partial_success,
    retry_info,
)


@given(
    code=st.sampled_from(list(grpc.StatusCode)),
    message=st.text(max_size=300),
    retry_after=st.none() | st.floats(0, 100_000),
    violation=st.text(max_size=300),
)
def test_both_encodings_say_the_same(code, message, retry_after, violation):
    """Bytes and JSON have the same content, and the details that were asked for."""
    status = failure(code.value[0], message, retry_after=retry_after, violation=violation)
    assert Status.FromString(status.SerializeToString()) == status
    assert json_format.Parse(failure_to_json(status), Status()) == status
    kinds = [kind for kind in (RetryInfo, BadRequest) if any(detail.Is(kind.DESCRIPTOR) for detail in status.details)]
    assert kinds == [RetryInfo] * (retry_after is not None) + [BadRequest] * bool(violation)
    read, hint = read_failure(status.SerializeToString())
    assert read == message
    assert hint is None if retry_after is None else hint == pytest.approx(retry_after, abs=1e-9)


@pytest.mark.parametrize("delay", [0.0, -1.0])
def test_a_delay_is_never_negative(delay):
    """No delay, or a negative one, is zero seconds."""
    assert retry_info(delay).retry_delay.ToNanoseconds() == 0
    status = failure(14, "later", retry_after=delay)
    assert orjson.loads(failure_to_json(status))["details"][0]["retryDelay"] == "0s"


def test_what_utf8_cannot_say_is_replaced():
    """A lone surrogate, which a message may quote from JSON, costs one character and not the answer."""
    assert failure(3, "a\ud800b", violation="\ud800").message == "a?b"


@given(rejected=st.integers(0, 1 << 62), message=st.text(max_size=100), junk=st.binary(max_size=40))
def test_partial_success_is_read_where_it_can_be(rejected, message, junk):
    """What was written reads back; of other bytes nothing is believed that is not there, and nothing is raised."""
    assert read_partial_success(partial_success(rejected, message)) == (rejected, message)
    count, _ = read_partial_success(junk)
    assert count >= 0
    read_failure(junk)
