"""No value of a redacted key leaves, wherever in a span its key stands."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from grafter.core.model import Envelope
from grafter.otlp.frames import framed, spans_of
from grafter.otlp.redaction import Redaction

KEY, SECRET = "caller.phone", "+15550100"
HASHED = Redaction(frozenset({KEY}), lambda _: "hash")
DROPPED = Redaction(frozenset({KEY}), lambda _: None)


def documents():
    """JSON values with the key planted in them: in maps, in lists, in JSON that is a string of other JSON."""
    planted = st.builds(lambda more: {**more, KEY: SECRET}, st.dictionaries(st.sampled_from("abc"), st.integers()))
    wrapped = st.recursive(
        planted,
        lambda inner: (
            st.builds(lambda v: [1, v, "x"], inner)
            | st.builds(lambda v: {"a": v, "b": None}, inner)
            | st.builds(lambda v: {"json": json.dumps(v)}, inner)
            | st.builds(lambda v: {KEY: v}, inner)
        ),
        max_leaves=6,
    )
    return wrapped


@st.composite
def values(draw) -> AnyValue:
    """An attribute value that holds the secret under the key, some way down."""
    value = AnyValue(string_value=draw(st.sampled_from([json.dumps, escaped, spaced]))(draw(documents())))
    if draw(st.booleans()):
        value = AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=KEY, value=AnyValue(string_value=SECRET))]))
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()):
            value = AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1), value]))
        else:
            value = AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="in", value=value)]))
    return value


def escaped(document: object) -> str:
    """JSON with its keys written as escapes."""
    return json.dumps(document).replace("caller", "\\u0063aller")


def spaced(document: object) -> str:
    return "\n " + json.dumps(document, indent=2)


@given(value=values(), redaction=st.sampled_from([HASHED, DROPPED]))
def test_no_value_of_a_planted_key_leaves(value: AnyValue, redaction: Redaction) -> None:
    """On spans, events, links, resources and scopes, at any depth, in maps, lists and JSON within JSON."""
    own = [KeyValue(key="any", value=value)]
    span = Span(
        trace_id=b"t" * 16,
        attributes=own,
        events=[Span.Event(attributes=own)],
        links=[Span.Link(attributes=own)],
        status=Status(message=orjson.dumps({KEY: SECRET}).decode()),
    )
    assert SECRET.encode() in span.SerializeToString()
    run = redaction.run(framed(0x12, span.SerializeToString()))
    resource = ResourceSpans(resource=Resource(attributes=own)).SerializeToString()
    scope = ScopeSpans(scope=InstrumentationScope(attributes=own)).SerializeToString()
    envelope = redaction.envelope(Envelope(resource, scope))
    for left in (run, envelope.resource, envelope.scope):
        assert SECRET.encode() not in left
    assert Span.FromString(next(iter(spans_of(run)))).trace_id == b"t" * 16


def one(key: str, value: str) -> Span:
    attributes = [KeyValue(key=key, value=AnyValue(string_value=value))]
    run = HASHED.run(framed(0x12, Span(attributes=attributes).SerializeToString()))
    return Span.FromString(next(iter(spans_of(run))))


def test_a_key_that_comes_twice_in_json() -> None:
    """A reader keeps the last of two equal keys; the first does not leave either."""
    assert SECRET not in str(one("args", '{"a":{"caller.phone":"+15550100"},"a":1}'))


def test_json_that_was_cut_off() -> None:
    """What cannot be read and names the key is replaced as a whole."""
    assert one("args", '{"caller.phone":"+15550100","b":"cu').attributes[0].value.string_value == "hash"


@pytest.mark.parametrize("made", ["trace.metadata", "trace.metadata.of.metadata", "custom", "model_config"])
def test_keys_that_became_attributes(made: str) -> None:
    """``openai.agents.trace.metadata.<key>`` is the key too; so is one of a custom span's data, or of settings."""
    assert one(f"openai.agents.{made}.{KEY}", SECRET).attributes[0].value.string_value == "hash"


def test_a_key_that_has_metadata_in_it() -> None:
    """As an attribute of its own it is told from the key behind it."""
    redaction = Redaction(frozenset({"our.metadata.phone"}), lambda _: "hash")
    run = framed(
        0x12,
        Span(
            attributes=[
                KeyValue(key=f"openai.agents.trace.metadata.our.metadata.{name}", value=AnyValue(string_value=SECRET))
                for name in ("phone", "phones")
            ]
        ).SerializeToString(),
    )
    (span,) = (Span.FromString(raw) for raw in spans_of(redaction.run(run)))
    assert [attribute.value.string_value for attribute in span.attributes] == ["hash", SECRET]


def test_what_holds_no_key_stays_byte_for_byte() -> None:
    """JSON of its own form, a key as a mere word, and fields that are not known stay as they came."""
    raw = Span(attributes=[KeyValue(key="args", value=AnyValue(string_value='{ "a" : 1.0 }'))]).SerializeToString()
    raw += Span(attributes=[KeyValue(key="text", value=AnyValue(string_value=f"the {KEY} is"))]).SerializeToString()
    run = framed(0x12, raw + b"\xc2\x3e\x01x")
    assert HASHED.run(run) == run


def test_a_span_that_cannot_be_read_is_mended() -> None:
    """One byte that is not UTF-8 costs itself, and neither the span nor the rule."""
    raw = Span(attributes=[KeyValue(key=KEY, value=AnyValue(string_value=SECRET))]).SerializeToString()
    raw += framed(0x4A, framed(0x0A, b"path") + framed(0x12, framed(0x0A, b"caf\xe9")))
    span = Span.FromString(next(iter(spans_of(HASHED.run(framed(0x12, raw))))))
    assert [(a.key, a.value.string_value) for a in span.attributes][:2] == [(KEY, "hash"), ("path", "caf\ufffd")]
