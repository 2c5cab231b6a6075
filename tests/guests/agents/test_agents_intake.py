"""A posted batch, made into parts."""

import json
import math
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.model import GuestFacts, Source, SpanId, TraceId, guest_key, guest_span_id
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.agents.intake import read_items, read_payload
from grafter.guests.json_values import parse_json

POLICY = GraftPolicy()
HOST = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE = {"object": "trace", "id": "trace_a", "workflow_name": "w", "group_id": None, "metadata": {"trace_id": HOST}}
SPAN = {
    "object": "trace.span",
    "id": "span_1",
    "trace_id": "trace_a",
    "parent_id": None,
    "span_data": {"type": "agent"},
}

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "object": st.sampled_from(["trace", "trace.span"]) | ANY_JSON,
        "type": st.sampled_from(["trace", "trace.span"]) | ANY_JSON,
        "id": st.text(max_size=3) | ANY_JSON,
        "trace_id": st.text(max_size=2) | ANY_JSON,
        "parent_id": st.text(max_size=3) | ANY_JSON,
        "metadata": ANY_JSON,
        "span_data": ANY_JSON,
        "error": ANY_JSON,
        "group_id": ANY_JSON,
    },
)


def test_a_batch_of_several_traces_becomes_a_part_of_each(captured: Callable[[str], list[list[object]]]) -> None:
    """In order of first appearance, nothing lost, every item counted once."""
    for items in captured("py_concurrent"):
        intake = read_items(items, Source.SDK, POLICY)
        traces = list(dict.fromkeys(item["id"] if item["object"] == "trace" else item["trace_id"] for item in items))
        assert [part.guest.guest for part in intake.parts] == traces
        assert [part.key for part in intake.parts] == [guest_key(trace) for trace in traces]
        assert sum(len(read_payload(part.payload)) for part in intake.parts) == len(items) == intake.kinds.total()
        assert intake.spans == intake.kinds["span"] == sum(part.spans for part in intake.parts)


def test_the_facts_of_a_part_are_what_the_lifecycle_asks() -> None:
    """Link, trace object, top-level span, and ids and parents by the id rule."""
    child = {**SPAN, "id": "span_2", "parent_id": "span_1"}
    metadata = {"traceparent": f"00-{HOST}-00f067aa0ba902b7-00"}
    intake = read_items([{**TRACE, "metadata": metadata}, child, SPAN], Source.WEBHOOK, POLICY)
    one, two = (guest_span_id("trace_a", name) for name in ("span_1", "span_2"))
    host = TraceId(bytes.fromhex(HOST))
    facts = GuestFacts(
        "trace_a", Source.WEBHOOK, host, False, head=True, top_level=True, ids=(two, one), parents=(one,)
    )
    assert intake.parts[0].guest == facts
    alone = read_items([child], Source.SDK, POLICY).parts[0].guest
    assert alone == GuestFacts("trace_a", Source.SDK, ids=(two,), parents=(one,))


def test_a_trace_object_is_no_span() -> None:
    """It makes a part that holds none."""
    intake = read_items([TRACE], Source.SDK, POLICY)
    assert (intake.spans, intake.parts[0].spans, intake.parts[0].guest.head) == (0, 0, True)


def test_odd_items_are_counted_and_cost_only_themselves() -> None:
    """What has no kind or no usable id is skipped; a span of an unknown type is kept."""
    odd = [7, "x", [], {}, {"object": "batch"}, {**SPAN, "id": ""}, {**SPAN, "trace_id": 5}, {**TRACE, "id": None}]
    long = {**SPAN, "id": "i" * 2000}
    strange = [{**SPAN, "id": "s2", "span_data": {"type": "hologram", "k": 1}}, {**SPAN, "id": "s3", "span_data": None}]
    intake = read_items([None, TRACE, *odd, long, SPAN, *strange, None], Source.SDK, POLICY)
    assert dict(intake.kinds) == {"null": 2, "trace": 1, "odd": 9, "span": 1, "unknown_type": 2}
    assert intake.spans == 3


@pytest.mark.parametrize(
    "item",
    [
        {"type": "trace.span", "id": "span_1", "trace_id": "trace_a", "span_data": {"type": "agent", "name": "A"}},
        {"id": "span_1", "trace_id": "trace_a", "span_data": {"type": "agent", "name": "A"}},
        {"object": "trace.span", "type": "x", "id": "span_1", "trace_id": "trace_a", "span_data": {"type": "agent"}},
    ],
)
def test_ports_that_name_the_kind_otherwise_are_understood(item: dict[str, object]) -> None:
    """By `type`, or by nothing but its shape; missing keys are null."""
    intake = read_items([item], Source.SDK, POLICY)
    assert dict(intake.kinds) == {"span": 1}
    assert intake.parts[0].guest.top_level
    assert read_payload(intake.parts[0].payload)[0]["object"] == "trace.span"


def test_unknown_keys_are_kept() -> None:
    """A field that no SDK had when this was written reaches the store."""
    intake = read_items([{**SPAN, "cost": 3}, {**TRACE, "project": 7}], Source.SDK, POLICY)
    span, trace = read_payload(intake.parts[0].payload)
    assert (span["cost"], trace["project"]) == (3, 7)


@given(st.lists(ITEM | ANY_JSON, max_size=6), st.sampled_from(Content))
def test_any_json_is_read_or_counted(items: list[object], content: Content) -> None:
    """Never an exception: every item is in one count, and every part can be read back."""
    intake = read_items(items, Source.SDK, GraftPolicy(content=content))
    assert intake.kinds.total() == len(items)
    assert sum(len(read_payload(part.payload)) for part in intake.parts) == sum(
        intake.kinds[kind] for kind in ("trace", "span", "unknown_type")
    )
    for part in intake.parts:
        assert all(len(span_id) == 8 and any(span_id) for span_id in (*part.guest.ids, *part.guest.parents))


def test_values_that_orjson_cannot_write_are_stored_all_the_same() -> None:
    """Big integers, NaN, half characters and depth; ids are those that are read back."""
    deep: object = 1
    for _ in range(2000):
        deep = [deep]
    data = {"type": "custom", "name": "c", "data": {"n": 2**80, "x": math.nan, "deep": deep}}
    item = {**SPAN, "id": "span_\ud800", "span_data": data, "metadata": {"deep": deep}}
    part = read_items([item], Source.SDK, POLICY).parts[0]
    stored = read_payload(part.payload)[0]
    assert stored["id"] == "span_\ufffd"
    assert part.guest.ids == (guest_span_id("trace_a", "span_\ufffd"),)
    assert stored["span_data"]["data"]["n"] == float(2**80)


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(), st.lists))
def test_json_is_parsed_as_it_stands(value: object) -> None:
    """What strict JSON can say arrives unchanged."""
    assert parse_json(orjson.dumps(value)) == value


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": NaN, "b": -Infinity, "c": 1e999}', {"a": None, "b": None, "c": None}),
        (rb'["\ud800x", "\ud83d\ude00"]', ["\ufffdx", "\U0001f600"]),
        (b'["\xff"]', ["\ufffd"]),
        (b"\xef\xbb\xbf[1]", [1]),
        (b"[1180591620717411303424]", [1180591620717411303424.0]),
        (b"[NaN, 1180591620717411303424]", [None, 1180591620717411303424.0]),
        (b"[" + b"9" * 6000 + b"]", [None]),
    ],
)
def test_json_that_others_write_wrongly_is_read(body: bytes, value: object) -> None:
    """NaN, half characters, foreign bytes and numbers past 64 bits cost no batch, and can be written again."""
    parsed = parse_json(body)
    assert parsed == value
    orjson.dumps(parsed)


@pytest.mark.parametrize("body", [b"", b"{", b"hello", b'{"a":1}{"b":2}', b"\x1f\x8b\x08", '{"a": 1}'.encode("utf-16")])
def test_what_is_no_json_is_refused_without_its_text(body: bytes) -> None:
    """A ValueError that says what was expected, in lower case."""
    with pytest.raises(ValueError, match="JSON") as refusal:
        parse_json(body)
    assert "hello" not in str(refusal.value)


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b'{"a":' * 200_000, b"[" * 100_000 + b"]" * 100_000])
def test_a_recursion_bomb_is_a_value_error(body: bytes) -> None:
    """However deep, it neither ends the process nor raises anything else."""
    with pytest.raises(ValueError, match=r"JSON|nested"):
        parse_json(body)


def test_a_payload_that_is_no_list_is_a_value_error() -> None:
    """Stored bytes that are not what read_items wrote are said to be so."""
    for payload in (b"{}", b"", b"\x00"):
        with pytest.raises(ValueError, match=r"."):
            read_payload(payload)


def test_a_link_of_the_batch_is_that_of_its_merged_trace_objects() -> None:
    """The first that names a host wins; a later one adds what was missing."""
    bare = {**TRACE, "metadata": {"user": "u"}}
    other = {**TRACE, "metadata": {"trace_id": "0af7651916cd43dd8448eb211c80319c"}}
    facts = read_items([bare, TRACE, other], Source.SDK, POLICY).parts[0].guest
    assert facts.host == TraceId(bytes.fromhex(HOST))
    assert json.loads(read_items([bare], Source.SDK, POLICY).parts[0].payload)[0]["metadata"] == {"user": "u"}


def test_ids_of_a_thousand_characters_still_name_spans() -> None:
    """The bound on ids is well past what any generator makes."""
    facts = read_items([{**SPAN, "id": "i" * 1000}], Source.SDK, POLICY).parts[0].guest
    assert facts.ids == (SpanId(guest_span_id("trace_a", "i" * 1000)),)
