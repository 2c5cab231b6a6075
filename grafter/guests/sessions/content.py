"""What of a session's traces may be stored: OTLP JSON whose attributes nobody has documented.

So nothing is known to be content, and with ``content: none`` a string stays only where it is known to be none: ids,
times and names in OTLP's own fields, and attributes whose key says that the value is structure. Every other string
becomes null and leaves its key; numbers and booleans stay. Cleaning what is clean changes nothing.
"""

import re
from collections.abc import Callable, Mapping

import orjson

from grafter.core.policy import Content
from grafter.guests.json_values import MAX_DEPTH
from grafter.guests.media import allowed, without_media, without_text

_STRUCTURE = frozenset(
    {
        "deployment.environment",
        "deployment.environment.name",
        "error.type",
        "gen_ai.conversation.id",
        "gen_ai.openai.request.service_tier",
        "gen_ai.openai.response.service_tier",
        "gen_ai.openai.response.system_fingerprint",
        "gen_ai.operation.name",
        "gen_ai.output.type",
        "gen_ai.provider.name",
        "gen_ai.response.finish_reasons",
        "gen_ai.system",
        "gen_ai.token.type",
        "gen_ai.workflow.name",
        "openai.request.service_tier",
        "openai.response.service_tier",
        "openai.response.system_fingerprint",
        "server.address",
        "service.name",
        "service.namespace",
        "service.version",
        "telemetry.sdk.language",
        "telemetry.sdk.name",
        "telemetry.sdk.version",
    }
)
"""OpenTelemetry's own keys whose values are words of a list, names or ids."""
_STRUCTURAL = frozenset({"id", "kind", "model", "name", "outcome", "status", "type"})
"""Last words of a key that make its value structure, when all words before are among these:"""
_OF = frozenset(
    {
        "agent",
        "agents",
        "ai",
        "call",
        "function",
        "gen",
        "generation",
        "mcp",
        "model",
        "openai",
        "operation",
        "parent",
        "provider",
        "request",
        "response",
        "root",
        "server",
        "session",
        "span",
        "subagent",
        "tool",
        "trace",
        "turn",
    }
)
_WORD = re.compile(r"[^\W_][\w.:/@+-]{0,127}")
_LABEL = re.compile(r"[^\W_][\w .:/@+-]{0,127}")
"""What a name may be: short, without a line break or a sentence's marks. All but names are one word: an outcome or a
status of several is somebody's account of it."""
_WORD_SIGNS = re.compile(r"[._]")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_LONGEST_WORD = 256

_Clean = Callable[[object, Content], object]


def clean_session(session: Mapping[str, object]) -> dict[str, object]:
    """Of a session what says whose it is: its id, its metadata (the app's own ids), and which agent ran."""
    agent = session.get("agent")
    named = {key: agent[key] for key in ("id", "name", "model") if key in agent} if isinstance(agent, dict) else {}
    kept: dict[str, object] = {"object": "agent.session"}
    for key in ("id", "created_at", "metadata"):
        if key in session:
            kept[key] = session[key] if key == "metadata" else _word(session[key], Content.NONE)
    if named:
        kept["agent"] = {key: _word(value, Content.NONE) for key, value in named.items()}
    return kept


def clean_trace(trace: Mapping[str, object], content: Content) -> dict[str, object]:
    """A copy of an ``agent.session.trace`` with what may be stored under this policy.

    NONE: see above. TEXT: everything but audio, pictures and files; FULL: everything but audio. No policy keeps an
    attribute of bytes: nobody knows what they are. Never raises for a JSON object.
    """
    return _fields(trace, content, _TRACE)


def is_structure(key: str, text: str) -> bool:
    """Whether a text under this attribute is structure and no content."""
    if len(text) > _LONGEST_WORD or "\n" in text:
        return False
    if key in _STRUCTURE:
        return True
    *of, last = _WORD_SIGNS.split(key)
    form = _LABEL if last == "name" else _WORD
    return last in _STRUCTURAL and _OF.issuperset(of) and form.fullmatch(text) is not None


def _fields(value: object, content: Content, rules: Mapping[str, _Clean]) -> dict[str, object]:
    if not isinstance(value, dict):
        return {}
    return {key: rules.get(key, allowed)(member, content) for key, member in value.items()}


def _word(value: object, content: Content) -> object:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_WORD * 4 else None
    return allowed(value, content)


def _each(rules: Mapping[str, _Clean]) -> _Clean:
    def clean(value: object, content: Content) -> object:
        if not isinstance(value, list):
            return allowed(value, content)
        return [_fields(member, content, rules) for member in value if isinstance(member, dict)]

    return clean


def _one(rules: Mapping[str, _Clean]) -> _Clean:
    def clean(value: object, content: Content) -> object:
        return _fields(value, content, rules) if isinstance(value, dict) else allowed(value, content)

    return clean


def _attributes(value: object, content: Content) -> object:
    if not isinstance(value, list):
        return allowed(value, content)
    return [_attribute(member, content, "", MAX_DEPTH) for member in value if isinstance(member, dict)]


def _attribute(pair: Mapping[str, object], content: Content, above: str, depth: int) -> dict[str, object]:
    """A key and its value; the keys of a map are read with the one that it stands under."""
    key = pair.get("key")
    name = key if isinstance(key, str) else ""
    path = f"{above}.{name}" if above else name
    kept: dict[str, object] = {}
    for field, member in pair.items():
        if field == "key":
            kept[field] = _word(member, content)
        elif field == "value":
            kept[field] = _any_value(member, content, path, depth)
        else:
            kept[field] = allowed(member, content)
    return kept


def _any_value(value: object, content: Content, key: str, depth: int) -> object:
    if isinstance(value, str):
        return _text(value, content, key)
    if not isinstance(value, dict):
        return allowed(value, content)
    if depth <= 0:
        return None
    kept: dict[str, object] = {}
    for kind, member in value.items():
        match kind:
            case "stringValue":
                kept[kind] = _text(member, content, key) if isinstance(member, str) else without_text(member)
            case "intValue":
                number = isinstance(member, str) and _INTEGER.fullmatch(member) is not None
                kept[kind] = member if number else without_text(member)
            case "bytesValue":
                kept[kind] = None
            case "arrayValue" | "kvlistValue":
                kept[kind] = _values(member, content, key, depth - 1)
            case _:
                kept[kind] = allowed(member, content)
    return kept


def _values(value: object, content: Content, key: str, depth: int) -> object:
    if not isinstance(value, dict):
        return allowed(value, content)
    kept: dict[str, object] = {}
    for field, member in value.items():
        if field != "values" or not isinstance(member, list):
            kept[field] = allowed(member, content)
            continue
        kept[field] = [
            _attribute(each, content, key, depth)
            if isinstance(each, dict) and "key" in each
            else _any_value(each, content, key, depth)
            for each in member
        ]
    return kept


def _text(text: str, content: Content, key: str) -> str | None:
    if content is Content.NONE:
        return text if is_structure(key, text) else None
    kept = without_media(text, pictures=content is Content.FULL, hint=_WORD_SIGNS.split(key)[-1])
    return kept if isinstance(kept, str) else orjson.dumps(kept).decode()


_EVENT: Mapping[str, _Clean] = {"timeUnixNano": _word, "name": _word, "attributes": _attributes}
_LINK: Mapping[str, _Clean] = {"traceId": _word, "spanId": _word, "attributes": _attributes}
_SPAN: Mapping[str, _Clean] = {
    "traceId": _word,
    "spanId": _word,
    "parentSpanId": _word,
    "name": _word,
    "kind": _word,
    "startTimeUnixNano": _word,
    "endTimeUnixNano": _word,
    "attributes": _attributes,
    "events": _each(_EVENT),
    "links": _each(_LINK),
    # Its message is free text of whoever failed, and that may be a tool.
    "status": _one({"code": _word, "message": allowed}),
}
_SCOPE: Mapping[str, _Clean] = {"name": _word, "version": _word, "attributes": _attributes}
_SCOPE_SPANS: Mapping[str, _Clean] = {"scope": _one(_SCOPE), "spans": _each(_SPAN), "schemaUrl": _word}
_RESOURCE_SPANS: Mapping[str, _Clean] = {
    "resource": _one({"attributes": _attributes}),
    "scopeSpans": _each(_SCOPE_SPANS),
    "schemaUrl": _word,
}
_TRACE: Mapping[str, _Clean] = {
    "object": _word,
    "id": _word,
    "session_id": _word,
    "otlp": _one({"resourceSpans": _each(_RESOURCE_SPANS)}),
}
