"""Token counts: the many spellings of the SDKs and their providers, to the conventions' names.

Only the spans of single model calls may carry ``gen_ai.usage.*``: a dashboard sums them, and the counts of a turn or
a task are sums already.
"""

from collections.abc import Iterator, Mapping

from grafter.core import semconv
from grafter.guests.json_values import count_of, mapping_of

_INPUT_DETAILS = ("input_tokens_details", "prompt_tokens_details", "input_token_details")
_OUTPUT_DETAILS = ("output_tokens_details", "completion_tokens_details", "output_token_details")
_MODALITIES = ("text", "audio", "image")


def call_usage(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, object]]:
    """The attributes of one model call, and what of ``usage`` they do not say.

    Input includes cached tokens and output includes reasoning, as OpenAI counts. Breakdowns that are zero are left
    out; the split by modality too, unless some audio or image tokens make it one. ``details`` is where the SDKs fold
    what OpenAI's ingest would not take.
    """
    rest = {key: value for key, value in usage.items() if value is not None}
    folded = rest.pop("details", None)
    if isinstance(folded, dict):
        for key, value in folded.items():
            if value is not None:
                rest.setdefault(key, value)
    elif folded is not None:
        rest["details"] = folded

    found: dict[str, int] = {}
    _put(found, semconv.GEN_AI_USAGE_INPUT_TOKENS, _take(rest, "input_tokens", "prompt_tokens"))
    _put(found, semconv.GEN_AI_USAGE_OUTPUT_TOKENS, _take(rest, "output_tokens", "completion_tokens"))
    for key in ("requests", "total_tokens"):
        _put(found, f"{semconv.AGENTS_USAGE}.{key}", _take(rest, key))

    given = _details(rest, _INPUT_DETAILS)
    made = _details(rest, _OUTPUT_DETAILS)
    read = _take(given, "cached_tokens")
    written = _take(given, "cache_write_tokens")
    _some(found, semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, read or _take(rest, "cached_input_tokens"))
    _some(found, semconv.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS, written or _take(rest, "cache_write_input_tokens"))
    _some(found, semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, _take(made, "reasoning_tokens"))
    _cached_by_modality(found, given)
    for direction, details in (("input", given), ("output", made)):
        if not details:
            continue
        split = {modality: _take(details, f"{modality}_tokens") or 0 for modality in _MODALITIES}
        if split["audio"] or split["image"]:
            for modality, count in split.items():
                name = semconv.GEN_AI_USAGE_MODALITY_TOKENS.format(modality=modality, direction=direction)
                _some(found, name, count)
        left = dict(_non_zero(details))
        if left:
            rest[f"{direction}_tokens_details"] = left
    return found, rest


def sum_usage(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, object]]:
    """The attributes of a turn or a task, under the SDK's own names, and what of ``usage`` is no count."""
    found: dict[str, int] = {}
    rest: dict[str, object] = {}
    for key, value in usage.items():
        count = count_of(value)
        if count is not None and len(key) <= _LONGEST_KEY and len(found) < _MOST_COUNTS:
            found[f"{semconv.AGENTS_USAGE}.{key}"] = count
        elif value is not None:
            rest[key] = value
    return found, rest


_LONGEST_KEY = 64
_MOST_COUNTS = 16
"""The SDK sends six; a made-up usage must not become a column for every key."""


def _take(counts: dict[str, object], *keys: str) -> int | None:
    """The first of the keys that counts something; it is no longer in ``counts`` then."""
    for key in keys:
        count = count_of(counts.get(key))
        if count is not None:
            del counts[key]
            return count
    return None


def _details(rest: dict[str, object], keys: tuple[str, ...]) -> dict[str, object]:
    for key in keys:
        if isinstance(rest.get(key), dict):
            return dict(mapping_of(rest.pop(key)))
    return {}


def _non_zero(details: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """What is left of a breakdown and counts something: zeros and nulls do not."""
    return ((key, value) for key, value in details.items() if value not in (None, 0))


def _cached_by_modality(found: dict[str, int], given: dict[str, object]) -> None:
    """Realtime says of what the cached tokens were; stated where it is more than text, as the whole split is."""
    cached = given.get("cached_tokens_details")
    if not isinstance(cached, dict):
        return
    left = dict(cached)
    split = {modality: _take(left, f"{modality}_tokens") or 0 for modality in _MODALITIES}
    if split["audio"] or split["image"]:
        for modality, count in split.items():
            _some(found, semconv.GEN_AI_USAGE_MODALITY_CACHE_READ_TOKENS.format(modality=modality), count)
    rest = dict(_non_zero(left))
    if rest:
        given["cached_tokens_details"] = rest
    else:
        del given["cached_tokens_details"]


def _put(found: dict[str, int], name: str, count: int | None) -> None:
    if count is not None:
        found[name] = count


def _some(found: dict[str, int], name: str, count: int | None) -> None:
    if count:
        found[name] = count
