"""What a viewer may see of a call's spans: numbers and content are taken out before anything else reads them. Pure.

Attributes of an app may hold anything, so their texts are shown only where the key is known to hold none of what people
say or who they are; figures and flags are shown. What is hidden leaves its key, so that nobody looks for it in vain.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from grafter.core import semconv
from grafter.core.call_latency import Scalar
from grafter.otlp.reading import ReadSpan
from grafter.otlp.to_json import trace_request_to_json

HIDDEN = "••• (hidden)"

_OPEN_PREFIXES = (
    *("grafter.", "gen_ai.", "openai.", "lk.", "sampling.", "messaging.", "rpc.", "ice.", "webrtc.", "turn.", "stun."),
    *(
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "http.method",
        "error.type",
        "service.",
        "mcp.",
    ),
    *("network.", "net.", "server.", "db.system", "db.operation", "db.collection", "faas.", "cloud.", "k8s.", "audio."),
    *("call.id", "call.outcome", "sip.status", "sip.method", "sip.reason", "queue.", "otel.", "SampleRate", "tool."),
)
_CONTENT = frozenset(
    {
        semconv.GEN_AI_SYSTEM_INSTRUCTIONS,
        semconv.GEN_AI_INPUT_MESSAGES,
        semconv.GEN_AI_OUTPUT_MESSAGES,
        semconv.GEN_AI_TOOL_CALL_ARGUMENTS,
        semconv.GEN_AI_TOOL_CALL_RESULT,
        semconv.AGENTS_TRACE_METADATA,
        semconv.AGENTS_SPAN_DATA,
        semconv.AGENTS_METADATA,
        semconv.AGENTS_EXTRA,
        semconv.AGENTS_ERROR_DATA,
        semconv.AGENTS_CUSTOM_DATA,
        semconv.RESPONSE_METADATA,
        semconv.REALTIME_EXTRA,
        semconv.ERROR_MESSAGE,
    }
)
_CONTENT_PREFIXES = (
    *(semconv.AGENTS_TRACE_METADATA + ".", semconv.AGENTS_CUSTOM + ".", "gen_ai.prompt", "gen_ai.completion"),
    *("gen_ai.content", "lk.user_", "lk.chat", "lk.function_tool.arg", "lk.function_tool.out", "lk.response.text"),
    *("lk.sip.", "tool.input", "tool.output", "tool.param", "messaging.message.body", "lk.instructions"),
)

_NUMBER = re.compile(r"(?:\+|\b00)[1-9](?:[ ().\-/]{0,2}\d){6,14}")
_BARE_NUMBER = re.compile(r"(?<![\w.])\d(?:[ ().\-/]{0,2}\d){8,14}(?![\w.])")
_OF_PEOPLE = re.compile(
    r"(?!grafter\.)(.*(phone|caller|callee)|(.*[._-])?(from|to|ani|dnis|msisdn|number)($|[._-]))", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What may be seen beside the call's shape and its figures."""

    numbers: bool = False
    """Phone numbers in full."""
    content: bool = False
    """What was said, asked and answered, and whatever else an app writes."""


def seen(spans: Iterable[ReadSpan], sight: Sight) -> list[ReadSpan]:
    """The spans as they may be seen."""
    if sight.numbers and sight.content:
        return list(spans)
    return [_span(span, sight) for span in spans]


def _span(span: ReadSpan, sight: Sight) -> ReadSpan:
    step = span.step
    step = step._replace(
        name=text(step.name, sight),
        service=text(step.service, sight),
        attributes=_attributes(step.attributes, sight),
        events=tuple((time, text(name, sight), _attributes(some, sight)) for time, name, some in step.events),
    )
    return ReadSpan(step, span.trace_id, span.guest, text(span.message, sight) if sight.content else "")


def _attributes(attributes: Mapping[str, Scalar], sight: Sight) -> Mapping[str, Scalar]:
    return {text(key, sight): attribute(key, value, sight) for key, value in attributes.items()}


def attribute(key: str, value: Scalar, sight: Sight) -> Scalar:
    """A value as it may be seen."""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return text(str(value), sight, key) if not sight.numbers and _is_of_people(key) else value
    if not sight.content and _is_content(key):
        return HIDDEN if value else value
    return text(value, sight, key)


@lru_cache(maxsize=4096)
def _is_content(key: str) -> bool:
    if key in _CONTENT or key.startswith(_CONTENT_PREFIXES):
        return True
    return not key.startswith(_OPEN_PREFIXES)


def text(value: str, sight: Sight, key: str = "") -> str:
    """A text without the phone numbers in it, but for their last four digits."""
    if sight.numbers or not value:
        return value
    if "+" in value or "00" in value:
        value = _NUMBER.sub(_masked, value)
    return _BARE_NUMBER.sub(_masked, value) if key and _is_of_people(key) else value


@lru_cache(maxsize=4096)
def _is_of_people(key: str) -> bool:
    return _OF_PEOPLE.match(key) is not None


def _masked(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match.group())
    return f"•••• {digits[-4:]}"


def trace_json(documents: Sequence[bytes], sight: Sight) -> bytes:
    """Serialised TracesData as one OTLP JSON document, as it may be seen."""
    # Serialised messages of one type add up by concatenation.
    whole = trace_request_to_json(b"".join(documents))
    return whole if sight.numbers and sight.content else orjson.dumps(document(orjson.loads(whole), sight))


def document(data: Any, sight: Sight) -> Any:
    """An OTLP JSON document as it may be seen. The document is not changed."""
    if sight.numbers and sight.content:
        return data
    return _json(data, sight)


def _json(data: Any, sight: Sight, field: str = "") -> Any:
    if isinstance(data, list):
        if field == "attributes":
            return [_json_attribute(each, sight) for each in data]
        return [_json(each, sight, field) for each in data]
    if not isinstance(data, dict):
        return text(data, sight) if isinstance(data, str) and field == "name" else data
    if field == "status" and not sight.content:
        return {key: value for key, value in data.items() if key != "message"}
    return {key: _json(value, sight, key) for key, value in data.items()}


def _json_attribute(each: Any, sight: Sight) -> Any:
    key = each.get("key", "") if isinstance(each, dict) else ""
    return {"key": text(key, sight), "value": _json_value(key, each.get("value") or {}, sight)}


def _json_value(key: str, value: Mapping[str, Any], sight: Sight) -> dict[str, Any]:
    if "arrayValue" in value or "kvlistValue" in value or "bytesValue" in value:
        if not sight.content and _is_content(key):
            return {"stringValue": HIDDEN}
        if members := (value.get("arrayValue") or {}).get("values"):
            return {"arrayValue": {"values": [_json_value(key, each, sight) for each in members]}}
        if pairs := (value.get("kvlistValue") or {}).get("values"):
            return {"kvlistValue": {"values": [_json_attribute(each, sight) for each in pairs]}}
        return dict(value)
    if "stringValue" in value:
        return {"stringValue": attribute(key, value["stringValue"], sight)}
    if "intValue" in value and not sight.numbers and _is_of_people(key):
        return {"stringValue": text(str(value["intValue"]), sight, key)}
    return dict(value)
