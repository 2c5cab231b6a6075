"""What of a session's traces may be stored."""

from typing import Any

import pytest
from hypothesis import given

from grafter.core.policy import Content
from grafter.guests.sessions.content import clean_session, clean_trace, is_structure
from tests.agents_server import PROMPT, session, trace
from tests.guests.sessions.strategies import TRACES


def one(attribute: Any, content: Content = Content.NONE) -> Any:
    """What is left of one attribute."""
    told = {"id": "t", "otlp": {"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [attribute]}]}]}]}}
    cleaned: Any = clean_trace(told, content)
    return cleaned["otlp"]["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"][0]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("gen_ai.request.model", "gpt-5.1"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.response.finish_reasons", "stop"),
        ("gen_ai.tool.call.id", "call_1"),
        ("agent.name", "Front desk"),
        ("agent_id", "agent_1"),
        ("tool.type", "mcp_call"),
        ("outcome", "completed"),
        ("error.type", "timeout"),
        ("service.name", "agents"),
    ],
)
def test_structure_stays(key: str, text: str) -> None:
    """Ids, names and words of a list, under keys that say so."""
    assert is_structure(key, text)
    assert one({"key": key, "value": {"stringValue": text}})["value"] == {"stringValue": text}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("instructions", PROMPT),
        ("input", "yes"),
        ("gen_ai.input.messages", "[]"),
        ("output.text", "no"),
        ("tool.call.arguments", "{}"),
        ("user.name", "Ann"),
        ("caller.id", "+14155550100"),
        ("agent.name", "Please say: your card number, now!"),
        ("model", "a\nb"),
        ("agent.name", "x" * 300),
        ("outcome", "The caller's card was refused"),
        ("tool.outcome", "card 4111 was refused."),
        ("tool.call.status", "told him to call again"),
        ("", "text"),
        ("name.of.user", "Ann"),
    ],
)
def test_every_other_text_goes_and_leaves_its_key(key: str, text: str) -> None:
    assert not is_structure(key, text)
    assert one({"key": key, "value": {"stringValue": text}}) == {"key": key, "value": {"stringValue": None}}


def test_numbers_and_booleans_stay_and_texts_inside_go() -> None:
    """At any depth of lists and maps; a map's keys are read with the key above them; bytes never stay."""
    value = {
        "kvlistValue": {
            "values": [
                {"key": "city", "value": {"stringValue": "Berlin"}},
                {"key": "id", "value": {"stringValue": "call_1"}},
                {"key": "n", "value": {"intValue": "7"}},
                {"key": "b", "value": {"bytesValue": "aGVsbG8="}},
                {"key": "l", "value": {"arrayValue": {"values": [{"stringValue": "x"}, {"doubleValue": 1.5}]}}},
            ]
        }
    }
    kept = one({"key": "tool.call", "value": value})["value"]["kvlistValue"]["values"]
    assert [each["value"] for each in kept] == [
        {"stringValue": None},
        {"stringValue": "call_1"},
        {"intValue": "7"},
        {"bytesValue": None},
        {"arrayValue": {"values": [{"stringValue": None}, {"doubleValue": 1.5}]}},
    ]
    assert one({"key": "n", "value": {"intValue": "seven"}})["value"] == {"intValue": None}
    assert one({"key": "n", "value": "bare"})["value"] is None


def test_text_keeps_words_and_no_sound() -> None:
    """``text`` and ``full`` keep what was said; audio goes in both."""
    audio = "data:audio/wav;base64," + "QUJD" * 40
    assert one({"key": "input", "value": {"stringValue": PROMPT}}, Content.TEXT)["value"] == {"stringValue": PROMPT}
    for content in (Content.TEXT, Content.FULL):
        assert "QUJD" not in str(one({"key": "output", "value": {"stringValue": audio}}, content))


def test_of_a_session_its_ids_stay_and_its_instructions_go() -> None:
    kept = clean_session(session(metadata={"trace_id": "ab" * 16, "note": "mine"}))
    assert kept == {
        "object": "agent.session",
        "id": "sess_0123456789abcdef",
        "created_at": 1_800_000_000,
        "metadata": {"trace_id": "ab" * 16, "note": "mine"},
        "agent": {"id": "agent_1", "name": "Reception", "model": "gpt-5.1"},
    }


def test_no_prompt_is_left_of_a_trace() -> None:
    """Attributes, the message of a status, and the resource."""
    assert PROMPT in str(trace(1))
    assert PROMPT not in str(clean_trace(trace(1), Content.NONE))
    assert "agent Reception" in str(clean_trace(trace(1), Content.NONE))


@given(TRACES)
def test_cleaning_what_is_clean_changes_nothing(told: dict[str, Any]) -> None:
    """Also where the stricter rule goes over what a wider one kept."""
    for content in Content:
        cleaned = clean_trace(told, content)
        assert clean_trace(cleaned, content) == cleaned
        narrowed = clean_trace(cleaned, Content.NONE)
        assert clean_trace(narrowed, Content.NONE) == narrowed
