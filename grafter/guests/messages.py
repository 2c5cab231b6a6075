"""What people, models and tools wrote, in the form of the GenAI conventions: messages with a role and parts.

Read from chat completions and from Responses items, in what the SDKs made of either. What has no part of its own in
the conventions stays a part as it came.

Source: GenAI semantic conventions, the JSON schemas of gen_ai.input.messages and gen_ai.output.messages.
"""

from collections.abc import Iterator, Mapping

from grafter.core.model import ToolCall
from grafter.guests.json_values import ARGUMENTS_DIGEST, digest, list_of, mapping_of, structure, text_of

_TEXTS = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})
_ROLES = {"developer": "system", "function": "tool"}
_REASONING = ("reasoning", "reasoning_content")
_UNKNOWN_REASON = "unknown"
"""Readers that require a finish reason drop all messages without one; this one says that none was sent."""


def text_message(role: str, text: str) -> dict[str, object]:
    return {"role": role, "parts": [_text(text)]}


def messages(value: object, role: str) -> list[object]:
    """The messages that a value holds: a text, a message, or a list of either. ``role`` is for those that name none."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [_message(member, role) for member in values]


def answers(value: object) -> list[object]:
    """The messages of a model's output, each with a finish reason; a whole chat.completion gives its choices."""
    found: list[object] = []
    for member in value if isinstance(value, list) else [] if value is None else [value]:
        choices = member.get("choices") if isinstance(member, Mapping) else None
        if not isinstance(choices, list):
            found.append(_finished(_message(member, "assistant"), None))
            continue
        for choice in choices:
            chosen = mapping_of(choice)
            found.append(_finished(_message(chosen.get("message"), "assistant"), text_of(chosen.get("finish_reason"))))
    return found


def tool_calls_in(value: object) -> tuple[ToolCall, ...]:
    """The tool calls in a model's output, whole or reduced to what may be stored of it."""
    found = []
    for member in value if isinstance(value, list) else [value]:
        answer = mapping_of(member)
        messages = [mapping_of(mapping_of(choice).get("message")) for choice in list_of(answer.get("choices"))]
        for message in messages or [answer]:
            calls = list_of(message.get("tool_calls"))
            for call in (*calls, message) if message.get("type") == "function_call" else calls:
                tool_call = _tool_call(mapping_of(call))
                if tool_call is not None:
                    found.append(tool_call)
    return tuple(found)


def _tool_call(call: Mapping[str, object]) -> ToolCall | None:
    called = mapping_of(call.get("function")) or call
    name = text_of(called.get("name"))
    if name is None:
        return None
    arguments = called.get("arguments")
    known = digest(arguments) if arguments is not None else text_of(call.get(ARGUMENTS_DIGEST))
    return ToolCall(text_of(call.get("call_id")) or text_of(call.get("id")), name, known)


def _finished(message: dict[str, object], reason: str | None) -> dict[str, object]:
    calls = any(mapping_of(part).get("type") == "tool_call" for part in list_of(message.get("parts")))
    ended = "tool_call" if reason in ("tool_calls", "function_call") or (reason is None and calls) else reason
    return {**message, "finish_reason": ended or _UNKNOWN_REASON}


def _message(value: object, role: str) -> dict[str, object]:
    if isinstance(value, str):
        return text_message(role, value)
    if not isinstance(value, Mapping):
        return {"role": role, "parts": [] if value is None else [{"type": "unknown", "content": value}]}
    item = _item(value)
    if item is not None:
        return item
    named = text_of(value.get("role"))
    message: dict[str, object] = {"role": _ROLES.get(named, named) if named else role}
    if message["role"] == "tool":
        answer = {"type": "tool_call_response", "id": value.get("tool_call_id"), "response": value.get("content")}
        parts: list[object] = [{key: part for key, part in answer.items() if part is not None}]
    else:
        parts = [*_reasoning(value), *_parts(value.get("content")), *_calls(value)]
        if text_of(value.get("refusal")):
            parts.append({"type": "refusal", "content": value["refusal"]})
    if isinstance(value.get("audio"), Mapping):
        parts.append({"type": "blob", "modality": "audio", **mapping_of(value["audio"])})
    message["parts"] = parts
    if text_of(value.get("name")):
        message["name"] = value["name"]
    return message


def _item(value: Mapping[str, object]) -> dict[str, object] | None:
    """A Responses item that is no message."""
    kind = value.get("type")
    if kind == "function_call":
        return {"role": "assistant", "parts": [_call(value.get("call_id") or value.get("id"), value)]}
    if kind == "function_call_output":
        answer = {"type": "tool_call_response", "id": value.get("call_id"), "response": value.get("output")}
        return {"role": "tool", "parts": [answer]}
    if kind == "reasoning":
        texts = [_text_of_part(part) for part in (*list_of(value.get("summary")), *list_of(value.get("content")))]
        return {"role": "assistant", "parts": [{"type": "reasoning", "content": "\n".join(filter(None, texts))}]}
    if isinstance(kind, str) and kind != "message" and "role" not in value:
        return {"role": "assistant", "parts": [dict(value)]}
    return None


def _reasoning(value: Mapping[str, object]) -> Iterator[object]:
    for key in _REASONING:
        text = text_of(value.get(key))
        if text is not None:
            yield {"type": "reasoning", "content": text}


def _calls(value: Mapping[str, object]) -> Iterator[object]:
    for call in list_of(value.get("tool_calls")):
        called = mapping_of(call)
        yield _call(called.get("id"), mapping_of(called.get("function")) or called)
    single = value.get("function_call")
    if isinstance(single, Mapping):
        yield _call(None, single)


def _call(identity: object, called: Mapping[str, object]) -> dict[str, object]:
    arguments = called.get("arguments")
    read = structure(arguments) if isinstance(arguments, str) else arguments
    part = {"type": "tool_call", "id": identity, "name": called.get("name"), "arguments": read}
    return {key: value for key, value in part.items() if value is not None}


def _parts(content: object) -> Iterator[object]:
    if isinstance(content, str):
        if content:
            yield _text(content)
    elif isinstance(content, list):
        for part in content:
            yield _part(part)
    elif content is not None:
        yield _part(content)


def _part(part: object) -> object:
    if isinstance(part, str):
        return _text(part)
    if not isinstance(part, Mapping):
        return {"type": "unknown", "content": part}
    kind = part.get("type")
    text = _text_of_part(part)
    if isinstance(kind, str) and kind in _TEXTS and text is not None:
        return _text(text)
    if kind in ("image_url", "input_image"):
        return _picture(part)
    if kind == "input_audio":
        return {"type": "blob", "modality": "audio", **mapping_of(part.get("input_audio"))}
    return dict(part) if isinstance(kind, str) else {"type": "unknown", **part}


def _picture(part: Mapping[str, object]) -> dict[str, object]:
    url = part.get("image_url")
    if isinstance(url, Mapping) and "url" in url:
        url = url["url"]
    if isinstance(url, str):
        return {"type": "uri", "modality": "image", "uri": url}
    if isinstance(url, Mapping):
        # A data URL was replaced by its type and size before it was stored.
        return {"type": "blob", "modality": "image", "mime_type": url.get("type"), "bytes": url.get("bytes")}
    return {**part, "type": "file", "modality": "image"}


def _text_of_part(part: object) -> str | None:
    return part if isinstance(part, str) else text_of(mapping_of(part).get("text"))


def _text(text: str) -> dict[str, object]:
    return {"type": "text", "content": text}
