"""What metadata may look like, and which host it names."""

from string import hexdigits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.link import Malformed, from_metadata, from_openai_trace_id
from grafter.core.model import Link, SpanId, TraceId

HOST = TraceId(bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736"))
ANCHOR = SpanId(bytes.fromhex("00f067aa0ba902b7"))
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KEYS = ("trace_id",)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "said",
    [
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "4BF92F3577B34DA6A3CE929D0E0E4736",
        "4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
        "  4bf92f3577b34da6a3ce929d0e0e4736\n",
    ],
)
def test_a_trace_id_is_read_in_any_usual_form(said: str) -> None:
    """Case, dashes and surrounding space change nothing."""
    assert from_metadata({"trace_id": said}, KEYS) == Link(HOST, how="trace_id")


@pytest.mark.parametrize(
    "said",
    ["", "0" * 32, "4bf9", "4bf92f3577b34da6a3ce929d0e0e47360", "z" * 32, 7, True, ["4bf9"], "４" * 32, "ab " * 16],
)
def test_what_is_no_trace_id_is_malformed(said: object) -> None:
    """Another length, all zero or no hex is said to be wrong, without repeating the value."""
    answer = from_metadata({"trace_id": said}, KEYS)
    assert answer == Malformed("trace_id: expected 32 hex digits, not all zero")


@pytest.mark.parametrize(
    "metadata", [None, {}, [], "trace_id", 3, {"trace_id": None}, {"other": "x"}, {"traceparent": None}]
)
def test_metadata_that_names_nothing_is_no_link(metadata: object) -> None:
    """Missing and null say nothing, which is no mistake."""
    assert from_metadata(metadata, KEYS) is None


def test_a_span_id_beside_a_trace_id_names_the_anchor() -> None:
    """It counts when it is 16 hex digits; a bad one does not cost the link."""
    good = from_metadata({"trace_id": HOST.hex(), "span_id": " 00F067AA0BA902B7"}, KEYS)
    assert good == Link(HOST, ANCHOR, how="trace_id")
    for bad in ("0" * 16, "12", 5, None, "x" * 16):
        assert from_metadata({"trace_id": HOST.hex(), "span_id": bad}, KEYS) == Link(HOST, how="trace_id")


@pytest.mark.parametrize(
    ("parent", "sampled"),
    [
        (PARENT, True),
        (PARENT[:-2] + "00", False),
        (PARENT[:-2] + "03", True),
        (f" {PARENT.upper()} ", True),
        ("cc" + PARENT[2:] + "-what-comes-later", True),
    ],
)
def test_a_traceparent_names_host_anchor_and_sampling(parent: str, sampled: bool) -> None:
    """Versions to come may have more fields; their first four are read."""
    assert from_metadata({"traceparent": parent}, KEYS) == Link(HOST, ANCHOR, sampled, "traceparent")


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT + "-more",
        "ff" + PARENT[2:],
        PARENT.replace(HOST.hex(), "0" * 32),
        PARENT.replace(ANCHOR.hex(), "0" * 16),
        PARENT.replace("-", "_"),
        HOST.hex(),
        12,
    ],
)
def test_a_malformed_traceparent_gives_way_to_a_trace_id(parent: object) -> None:
    """The trace id still links; with neither, the traceparent is what was wrong."""
    assert from_metadata({"traceparent": parent, "trace_id": HOST.hex()}, KEYS) == Link(HOST, how="trace_id")
    answer = from_metadata({"traceparent": parent}, KEYS)
    assert isinstance(answer, Malformed)
    assert answer.reason.startswith("traceparent: ")


def test_a_traceparent_comes_before_a_trace_id_and_keys_in_their_order() -> None:
    """The first that can be read wins, whatever the later ones say."""
    other = "0af7651916cd43dd8448eb211c80319c"
    assert from_metadata({"trace_id": other, "traceparent": PARENT}, KEYS) == Link(HOST, ANCHOR, True, "traceparent")
    keys = ("call", "otel", "trace_id")
    assert from_metadata({"trace_id": other, "otel": HOST.hex(), "call": "?"}, keys) == Link(HOST, how="trace_id")


def test_an_openai_trace_id_may_spell_a_host() -> None:
    """Only the form trace_<32 hex>, not zero."""
    assert from_openai_trace_id(f"trace_{HOST.hex()}") == Link(HOST, how="openai_trace_id")
    for other in (HOST.hex(), "trace_" + "0" * 32, "trace_my-own", "", "trace_" + "é" * 32):
        assert from_openai_trace_id(other) is None


@given(ANY_JSON | st.dictionaries(st.sampled_from(["trace_id", "span_id", "traceparent"]), ANY_JSON))
def test_any_json_is_answered(metadata: object) -> None:
    """Metadata is free JSON: nothing in it raises."""
    assert isinstance(from_metadata(metadata, KEYS), Link | Malformed | None)


@given(st.text(hexdigits + "- \ng", max_size=60))
def test_a_link_never_names_a_zero_or_short_id(said: str) -> None:
    """Whatever is linked has a whole trace id."""
    answer = from_metadata({"trace_id": said, "traceparent": said}, KEYS)
    if isinstance(answer, Link):
        assert len(answer.host) == 16
        assert any(answer.host)
