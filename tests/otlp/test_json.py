"""OTLP JSON, held against the protobuf runtime's own JSON for everything that OTLP does not change."""

import base64
import copy
import json
import math
from random import Random

import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from grafter.consumer import Signal
from grafter.errors import RejectedError
from grafter.otlp.from_json import Oddities, request_from_json, trace_request_from_json
from grafter.otlp.to_json import message_to_json, trace_request_to_json

SCALARS = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=8),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=9),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False) | st.just(math.nan),
    FieldDescriptor.TYPE_ENUM: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_SINT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.TYPE_FIXED32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_SFIXED64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, (1 << 64) - 1),
    FieldDescriptor.TYPE_FIXED64: st.integers(0, (1 << 64) - 1),
}
IDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


@st.composite
def messages(draw, kind):
    """Any message of the type: random, but from a seed, since a request is larger than what hypothesis draws well."""
    chance = Random(draw(st.integers(0, 1 << 64)))
    pools = {scalar: draw(st.lists(values, min_size=1, max_size=4)) for scalar, values in SCALARS.items()}

    def fill(message, depth: int) -> None:
        # In any order, since the last of a oneof wins.
        for field in chance.sample(list(message.DESCRIPTOR.fields), len(message.DESCRIPTOR.fields)):
            # Near the top nearly everything is there, so that most requests reach down to spans and data points.
            if chance.random() > (0.9 if depth < 4 else 0.7 if depth < 8 else 0.1):
                continue
            target = getattr(message, field.name)
            count = chance.randint(1, 2)
            if field.type != FieldDescriptor.TYPE_MESSAGE:
                values = [chance.choice(pools[field.type]) for _ in range(count)]
                if field.is_repeated:
                    target.extend(values)
                else:
                    setattr(message, field.name, values[0])
            elif field.is_repeated:
                for _ in range(count):
                    fill(target.add(), depth + 1)
            else:
                target.SetInParent()
                fill(target, depth + 1)

    message = kind()
    fill(message, 0)
    return message


def oracle(message) -> dict:
    """The protobuf runtime's JSON, with base64 ids turned into hex."""

    def hexed(value):
        if isinstance(value, list):
            return [hexed(one) for one in value]
        if isinstance(value, dict):
            return {k: base64.b64decode(v).hex() if k in IDS else hexed(v) for k, v in value.items()}
        return value

    return hexed(json_format.MessageToDict(message, use_integers_for_enums=True))


def text(document) -> str:
    return json.dumps(document, sort_keys=True)


@given(message=messages(ExportTraceServiceRequest))
def test_traces_both_ways(message):
    """A trace request in JSON is what the protobuf runtime writes, ids aside, and reads back to the same request."""
    request = message.SerializeToString()
    document = trace_request_to_json(request)
    assert text(orjson.loads(document)) == text(oracle(message))
    assert trace_request_from_json(document) == request
    assert b"\n" not in document


@pytest.mark.parametrize(
    ("signal", "kind"), [(Signal.METRICS, ExportMetricsServiceRequest), (Signal.LOGS, ExportLogsServiceRequest)]
)
@given(data=st.data())
def test_metrics_and_logs_read_back(signal, kind, data):
    """A metrics or logs request, exemplars included, reads back from its JSON."""
    message = data.draw(messages(kind))
    assert text(orjson.loads(message_to_json(message))) == text(oracle(message))
    assert request_from_json(signal, message_to_json(message)) == message.SerializeToString()


@pytest.mark.parametrize(
    "name", ["otlp_call_from_sdk", "otlp_call_from_collector", "otlp_telemetrygen_through_collector"]
)
def test_recorded_requests_survive(name, request):
    """Recorded requests go to JSON and back without a change, whatever the order of their fields."""
    body = (request.config.rootpath / "tests" / "data" / "otlp" / f"{name}.pb").read_bytes()
    again = trace_request_from_json(trace_request_to_json(body))
    assert ExportTraceServiceRequest.FromString(again) == ExportTraceServiceRequest.FromString(body)


DOCUMENT = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "app"}}]},
            "scopeSpans": [
                {
                    "spans": [
                        {
                            "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
                            "spanId": "00f067aa0ba902b7",
                            "parentSpanId": "",
                            "name": "call",
                            "kind": 2,
                            "startTimeUnixNano": "1544712660000000000",
                            "endTimeUnixNano": 1544712661000000000,
                            "attributes": [{"key": "n", "value": {"intValue": "7"}}],
                            "links": [{"traceId": "4BF92F3577B34DA6A3CE929D0E0E4736", "spanId": "00F067AA0BA902B7"}],
                            "status": {},
                            "flags": 257,
                        }
                    ]
                }
            ],
        }
    ]
}


def read(document) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(trace_request_from_json(json.dumps(document).encode()))


def with_span(**changes) -> dict:
    document = copy.deepcopy(DOCUMENT)
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0].update(changes)
    return document


def span_of(**changes):
    return read(with_span(**changes)).resource_spans[0].scope_spans[0].spans[0]


def test_a_document_as_sdks_write_it():
    """Ids in any case, times as string or number, enums as integers."""
    span = span_of()
    assert span.trace_id.hex() == span.links[0].trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert span.span_id.hex() == span.links[0].span_id.hex() == "00f067aa0ba902b7"
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1544712660000000000, 1544712661000000000)
    assert (span.kind, span.flags, span.attributes[0].value.int_value) == (2, 257, 7)
    assert (span.parent_span_id, span.HasField("status")) == (b"", True)


def test_unknown_keys_are_ignored():
    """Keys of a later version, and the snake_case that OTLP does not have, change nothing."""
    extra = {"newField": {"deep": [1, {"traceId": 5}]}, "start_time_unix_nano": "1", "trace_id": "00", "": None}
    assert read(with_span(**extra) | {"other": 1}) == read(DOCUMENT)


def test_null_is_a_field_that_is_not_there():
    """A null leaves the field unset, wherever it stands."""
    span = span_of(attributes=None, name=None, status=None, links=None, startTimeUnixNano=None)
    assert (list(span.attributes), span.name, span.HasField("status"), span.start_time_unix_nano) == ([], "", False, 0)


@pytest.mark.parametrize("bad", ["", "00", "4bf92f3577b34da6a3ce929d0e0e47360", "zz", "4b f9", "0" * 64, "tr\u00e4ce"])
@pytest.mark.parametrize("key", IDS)
def test_a_bad_id_is_carried_through_as_a_bad_id(key, bad):
    """An id that is not hex, or has another length, never becomes a good one, and costs no other span anything."""
    document = with_span(**{key: bad})
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans.append(DOCUMENT["resourceSpans"][0]["scopeSpans"][0]["spans"][0])
    changed, other = read(document).resource_spans[0].scope_spans[0].spans
    name = {"traceId": "trace_id", "spanId": "span_id", "parentSpanId": "parent_span_id"}[key]
    assert len(getattr(changed, name)) != IDS[key]
    assert bool(getattr(changed, name)) == bool(bad)
    assert other.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": 5}, "Span.name: expected"),
        ({"name": ["a"]}, "Span.name: expected"),
        ({"kind": "SPAN_KIND_SERVER"}, "Span.kind: expected"),
        ({"kind": "2"}, "Span.kind: expected"),
        ({"kind": True}, "Span.kind: expected"),
        ({"kind": 1 << 31}, "Span.kind: expected"),
        ({"startTimeUnixNano": "-1"}, "Span.startTimeUnixNano: expected"),
        ({"startTimeUnixNano": -1}, "Span.startTimeUnixNano: expected"),
        ({"startTimeUnixNano": "1e3"}, "Span.startTimeUnixNano: expected"),
        ({"startTimeUnixNano": "\u0661"}, "Span.startTimeUnixNano: expected"),
        ({"startTimeUnixNano": "1_000"}, "Span.startTimeUnixNano: expected"),
        ({"startTimeUnixNano": 1.5}, "Span.startTimeUnixNano: expected"),
        ({"startTimeUnixNano": 1e300}, "Span.startTimeUnixNano: expected"),
        ({"startTimeUnixNano": str(1 << 64)}, "Span.startTimeUnixNano: expected"),
        ({"startTimeUnixNano": True}, "Span.startTimeUnixNano: expected"),
        ({"flags": 1 << 32}, "Span.flags: expected"),
        ({"attributes": {"n": 1}}, "Span.attributes: expected"),
        ({"attributes": [None]}, "KeyValue[0]: expected an object"),
        ({"attributes": [{"key": "k", "value": "v"}]}, "KeyValue.value: expected an object"),
        ({"attributes": [{"key": "k", "value": {"intValue": 1, "boolValue": True}}]}, "AnyValue.boolValue: expected"),
        ({"attributes": [{"key": "k", "value": {"boolValue": "true"}}]}, "AnyValue.boolValue: expected"),
        ({"attributes": [{"key": "k", "value": {"bytesValue": "*"}}]}, "AnyValue.bytesValue: expected"),
        ({"attributes": [{"key": "k", "value": {"doubleValue": "fast"}}]}, "AnyValue.doubleValue: expected"),
        ({"attributes": [{"key": "k", "value": {"doubleValue": "nan"}}]}, "AnyValue.doubleValue: expected"),
        ({"attributes": [{"key": "k", "value": {"doubleValue": "1e999"}}]}, "AnyValue.doubleValue: expected"),
        ({"status": []}, "Span.status: expected"),
        ({"links": [{}, {"spanId": {}}]}, "Link[1]: expected ids"),
    ],
)
def test_a_wrong_shape_costs_itself_and_is_named(changes, expected):
    """A value of the wrong shape is mended or left out, says where it stood and not what it was; all else stays."""
    document = with_span(**changes)
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans.append(DOCUMENT["resourceSpans"][0]["scopeSpans"][0]["spans"][0])
    odd = Oddities()
    request = ExportTraceServiceRequest.FromString(trace_request_from_json(orjson.dumps(document), odd))
    span, other = request.resource_spans[0].scope_spans[0].spans
    assert (odd.mended, odd.rejected) == (1, 0)
    assert odd.first.startswith(expected)
    assert KeyValue(key="grafter.value.odd", value=AnyValue(bool_value=True)) in span.attributes
    assert span.span_id.hex() == "00f067aa0ba902b7"
    assert other == span_of()


@pytest.mark.parametrize(
    ("value", "mended"),
    [
        ({"intValue": 18446744073709552000}, AnyValue(double_value=2.0**64)),
        ({"stringValue": 5}, AnyValue(string_value="5")),
        ({"stringValue": {"a": 1}}, AnyValue(string_value='{"a":1}')),
        ({"boolValue": "true"}, AnyValue(bool_value=True)),
        ({"stringValue": "x", "intValue": "0"}, AnyValue(string_value="x")),
        ({"arrayValue": {"values": [{"intValue": "a"}, 5]}}, AnyValue(array_value={"values": [{"string_value": "a"}]})),
    ],
)
def test_an_attribute_value_of_another_kind_is_kept_as_text(value, mended):
    """What an app sent stays to be read, in the one form that it can have."""
    assert span_of(attributes=[{"key": "k", "value": value}]).attributes[0].value == mended


@pytest.mark.parametrize(
    ("kind", "code"), [("SPAN_KIND_SERVER", "STATUS_CODE_ERROR"), ("SERVER", "ERROR"), ("server", "Error"), ("2", "2")]
)
def test_enum_names_are_read_and_marked(kind, code):
    """A kind or status by its name, in full or as the SDKs' own APIs have it, or in digits, is what it says."""
    span = span_of(kind=kind, status={"code": code})
    assert (span.kind, span.status.code) == (2, 2)
    assert span.attributes[-1].key == "grafter.value.odd"


def test_what_is_no_span_is_rejected_alone():
    """Among spans, anything that is no object costs itself."""
    document = with_span()
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][:0] = [5, None, "span"]
    document["resourceSpans"] += ["no resource", {"scopeSpans": 7}]
    odd = Oddities()
    request = ExportTraceServiceRequest.FromString(trace_request_from_json(orjson.dumps(document), odd))
    assert [s.name for s in request.resource_spans[0].scope_spans[0].spans] == ["call"]
    assert odd.rejected == 5
    assert odd.first == "Span[0]: expected an object"


@pytest.mark.parametrize("document", [{"resource_spans": []}, {"spans": []}, {"data": [{"object": "trace"}]}])
def test_a_document_of_which_nothing_would_be_kept_is_refused(document):
    """Keys that are not OTLP JSON's name what was expected instead of a 200 that keeps nothing."""
    with pytest.raises(RejectedError, match="expected the key resourceSpans, and keys in lowerCamelCase"):
        read(document)


def test_snake_case_further_down_is_named():
    """Unknown keys are ignored, but one that is only misspelt is said."""
    odd = Oddities()
    trace_request_from_json(b'{"resourceSpans":[{"scope_spans":[]}]}', odd)
    assert odd.first == "ResourceSpans.scope_spans: expected scopeSpans, and keys in lowerCamelCase throughout"


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"instrumentationLibrarySpans": [{"spans": [{}]}]}, "ResourceSpans: expected scopeSpans"),
        ({"resource": {}, "spans": [{}]}, "ResourceSpans: expected scopeSpans"),
        ({"scopeSpans": [{"Spans": [{}]}]}, "ScopeSpans: expected spans"),
        ({"scopeSpans": [], "newField": {"a": 1}}, "ResourceSpans: expected scopeSpans"),
        ({"resource": {}, "newField": 1}, ""),
        ({"scopeSpans": [{"scope": {}}]}, ""),
    ],
)
def test_spans_under_a_key_that_is_not_known_are_said(run, expected):
    """Where nothing stands under the right one: an answer of 200 that says nothing would be taken for stored."""
    odd = Oddities()
    trace_request_from_json(orjson.dumps({"resourceSpans": [run]}), odd)
    assert odd.first.startswith(expected)
    assert odd.rejected == bool(expected)


def test_bytes_that_are_not_utf8_cost_a_character():
    """A string that was cut in the middle of a character is mended, and its span says so."""
    odd = Oddities()
    body = orjson.dumps(with_span(name="CUT")).replace(b"CUT", b"caf\xe9")
    span = ExportTraceServiceRequest.FromString(trace_request_from_json(body, odd)).resource_spans[0]
    assert span.scope_spans[0].spans[0].name == "caf\ufffd"
    assert odd.mended == 1


def test_a_number_of_a_metric_is_never_mended():
    """A data point that cannot be read is left out alone: a figure is right or not stated."""
    points = [{"asInt": "1", "timeUnixNano": "1"}, {"asInt": "many"}, {"asDouble": 2}]
    document = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m", "sum": {"dataPoints": points}}]}]}]}
    odd = Oddities()
    request = ExportMetricsServiceRequest.FromString(request_from_json(Signal.METRICS, orjson.dumps(document), odd))
    found = request.resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points
    assert ([p.as_int for p in found], odd.rejected) == ([1, 0], 1)


@pytest.mark.parametrize("document", [None, [], "text", 1, True])
def test_a_document_that_is_no_object_is_refused(document):
    """The document itself has to be an object."""
    with pytest.raises(RejectedError, match="document: expected an object"):
        read(document)


@pytest.mark.parametrize("body", [b"", b"{", b"{}{}", b"\xff\xfe", b'{"resourceSpans":NaN}', b"{'a':1}", b"\x00"])
def test_what_is_no_json_is_refused(body):
    """Anything but one JSON document is refused, without an echo of it."""
    with pytest.raises(RejectedError, match="request body is not valid JSON"):
        trace_request_from_json(body)


@pytest.mark.parametrize(
    ("json_value", "expected"),
    [
        ({"intValue": "-9223372036854775808"}, AnyValue(int_value=-(1 << 63))),
        ({"intValue": 9223372036854775807}, AnyValue(int_value=(1 << 63) - 1)),
        ({"intValue": 3.0}, AnyValue(int_value=3)),
        ({"intValue": 0}, AnyValue(int_value=0)),
        ({"doubleValue": 1}, AnyValue(double_value=1.0)),
        ({"doubleValue": "2.5e3"}, AnyValue(double_value=2500.0)),
        ({"doubleValue": "-Infinity"}, AnyValue(double_value=-math.inf)),
        ({"boolValue": False}, AnyValue(bool_value=False)),
        ({"bytesValue": "-_-_"}, AnyValue(bytes_value=base64.b64decode("+/+/"))),
        ({"bytesValue": "YQ"}, AnyValue(bytes_value=b"a")),
        ({"bytesValue": "YQ=="}, AnyValue(bytes_value=b"a")),
        ({"bytesValue": ""}, AnyValue(bytes_value=b"")),
        ({"stringValue": ""}, AnyValue(string_value="")),
        ({"arrayValue": {}}, AnyValue(array_value={})),
        ({"kvlistValue": {"values": [{"key": "a"}]}}, AnyValue(kvlist_value={"values": [{"key": "a"}]})),
        ({"intValue": None, "stringValue": "x"}, AnyValue(string_value="x")),
        ({}, AnyValue()),
    ],
)
def test_attribute_values(json_value, expected):
    """Every kind of attribute value, with zeros and empty ones kept as set."""
    assert span_of(attributes=[{"key": "k", "value": json_value}]).attributes[0].value == expected


def test_nan_is_nan():
    """A double may be the string NaN."""
    assert math.isnan(span_of(attributes=[{"value": {"doubleValue": "NaN"}}]).attributes[0].value.double_value)


def test_a_lone_surrogate_becomes_a_replacement_character():
    """Half a surrogate pair, which JavaScript writes where it cut an emoji, costs a character and nothing else."""
    body = orjson.dumps(with_span(name="CUT")).replace(b"CUT", b"cut \\ud83d and \\ud83d\\ude00")
    span = ExportTraceServiceRequest.FromString(trace_request_from_json(body)).resource_spans[0].scope_spans[0].spans[0]
    assert span.name == "cut \ufffd and \U0001f600"


def nested(levels: int) -> bytes:
    start = orjson.dumps(with_span(attributes=[{"value": "HERE"}]))
    value = b'{"arrayValue":{"values":[' * levels + b"{}" + b"]}}" * levels
    return start.replace(b'"HERE"', value)


@pytest.mark.parametrize("levels", [1, 30, 40, 50, 200])
def test_nesting_that_the_runtime_cannot_read_costs_what_lies_deeper(levels):
    """Whatever is taken can be read by the protobuf runtime; what is nested deeper is left out of its value."""
    odd = Oddities()
    ExportTraceServiceRequest.FromString(trace_request_from_json(nested(levels), odd))
    assert bool(odd.mended) == (levels > 45)


@pytest.mark.parametrize("levels", [2_000, 100_000])
@pytest.mark.parametrize("surrogate", [b"", b"\\ud800"])
def test_deep_nesting_is_refused(levels, surrogate):
    """Nesting made to exhaust the stack is a refusal, by either JSON reader."""
    with pytest.raises(RejectedError):
        trace_request_from_json(nested(levels).replace(b"call", b"call" + surrogate))
    with pytest.raises(RejectedError):
        trace_request_from_json(b"[" * levels)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "resourceSpans",
                    "resource",
                    "scopeSpans",
                    "spans",
                    "traceId",
                    "attributes",
                    "value",
                    "links",
                    "status",
                    "kind",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(value=JSON_VALUES)
def test_any_json_is_read_or_refused(value):
    """No JSON value leads to any other exception."""
    for body in (
        json.dumps(value).encode(),
        json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [value]}]}]}).encode(),
    ):
        try:
            request = trace_request_from_json(body)
        except RejectedError:
            continue
        ExportTraceServiceRequest.FromString(request)


def test_bytes_that_are_no_request_are_refused():
    """Writing JSON refuses what is no trace request."""
    with pytest.raises(RejectedError, match="ExportTraceServiceRequest"):
        trace_request_to_json(b"garbage")
