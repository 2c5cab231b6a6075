"""What may be stored and what may leave, under each content rule."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.model import Source
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.agents.content import clean
from grafter.guests.agents.intake import read_items
from grafter.guests.agents.spans import map_guest
from grafter.guests.json_values import ARGUMENTS_DIGEST, INPUT_DIGEST, digest
from grafter.guests.source import Mapped

DATA = Path(__file__).parents[2] / "data" / "openai"
CAPTURES = sorted(path.stem for path in DATA.glob("*.json"))
MARK = "Zq7 the caller said so"
SOUND = base64.b64encode(b"sound of a caller's voice, all of it, and then some more").decode()

# Where a string is structure, written down a second time: (span type, path) with * for any list member.
STRUCTURE = {
    ("*", "object"), ("*", "id"), ("*", "trace_id"), ("*", "parent_id"), ("*", "started_at"), ("*", "ended_at"),
    ("*", "error.message"), ("*", "span_data.type"), ("*", "metadata.agent_harness_id"),
    ("agent", "span_data.name"), ("agent", "span_data.handoffs.*"), ("agent", "span_data.tools.*"),
    ("agent", "span_data.output_type"), ("function", "span_data.name"), ("function", "span_data.mcp_data.server"),
    ("generation", "span_data.model"), ("generation", "span_data.model_config.base_url"),
    ("generation", "span_data.output.*.role"), ("generation", "span_data.output.*.tool_calls.*.id"),
    ("generation", "span_data.output.*.tool_calls.*.function.name"),
    ("generation", "span_data.output.*.tool_calls.*.type"), ("response", "span_data.response_id"),
    ("handoff", "span_data.from_agent"), ("handoff", "span_data.to_agent"), ("guardrail", "span_data.name"),
    ("custom", "span_data.name"), ("mcp_tools", "span_data.server"), ("mcp_tools", "span_data.result.*"),
    ("transcription", "span_data.model"), ("transcription", "span_data.model_config.language"),
    ("transcription", "span_data.input.format"), ("speech", "span_data.model"), ("speech", "span_data.output.format"),
    ("speech", "span_data.model_config.voice"), ("speech", "span_data.first_content_at"),
    ("task", "span_data.name"), ("task", "span_data.data.sdk_span_type"), ("task", "span_data.data.name"),
    ("turn", "span_data.name"), ("turn", "span_data.data.sdk_span_type"), ("turn", "span_data.data.agent_name"),
}  # fmt: skip

FULL_SPANS = [
    {"type": "function", "name": "f", "input": {"a": MARK}, "output": [MARK], "mcp_data": {"server": "s", "x": MARK}},
    {
        "type": "generation",
        "input": MARK,
        "output": [
            {
                "object": "chat.completion",
                "id": "chatcmpl-1",
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "tool_calls",
                        "logprobs": {"content": [{"token": MARK}]},
                        "message": {
                            "role": "assistant",
                            "content": MARK,
                            "refusal": MARK,
                            "tool_calls": [
                                {"id": "c1", "function": {"name": "f", "arguments": json.dumps({"a": MARK})}}
                            ],
                        },
                    }
                ],
                "usage": {"prompt_tokens": 3, "note": MARK},
            },
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": MARK},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": MARK}]},
            {"type": "reasoning", "summary": [{"text": MARK}]},
            MARK,
        ],
        "model_config": {"instructions": MARK, "metadata": {"k": MARK}, "stop": ["END"], "extra_body": {"p": MARK}},
        "usage": {"input_tokens": 1, "comment": MARK},
        "prompt": MARK,
    },
    {"type": "response", "response_id": "r", "input": [{"content": MARK}], "output": MARK, "instructions": MARK},
    {"type": "custom", "name": "c", "data": {"s": MARK, "n": 4, "b": True, "deep": [{"s": MARK, "n": 5}]}},
    {"type": "custom", "name": "c", "data": MARK},
    {"type": "custom", "name": "turn", "data": {"sdk_span_type": "turn", "agent_name": "A", "note": MARK, "turn": 1}},
    {"type": "custom", "name": "task", "data": {"sdk_span_type": "task", "name": "W", "usage": {"x": MARK}}},
    {
        "type": "speech",
        "input": MARK,
        "output": {"data": MARK, "format": "pcm"},
        "model_config": {"instructions": MARK},
    },
    {"type": "speech_group", "input": MARK},
    {
        "type": "transcription",
        "input": {"data": MARK},
        "output": MARK,
        "model_config": {"prompt": MARK, "keywords": [MARK]},
    },
    {"type": "agent", "name": {"s": MARK}, "tools": [{"description": MARK}], "instructions": MARK},
    {"type": "hologram", "name": MARK, "text": MARK, "list": [MARK], "n": 1},
    {"name": MARK},
    MARK,
]


def span(data: object, **more: object) -> dict[str, object]:
    return {"object": "trace.span", "id": "span_1", "trace_id": "trace_a", "span_data": data, **more}


def stored_and_mapped(items: list[object], stored: Content, leaving: Content) -> tuple[bytes, str]:
    intake = read_items(items, Source.SDK, GraftPolicy(content=stored))
    payloads = [part.payload for part in intake.parts]
    spans = [
        map_guest(part.guest.guest, Source.SDK, [part.payload], GraftPolicy(content=leaving)) for part in intake.parts
    ]
    return b"\n".join(payloads), repr(spans)


@pytest.mark.parametrize("capture", CAPTURES)
def test_no_content_string_of_a_recording_stays(capture: str, captured: Callable[[str], list[list[object]]]) -> None:
    """A mark in every place that is not structure is in no stored byte and in no span."""
    for items in captured(capture):
        planted = [item if item["object"] == "trace" else plant(item) for item in items]
        payload, spans = stored_and_mapped(planted, Content.NONE, Content.NONE)
        assert MARK.encode() not in payload
        assert MARK not in spans


@pytest.mark.parametrize("data", FULL_SPANS)
def test_no_content_string_of_any_field_stays(data: object) -> None:
    """Nor does one in fields that only some versions and languages send, or that none sends."""
    item = span(data, error={"message": "m", "data": {"e": MARK}, "trace": MARK}, comment=MARK, deep={"x": [MARK]})
    payload, spans = stored_and_mapped([item], Content.NONE, Content.NONE)
    assert MARK.encode() not in payload
    assert MARK not in spans
    assert MARK in stored_and_mapped([item], Content.TEXT, Content.TEXT)[1]


@pytest.mark.parametrize("data", FULL_SPANS)
def test_what_was_stored_under_a_wider_rule_does_not_leave_under_a_narrower(data: object) -> None:
    """A restart with `none` exports no content that an earlier configuration stored."""
    assert MARK not in stored_and_mapped([span(data)], Content.FULL, Content.NONE)[1]


@pytest.mark.parametrize("content", list(Content))
@pytest.mark.parametrize("data", FULL_SPANS)
def test_cleaning_what_is_clean_changes_nothing(data: object, content: Content) -> None:
    """So it does not matter how many doors an item went through."""
    once = clean(span(data, error={"message": "m", "data": {"error": "It was manually rejected by user."}}), content)
    assert clean(orjson.loads(orjson.dumps(once)), content) == once


# None of them is a setting whose string stays by itself, as that of a model's ``format`` does.
WORDS = [
    "input", "output", "data", "usage", "model_config", "tool_calls", "function", "arguments", "choices", "message",
    "content", "mcp_data", "error", "audio", "details", "reasoning", "text", "metadata_", "x",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.just(MARK) | st.just(SOUND),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=15,
)
TYPES = ["agent", "function", "generation", "response", "custom", "speech", "transcription", "mcp_tools", "new"]


@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(WORDS), JSON, max_size=6))
def test_no_shape_of_data_carries_content(kind: str, data: dict[str, object]) -> None:
    """Whatever is nested in whatever, under the keys that have a meaning somewhere."""
    payload, spans = stored_and_mapped([span({**data, "type": kind})], Content.NONE, Content.NONE)
    assert MARK.encode() not in payload
    assert MARK not in spans


def test_numbers_and_structure_stay_without_content() -> None:
    """What is left is what happened: counts, settings, finish reasons, ids, names."""
    data = clean(span(FULL_SPANS[1]), Content.NONE)["span_data"]
    assert data == {
        "type": "generation",
        "output": [
            {
                "object": "chat.completion",
                "id": "chatcmpl-1",
                "model": "m",
                "usage": {"prompt_tokens": 3, "note": None},
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "tool_calls",
                        "message": {
                            "role": "assistant",
                            "tool_calls": [{"id": "c1", "name": "f", ARGUMENTS_DIGEST: digest({"a": MARK})}],
                        },
                    }
                ],
            },
            {"type": "function_call", "id": "c2", "name": "g", ARGUMENTS_DIGEST: digest(MARK)},
            {"role": "assistant"},
        ],
        "model_config": {"instructions": None, "metadata": {"k": None}, "stop": ["END"], "extra_body": {"p": None}},
        "usage": {"input_tokens": 1, "comment": None},
        "prompt": None,
    }
    custom = clean(span(FULL_SPANS[3]), Content.NONE)["span_data"]
    assert custom["data"] == {"s": None, "n": 4, "b": True, "deep": [{"s": None, "n": 5}]}


def test_a_call_and_its_tool_span_have_the_same_digest() -> None:
    """What the model asked for and what the tool was called with can be matched without either's content."""
    asked = {
        "type": "generation",
        "output": [{"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": '{"a": 1, "b": 2}'}}]}],
    }
    ran = {"type": "function", "name": "f", "input": '{"b":2,"a":1}'}
    call = clean(span(asked), Content.NONE)["span_data"]["output"][0]["tool_calls"][0]
    assert call[ARGUMENTS_DIGEST] == clean(span(ran), Content.NONE)["span_data"][INPUT_DIGEST]
    for unset in ("", None):
        assert INPUT_DIGEST not in clean(span({**ran, "input": unset}), Content.NONE)["span_data"]


def test_metadata_of_a_trace_stays() -> None:
    """It is the app's own ids, and names the host."""
    trace = {
        "object": "trace",
        "id": "t",
        "workflow_name": "w",
        "metadata": {"trace_id": "x", "n": {"k": "v"}},
        "new": MARK,
    }
    assert clean(trace, Content.NONE) == {**trace, "new": None}


@pytest.mark.parametrize("content", [Content.TEXT, Content.FULL])
@pytest.mark.parametrize(
    "data",
    [
        {"type": "speech", "output": {"data": SOUND, "format": "pcm"}},
        {"type": "transcription", "input": {"data": SOUND, "format": "pcm"}},
        {"type": "transcription", "input": SOUND},
        {"type": "generation", "input": [{"content": [{"type": "input_audio", "input_audio": {"data": SOUND}}]}]},
        {"type": "generation", "output": [{"audio": {"id": "a", "data": SOUND, "transcript": MARK}}]},
        {"type": "generation", "output": [{"choices": [{"message": {"audio": {"data": SOUND}}}]}]},
        {"type": "function", "output": json.dumps({"type": "audio", "data": SOUND, "pad": "p" * 99})},
        {"type": "function", "output": str({"type": "audio", "data": SOUND, "mimeType": "audio/wav", "pad": "p" * 99})},
        {"type": "function", "input": f"please play data:audio/wav;base64,{SOUND} now"},
        {"type": "custom", "data": {"clip": f"data:audio/mpeg;base64,{SOUND}"}},
        {"type": "custom", "data": {"audio": SOUND}},
        {"type": "hologram", "voice": {"mime_type": "audio/opus", "blob": SOUND}},
        {"type": "function", "output": "{'type': 'audio', 'data': '" + SOUND.rstrip("=") * 6000 + "'}"},
    ],
)  # fmt: skip
def test_audio_never_stays(data: dict[str, object], content: Content) -> None:
    """In no form that an SDK, a model API or a tool writes it in."""
    payload, spans = stored_and_mapped([span(data)], content, content)
    assert SOUND[:40].encode() not in payload
    assert SOUND[:40] not in spans


def test_audio_leaves_its_format_and_size() -> None:
    """The size is that of the sound, not of its base64."""
    kept = clean(span({"type": "speech", "output": {"data": SOUND, "format": "pcm"}}), Content.FULL)
    assert kept["span_data"]["output"] == {"format": "pcm", "bytes": len(base64.b64decode(SOUND))}


PICTURES = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SOUND}"}},
    {"type": "input_image", "image_url": f"data:image/png;base64,{SOUND}"},
    {"type": "input_file", "file_data": SOUND},
    {"type": "image_generation_call", "result": SOUND},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": SOUND}},
]


@pytest.mark.parametrize("part", PICTURES)
def test_pictures_and_files_stay_only_with_full(part: dict[str, object]) -> None:
    """`text` keeps the words around them, and how large they were."""
    item = span({"type": "generation", "input": [{"role": "user", "content": [{"type": "text", "text": MARK}, part]}]})
    text, full = (stored_and_mapped([item], content, content) for content in (Content.TEXT, Content.FULL))
    assert SOUND.encode() not in text[0]
    assert SOUND not in text[1]
    assert MARK in text[1]
    assert f'"bytes":{len(base64.b64decode(SOUND))}'.encode() in text[0]
    assert SOUND in full[1]


def test_words_are_not_taken_for_sound() -> None:
    """Text under a key that sometimes holds sound stays text."""
    data = {"type": "custom", "data": {"audio": "on", "format": "wav", "data": "recorded at noon, in a loud street"}}
    assert clean(span(data), Content.TEXT)["span_data"] == data


@pytest.mark.parametrize("content", list(Content))
def test_no_rule_keeps_credentials(content: Content) -> None:
    """Neither in a model's settings nor in the address of its API."""
    config = {
        "base_url": "https://user:s3cret@llm.example:8443/v1/?key=s3cret#s3cret",
        "extra_headers": {"Authorization": "s3cret"},
        "api_key": "s3cret",
        "temperature": 1,
    }
    payload, spans = stored_and_mapped([span({"type": "generation", "model_config": config})], content, content)
    assert b"s3cret" not in payload
    assert "s3cret" not in spans
    assert b"https://llm.example:8443/v1/" in payload


def test_a_rejection_is_known_without_its_text(mapped: Callable[..., dict[str, Mapped]]) -> None:
    """The kind of an error that only its data tells survives the loss of the data."""
    error = {"message": "The app's own words.", "data": {"error": "Tool call was manually rejected by user."}}
    guest = mapped([[span({"type": "function", "name": "f"}, error=error)]])["trace_a"].guest
    attributes = dict(guest.spans[0].attributes)
    assert attributes["error.type"] == "tool_rejected"
    assert "openai.agents.error.data" not in attributes


def plant(item: dict[str, object]) -> dict[str, object]:
    """The item with the mark in place of every string that is no structure, and in a few new places."""
    data = item["span_data"]
    kind = data["type"]
    if kind == "custom" and "sdk_span_type" in data["data"]:
        kind = data["data"]["sdk_span_type"]
    planted = walk(item, kind, "")
    return {**planted, "error": planted["error"] or {"message": "m", "data": {"error": MARK}}, "later": MARK}


def walk(value: object, kind: str, path: str) -> object:
    if isinstance(value, dict):
        return {key: walk(member, kind, f"{path}.{key}".lstrip(".")) for key, member in value.items()}
    if isinstance(value, list):
        return [walk(member, kind, f"{path}.*") for member in value]
    if isinstance(value, str) and not {("*", path), (kind, path)} & STRUCTURE:
        return MARK
    return value


def test_the_marks_are_really_planted(captured: Callable[[str], list[list[object]]]) -> None:
    """The property above is about something: every recorded content string was replaced."""

    def strings(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for member in value.values():
                yield from strings(member)
        elif isinstance(value, list):
            for member in value:
                yield from strings(member)
        elif isinstance(value, str):
            yield value

    planted = [plant(item) for item in captured("py_runner_chat_completions")[0] if item["object"] != "trace"]
    found = [text for item in planted for text in strings(item)]
    assert found.count(MARK) > 40
    assert not any("where is my order" in text or "shipped" in text for text in found)
