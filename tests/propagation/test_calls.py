"""One trace for one call: ids that everyone computes, attempts that are children or roots, a root written last."""

import json
import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import StatusCode

from grafter_propagation import CallIds, TraceContext, call_context, continue_call, end_call, inject
from grafter_propagation.calls import __getattr__ as made
from tests.e2e.tree import outline
from tests.propagation.spans import Spans

SID = "CA5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f"


@pytest.mark.parametrize(
    ("call", "trace_id"),
    [
        (SID, SID[2:]),
        (SID.upper(), SID[2:]),
        ("428c31b6-7af4-4bcb-b7f5-5013ef9657c1", "428c31b67af44bcbb7f55013ef9657c1"),
    ],
)
def test_a_call_id_that_has_the_shape_of_a_trace_id_is_one(call: str, trace_id: str) -> None:
    """Of Twilio and of Telnyx: whoever knows the call finds the trace without a table."""
    assert call_context(call).trace_id == trace_id
    assert call_context(call) == call_context(trace_id)


def test_every_call_has_one_root_wherever_it_is_asked_for() -> None:
    """The ids never change (written down here, for processes of two releases share calls), and two calls have two."""
    assert call_context(SID) == TraceContext("5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f", "c8a036791785c26b")
    assert call_context("conv 42") == TraceContext("9dd8fb6a67b44570c589162b48ca8d74", "956eecb0b736b1f3")
    many = [call_context(f"call {number}") for number in range(1000)]
    assert len({context.trace_id for context in many}) == len({context.span_id for context in many}) == 1000
    with pytest.raises(ValueError, match="without an id"):
        call_context("")


def test_a_first_attempt_is_a_child_and_a_retry_a_root_with_a_link(spans: Spans) -> None:
    """Hours later the work is no longer part of the call, but says whose it was."""
    with spans.span("enqueue"):
        job = inject({"order": "7"})
    for settings in ({}, {"attempt": 2}, {"delayed": True}):
        with continue_call(job, f"process {settings}", tracer=spans.tracer, **settings):
            pass
    assert spans.text() == outline("""
        enqueue [internal]
          process {} [consumer]
        process {'attempt': 2} [consumer] > enqueue
        process {'delayed': True} [consumer] > enqueue
    """)


@pytest.mark.parametrize("carrier", [None, {}, {"traceparent": "odd"}, "odd"])
def test_a_message_that_names_no_place_stays_where_the_worker_is(spans: Spans, carrier: Any) -> None:
    """A child of the current span, where there is one; a retry of it as well, for there is nothing to link to."""
    with spans.span("worker"), continue_call(carrier, "process", attempt=3, tracer=spans.tracer):
        pass
    assert spans.text() == "worker [internal]\n  process [consumer]"


def test_what_fails_in_the_block_is_the_spans_error_and_the_apps(spans: Spans) -> None:
    """The exception goes on to the app."""
    with pytest.raises(RuntimeError), continue_call(call_context(SID), "process", kind="server", tracer=spans.tracer):
        raise RuntimeError("no answer")
    assert spans.named("process").status.status_code is StatusCode.ERROR


def test_the_root_of_a_call_is_written_when_it_is_over(spans: Spans) -> None:
    """All parts computed the root's ids while it was not there; then it is, once, with its own times."""
    for part in ("sip.invite", "gen_ai.realtime.session"):
        with continue_call(call_context(SID), part, kind="server", tracer=spans.tracer):
            pass
    assert end_call(SID, start=1_000, end=2_000, attributes={"outcome": "booked"}, tracer=spans.tracer)
    root = spans.named("callsphere.call")
    assert (root.start_time, root.end_time) == (1_000, 2_000)
    assert root.attributes == {"call.id": SID, "outcome": "booked"}
    assert spans.text() == outline("""
        callsphere.call [server]
          sip.invite [server]
          gen_ai.realtime.session [server]
    """)


def test_a_root_is_not_written_under_other_ids(caplog: pytest.LogCaptureFixture) -> None:
    """Where the provider makes ids of its own another root would come out; a warning says what is missing instead."""
    spans = Spans(provider=TracerProvider(shutdown_on_exit=False))
    with caplog.at_level(logging.WARNING):
        assert not end_call(SID, start=1, end=2, tracer=spans.tracer)
    assert spans.ended == []
    assert "CallIds" in caplog.text


def test_other_spans_keep_random_ids() -> None:
    """The SDK is told so, but not of a call's own id."""
    ids = CallIds()
    assert len({ids.generate_trace_id() for _ in range(1000)} | {ids.generate_span_id() for _ in range(1000)}) == 2000
    assert ids.is_trace_id_random()
    assert issubclass(made("CallIdGenerator"), IdGenerator)


def test_ids_in_json_are_the_same_everywhere() -> None:
    """A context goes through any text."""
    context = call_context(SID)
    again = TraceContext.parse(json.loads(json.dumps(context.traceparent)))
    assert again == context
