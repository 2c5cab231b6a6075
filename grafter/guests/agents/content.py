"""What of an item may be stored: what is content in it, and what is structure.

Content is what people and models said and what tools were given and gave: prompts, transcripts, arguments, results,
error details, free text of any kind. Structure is what says what happened: ids, names of agents, tools and models,
counts, settings, times, finish reasons. A trace's metadata is the app's own ids and stays.

With ``none`` the rule is turned round: a string stays only where a table here says that it is structure, so that a
field that no SDK has yet cannot carry a prompt to disk. Cleaning what is clean changes nothing.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from grafter.core.policy import Content
from grafter.guests.agents.errors import KIND_KEY, error_kind, error_of
from grafter.guests.json_values import ARGUMENTS_DIGEST, INPUT_DIGEST, OTHER_ERROR, digest, list_of, mapping_of, text_of
from grafter.guests.media import allowed, audio_summary, without_text

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ITEM_TEXTS = frozenset({"object", "id", "trace_id", "parent_id", "started_at", "ended_at"})
_TRACE_TEXTS = frozenset({"object", "id", "workflow_name", "group_id"})
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_SETTING_TEXTS = frozenset(
    {
        "api_version",
        "effort",
        "encoding",
        "format",
        "generate_summary",
        "language",
        "languages",
        "model_impl",
        "name",
        "prompt_cache_retention",
        "provider",
        "reasoningEffort",
        "reasoning_effort",
        "response_format",
        "response_include",
        "service_tier",
        "stop",
        "summary",
        "tool_choice",
        "toolChoice",
        "truncation",
        "type",
        "verbosity",
        "voice",
    }
)
"""Settings whose strings are a provider's words, a name, or what the request asked for in so many words."""
_SETTING_GROUPS = frozenset({"function", "reasoning", "response_format", "text", "tool_choice", "turn_detection"})
_ADDRESSES = ("base_url", "baseURL")
_SECRETS = frozenset({"api_key", "apiKey", "authorization", "extra_headers", "extraHeaders", "extra_query", "headers"})
"""Settings that older SDKs send along and that may hold a key: they never stay."""

_REMOVED = object()


def clean(item: Mapping[str, object], content: Content) -> dict[str, object]:
    """A copy of a trace object or span with what may be stored under this policy.

    NONE: no content at all; a string in a place that has no meaning yet becomes null, numbers and booleans stay.
    TEXT: everything but audio, pictures and files. FULL: everything but audio, which leaves its format and size.
    No policy keeps credentials that stand among a model's settings. Never raises for a JSON object.
    """
    if item.get("object") == "trace":
        return {key: _trace_field(key, value, content) for key, value in item.items()}
    kept: dict[str, object] = {}
    for key, value in item.items():
        if key == "span_data":
            kept[key] = _span_data(value, content)
        elif key == "metadata" or key in _ITEM_TEXTS:
            kept[key] = value if key == "metadata" else _text(value)
        elif key == "error" and content is Content.NONE:
            kept[key] = _error(value)
        else:
            kept[key] = allowed(value, content)
    return kept


def _trace_field(key: str, value: object, content: Content) -> object:
    if key == "metadata":
        return value
    return _text(value) if key in _TRACE_TEXTS else allowed(value, content)


def _span_data(data: object, content: Content) -> object:
    if not isinstance(data, dict):
        return allowed(data, content)
    kind = text_of(data.get("type")) or ""
    if content is Content.NONE:
        return _structure(data, kind)
    kept: dict[str, object] = {}
    for key, value in data.items():
        if (kind, key) in _AUDIO_FIELDS:
            kept[key] = None if value is None else audio_summary(value)
        elif key == "model_config":
            kept[key] = _without_secrets(allowed(value, content))
        else:
            kept[key] = allowed(value, content)
    return kept


def _structure(data: Mapping[str, object], kind: str) -> dict[str, object]:
    rules = _STRUCTURE.get(kind, _NOTHING)
    kept: dict[str, object] = {}
    for key, value in data.items():
        rule = _text if key == "type" else rules.get(key, without_text)
        left = rule(value)
        if left is not _REMOVED:
            kept[key] = left
    if kind == "function":
        called_with = data.get("input")
        # JavaScript leaves "" where there is no input.
        if called_with not in (None, ""):
            kept[INPUT_DIGEST] = digest(called_with)
    return kept


def _text(value: object) -> object:
    """A string (or number) in a place of structure stays; anything else there has none."""
    return value if isinstance(value, str) else without_text(value)


def _texts(value: object) -> object:
    return [_text(member) for member in value] if isinstance(value, list) else without_text(value)


def _removed(value: object) -> object:
    return _REMOVED


def _known_digest(value: object) -> object:
    return value if isinstance(value, str) and _DIGEST.fullmatch(value) else _REMOVED


def _audio(value: object) -> object:
    return None if value is None else audio_summary(value)


def _server(value: object) -> object:
    if not isinstance(value, dict):
        return without_text(value)
    return {key: _text(member) if key == "server" else without_text(member) for key, member in value.items()}


def _custom_data(value: object) -> object:
    """The SDK's own tasks and turns come as custom spans; their names are structure."""
    if isinstance(value, dict) and value.get("sdk_span_type") in ("task", "turn"):
        names = ("sdk_span_type", "name", "agent_name")
        return {key: _text(member) if key in names else without_text(member) for key, member in value.items()}
    return without_text(value)


def _error(value: object) -> object:
    error = error_of(value)
    if error is None:
        return None
    kept = {key: without_text(member) for key, member in error.items() if key not in ("message", "data", KIND_KEY)}
    if "message" in error:
        kept["message"] = _text(error["message"])
    kind = error_kind(error)
    if kind not in (OTHER_ERROR, error_kind(kept)):
        kept[KIND_KEY] = kind
    return kept


def _settings(value: object, depth: int = 4) -> object:
    if not isinstance(value, dict) or depth <= 0:
        return without_text(value)
    kept: dict[str, object] = {}
    for key, member in value.items():
        if key in _SECRETS:
            continue
        if key in _ADDRESSES:
            kept[key] = _address(member)
        elif key in _SETTING_TEXTS and (isinstance(member, str) or _is_texts(member)):
            kept[key] = member
        elif key in _SETTING_GROUPS:
            kept[key] = _settings(member, depth - 1)
        else:
            kept[key] = without_text(member)
    return kept


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(member, str) for member in value)


def _without_secrets(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        key: _address(member) if key in _ADDRESSES else member for key, member in value.items() if key not in _SECRETS
    }


def _address(value: object) -> str | None:
    """A base URL without what could be a credential: user, query and fragment."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        if parts is None or not parts.hostname:
            return None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return None
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _calls(output: object) -> object:
    """A model's output, reduced to the tools that it called and how it ended."""
    answers = output if isinstance(output, list) else [output]
    reduced = [_answer(answer) for answer in answers if isinstance(answer, dict)]
    return [answer for answer in reduced if answer]


def _answer(answer: Mapping[str, object]) -> dict[str, object]:
    if isinstance(answer.get("choices"), list):
        # The JavaScript SDK sends the whole chat.completion object.
        keys = ("object", "id", "model", "created", "service_tier", "system_fingerprint")
        kept = {key: _text(answer[key]) for key in keys if key in answer}
        if "usage" in answer:
            kept["usage"] = without_text(answer["usage"])
        kept["choices"] = [_choice(choice) for choice in list_of(answer["choices"]) if isinstance(choice, dict)]
        return kept
    if answer.get("type") == "function_call":
        return {"type": "function_call", **_call(answer)}
    return _choice(answer) | _message(answer)


def _choice(choice: Mapping[str, object]) -> dict[str, object]:
    kept = {key: _text(choice[key]) for key in ("index", "finish_reason") if choice.get(key) is not None}
    message = choice.get("message")
    if isinstance(message, dict):
        kept["message"] = _message(message)
    return kept


def _message(message: Mapping[str, object]) -> dict[str, object]:
    kept: dict[str, object] = {}
    role = message.get("role")
    if isinstance(role, str) and role in _ROLES:
        kept["role"] = role
    calls = [_call(call) for call in list_of(message.get("tool_calls")) if isinstance(call, dict)]
    single = message.get("function_call")
    if isinstance(single, dict):
        calls.append(_call(single))
    if calls:
        kept["tool_calls"] = calls
    return kept


def _call(call: Mapping[str, object]) -> dict[str, object]:
    called = mapping_of(call.get("function")) or call
    kept: dict[str, object] = {}
    identity = text_of(call.get("call_id")) or text_of(call.get("id"))
    name = text_of(called.get("name"))
    if identity is not None:
        kept["id"] = identity
    if name is not None:
        kept["name"] = name
    known = _known_digest(call.get(ARGUMENTS_DIGEST))
    if called.get("arguments") is not None:
        kept[ARGUMENTS_DIGEST] = digest(called["arguments"])
    elif known is not _REMOVED:
        kept[ARGUMENTS_DIGEST] = known
    return kept


_Rules = Mapping[str, Callable[[object], object]]
_NOTHING: _Rules = {}
_MODEL: _Rules = {"model": _text, "model_config": _settings}
_STRUCTURE: Mapping[str, _Rules] = {
    "agent": {"name": _text, "handoffs": _texts, "tools": _texts, "output_type": _text},
    "function": {
        "name": _text,
        "input": _removed,
        "output": _removed,
        "mcp_data": _server,
        INPUT_DIGEST: _known_digest,
    },
    "generation": {**_MODEL, "input": _removed, "output": _calls},
    "response": {**_MODEL, "response_id": _text, "input": _removed, "output": _calls},
    "handoff": {"from_agent": _text, "to_agent": _text},
    "guardrail": {"name": _text},
    "custom": {"name": _text, "data": _custom_data},
    "mcp_tools": {"server": _text, "result": _texts},
    "transcription": {**_MODEL, "input": _audio, "output": _removed},
    "speech": {**_MODEL, "input": _removed, "output": _audio, "first_content_at": _text},
    "speech_group": {"input": _removed},
}
"""Where a span's data has structure, by type; everywhere else a string is content."""
_AUDIO_FIELDS = frozenset({("transcription", "input"), ("speech", "output")})
KNOWN_TYPES = frozenset(_STRUCTURE)
"""Types of span data that have a mapping of their own."""
