"""A guest's items to spans: what holds for every span, whatever came and however it came."""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grafter.core.model import Guest, GuestSpan, Link, Source, SpanId, TraceId, guest_span_id
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.agents.intake import read_items
from grafter.guests.agents.spans import map_guest
from grafter.guests.source import Mapped
from tests.steps import at_most_steps

POLICY = GraftPolicy()
FULL = GraftPolicy(content=Content.FULL)
HOST = "4bf92f3577b34da6a3ce929d0e0e4736"
BILLIONTH = 10**9

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
KEYS = [
    "name", "input", "output", "data", "usage", "model", "model_config", "mcp_data", "server", "result", "handoffs",
    "tools", "output_type", "triggered", "from_agent", "to_agent", "response_id", "first_content_at", "other",
]  # fmt: skip
NESTED = [
    "sdk_span_type", "turn", "agent_name", "usage", "details", "input_tokens", "input_tokens_details", "cached_tokens",
    "base_url", "seed", "stop", "n", "reasoning", "temperature", "choices", "message", "tool_calls", "role", "content",
    "function", "arguments", "audio", "format", "data", "text", "type", "url", "image_url", "finish_reason", "server",
]  # fmt: skip
SHAPED = st.recursive(
    ANY_JSON
    | st.sampled_from(["task", "turn", "text", "assistant", "{'a': (1,)}", "https://[::1", 2**70, -1, "data:"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NESTED), inner, max_size=5),
    max_leaves=12,
)
TYPES = [
    "agent", "custom", "function", "generation", "guardrail", "handoff", "mcp_tools", "response", "speech",
    "speech_group", "transcription", "hologram",
]  # fmt: skip
SPANS = st.fixed_dictionaries(
    {
        "object": st.just("trace.span"),
        "id": st.sampled_from("abcdef"),
        "trace_id": st.just("trace_a"),
        "span_data": st.builds(
            lambda kind, data: {**data, "type": kind},
            st.sampled_from(TYPES) | ANY_JSON,
            st.dictionaries(st.sampled_from(KEYS), SHAPED, max_size=7),
        )
        | ANY_JSON,
    },
    optional={
        "parent_id": st.sampled_from("abcdefz") | ANY_JSON,
        "started_at": st.sampled_from(["2026-11-22T21:26:31Z", "9999-01-01T00:00:00Z", "x"]) | ANY_JSON,
        "ended_at": st.sampled_from(["2026-11-22T21:26:32Z", "1960-01-01T00:00:00Z"]) | ANY_JSON,
        "error": ANY_JSON | st.fixed_dictionaries({"message": ANY_JSON, "data": ANY_JSON}),
        "metadata": ANY_JSON,
        "more": ANY_JSON,
    },
)
HEADS = st.fixed_dictionaries(
    {"object": st.just("trace"), "id": st.just("trace_a")},
    optional={"workflow_name": ANY_JSON, "group_id": ANY_JSON, "metadata": ANY_JSON, "more": ANY_JSON},
)


def span(data: object, identity: str = "s", **more: object) -> dict[str, object]:
    at = {"started_at": "1970-01-01T00:00:10Z", "ended_at": "1970-01-01T00:00:11Z"}
    return {"object": "trace.span", "id": identity, "trace_id": "trace_a", "span_data": data, **at, **more}


def trace(**more: object) -> dict[str, object]:
    return {"object": "trace", "id": "trace_a", **more}


def payload(items: list[object], policy: GraftPolicy = POLICY) -> bytes:
    parts = read_items(items, Source.SDK, policy).parts
    assert len(parts) == 1
    return parts[0].payload


def map_items(*items: object, policy: GraftPolicy = POLICY, **more: object) -> Mapped:
    return map_guest("trace_a", Source.SDK, [payload(list(items), policy)], policy, **more)


def only(data: object, policy: GraftPolicy = POLICY, **more: object) -> GuestSpan:
    (found,) = map_items(span(data, **more), policy=policy).guest.spans
    return found


def attributes(data: object, policy: GraftPolicy = POLICY, **more: object) -> dict[str, object]:
    return dict(only(data, policy, **more).attributes)


@given(st.lists(SPANS | HEADS, min_size=1, max_size=6), st.sampled_from(Content))
def test_any_items_give_spans_that_can_leave(items: list[object], content: Content) -> None:
    """Never an exception: one span an id, keys unique, values OTLP can say, times in order."""
    policy = GraftPolicy(content=content, metadata_keys=("a",))
    mapped = map_guest("trace_a", Source.SDK, [payload(items, policy)], policy)
    identities = {item["id"] for item in items if item["object"] == "trace.span"}
    assert {found.span_id for found in mapped.guest.spans} == {guest_span_id("trace_a", name) for name in identities}
    assert len(mapped.guest.spans) == len(identities)
    json.dumps(mapped.head, allow_nan=False)
    for found in mapped.guest.spans:
        assert 0 <= found.start < 2**63 > found.end >= 0
        assert (found.end < found.start) == (dict(found.attributes).get("grafter.time.odd") is True)
        keys = [key for key, _ in found.attributes]
        assert len(keys) == len(set(keys)) < 128
        for _, value in found.attributes:
            assert isinstance(value, str | bool | int | float | tuple)
            assert not isinstance(value, int) or -(2**63) <= value < 2**63
            assert not isinstance(value, float) or math.isfinite(value)
            assert not isinstance(value, tuple) or all(isinstance(member, str) for member in value)


@settings(max_examples=80, deadline=None)
@given(st.lists(SPANS, min_size=1, max_size=7), st.randoms(use_true_random=False), st.sampled_from(Content))
def test_neither_order_nor_pieces_nor_repeats_change_a_guest(
    items: list[object], chance: random.Random, content: Content
) -> None:
    """However a guest's spans were split into requests, and in which order those came, it is the same guest."""
    policy = GraftPolicy(content=content)
    whole = map_guest("trace_a", Source.SDK, [payload(items, policy)], policy)
    shuffled = chance.sample(items, len(items)) + chance.sample(items, chance.randrange(len(items) + 1))
    cuts = sorted(chance.randrange(len(shuffled) + 1) for _ in range(3))
    pieces = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(shuffled)], strict=True) if a < b]
    again = map_guest("trace_a", Source.SDK, [payload(piece, policy) for piece in pieces], policy)
    assert again.guest == whole.guest
    assert again.repeated == whole.repeated + len(shuffled) - len(items)


@pytest.mark.parametrize("capture", ["py_runner_responses", "js_runner_responses", "py_runner_chat_completions"])
def test_a_recorded_run_is_the_same_in_any_pieces(
    capture: str, captured: Callable[[str], list[list[object]]], mapped: Callable[..., dict[str, Mapped]]
) -> None:
    """The trace object last, every span a request of its own, all of it twice."""
    items = [item for request in captured(capture) for item in request]
    whole, again = mapped([items]), mapped([[item] for item in [*reversed(items), *items]])
    for guest, first in whole.items():
        assert again[guest].guest == first.guest
        assert again[guest].head == first.head
        assert again[guest].repeated == len(first.guest.spans)


def test_a_guest_says_what_the_join_needs() -> None:
    """Link, conversation, where it was measured, ids and parents by the id rule."""
    head = trace(group_id="conv", metadata={"traceparent": f"00-{HOST}-00f067aa0ba902b7-01"})
    child = span({"type": "response"}, "two", parent_id="gone")
    guest = map_items(head, child).guest
    link = Link(TraceId(bytes.fromhex(HOST)), SpanId(bytes.fromhex("00f067aa0ba902b7")), True, "traceparent")
    assert (guest.link, guest.conversation_ids, guest.measured_in_app) == (link, {"conv"}, True)
    assert (guest.spans[0].span_id, guest.spans[0].parent) == tuple(
        guest_span_id("trace_a", x) for x in ("two", "gone")
    )
    assert guest.spans[0].parent_name == "gone"
    other = map_guest("trace_a", Source.WEBHOOK, [payload([child])], POLICY).guest
    assert (other.link, other.conversation_ids, other.measured_in_app) == (None, frozenset(), False)


def test_trace_objects_merge_and_a_link_never_changes() -> None:
    """Later keys win, null takes nothing away, and the first host stays."""
    first = trace(workflow_name="w1", group_id="g", metadata={"trace_id": HOST, "a": 1, "b": 1})
    later = trace(workflow_name="w2", group_id=None, metadata={"trace_id": "a" * 32, "b": 2, "c": None})
    last = trace(metadata=None)
    found = map_guest("trace_a", Source.SDK, [payload([item]) for item in (first, later, last)], POLICY)
    assert found.head["workflow_name"] == "w2"
    assert found.head["group_id"] == "g"
    assert found.head["metadata"] == {"trace_id": "a" * 32, "a": 1, "b": 2, "c": None}
    assert found.guest.link == Link(TraceId(bytes.fromhex(HOST)), how="trace_id")


def test_late_spans_are_told_by_the_remembered_head(captured: Callable[[str], list[list[object]]]) -> None:
    """A run resumed after a release sends no trace object; its spans have link, workflow and metadata all the same."""
    run, resumed = captured("py_runstate_resume")
    guest = run[0]["id"]
    assert not any(item["object"] == "trace" for item in resumed)
    early = map_guest(guest, Source.SDK, [payload(run)], POLICY)
    remembered = orjson.loads(orjson.dumps(early.head))
    late = map_guest(guest, Source.SDK, [payload(resumed)], POLICY, earlier=remembered)
    together = map_guest(guest, Source.SDK, [payload(run), payload(resumed)], POLICY)
    assert late.guest.link == early.guest.link
    assert late.head == early.head
    by_id = attrgetter("span_id")
    assert sorted([*early.guest.spans, *late.guest.spans], key=by_id) == sorted(together.guest.spans, key=by_id)


def test_a_malformed_link_is_said() -> None:
    """The reason stands in the head until a later trace object names a host."""
    bad = map_items(trace(metadata={"trace_id": "?"}), span({"type": "agent"}))
    assert (bad.guest.link, bad.head["malformed"]) == (None, "trace_id: expected 32 hex digits, not all zero")
    good = map_items(trace(metadata={"trace_id": HOST}), earlier=bad.head)
    assert good.guest.link is not None
    assert "malformed" not in good.head


@settings(max_examples=60)
@given(
    ANY_JSON.filter(lambda value: isinstance(value, dict))
    | st.dictionaries(st.sampled_from(["link", "metadata"]), ANY_JSON)
)
def test_a_damaged_memory_is_read_as_far_as_it_goes(earlier: dict[str, object]) -> None:
    """What an older or a broken version remembered raises nothing."""
    assert len(map_items(span({"type": "agent"}), earlier=earlier).guest.spans) == 1


def test_metadata_is_one_attribute_and_chosen_keys_more() -> None:
    """On top-level spans alone, with its keys in order, whatever their order on the wire."""
    head = trace(workflow_name="w", metadata={"z": 1, "a": {"k": [1]}, "call": "c1", "n": None})
    policy = GraftPolicy(metadata_keys=("call", "a", "n", "missing"))
    top, child = map_items(
        head, span({"type": "agent"}), span({"type": "agent"}, "t", parent_id="s"), policy=policy
    ).guest.spans
    told = {key: value for key, value in top.attributes if "trace." in key or key.endswith("workflow_name")}
    assert told == {
        "openai.agents.trace.id": "trace_a",
        "openai.agents.trace.url": "https://platform.openai.com/logs/trace?trace_id=trace_a",
        "openai.agents.trace.metadata": '{"a":{"k":[1]},"call":"c1","n":null,"z":1}',
        "openai.agents.trace.metadata.call": "c1",
        "openai.agents.trace.metadata.a": '{"k":[1]}',
        "openai.agents.workflow_name": "w",
    }
    assert [key for key, _ in child.attributes if "trace" in key] == ["openai.agents.trace.id"]


@pytest.mark.parametrize(
    ("message", "data", "kind"),
    [
        ("Error getting response", {"error": "500"}, "model_error"),
        ("Error streaming response", None, "model_stream_error"),
        ("Error running tool", None, "tool_error"),
        ("Error running tool (non-fatal)", None, "tool_error"),
        ("Tool execution cancelled", None, "tool_cancelled"),
        ("Tool not found", None, "tool_not_found"),
        ("Shell tool not found", None, "tool_not_found"),
        ("Guardrail tripwire triggered", {"guardrail": "g"}, "guardrail_tripwire_triggered"),
        ("Max turns exceeded", None, "max_turns_exceeded"),
        ("Multiple handoffs requested", None, "multiple_handoffs"),
        ("Invalid JSON", None, "invalid_json"),
        ("Invalid JSON provided", None, "invalid_json"),
        ("Error in agent run", None, "agent_error"),
        ("Error in call_model_input_filter", None, "input_filter_error"),
        ("Invalid input filter result", None, "input_filter_error"),
        ("Sorry, no.", {"error": "Tool 'x' was manually rejected by user."}, "tool_rejected"),
        ("boom", None, "_OTHER"),
        (None, None, "_OTHER"),
        ("Error in agent run", {"error": "MaxTurnsExceededError: Max turns (2) exceeded"}, "max_turns_exceeded"),
        ("Error in agent run", {"error": "OutputGuardrailTripwireTriggered: {}"}, "guardrail_tripwire_triggered"),
        ("Error in agent run", {"error": "AbortError: This operation was aborted"}, "aborted"),
        ("Error in agent run", {"error": "Error: UserError: boom"}, "agent_error"),
        ("Error running tool", {"error": "AbortError: This operation was aborted"}, "tool_error"),
    ],
)
def test_errors_have_a_kind_and_keep_their_data_for_who_may_see_it(message: object, data: object, kind: str) -> None:
    """error.type has few values; the message is the status; the data is content."""
    error = {"message": message, "data": data}
    closed, opened = only({"type": "function"}, error=error), only({"type": "function"}, FULL, error=error)
    for found in (closed, opened):
        assert (found.status_code, found.status_message) == (2, message or "")
        assert dict(found.attributes)["error.type"] == kind
    assert "openai.agents.error.data" not in dict(closed.attributes)
    assert dict(opened.attributes).get("openai.agents.error.data") == (data and orjson.dumps(data).decode())


@pytest.mark.parametrize("error", [None, False, ""])
def test_no_error_leaves_the_status_unset(error: object) -> None:
    """Success is not said, as OpenTelemetry asks."""
    assert only({"type": "guardrail", "triggered": True}, error=error).status_code == 0


@pytest.mark.parametrize(
    "usage",
    [
        {
            "requests": 1,
            "input_tokens": 50,
            "output_tokens": 9,
            "total_tokens": 59,
            "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4, "cache_write_tokens_details": None},
            "output_tokens_details": {"reasoning_tokens": 3},
        },
        {
            "input_tokens": 50,
            "output_tokens": 9,
            "details": {
                "requests": 1,
                "total_tokens": 59,
                "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 3},
            },
        },
        {
            "requests": 1,
            "prompt_tokens": 50,
            "completion_tokens": 9,
            "total_tokens": 59,
            "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
    ],
    ids=["raw", "folded", "chat"],
)
@pytest.mark.parametrize("kind", ["generation", "response"])
def test_usage_is_read_in_every_spelling(usage: dict[str, object], kind: str) -> None:
    """Raw, folded for OpenAI's ingest, and a provider's own: the same attributes, and nothing left over."""
    found = attributes({"type": kind, "usage": usage})
    assert {key: value for key, value in found.items() if "usage" in key} == {
        "gen_ai.usage.input_tokens": 50,
        "gen_ai.usage.output_tokens": 9,
        "openai.agents.usage.requests": 1,
        "openai.agents.usage.total_tokens": 59,
        "gen_ai.usage.cache_read.input_tokens": 8,
        "gen_ai.usage.cache_write.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 3,
    }
    assert "openai.agents.extra" not in found


def test_tokens_are_split_by_modality_where_some_are_not_text() -> None:
    """All-text calls need no split; unknown counts are kept."""
    details = {"text_tokens": 10, "audio_tokens": 40, "image_tokens": 0, "video_tokens": 2}
    found = attributes({"type": "response", "usage": {"input_tokens": 50, "input_tokens_details": details}})
    assert found["gen_ai.usage.text.input_tokens"] == 10
    assert found["gen_ai.usage.audio.input_tokens"] == 40
    assert "gen_ai.usage.image.input_tokens" not in found
    assert json.loads(found["openai.agents.extra"]) == {
        "span_data": {"usage": {"input_tokens_details": {"video_tokens": 2}}}
    }
    plain = attributes({"type": "response", "usage": {"input_tokens": 5, "input_tokens_details": {"text_tokens": 5}}})
    assert not any("text" in key for key in plain)


def test_only_model_calls_carry_tokens_that_are_summed(mapped: Callable[..., dict[str, Mapped]]) -> None:
    """A task's and a turn's usage are sums already and stand under the SDK's names."""
    usage = {"input_tokens": 5, "output_tokens": 1, "cached_input_tokens": 2}
    for own in ("task", "turn"):
        found = attributes({"type": "custom", "name": own, "data": {"sdk_span_type": own, "usage": usage}})
        assert not any(key.startswith("gen_ai.usage") for key in found)
        assert found["openai.agents.usage.cached_input_tokens"] == 2


def test_a_chat_completion_object_of_javascript_is_read() -> None:
    """Usage, ids, finish reasons and the tool calls stand inside the output there."""
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"id":7}'}}
    completion = {
        "id": "chatcmpl-9",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4.1-2025-04-14",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        "choices": [
            {"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [call]}}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24},
    }
    settings = {"temperature": 0.5, "topP": 0.9, "maxTokens": 100, "reasoningEffort": "low"}
    data = {"type": "generation", "model": "gpt-4.1", "model_config": settings, "output": [completion]}
    closed, opened = attributes(data), attributes(data, FULL)
    assert {key: value for key, value in closed.items() if not key.startswith("openai.agents.")} == {
        "gen_ai.operation.name": "chat",
        "openai.api.type": "chat_completions",
        "gen_ai.request.model": "gpt-4.1",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.response.id": "chatcmpl-9",
        "gen_ai.response.model": "gpt-4.1-2025-04-14",
        "openai.response.service_tier": "default",
        "openai.response.system_fingerprint": "fp_1",
        "gen_ai.response.finish_reasons": ("tool_calls",),
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 4,
    }
    part = {"type": "tool_call", "id": "call_1", "name": "look", "arguments": {"id": 7}}
    message = {"role": "assistant", "parts": [part], "finish_reason": "tool_call"}
    assert json.loads(opened["gen_ai.output.messages"]) == [message]


@pytest.mark.parametrize(
    ("config", "model", "provider", "address"),
    [
        ({"base_url": "https://api.openai.com/v1/"}, "gpt-4.1", "openai", ("api.openai.com", 443)),
        ({"base_url": "https://me.openai.azure.com/x"}, "gpt", "azure.ai.openai", ("me.openai.azure.com", 443)),
        ({"base_url": "http://[::1]:8080/v1"}, "llama", "openai", ("::1", 8080)),
        ({}, "anthropic/claude-x", "anthropic", (None, None)),
        ({}, "litellm/vertex_ai/gemini-x", "gcp.vertex_ai", (None, None)),
        ({}, "meta-llama/Llama", "openai", (None, None)),
        ({"base_url": 5}, None, "openai", (None, None)),
    ],
)
def test_the_provider_is_known_by_address_or_model(
    config: object, model: object, provider: str, address: tuple[object, object]
) -> None:
    """Where the request went says more than the model's name; OpenAI where neither says anything."""
    found = attributes({"type": "generation", "model": model, "model_config": config})
    assert found["gen_ai.provider.name"] == provider
    assert (found.get("server.address"), found.get("server.port")) == address


def test_settings_without_a_convention_keep_their_names() -> None:
    """Known ones by the convention, one choice is not said, the rest under the SDK's, nothing lost."""
    config = {"n": 1, "seed": 7, "stop": "END", "verbosity": "low", "store": False, "top_logprobs": None}
    found = attributes({"type": "generation", "model_config": config | {"metadata": {"a": 1}}})
    assert found["gen_ai.request.seed"] == 7
    assert found["gen_ai.request.stop_sequences"] == ("END",)
    assert "gen_ai.request.choice.count" not in found
    assert found["openai.agents.model_config.verbosity"] == "low"
    assert found["openai.agents.model_config.store"] is False
    assert json.loads(found["openai.agents.extra"]) == {"span_data": {"model_config": {"metadata": {"a": 1}}}}


def test_messages_of_both_apis_take_one_form() -> None:
    """Chat messages and Responses items, with reasoning, tools, pictures and parts that no convention has."""
    chat = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "hi"}, {"type": "new", "x": 1}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "{'ok': True}"},
        {"type": "function_call", "call_id": "d", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "d", "output": "done"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yo"}]},
        "plain",
    ]
    found = attributes({"type": "generation", "input": chat, "output": [{"role": "assistant", "content": "ok"}]}, FULL)
    assert json.loads(found["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be kind."}]},
        {"role": "user", "parts": [{"type": "text", "content": "hi"}, {"type": "new", "x": 1}], "name": "ann"},
        {"role": "user", "parts": [{"type": "uri", "modality": "image", "uri": "https://x/y.png"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "{'ok': True}"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "d", "name": "f", "arguments": {}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "d", "response": "done"}]},
        {"role": "assistant", "parts": [{"type": "reasoning", "content": "why"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "yo"}]},
        {"role": "user", "parts": [{"type": "text", "content": "plain"}]},
    ]
    told = [{"role": "assistant", "parts": [{"type": "text", "content": "ok"}], "finish_reason": "unknown"}]
    assert json.loads(found["gen_ai.output.messages"]) == told


def test_a_tool_result_that_python_printed_becomes_json() -> None:
    """JSON stays, a repr becomes it, and a sentence is left alone."""
    results = {
        "{'ok': True, 'n': None}": '{"ok":true,"n":null}',
        '{"ok": true}': '{"ok":true}',
        "It's fine": "It's fine",
        "17": "17",
    }
    for output, expected in results.items():
        found = attributes({"type": "function", "name": "f", "input": '{"a": 1}', "output": output}, FULL)
        assert found["gen_ai.tool.call.result"] == expected
        assert found["gen_ai.tool.call.arguments"] == '{"a":1}'
    unset = attributes({"type": "function", "name": "f", "input": "", "output": ""}, FULL)
    assert not any(key.startswith("gen_ai.tool.call") for key in unset)


def test_an_mcp_tool_names_its_server() -> None:
    """And keeps what else was said of it."""
    found = attributes({"type": "function", "name": "read", "mcp_data": {"server": "fs", "port": 1}})
    assert (found["mcp.method.name"], found["openai.agents.mcp.server"]) == ("tools/call", "fs")
    assert json.loads(found["openai.agents.extra"]) == {"span_data": {"mcp_data": {"port": 1}}}


TURN = {
    "type": "custom",
    "name": "turn",
    "data": {"sdk_span_type": "turn", "turn": 1, "agent_name": "a", "usage": {"input_tokens": 7, "output_tokens": 2}},
}


def usage_of_calls(*calls: dict[str, object], turn: dict[str, object] = TURN) -> dict[str, object]:
    """What each model call of one turn says that it read."""
    spans = (span(call, f"call{number}", parent_id="turn") for number, call in enumerate(calls))
    guest = map_items(span(turn, "turn"), *spans).guest
    told = {found.span_id: dict(found.attributes).get("gen_ai.usage.input_tokens") for found in guest.spans}
    assert told.pop(guest_span_id("trace_a", "turn")) is None
    return {name: told[guest_span_id("trace_a", name)] for name in (f"call{i}" for i in range(len(calls)))}


def test_a_turns_usage_goes_to_its_one_model_call() -> None:
    """JavaScript states usage on turns: the call has it, once, and a call's own is never replaced."""
    response = {"type": "response", "response_id": "r"}
    assert usage_of_calls(response) == {"call0": 7}
    assert usage_of_calls({**response, "usage": {"input_tokens": 3}}) == {"call0": 3}
    assert usage_of_calls({**response, "usage": {"input_tokens": 0}}) == {"call0": 0}


def test_a_turns_usage_goes_to_nobody_where_it_is_not_known_whose_it_is() -> None:
    """Of two calls of one turn neither has it; a count of nothing is no count."""
    response = {"type": "response", "response_id": "r"}
    assert usage_of_calls(response, response) == {"call0": None, "call1": None}
    failed = {**TURN, "data": {**TURN["data"], "usage": {"input_tokens": 0, "output_tokens": 0}}}
    assert usage_of_calls(response, turn=failed) == {"call0": None}


def test_what_a_model_call_failed_with_is_the_models_error() -> None:
    """A provider's own sentence is free text, and still says who failed."""
    error = {"message": "400 stand-in refuses"}
    for kind in ("response", "generation"):
        assert attributes({"type": kind}, error=error)["error.type"] == "model_error"
    assert attributes({"type": "agent", "name": "a"}, error=error)["error.type"] == "_OTHER"


def test_first_audio_is_counted_from_the_start_of_the_span() -> None:
    """In seconds, as the conventions ask; a time before the start is kept and not believed."""
    found = attributes({"type": "speech", "first_content_at": "1970-01-01T00:00:10.480Z"})
    assert found["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.48)
    assert found["gen_ai.request.stream"] is True
    early = attributes({"type": "speech", "first_content_at": "1970-01-01T00:00:09Z"})
    assert "gen_ai.response.time_to_first_chunk" not in early
    assert json.loads(early["openai.agents.extra"]) == {"span_data": {"first_content_at": "1970-01-01T00:00:09Z"}}


def test_an_unknown_type_is_kept_whole() -> None:
    """Its name, its data, and a mark by which it can be found."""
    found = only({"type": "hologram", "depth": 3, "label": "x"}, FULL)
    assert found.name == "openai.hologram"
    assert dict(found.attributes)["grafter.unmapped_type"] == "hologram"
    data = json.loads(dict(found.attributes)["openai.agents.span_data"])
    assert data == {"type": "hologram", "depth": 3, "label": "x"}
    assert only(None).name == "openai.unknown"
    assert dict(only([1, 2]).attributes)["openai.agents.span_data"] == '{"value":[1,2]}'


def test_unknown_keys_stand_in_one_attribute_by_where_they_stood() -> None:
    """Of the span's data, the span, its error and the trace object; the content rule holds for each."""
    item = span({"type": "agent", "name": "A", "mood": "calm", "n": 1}, error={"message": "m", "code": 7}, cost=0.5)
    closed, opened = (
        json.loads(dict(map_items(trace(project="p", tier=2), item, policy=policy).guest.spans[0].attributes)[
            "openai.agents.extra"
        ])
        for policy in (POLICY, FULL)
    )  # fmt: skip
    assert opened == {
        "span_data": {"mood": "calm", "n": 1},
        "span": {"cost": 0.5},
        "error": {"code": 7},
        "trace": {"project": "p", "tier": 2},
    }
    assert closed == {
        "span_data": {"mood": None, "n": 1},
        "span": {"cost": 0.5},
        "error": {"code": 7},
        "trace": {"project": None, "tier": 2},
    }


def test_custom_data_is_attributes_up_to_a_bound() -> None:
    """Scalars by their keys, the rest as JSON; thousands of keys do not become thousands of columns."""
    data = {"n": 1, "b": True, "s": "x", "list": [1], "data": "taken", "none": None}
    found = attributes({"type": "custom", "name": "c", "data": data}, FULL)
    assert (found["openai.agents.custom.n"], found["openai.agents.custom.b"], found["openai.agents.custom.s"]) == (
        1,
        True,
        "x",
    )
    assert json.loads(found["openai.agents.custom.data"]) == {"list": [1], "data": "taken", "none": None}
    many = attributes({"type": "custom", "name": "c", "data": {f"k{n:04}": n for n in range(2000)}})
    assert len(many) < 64
    assert len(json.loads(many["openai.agents.custom.data"])) == 2000 - 32


def test_the_agent_of_a_span_is_the_nearest_above() -> None:
    """An agent or a turn, through tools and tasks; a circle of parents ends the search."""
    items = [
        span({"type": "agent", "name": "Outer"}, "a"),
        span({"type": "function", "name": "ask"}, "f", parent_id="a"),
        span({"type": "custom", "name": "task", "data": {"sdk_span_type": "task", "name": "sub"}}, "k", parent_id="f"),
        span({"type": "agent", "name": "Inner"}, "i", parent_id="k"),
        span({"type": "guardrail", "name": "g"}, "g", parent_id="i"),
        span({"type": "function", "name": "alone"}, "x"),
        span({"type": "guardrail"}, "c1", parent_id="c2"),
        span({"type": "guardrail"}, "c2", parent_id="c1"),
        span({"type": "guardrail"}, "c3", parent_id="c3"),
    ]
    spans = {
        dict(found.attributes)["openai.agents.span.id"]: dict(found.attributes)
        for found in map_items(*items).guest.spans
    }
    agents = {identity: found.get("gen_ai.agent.name") for identity, found in spans.items()}
    assert agents == {
        "a": "Outer", "f": "Outer", "k": "sub", "i": "Inner", "g": "Inner",
        "x": None, "c1": None, "c2": None, "c3": None,
    }  # fmt: skip
    assert [identity for identity, found in spans.items() if "openai.agents.tool.is_agent" in found] == ["f"]


def test_a_handoff_is_linked_from_the_agent_that_took_over() -> None:
    """The next one of that name beside the giver, not one of another run, and each handoff its own."""

    def at(second: int) -> dict[str, str]:
        return {"started_at": f"1970-01-01T00:00:{second:02}Z", "ended_at": f"1970-01-01T00:00:{second:02}Z"}

    items = [
        span({"type": "agent", "name": "A"}, "a1", parent_id="run1", **at(1)),
        span({"type": "handoff", "from_agent": "A", "to_agent": "B"}, "h1", parent_id="a1", **at(2)),
        span({"type": "agent", "name": "B"}, "other", parent_id="run2", **at(3)),
        span({"type": "agent", "name": "B"}, "b1", parent_id="run1", **at(4)),
        span({"type": "handoff", "from_agent": "B", "to_agent": "A"}, "h2", parent_id="b1", **at(5)),
        span({"type": "agent", "name": "A"}, "a2", parent_id="run1", **at(5)),
        span({"type": "handoff", "from_agent": "A", "to_agent": "B"}, "h3", parent_id="a2", **at(6)),
        span({"type": "agent", "name": "B"}, "b2", parent_id="run1", **at(7)),
        span({"type": "handoff", "from_agent": "B", "to_agent": "Gone"}, "h4", parent_id="b2", **at(8)),
        span({"type": "handoff", "from_agent": "B", "to_agent": None}, "h5", parent_id="b2", **at(8)),
    ]
    names = {guest_span_id("trace_a", str(item["id"])): item["id"] for item in items}
    spans = map_items(*items).guest.spans
    links = {names[found.span_id]: [names[link.span_id] for link in found.links] for found in spans if found.links}
    assert links == {"b1": ["h1"], "a2": ["h2"], "b2": ["h3"]}
    assert {found.name for found in spans if "handoff" in found.name} == {
        "handoff A", "handoff B", "handoff Gone", "handoff",
    }  # fmt: skip


def test_old_sdks_have_neither_tasks_nor_turns_nor_tokens(captured: Callable[[str], list[list[object]]]) -> None:
    """openai-agents before 0.14 sends `response` with an id alone; agents are the top, and nothing is odd."""
    old = []
    for item in captured("py_runner_no_task_turn")[0]:
        if item["object"] == "trace.span" and item["span_data"]["type"] == "response":
            data = {"type": "response", "response_id": item["span_data"]["response_id"]}
            old.append({**item, "span_data": data})
        else:
            old.append(item)
    found = map_guest(old[0]["id"], Source.SDK, [payload(old)], POLICY)
    assert found.odd == 0
    chats = [dict(span.attributes) for span in found.guest.spans if span.name == "chat"]
    assert chats
    assert all(chat["gen_ai.response.id"].startswith("resp_") for chat in chats)
    assert {span.name for span in found.guest.spans if span.parent is None} == {
        "invoke_agent Triage",
        "invoke_agent Billing",
    }


def test_odd_times_are_mended_and_said() -> None:
    """A span without any time stands where its guest begins; nothing is in 1970 that need not be. What ends before it
    starts leaves as it came."""
    timeless = {**span({"type": "agent"}, "t"), "started_at": None, "ended_at": None}
    backwards = span({"type": "agent"}, "b", ended_at="1970-01-01T00:00:05Z")
    far = span({"type": "agent"}, "f", ended_at="9999-12-31T23:59:59Z")
    good = span({"type": "agent"}, "g")
    found = {
        dict(s.attributes)["openai.agents.span.id"]: s for s in map_items(timeless, backwards, far, good).guest.spans
    }
    assert {name: (s.start, s.end) for name, s in found.items()} == {
        "t": (10 * BILLIONTH, 10 * BILLIONTH),
        "b": (10 * BILLIONTH, 5 * BILLIONTH),
        "f": (10 * BILLIONTH, 2**63 - 1),
        "g": (10 * BILLIONTH, 11 * BILLIONTH),
    }
    odd = {name for name, s in found.items() if dict(s.attributes).get("grafter.odd_time")}
    assert odd == {"t", "f"}
    assert {name for name, s in found.items() if dict(s.attributes).get("grafter.time.odd")} == {"b"}


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_times_in_another_unit_are_recognised(unit: int) -> None:
    """As at the endpoint for Realtime events; SDKs themselves write ISO 8601, what speaks like one may not."""
    item = {**span({"type": "agent"}, "a"), "started_at": 1_800_000_000 * unit, "ended_at": 1_800_000_002 * unit}
    (found,) = map_items(item).guest.spans
    assert (found.start, found.end) == (1_800_000_000 * BILLIONTH, 1_800_000_002 * BILLIONTH)
    assert "grafter.odd_time" not in dict(found.attributes)


def test_payloads_that_cannot_be_read_are_counted() -> None:
    """A damaged part costs itself, and says so."""
    found = map_guest(
        "trace_a", Source.SDK, [b"\x00", b"{}", b'[{"object": "trace.span"}, 5]', payload([span({})])], POLICY
    )
    assert (found.odd, len(found.guest.spans)) == (3, 1)
    assert map_guest("trace_a", Source.SDK, [], POLICY).guest == Guest("trace_a", Source.SDK, (), measured_in_app=True)


def test_five_thousand_spans_in_a_chain_are_mapped_in_steps_that_grow_with_it() -> None:
    """The way to the agent is walked once, not once for each span below it."""
    deep = [
        span({"type": "function", "name": "f"}, f"s{n}", parent_id=f"s{n - 1}" if n else None) for n in range(5_000)
    ]
    stored = payload(deep)
    # 425 for each; to walk the way for each takes a hundred million.
    with at_most_steps(5_000_000):
        found = map_guest("trace_a", Source.SDK, [stored], POLICY)
    assert len(found.guest.spans) == 5_000


def test_long_content_leaves_as_json_and_says_that_it_was_cut() -> None:
    """A prompt of a megabyte becomes 60,000 bytes that still parse."""
    messages = [{"role": "user", "content": "a" * 1_000_000}, {"role": "user", "content": "short"}]
    found = attributes({"type": "generation", "input": messages}, FULL)
    text = found["gen_ai.input.messages"]
    assert len(text.encode()) <= 60_000
    assert json.loads(text)[1]["parts"][0]["content"] == "short"
    assert found["grafter.truncated"] == ("gen_ai.input.messages",)
    assert found["grafter.truncated.bytes"] > 900_000


ODD = ([], ["a"], {"a": 1}, 1.5, True, [{"type": ["x"], "role": ["y"], "content": [{"type": {}}]}])


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("content", list(Content))
@pytest.mark.parametrize("kind", ["response", "generation", "function", "agent", "custom", "guardrail", "handoff"])
def test_one_odd_type_costs_itself(kind: str, content: Content, odd: object) -> None:
    """A type, a role or any other value of another kind, anywhere in an item, costs neither its span nor its trace."""
    policy = GraftPolicy(content=content)
    message = {"type": "message", "role": "user", "content": [{"type": "text", "text": "hi"}], "status": "completed"}
    call = {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"}
    response = {"id": "r", "model": "m", "output": [message, call], "usage": {"input_tokens": 1}}
    data = {"type": kind, "name": "n", "input": [message, call], "output": [message], "response": response, "data": {}}
    item = {"object": "trace.span", "id": "s", "trace_id": "t", "parent_id": None, "span_data": data, "error": {}}
    for path in paths(item):
        if path[0] in ("object", "id", "trace_id"):
            continue
        intake = read_items([replaced(item, path, odd)], Source.SDK, policy)
        mapped = map_guest("t", Source.SDK, [part.payload for part in intake.parts], policy)
        assert len(mapped.guest.spans) == 1, path


def paths(value: object, here: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*here, key)
        yield from paths(member, (*here, key))


def replaced(value: Any, path: Sequence[object], odd: object) -> Any:
    if not path:
        return odd
    copied = copy.copy(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], odd)
    return copied
