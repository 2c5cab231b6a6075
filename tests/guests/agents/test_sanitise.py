"""What is sent on to OpenAI is what the SDK itself would have sent there."""

import json
import logging
import math
from copy import deepcopy
from functools import cache
from pathlib import Path

import httpx2
import pytest
from agents.tracing.processors import BackendSpanExporter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grafter.guests.agents.sanitise import LIMIT_BYTES, sanitise

DATA = Path(__file__).parents[2] / "data" / "openai"
CAPTURES = sorted(path.name for path in DATA.glob("*.json") if "requests" in json.loads(path.read_bytes()))


class _Item:
    """What the SDK's exporter asks of a span or a trace."""

    tracing_api_key = "sk-test"

    def __init__(self, item: dict) -> None:
        self._item = item

    def export(self) -> dict:
        return self._item


@cache
def the_sdk() -> tuple[BackendSpanExporter, list[bytes]]:
    """The installed SDK's exporter, and where its requests go. One for all: each would read the machine's certificates
    anew, which takes longer than an example."""
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.read())
        return httpx2.Response(204)

    exporter = BackendSpanExporter(api_key="sk-test")
    exporter.close()
    exporter._client = httpx2.Client(transport=httpx2.MockTransport(answer))
    return exporter, bodies


def sent_by_the_sdk(items: list[dict]) -> list[dict]:
    """The ``data`` that the installed SDK puts on the wire for OpenAI's own address."""
    exporter, bodies = the_sdk()
    bodies.clear()
    exporter.export([_Item(deepcopy(item)) for item in items])
    (body,) = bodies
    return json.loads(body)["data"]


def sent_by_grafter(items: list[dict]) -> list[dict]:
    return [cleaned for item in items if (cleaned := sanitise(item)) is not None]


def assert_equal(items: list[dict]) -> None:
    before = json.dumps(items)
    ours = sent_by_grafter(items)
    assert json.dumps(items) == before, "the item that came in was changed"
    # Compared as texts, so that 1, 1.0 and True are three things and the order of keys counts.
    assert json.dumps(ours, allow_nan=False) == json.dumps(sent_by_the_sdk(items), allow_nan=False)


@pytest.mark.parametrize("name", CAPTURES)
def test_captures(name: str) -> None:
    """Every recorded item leaves as the SDK would send it to OpenAI."""
    for request in json.loads((DATA / name).read_bytes())["requests"]:
        assert_equal(request["body"]["data"])


def test_a_second_cleaning_changes_nothing_that_openai_gets() -> None:
    """Items that an SDK already cleaned (the JS one does it for every address) are sent on as the SDK would."""
    for request in json.loads((DATA / "py_sanitised_for_openai_endpoint.json").read_bytes())["requests"]:
        items = request["body"]["data"]
        once = sent_by_grafter(items)
        assert sent_by_grafter(once) == once
        assert [item["id"] for item in once] == [item["id"] for item in items]


def span(kind: object, **data: object) -> dict:
    return {"object": "trace.span", "id": "span_1", "trace_id": "trace_1", "span_data": {"type": kind, **data}}


LONG = "ä" * 30_000 + '"' * 30_000


@pytest.mark.parametrize(
    "item",
    [
        span("function", name="f", input="x" * 99_998, output="x" * 99_999),
        span("function", name="f", input=LONG, output="\ud800" * 150_000),
        span("function", name="f", input=None, output=[LONG, {"a": LONG, "b": [LONG, 1, None]}, "short"]),
        span("speech", input="text", output={"data": "A" * 500_000, "format": "pcm"}, usage={"input_tokens": 1}),
        span("transcription", input={"data": "A" * 99_976, "format": "pcm"}, output="t"),
        span("function", output=list(range(40_000))),
        span("function", output={str(n): n for n in range(20_000)}),
        span("function", output={"k" * 60_000: "v", "l" * 60_000: "w"}),
        span("function", output=[float(n) / 7 for n in range(9_000)] + [math.nan, math.inf]),
        span("function", output=[10**4_000] * 30),
        span("custom", name="big", data={"x": "y" * 300_000}, output=["z" * 60_000, "z" * 60_000]),
        span("response", response_id="resp_1", usage={"input_tokens": 1, "output_tokens": 2}),
        span("generation", usage={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "x": None, "y": math.nan}),
        span(
            "generation", usage={"input_tokens": 1, "output_tokens": 2, "details": {"a": None, "total": 9}, "total": 3}
        ),
        span("generation", usage={"input_tokens": 1, "output_tokens": 2, "details": {"t": 9}, "t": math.nan}),
        span("generation", usage={"input_tokens": True, "output_tokens": 2}),
        span("generation", usage={"input_tokens": math.nan, "output_tokens": 2}),
        span("generation", usage={"input_tokens": 1}),
        span("generation", usage=None),
        span("generation", usage=[1, 2]),
        span(
            "generation",
            input=[
                {"role": "user", "content": "hi", "reasoning": "kept, it is the user's"},
                {"type": "reasoning", "summary": ["gone"]},
                {
                    "role": "assistant",
                    "reasoning_content": "gone",
                    "content": [{"type": "thinking"}, {"type": "text"}, 3],
                },
                "a string",
            ],
            output=[
                {"object": "response", "output": [{"type": "reasoning"}, {"type": "message", "role": "assistant"}]}
            ],
        ),
        span("function", input=[{"type": "reasoning"}], output=[{"role": "assistant", "thinking": "kept"}]),
        {
            "object": "trace",
            "id": "t",
            "metadata": {"bad": math.nan, "s": "\ud800x", "\ud800": 1, "?": 2, "l": [math.inf]},
        },
        {"object": "trace", "id": "t", "metadata": {"big": "m" * 300_000}},
        {"object": "trace.span", "span_data": None},
        {"object": "trace.span", "span_data": "text"},
        {"only": "this"},
    ],
)
def test_equal_to_the_sdk(item: dict) -> None:
    """Cuts, usage, reasoning, NaN and lone surrogates: each by itself equals the SDK's own result."""
    assert_equal([item])


texts = st.text(st.characters(codec=None), max_size=8) | st.builds(
    lambda text, times: text * times, st.text(min_size=1, max_size=4), st.integers(1, 40_000)
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
keys = st.sampled_from(
    ["type", "role", "content", "reasoning", "thinking", "object", "output", "details", "a"]
) | st.text(st.characters(codec=None), max_size=4)
words = st.sampled_from(["reasoning", "thinking", "assistant", "response", "user"])
values = st.recursive(
    leaves | words,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(keys, inner, max_size=5)
        | st.builds(lambda member, times: [member] * times, inner, st.integers(1, 40))
    ),
    max_leaves=12,
)
usages = st.dictionaries(
    st.sampled_from(["input_tokens", "output_tokens", "total_tokens", "details", "more"]), values, max_size=5
)
spans = st.builds(
    lambda kind, data: {"object": "trace.span", "id": "span_1", "span_data": {"type": kind, **data}},
    st.sampled_from(["function", "generation", "response", "custom", None]),
    st.fixed_dictionaries({}, optional={"input": values, "output": values, "usage": usages | values, "data": values}),
)
traces = st.fixed_dictionaries({"object": st.just("trace"), "metadata": values})


@settings(suppress_health_check=list(HealthCheck))
@given(st.lists(spans | traces, min_size=1, max_size=3))
def test_equal_to_the_sdk_for_any_item(items: list[dict]) -> None:
    """Whatever JSON stands in the fields, the result is the SDK's, and input and output fit the limit."""
    logging.disable(logging.CRITICAL)
    try:
        assert_equal(items)
    finally:
        logging.disable(logging.NOTSET)
    for item in sent_by_grafter(items):
        data = item.get("span_data", {})
        for name in ("input", "output"):
            assert len(json.dumps(data.get(name), ensure_ascii=False, separators=(",", ":")).encode()) <= LIMIT_BYTES


def nested(levels: int, leaf: object) -> object:
    for _ in range(levels):
        leaf = [leaf]
    return leaf


@pytest.mark.parametrize(
    "item",
    [
        {},
        span("function", output=nested(5_000, None)),
        span("function", output=nested(300, "x" * 200_000)),
        span("function", output=[1] * 1_000_000),
    ],
)
def test_what_cannot_be_sent_is_none(item: dict) -> None:
    """An empty item, and shapes that no encoder or no real span has, are None, and at once."""
    assert sanitise(item) is None


@pytest.mark.parametrize("kind", [["generation"], {"a": 1}, 3, True])
def test_an_odd_type_is_no_error(kind: object) -> None:
    """A type that is no string is treated as one that OpenAI gives no usage for."""
    assert sanitise(span(kind, usage={"input_tokens": 1}, input="x")) == span(kind, input="x")
