"""Items as the Agents SDK itself would send them to OpenAI's own ingest.

An SDK that posts to any other address sends everything it has; OpenAI's ingest refuses a whole batch because of one
field it does not know, and one that is too long. So what was received raw is cleaned here before it is sent on:
reasoning leaves generation spans, ``input`` and ``output`` are cut to 100,000 bytes of JSON, ``usage`` stays on
generation spans only and is squeezed there, and what strict JSON cannot say is dropped.

Source: openai-agents 0.24.0, BackendSpanExporter, its behaviour for https://api.openai.com/v1/traces/ingest. The
result equals the SDK's byte by byte of JSON value, the order of cuts included, so that a dashboard shows the same
with and without grafter in between.
"""

import heapq
import json
import math
from collections.abc import Mapping

LIMIT_BYTES = 100_000
"""JSON bytes that one ``input`` or ``output`` may have."""
_CUT_MARK = "... [truncated]"
_CUT_MARK_BYTES = len(_CUT_MARK) + 2
_REASONING_KEYS = frozenset({"reasoning", "reasoning_content", "thinking_blocks", "thinking"})
_THINKING_TYPES = ("thinking", "redacted_thinking")

# A cut looks at each level of a value once and keeps a note of every member. No span that was made by a run comes
# near these; a made-up one must not cost minutes or gigabytes.
_MAX_CUT_DEPTH = 64
_MAX_CUT_MEMBERS = 200_000

_GONE = object()


def sanitise(item: Mapping[str, object]) -> dict[str, object] | None:
    """The item as the SDK would send it to OpenAI, or None when it cannot be sent at all.

    Takes a value as a JSON parser gives it (NaN and lone surrogates allowed) and leaves it as it is; parts of it are
    shared with the result, which strict JSON can always say. None: an empty item, which the SDK does not send either,
    one nested too deep for a JSON encoder, or one that is too long and has a shape no real span has (more than
    64 levels, or 200,000 members in one list). Never raises for a JSON value.
    """
    if not item:
        return None
    try:
        size = _strict_size(item)
        cleaned = _clean(item, fits=size is not None and size <= LIMIT_BYTES)
        return cleaned if size is not None else _repaired(cleaned)
    except (RecursionError, _OutOfShapeError):
        return None


class _OutOfShapeError(Exception):
    pass


def _clean(item: Mapping[str, object], *, fits: bool) -> dict[str, object]:
    """The item without what OpenAI's ingest does not take; ``fits`` says that no field can be too long."""
    cleaned = dict(item)
    data = item.get("span_data")
    if not isinstance(data, dict):
        return cleaned
    generation = data.get("type") == "generation"
    data = dict(data)
    for name in ("input", "output"):
        if name not in data:
            continue
        if generation:
            data[name] = _without_reasoning(data[name])
        if not fits:
            data[name] = _cut_field(data[name])
    usage = data.get("usage")
    if not generation:
        data.pop("usage", None)
    elif isinstance(usage, dict):
        squeezed = _squeezed_usage(usage)
        if squeezed is None:
            del data["usage"]
        else:
            data["usage"] = squeezed
    cleaned["span_data"] = data
    return cleaned


def _without_reasoning(value: object) -> object:
    """A generation's messages without the model's reasoning; whole Response objects among them likewise."""
    if not isinstance(value, list):
        return value
    kept: list[object] = []
    for message in _without_thinking(value):
        if isinstance(message, dict) and message.get("object") == "response":
            output = message.get("output")
            if isinstance(output, list):
                message = {**message, "output": _without_thinking(output)}
        kept.append(message)
    return kept


def _without_thinking(messages: list[object]) -> list[object]:
    kept: list[object] = []
    for message in messages:
        if not isinstance(message, dict):
            kept.append(message)
        elif message.get("type") == "reasoning":
            continue
        elif message.get("role") == "assistant":
            kept_message = {key: value for key, value in message.items() if key not in _REASONING_KEYS}
            content = kept_message.get("content")
            if isinstance(content, list):
                kept_message["content"] = [
                    part for part in content if not (isinstance(part, dict) and part.get("type") in _THINKING_TYPES)
                ]
            kept.append(kept_message)
        else:
            kept.append(message)
    return kept


def _squeezed_usage(usage: dict[str, object]) -> dict[str, object] | None:
    """The two counts, with everything else under ``details``; None when one of the counts is no number."""
    counts = {key: usage.get(key) for key in ("input_tokens", "output_tokens")}
    if not all(_is_number(count) for count in counts.values()):
        return None
    known = usage.get("details")
    details = _finite_members(known) if isinstance(known, dict) else {}
    others = {key: value for key, value in usage.items() if key not in ("details", *counts) and value is not None}
    details.update(_finite_members(others))
    return {**counts, "details": details} if details else dict(counts)


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _cut_field(value: object) -> object:
    """The value, shortened until its JSON has at most LIMIT_BYTES."""
    if _size(value) <= LIMIT_BYTES:
        return value
    # The members that JSON cannot say go first and are not counted against the rest.
    value = _finite(value)
    return _cut(value, _size(value), LIMIT_BYTES, 0)


def _cut(value: object, size: int, limit: int, depth: int) -> object:
    """The value in at most ``limit`` bytes where that can be done; ``size`` is what it has now.

    Equal to the value when nothing could be taken from it: then its owner takes it out whole.
    """
    if size <= limit:
        return value
    if depth > _MAX_CUT_DEPTH:
        raise _OutOfShapeError
    match value:
        case str():
            return _cut_text(value, size, limit)
        case dict():
            members = _cut_members(list(value.values()), [_size(key) + 1 for key in value], size, limit, depth)
            return {key: member for key, member in zip(value, members, strict=True) if member is not _GONE}
        case list():
            members = _cut_members(value, None, size, limit, depth)
            return [member for member in members if member is not _GONE]
    kind = type(value).__name__
    preview = {"truncated": True, "original_type": kind, "preview": f"<{kind} truncated>"}
    return preview if _size(preview) <= limit else value


def _cut_members(members: list[object], key_sizes: list[int] | None, size: int, limit: int, depth: int) -> list[object]:
    """The members of a list or an object, the largest ones shortened, or _GONE, until the whole fits.

    ``key_sizes`` are the bytes of each member's key and colon; None for a list. Of equal sizes the first goes first.
    """
    if len(members) > _MAX_CUT_MEMBERS:
        raise _OutOfShapeError
    left = list(members)
    by_size = [(-_size(member), index) for index, member in enumerate(left)]
    heapq.heapify(by_size)
    while by_size and size > limit:
        negative, index = heapq.heappop(by_size)
        before = -negative
        shorter = _cut(left[index], before, max(0, limit - (size - before)), depth + 1)
        if shorter == left[index]:
            left[index] = _GONE
            comma = bool(by_size)
            size -= before + comma + (key_sizes[index] if key_sizes is not None else 0)
        else:
            left[index] = shorter
            after = _size(shorter)
            size += after - before
            heapq.heappush(by_size, (-after, index))
    return left


def _cut_text(text: str, size: int, limit: int) -> str:
    """The start of the text and the cut mark in ``limit`` bytes of JSON, by the SDK's own estimate of where to cut."""
    if limit < _CUT_MARK_BYTES:
        return ""
    if limit == _CUT_MARK_BYTES:
        return _CUT_MARK
    length = min(len(text), int(len(text) * (limit - _CUT_MARK_BYTES) / size))
    while True:
        short = text[:length] + _CUT_MARK
        over = _size(short)
        if over <= limit or length <= 0:
            return short
        length = max(0, length - max(1, int(length * ((over - limit) / over)) + 1))


def _size(value: object) -> int:
    """Bytes of the value as compact UTF-8 JSON; a lone surrogate counts one, for that is what it is sent as."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def _strict_size(item: Mapping[str, object]) -> int | None:
    """Bytes of the item as compact JSON, None when strict JSON in UTF-8 cannot say it."""
    try:
        return len(json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    except ValueError:
        return None


def _finite(value: object) -> object:
    """The value without its NaN and infinite members; _GONE for one that is itself such a number."""
    match value:
        case float():
            return value if math.isfinite(value) else _GONE
        case dict():
            return _finite_members(value)
        case list():
            return [kept for member in value if (kept := _finite(member)) is not _GONE]
    return value


def _finite_members(value: dict[str, object]) -> dict[str, object]:
    return {key: kept for key, member in value.items() if (kept := _finite(member)) is not _GONE}


def _repaired(item: dict[str, object]) -> dict[str, object]:
    """The item without what strict JSON cannot say: no NaN, and a ``?`` in place of each lone surrogate."""
    text = json.dumps(_finite_members(item), ensure_ascii=False)
    repaired: dict[str, object] = json.loads(text.encode("utf-8", "replace"))
    return repaired
