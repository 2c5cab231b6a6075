"""What of a Realtime event leaves the app: all but the audio, in a copy of its own.

A copy, because the app may go on with the object that it showed; bounded, because nobody bounds what an app shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

AUDIO_DELTAS: Final = frozenset({"response.output_audio.delta", "response.audio.delta", "session.output_audio.delta"})
AUDIO_APPENDS: Final = frozenset({"input_audio_buffer.append", "session.input_audio.append"})
"""Of the Realtime API and of the Live API."""

LONGEST_TEXT: Final = 64 * 1024
"""Characters kept of one string: more than any instructions or tool result that a span could show."""
LONGEST_RAW: Final = 16 * 1024 * 1024
"""Characters of one event as text that are looked at. OpenAI's own limit on a client event is 15 MiB."""
LONGEST_ROW: Final = 1024 * 1024
"""Bytes of one event as it is posted."""
DEEPEST: Final = 24

_DELTA_FIELDS: Final = ("event_id", "response_id", "item_id", "output_index", "content_index", "start_ms", "end_ms")
_ENDS: Final = ('audio.delta"', 'audio_buffer.append"', 'audio.append"')
"""What a text that is about audio has in it somewhere."""
_SMALL: Final = 300
"""About what an event without texts takes in memory."""
_NODE: Final = 40


@dataclass(frozen=True)
class Seen:
    """An event as it waits to be posted."""

    at: int
    """Unix nanoseconds of the moment when the app showed it."""
    side: str
    event: Mapping[str, object] | str
    """Without audio already, or the text of an event that is not about audio, which the posting thread reads."""
    size: int
    """About the bytes that it holds in memory."""
    audio_of: str | None = None
    """The item whose audio it stands for; empty for the caller's. None: it is about something else."""


def seen(event: object, side: str, at: int) -> Seen | None:
    """What is to wait of an event; None for what cannot be one. Takes microseconds."""
    if isinstance(event, (bytes, bytearray, memoryview)):
        event = bytes(event).decode("utf-8", "replace") if len(event) <= LONGEST_RAW else ""
    if isinstance(event, str):
        if len(event) > LONGEST_RAW:
            return None
        if not any(end in event for end in _ENDS):
            return Seen(at, side, event, len(event)) if event else None
        event = json.loads(event)
    if not isinstance(event, Mapping):
        event = _of_model(event)
    if event is None:
        return None
    kind = event.get("type")
    if not isinstance(kind, str) or not kind:
        return None
    if kind in AUDIO_DELTAS:
        copy = {"type": kind, "delta_bytes": _bytes_in(event.get("delta"))}
        for field in _DELTA_FIELDS:
            value = event.get(field)
            if isinstance(value, (str, int)):
                copy[field] = value[:256] if isinstance(value, str) else value
        return Seen(at, side, copy, _SMALL, str(copy.get("item_id", "")))
    if kind in AUDIO_APPENDS:
        copy = {"type": kind, "audio_bytes": _bytes_in(event.get("audio"))}
        if isinstance(event.get("event_id"), str):
            copy["event_id"] = str(event["event_id"])[:256]
        return Seen(at, side, copy, _SMALL, "")
    copying = _Copying()
    return Seen(at, side, copying.mapping(event, 0), _SMALL + copying.size)


def row(one: Seen) -> bytes | None:
    """The event as it stands in a post; None where it cannot be written as one. For the posting thread."""
    event = one.event
    if isinstance(event, str):
        read = json.loads(event)
        if not isinstance(read, dict) or not read.get("type"):
            return None
        again = seen(read, one.side, one.at)
        if again is None:
            return None
        event = again.event
    # Text that is no Unicode, and NaN, would make the whole post unreadable at the other end.
    text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    head = f'{{"at":{seconds(one.at)},"from":"{one.side}","event":'
    line = f"{head}{text}}}".encode("utf-8", "replace")
    return line if len(line) <= LONGEST_ROW else None


def plain(metadata: Mapping[str, object]) -> dict[str, object]:
    """A copy that can be written as JSON."""
    return _Copying().mapping(metadata, 0)


def seconds(at: int) -> str:
    """Unix seconds, as a JSON number that loses no nanosecond."""
    return f"{at // 1_000_000_000}.{at % 1_000_000_000:09d}"


class _Copying:
    """Copies what JSON knows, and counts about what the copy weighs."""

    def __init__(self) -> None:
        self.size = 0

    def mapping(self, value: Mapping[Any, object], depth: int) -> dict[str, object]:
        copy: dict[str, object] = {}
        # An audio delta may come inside another event.
        kind = value.get("type")
        audio = ("audio", "delta") if isinstance(kind, str) and kind in AUDIO_DELTAS else ("audio",)
        for key, member in value.items():
            name = key if isinstance(key, str) else str(key)
            self.size += _NODE + len(name)
            if name in audio and isinstance(member, (str, bytes, bytearray)):
                copy[f"{name}_bytes"] = _bytes_in(member)
            elif isinstance(member, str) and len(member) > 1024 and member.startswith("data:"):
                copy[f"{name}_bytes"] = _bytes_in(member.partition(",")[2])
            else:
                copy[name] = self._member(member, depth)
        return copy

    def _member(self, value: object, depth: int) -> object:
        if isinstance(value, str):
            text = value[:LONGEST_TEXT]
            self.size += len(text)
            return text
        if isinstance(value, float):
            return value if isfinite(value) else None
        if value is None or isinstance(value, int):
            return value
        if depth >= DEEPEST:
            return None
        if isinstance(value, Mapping):
            return self.mapping(value, depth + 1)
        if isinstance(value, (list, tuple)):
            self.size += _NODE * len(value)
            return [self._member(member, depth + 1) for member in value]
        model = _of_model(value)
        return self.mapping(model, depth + 1) if model is not None else None


def _of_model(event: object) -> Mapping[str, object] | None:
    """The fields of a pydantic model (the openai package's types), of an audio one without copying its audio."""
    kind = getattr(event, "type", None)
    if isinstance(kind, str) and kind in AUDIO_DELTAS:
        return {name: getattr(event, name, None) for name in ("type", "delta", *_DELTA_FIELDS)}
    dump = getattr(event, "model_dump", None)
    fields = dump(exclude_unset=True, by_alias=True, warnings=False) if callable(dump) else None
    return fields if isinstance(fields, Mapping) else None


def _bytes_in(audio: object) -> int:
    """The bytes that a Base64 text stands for; raw bytes count as they are."""
    if isinstance(audio, (bytes, bytearray)):
        return len(audio)
    if not isinstance(audio, str):
        return 0
    return max(0, len(audio) * 3 // 4 - audio[-2:].count("="))
