"""Weights are written behind what came: whatever a span holds, it leaves with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from grafter.consumer import Piece
from grafter.core.model import Envelope
from grafter.core.sampling.first_token import CALLER_WAIT_KEYS, MODEL_TURN_KEYS
from grafter.core.sampling.policy import SamplingDecision
from grafter.otlp.frames import run_of, spans_of
from grafter.otlp.sampling import SpansView, Weights, incoming_rate

ENVELOPE = Envelope(b"", b"")
UNKNOWN = [
    b"",
    b"\xa2\x06\x05hello",  # field 100, bytes
    b"\xa0\x06\x96\x01",  # field 100, varint
    b"\xa1\x06abcdefgh",  # field 100, eight bytes
    b"\xa5\x06abcd",  # field 100, four bytes
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.one_of(
    st.builds(AnyValue, string_value=texts),
    st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
    st.builds(AnyValue, double_value=st.floats()),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
    st.just(AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="x")]))),
    st.just(AnyValue()),
)
keys = st.sampled_from(["SampleRate", "sampleRate", "grafter.policy", "a", *CALLER_WAIT_KEYS, *MODEL_TURN_KEYS]) | texts
attributes = st.lists(st.builds(KeyValue, key=keys, value=values), max_size=4)
states = st.sampled_from(["", "a=b", "ot=th:8", "ot=rv:ffffffffffffff", "ot=nonsense", "x=1, ot=th:c;z:1"])
events = st.lists(st.builds(Span.Event, name=texts, attributes=attributes), max_size=2)
spans = st.builds(
    Span,
    trace_id=st.just(b"t" * 16),
    span_id=st.binary(min_size=8, max_size=8),
    trace_state=states,
    name=texts,
    start_time_unix_nano=st.integers(0, 2**64 - 1),
    end_time_unix_nano=st.integers(0, 2**64 - 1),
    attributes=attributes,
    events=events,
    status=st.none() | st.builds(Status, code=st.integers(0, 2)),
)
raw_spans = st.tuples(spans.map(Span.SerializeToString), st.sampled_from(UNKNOWN)).map(b"".join)
OURS = ("SampleRate", "sampleRate", "grafter.policy", "grafter.dry_run")


def plain(span: Span) -> bytes:
    """The span without what sampling may write."""
    copy = Span.FromString(span.SerializeToString())
    others = [attribute for attribute in copy.attributes if attribute.key not in OURS]
    del copy.attributes[:]
    copy.attributes.extend(others)
    copy.ClearField("trace_state")
    return copy.SerializeToString(deterministic=True)


@given(st.lists(raw_spans, min_size=1, max_size=4), st.integers(1, 200), st.booleans(), st.booleans())
def test_whatever_a_span_holds_it_leaves_with_it(raws: list[bytes], one_of: int, claim: bool, dry: bool) -> None:
    """Nothing but the policy, the rate and the trace state differs, unknown fields included; the policy stands once,
    and where the rate was written it stands once; nothing raises for any attribute that policies read."""
    piece = Piece(ENVELOPE, run_of(raws), len(raws))
    view = SpansView([piece], 0, complete=True)
    view.has_error(), view.has_barge_in(), view.duration_ms(), view.randomness(), list(view.values("a"))
    longest = view.first_token_ms()
    assert longest is None or longest >= 0
    weights = Weights(SamplingDecision("p", True, one_of), claim, b"own", dry=dry)
    (written,) = weights.write(view)
    assert written.spans == len(raws)
    for raw, out in zip(raws, spans_of(written.payload), strict=True):
        before, after = Span.FromString(raw), Span.FromString(out)
        assert plain(before) == plain(after)
        assert [a.value.string_value for a in after.attributes if a.key == "grafter.policy"] == ["p"]
        if one_of > 1 and not dry:
            (rate,) = (a.value.int_value for a in after.attributes if a.key in OURS[:2])
            assert rate >= one_of


@given(st.lists(st.lists(raw_spans, min_size=1, max_size=3), min_size=1, max_size=4), st.integers(1, 2))
def test_a_trace_is_what_its_spans_are_one_by_one(runs: list[list[bytes]], envelopes: int) -> None:
    """Errors, times and randomness as a full decode of each span has them, however the spans came."""
    around = [Envelope(bytes([at]), b"") for at in range(envelopes)]
    pieces = [Piece(around[at % envelopes], run_of(run), len(run)) for at, run in enumerate(runs)]
    view = SpansView(pieces, 0, complete=True)
    all_of_them = [Span.FromString(raw) for run in runs for raw in run]
    timed = [span for span in all_of_them if 0 < span.start_time_unix_nano <= span.end_time_unix_nano]
    lasted = max((s.end_time_unix_nano for s in timed), default=0) - min(
        (s.start_time_unix_nano for s in timed), default=0
    )
    assert view.has_error() == any(span.status.code == 2 for span in all_of_them)
    assert view.duration_ms() == lasted / 1e6
    assert view.spans == len(all_of_them)
    explicit = any(span.trace_state == "ot=rv:ffffffffffffff" for span in all_of_them)
    assert view.randomness() == (0xFFFFFFFFFFFFFF if explicit else int.from_bytes(b"t" * 7))
    leave = Weights(SamplingDecision("p", True), True, b"own").write(view)
    assert sorted(plain(Span.FromString(raw)) for piece in leave for raw in spans_of(piece.payload)) == sorted(
        plain(span) for span in all_of_them
    )


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (AnyValue(int_value=7), 7),
        (AnyValue(double_value=2.5), 3),
        (AnyValue(string_value="4"), 4),
        (AnyValue(int_value=0), 1),
        (AnyValue(int_value=-3), 1),
        (AnyValue(string_value="many"), 1),
        (AnyValue(bool_value=True), 1),
        (AnyValue(double_value=float("nan")), 1),
        (AnyValue(int_value=1 << 40), (1 << 31) - 1),
    ],
)
def test_a_rate_is_read_as_honeycomb_reads_it(value: AnyValue, rate: int) -> None:
    """Whole numbers, fractions rounded half up, texts; what is none, or not positive, is 1; sampleRate first."""
    assert incoming_rate([KeyValue(key="SampleRate", value=value)]) == rate
    both = [KeyValue(key="SampleRate", value=AnyValue(int_value=9)), KeyValue(key="sampleRate", value=value)]
    assert incoming_rate(both) == rate
    assert incoming_rate([KeyValue(key="rate", value=value)]) is None


def test_one_span_that_cannot_be_read_costs_nothing_but_itself() -> None:
    """Its neighbours are looked at and written on, and it leaves with all of its bytes."""
    broken = Span(trace_id=b"t" * 16, span_id=b"1" * 8).SerializeToString() + b"\x4a\x05\x0a\x50abc"
    slow = [KeyValue(key="lk.response.ttft", value=AnyValue(double_value=3.0))]
    good = Span(trace_id=b"t" * 16, span_id=b"2" * 8, attributes=slow).SerializeToString()
    piece = Piece(ENVELOPE, run_of([broken, good]), 2)
    view = SpansView([piece], 0, complete=True)
    assert view.first_token_ms() == 3000
    (written,) = Weights(SamplingDecision("p", True, 2), True, b"own").write(view)
    first, second = spans_of(written.payload)
    assert first.startswith(broken)
    assert second.startswith(good)
