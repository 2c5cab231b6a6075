"""A span's attributes while it is mapped, and cut to what backends take in the end: a reader sees that they were cut,
and JSON stays JSON.

Honeycomb silently cuts a field at 65,535 bytes and refuses an event of 1,000,000; a cut through the middle of JSON
leaves nothing that a program can read. So long values lose from the inside: first the middle of the longest texts,
then the middle of lists, and only what still does not fit is left out whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import orjson

from grafter.core import semconv
from grafter.core.model import SPAN_KIND_INTERNAL, AttributeValue, ToolCall, UnixNano
from grafter.guests.json_values import MAX_DEPTH, json_safe, scalar_of, text_of

ATTRIBUTE_BYTES = 60_000
SPAN_BYTES = 900_000
"""Of all attributes of a span together, keys included."""
NAME_BYTES = 1_000

# Attributes made from keys that an app chose: a column for each is fine for a few and floods a backend with many.
MOST_KEYS = 32
_LONGEST_KEY = 100

# A text shorter than this says nothing once its middle is gone.
_SHORTEST_TEXT = 64
# An object of a few keys, such as a message, is understood whole or not at all.
_SMALL_OBJECT = 16
_NUMBER_BYTES = 8
_CHARACTER_BYTES = 4
"""The most that UTF-8 takes for one."""


@dataclass(frozen=True, slots=True)
class Json:
    """An attribute value that leaves as JSON text; kept as a value until it is known whether it fits."""

    value: object


@dataclass(slots=True)
class SpanDraft:
    """Mapped by taking: what a mapper reads leaves ``rest``, and what stays there in the end is kept as it came."""

    rest: dict[str, object]
    """Keys of the span's data that have not been read."""
    content: bool
    """Whether content may leave; the data holds none when it may not."""
    start: UnixNano
    name: str = ""
    kind: int = SPAN_KIND_INTERNAL
    attributes: dict[str, AttributeValue | Json] = field(default_factory=dict)
    tool_calls: tuple[ToolCall, ...] = ()
    """The tool calls in a model's answer."""

    def take(self, key: str) -> object:
        """The value of a key, whatever it is."""
        return self.rest.pop(key, None)

    def take_text(self, key: str) -> str | None:
        """The value of a key that should hold text; anything else stays unread."""
        value = self.rest.get(key)
        if value is None or isinstance(value, str):
            self.rest.pop(key, None)
        return text_of(value)

    def take_object(self, key: str) -> dict[str, object]:
        """The value of a key that should hold an object, as a copy; anything else stays unread."""
        value = self.rest.get(key)
        if value is None or isinstance(value, dict):
            self.rest.pop(key, None)
        return dict(value) if isinstance(value, dict) else {}

    def keep(self, key: str, unread: Mapping[str, object]) -> None:
        """Put back what of a taken object was not read."""
        if unread:
            self.rest[key] = dict(unread)

    def put(self, name: str, value: AttributeValue | Json | None) -> None:
        """Set an attribute, unless there is nothing to say."""
        if value is not None:
            self.attributes[name] = value

    def put_content(self, name: str, value: AttributeValue | Json | None) -> None:
        """Set an attribute that holds content, where content may leave."""
        if self.content:
            self.put(name, value)

    def put_each(self, prefix: str, values: Mapping[str, object]) -> dict[str, object]:
        """Set ``prefix.<key>`` for each scalar, by key, up to a bound; the values that got none."""
        left = dict(values)
        given = 0
        for key in sorted(values):
            scalar = scalar_of(values[key])
            if scalar is not None and 0 < len(key) <= _LONGEST_KEY and given < MOST_KEYS:
                self.put(f"{prefix}.{key}", scalar)
                given += 1
                del left[key]
        return left


Draft = Mapping[str, AttributeValue | Json]
"""Attributes of a span before they are measured."""


def titled(word: str, name: str | None) -> str:
    """A span name: the operation, and what it was done to where that is known."""
    return f"{word} {name}" if name else word


def bounded(draft: Draft) -> tuple[tuple[str, AttributeValue], ...]:
    """The attributes as they may leave, in their order, each and all together within the limits.

    What was cut is named in ``grafter.truncated``, and ``grafter.truncated.bytes`` says how much all lost together.
    """
    plain = _plain(draft)
    if plain is not None:
        return plain
    values: dict[str, AttributeValue] = {}
    whole: dict[str, int] = {}
    for key, value in draft.items():
        values[key], whole[key] = _fitted(value, ATTRIBUTE_BYTES)
    sizes = {key: _size(value) for key, value in values.items()}
    room = SPAN_BYTES - sum(len(key) * 4 for key in values)
    if sum(sizes.values()) > room:
        share = _share(list(sizes.values()), room)
        for key, size in sizes.items():
            if size > share:
                values[key], _ = _fitted(draft[key], share)
                sizes[key] = _size(values[key])
    lost = {key: whole[key] - size for key, size in sizes.items() if size < whole[key]}
    if lost:
        values[semconv.GRAFTER_TRUNCATED] = tuple(lost)
        values[semconv.GRAFTER_TRUNCATED_BYTES] = sum(lost.values())
    return tuple(values.items())


def _plain(draft: Draft) -> tuple[tuple[str, AttributeValue], ...] | None:
    """The attributes of a span that is nowhere near a limit, as almost all are; None when it must be measured."""
    pairs: list[tuple[str, AttributeValue]] = []
    most = 0
    for key, value in draft.items():
        if isinstance(value, str):
            size = len(value) * _CHARACTER_BYTES
        elif isinstance(value, tuple):
            size = sum(map(len, value)) * _CHARACTER_BYTES
            if size > NAME_BYTES:
                return None
        elif isinstance(value, Json):
            value, size = fit_json(value.value, ATTRIBUTE_BYTES)
        else:
            size = _NUMBER_BYTES
        if size > ATTRIBUTE_BYTES:
            return None
        most += size + len(key) * _CHARACTER_BYTES
        pairs.append((key, value))
    return tuple(pairs) if most <= SPAN_BYTES else None


def fit_json(value: object, limit: int) -> tuple[str, int]:
    """A value as JSON of at most ``limit`` UTF-8 bytes, and the bytes that the whole would have had.

    Never raises for a JSON value; ``limit`` is at least 64.
    """
    try:
        text = orjson.dumps(value)
    except TypeError:
        value = json_safe(value)
        text = orjson.dumps(value)
    size = len(text)
    if size <= limit:
        return text.decode(), size
    return (_slimmed(value, limit) or orjson.dumps(f"[grafter: {size} bytes omitted]")).decode(), size


def cut_text(text: str, limit: int) -> str:
    """A text of at most ``limit`` UTF-8 bytes: its head and tail, and between them what is missing."""
    if len(text) <= limit and text.isascii():
        return text
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    note = f" … [grafter: cut from {len(raw)} bytes] … "
    room = limit - len(note.encode())
    if room < 2:
        return raw[:limit].decode("utf-8", "ignore")
    head, tail = raw[: room - room // 3], raw[len(raw) - room // 3 :]
    return head.decode("utf-8", "ignore") + note + tail.decode("utf-8", "ignore")


def _fitted(value: AttributeValue | Json, limit: int) -> tuple[AttributeValue, int]:
    """The value within the limit, and the bytes of the whole."""
    if isinstance(value, Json):
        return fit_json(value.value, max(limit, _SHORTEST_TEXT))
    if isinstance(value, str):
        kept = cut_text(value, limit)
        return kept, len(value.encode("utf-8", "replace"))
    if isinstance(value, tuple):
        names = [cut_text(name, NAME_BYTES) for name in value]
        size = _size(value)
        room = limit
        fitting = []
        for name in names:
            room -= len(name.encode())
            if room < 0:
                break
            fitting.append(name)
        return tuple(fitting), size
    return value, _NUMBER_BYTES


def _size(value: AttributeValue) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, tuple):
        return sum(len(name.encode("utf-8", "replace")) for name in value)
    return _NUMBER_BYTES


def _share(sizes: list[int], room: int) -> int:
    """The size to which the largest must come down so that all fit: small ones keep what they have."""
    left = max(room, 0)
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return share
        left -= size
    return left


def _slimmed(value: object, limit: int) -> bytes | None:
    """JSON within the limit: all members with shorter texts, else as many members of each list as fit."""
    best = _attempt(value, limit, limit)
    if best is not None:
        return best
    # Upwards, because a try costs what it keeps; then between the last that fitted and the first that did not.
    low, high = 0, 1
    while high < limit and (text := _attempt(value, high, limit)) is not None:
        best, low, high = text, high, high * 2
    for _ in range(4):
        middle = (low + high) // 2
        if middle == low:
            break
        text = _attempt(value, middle, limit)
        if text is None:
            high = middle
        else:
            best, low = text, middle
    return best


def _attempt(value: object, members: int, limit: int) -> bytes | None:
    # A member takes two bytes at least, its comma included.
    pruning = _Pruning(members, limit // 2)
    slim = pruning.keep(value, MAX_DEPTH)
    if pruning.room < 0:
        return None
    lengths: list[int] = []
    _measure(slim, lengths, MAX_DEPTH)
    frame = len(orjson.dumps(slim)) - sum(lengths)
    cap = max(_share(lengths, limit - frame), _SHORTEST_TEXT) if lengths else _SHORTEST_TEXT
    while True:
        text = orjson.dumps(_capped(slim, cap, MAX_DEPTH))
        if len(text) <= limit:
            return text
        if cap <= _SHORTEST_TEXT:
            return None
        # A cut text may have more escapes than its share had; each round takes off a quarter, so there are few.
        cap = max(cap * 3 // 4, _SHORTEST_TEXT)


def _measure(value: object, lengths: list[int], depth: int) -> None:
    if isinstance(value, str):
        if len(value) > _SHORTEST_TEXT:
            lengths.append(len(orjson.dumps(value)) - 2)
    elif isinstance(value, dict) and depth > 0:
        for member in value.values():
            _measure(member, lengths, depth - 1)
    elif isinstance(value, list) and depth > 0:
        for member in value:
            _measure(member, lengths, depth - 1)


def _capped(value: object, cap: int, depth: int) -> object:
    if isinstance(value, str):
        # The cap counts bytes of JSON; a text without escapes has as many.
        return cut_text(value, cap) if len(value) * 6 > cap else value
    if depth <= 0:
        return None if isinstance(value, dict | list) else value
    if isinstance(value, dict):
        return {cut_text(key, cap): _capped(member, cap, depth - 1) for key, member in value.items()}
    if isinstance(value, list):
        return [_capped(member, cap, depth - 1) for member in value]
    return value


class _Pruning:
    """Keeps so many members of each list, and of each object that has many; stops when there is no more room."""

    def __init__(self, members: int, room: int) -> None:
        self.members = members
        self.room = room
        """Values that may still be kept; below zero the result is of no use."""

    def keep(self, value: object, depth: int) -> object:
        self.room -= 1
        if self.room < 0 or not isinstance(value, dict | list):
            return value if self.room >= 0 else None
        if depth <= 0:
            return None
        if isinstance(value, dict):
            members = max(self.members, _SMALL_OBJECT)
            kept = {key: self.keep(member, depth - 1) for key, member in islice(value.items(), members)}
            if len(value) > members:
                kept["grafter.omitted"] = len(value) - members
            return kept
        missing = len(value) - self.members
        if missing <= 0:
            return [self.keep(member, depth - 1) for member in value]
        head = [self.keep(member, depth - 1) for member in value[: self.members - self.members // 2]]
        tail = [self.keep(member, depth - 1) for member in value[len(value) - self.members // 2 :]]
        return [*head, _gap(value, missing), *tail]


def _gap(value: list[object], missing: int) -> object:
    """What stands for the missing members: among messages a message, so that readers of messages still can read."""
    if all(isinstance(member, dict) and "role" in member for member in value):
        text = f"[grafter: {missing} messages omitted]"
        return {"role": "system", "parts": [{"type": "text", "content": text}]}
    return f"[grafter: {missing} items omitted]"
