"""A place in a trace, as it is written into carriers and read out of them."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace

from grafter_propagation import (
    TraceContext,
    extract,
    inject,
    inject_job,
    observe_sdp_answer,
    realtime_tracing,
    trace_metadata,
)
from tests.propagation.apps import HELPERS
from tests.propagation.spans import Spans

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HERE = f"00-{TRACE}-{SPAN}-01"
CONTEXT = TraceContext(TRACE, SPAN)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (HERE, CONTEXT),
        (f" {HERE.upper()} ", CONTEXT),
        (f"00-{TRACE}-{SPAN}-00", TraceContext(TRACE, SPAN, 0)),
        (f"cc-{TRACE}-{SPAN}-03-later", TraceContext(TRACE, SPAN, 3)),
        (f"{HERE}-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE[:-1]}-{SPAN}-01", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_a_traceparent_is_read_as_w3c_wants_it(text: object, read: TraceContext | None) -> None:
    """Later versions may add to it; ids of zeros and version ff are none."""
    assert TraceContext.parse(text) == read


@pytest.mark.parametrize(
    "carrier",
    [
        {"traceparent": HERE},
        {"Traceparent": HERE},
        {"TRACEPARENT": HERE},
        {b"traceparent": HERE.encode()},
        {"X-Traceparent": HERE},
        {"SipHeader_X-Traceparent": HERE},
        {"_otel": {"traceparent": HERE}, "order": 7},
        {"_otel": {"traceparent": HERE}, "traceparent": f"00-{'1' * 32}-{SPAN}-01"},
        [{"name": "From", "value": "<sip:+1@x>"}, {"name": "X-Traceparent", "value": HERE}],
        (("order", b"7"), ("traceparent", HERE.encode())),
        HERE,
    ],
)
def test_a_carrier_is_read_as_each_hop_writes_it(carrier: Any) -> None:
    """Any case, bytes, SIP headers by Twilio and by OpenAI, job data; what is meant for it wins."""
    assert extract(carrier) == CONTEXT


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=60) | st.binary(max_size=60) | st.just(HERE[:-1]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=12) | st.sampled_from(["_otel", "traceparent", "name", "value"]), inner)
    ),
    max_leaves=8,
)


@given(JUNK)
def test_no_carrier_hurts_whoever_reads_it(carrier: Any) -> None:
    """Anyone may have sent the message."""
    assert extract(carrier) is None


def test_a_carrier_is_written_from_the_current_span_into_a_copy(spans: Spans) -> None:
    """What the app gave is as it was; without a span it is only copied; a given place wins."""
    given_headers = {"a": "b"}
    assert inject(given_headers) == given_headers
    assert inject_job({"order": 7}) == {"order": 7}
    with spans.span("call") as ids:
        written = inject(given_headers)
        job = inject_job({"order": 7})
        elsewhere = inject(given_headers, CONTEXT)
    assert given_headers == {"a": "b"}
    for carrier in (written, job):
        found = extract(carrier)
        assert found is not None
        assert (found.trace_id, found.span_id) == (ids["trace_id"], ids["span_id"])
    assert job["order"] == 7
    assert elsewhere == {"a": "b", "traceparent": HERE}


def test_a_tracestate_travels_with_it() -> None:
    """From a carrier to OpenTelemetry and to the next carrier."""
    carrier = {"traceparent": HERE, "tracestate": "ot=th:8,vendor=x"}
    found = extract(carrier)
    assert found is not None
    with trace.use_span(trace.get_current_span(found.otel())):
        assert TraceContext.current() == found
        assert inject() == carrier


def test_metadata_for_openai_names_the_current_span(spans: Spans) -> None:
    """Of an Agents SDK trace and of a Realtime session: ids, the call, and what the app adds, all texts."""
    assert trace_metadata(tenant="t_1") == {"tenant": "t_1"}
    assert realtime_tracing() == {"workflow_name": "Realtime call", "metadata": {}}
    with spans.span("gen_ai.realtime.session") as ids:
        metadata = trace_metadata(tenant="t_1")
        tracing = realtime_tracing("Desk", call="CA1", tenant="t_1")
    traceparent = metadata.pop("traceparent")
    assert traceparent.startswith(f"00-{ids['trace_id']}-{ids['span_id']}-")
    assert metadata == {**ids, "tenant": "t_1"}
    assert tracing == {
        "workflow_name": "Desk",
        "group_id": "CA1",
        "metadata": {**metadata, "traceparent": traceparent, "call_id": "CA1"},
    }
    assert trace_metadata(CONTEXT) == {"trace_id": TRACE, "span_id": SPAN, "traceparent": HERE}


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        ("/v1/realtime/calls/rtc_u1_9c65", "rtc_u1_9c65"),
        ("https://api.openai.com/v1/realtime/calls/rtc_1?a=b", "rtc_1"),
        ({"Location": "/v1/realtime/calls/rtc_1"}, "rtc_1"),
        ({"location": "/v1/live/sessions/live_1/"}, "live_1"),
        ({"Content-Type": "application/sdp"}, None),
        ("/v1/realtime/calls/", None),
        ("rtc_1", None),
    ],
)
def test_a_call_is_known_by_the_answer_to_its_offer(spans: Spans, answer: Any, call: str | None) -> None:
    """Its id is in the Location of OpenAI's answer, and becomes an attribute of the current span."""
    with spans.span("offer"):
        assert observe_sdp_answer(answer) == call
    assert (spans.named("offer").attributes or {}).get("openai.realtime.call_id") == call


def test_without_opentelemetry_nothing_is_carried_and_nothing_breaks() -> None:
    """An app that traces nothing may hold the same lines."""
    code = """
from grafter_propagation import *
assert inject({"a": "b"}) == {"a": "b"} and inject_job({"a": 1}) == {"a": 1} and trace_metadata() == {}
assert TraceContext.current() is None and observe_sdp_answer("/calls/rtc_1") == "rtc_1"
assert unseal(seal(b"body"))[0] == b"body" and not end_call("CA1", start=1, end=2)
with continue_call({"traceparent": "x"}, "process") as span:
    assert span is None
"""
    ended = subprocess.run([sys.executable, "-S", "-c", code], cwd=HELPERS, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
