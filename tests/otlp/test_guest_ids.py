"""Host spans that name a guest are found as a full parse finds them, compiled and in Python, and only they are."""

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.core.link import GUEST_ID_BEGINNINGS, as_text, from_text, is_guest_id
from grafter.core.model import BY_API, NamedLink, SpanId, TraceId
from grafter.core.policy import GUEST_ID_KEYS
from grafter.otlp.frames import framed
from grafter.otlp.guest_ids import MOST_ANSWERS, GuestIds
from grafter.otlp.split import Splitter, compiled

TRACE = b"\1" * 16
needs_compiled = pytest.mark.skipif(compiled is None, reason="the compiled split was not built: no compiler here")
WAYS = ["python", pytest.param("compiled", marks=needs_compiled)]
KEYS = [*GUEST_ID_KEYS[:3], "openai.call_id", "url.full", "k" * 200]


def request(*spans: dict[str, object], order: int = 1) -> ExportTraceServiceRequest:
    """A request of spans with these attributes, each in a trace of its own."""
    made = ExportTraceServiceRequest()
    to = made.resource_spans.add().scope_spans.add().spans
    for number, attributes in enumerate(spans, 1):
        span = to.add(trace_id=bytes([number]) * 16, span_id=bytes([number]) * 8, name="step")
        for key, value in list(attributes.items())[::order]:
            filled = span.attributes.add(key=key)
            if isinstance(value, int):
                filled.value.int_value = value
            elif isinstance(value, list):
                filled.value.array_value.values.add().string_value = value[0]
            else:
                filled.value.string_value = str(value)
    return made


def links(sent: ExportTraceServiceRequest, way: str, keys: tuple[str, ...] = GUEST_ID_KEYS) -> list[NamedLink]:
    return list(Splitter((), keys, pure=way == "python").split(sent.SerializeToString()).links)


@pytest.mark.parametrize("way", WAYS)
def test_of_many_answers_the_first_are_named_and_every_call(way: str) -> None:
    """An instrumentation writes an answer's id on each of a trace's spans, and a session's beside it; the call's stands
    on the last of them."""
    each = ({"gen_ai.response.id": f"resp_{number}", "gen_ai.conversation.id": "sess_1"} for number in range(200))
    sent = request(*each, {"openai.call_id": "rtc_1"})
    for span in sent.resource_spans[0].scope_spans[0].spans:
        span.trace_id = TRACE
    named = {link.guest for link in links(sent, way)}
    assert named == {"rtc_1", "sess_1", *(f"resp_{number}" for number in range(MOST_ANSWERS))}


@pytest.mark.parametrize("way", WAYS)
def test_an_id_under_one_of_the_keys_is_a_link(way: str) -> None:
    """A link a guest, the first host's; of a key that is not asked for, or a value that is none of OpenAI's, none."""
    sent = request(
        {"http.route": "/a_b", "openai.call_id": "rtc_1", "gen_ai.response.id": "resp_1"},
        {"openai.call_id": "rtc_1", "gen_ai.conversation.id": "conv_1", "session.id": "sess_1"},
        {"call.id": "rtc_2", "gen_ai.response.id": "chatcmpl-1", "response.id": 7, "openai.trace_id": ["trace_1"]},
    )
    first, second = TraceId(b"\1" * 16), TraceId(b"\2" * 16)
    assert links(sent, way) == [
        NamedLink("rtc_1", first),
        NamedLink("resp_1", first),
        NamedLink("sess_1", second),
    ]
    assert links(sent, way, ("call.id",)) == [NamedLink("rtc_2", TraceId(b"\3" * 16))]
    assert links(sent, way, ()) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", ["rtc_", "live_" + "x" * 120, "rtc_a b", "rtc_é", "rtc_" + "x" * 200, "RTC_1", ""])
def test_odd_values_do_no_harm(way: str, value: str) -> None:
    """What is no id of OpenAI's, and what is longer than any: the spans are taken as they come."""
    split = Splitter((), GUEST_ID_KEYS, pure=way == "python").split(
        request({"openai.call_id": value}).SerializeToString()
    )
    assert split.spans == 1
    assert [link.guest for link in split.links] in ([], [value])


def backwards(message: Message) -> bytes:
    """As the Go Collector writes it: the fields of every message in descending order, the last of a list first written
    last."""
    out = b""
    for field, value in sorted(message.ListFields(), key=lambda each: -each[0].number):
        for one in value if field.is_repeated else [value]:
            if isinstance(one, Message):
                out += framed(field.number << 3 | 2, backwards(one))
            else:
                alone = type(message)()
                if field.is_repeated:
                    getattr(alone, field.name).append(one)
                else:
                    setattr(alone, field.name, one)
                out += alone.SerializeToString()
    return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", ["rtc_u0_1", "resp_" + "9" * 100])
def test_a_link_is_found_behind_a_go_collector(way: str, value: str) -> None:
    """Which writes a value before its key."""
    sent = request({"http.route": "/a_b", "openai.call_id": value, "more": "x"})
    body = backwards(sent)
    assert ExportTraceServiceRequest.FromString(body) == sent
    assert body.index(value.encode()) < body.index(b"openai.call_id")
    found = Splitter((), GUEST_ID_KEYS, pure=way == "python").split(body).links
    assert [(link.guest, link.host) for link in found] == [(value, b"\1" * 16)]


values = st.one_of(
    st.builds(str.__add__, st.sampled_from([*GUEST_ID_BEGINNINGS, "conv_", "_"]), st.text("ab_-1", max_size=8)),
    st.integers(0, 9),
    st.builds(lambda text: [text], st.just("rtc_in_a_list")),
)


@given(
    spans=st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=4), max_size=4), tail=st.binary(max_size=9)
)
def test_what_is_found_is_what_a_full_parse_finds(spans: list[dict[str, object]], tail: bytes) -> None:
    """Both ways, whatever else the spans hold and wherever bytes that look like it stand."""
    sent = request(*spans)
    for number, span in enumerate(sent.resource_spans[0].scope_spans[0].spans):
        span.trace_state = f"a={number}"
        span.attributes.add(key="raw").value.bytes_value = b"\x0a\x0eopenai.call_id\x12\x07\x0a\x05rtc_9" + tail
    expected: dict[str, bytes] = {}
    for span in sent.resource_spans[0].scope_spans[0].spans:
        for each in span.attributes:
            if each.key in GUEST_ID_KEYS and is_guest_id(each.value.string_value):
                expected.setdefault(each.value.string_value, span.trace_id)
    for way in ["python", *(["compiled"] if compiled else [])]:
        assert {link.guest: link.host for link in links(sent, way)} == expected
        turned = Splitter((), GUEST_ID_KEYS, pure=way == "python").split(backwards(sent)).links
        assert {link.guest: link.host for link in turned} == expected


@needs_compiled
@given(data=st.binary(max_size=60), at=st.integers(0, 60), cut=st.integers(0, 60), turned=st.booleans())
def test_the_compiled_look_at_bytes_sees_what_the_other_sees(data: bytes, at: int, cut: int, turned: bool) -> None:
    key, value = b"\x0a\x0eopenai.call_id", b"\x12\x07\x0a\x05rtc_1"
    found = value + key if turned else key + value
    mixed = (data[:at] + found + data[at:])[:cut] if cut < 60 else data[:at] + found + data[at:]
    ways = [GuestIds(GUEST_ID_KEYS, mentions, None) for mentions in (None, compiled.mentions)]
    assert len({way.mentioned(mixed) for way in ways}) == 1


@pytest.mark.parametrize(
    "link",
    [
        NamedLink("rtc_1", TraceId(TRACE)),
        NamedLink("rtc_1", TraceId(TRACE), SpanId(b"\2" * 8), True, BY_API),
        NamedLink("rtc_1", TraceId(TRACE), SpanId(b"\2" * 8), False, BY_API),
    ],
)
def test_a_link_is_read_as_it_was_written(link: NamedLink) -> None:
    assert from_text("rtc_1", as_text(link)) == link


@pytest.mark.parametrize("text", ["", "api", "api x", f"later {'1' * 32} more", "api  "])
def test_what_a_newer_version_wrote_is_left_alone(text: str) -> None:
    assert from_text("rtc_1", text) is None
