"""A span while it is being mapped: what it says already, and what of its data nobody has read yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from grafter.core.model import SPAN_KIND_INTERNAL, AttributeValue, UnixNano
from grafter.guests.limits import Json
from grafter.guests.values import number_of, text_of

# Attributes made from keys that an app chose: a column for each is fine for a few and floods a backend with many.
MOST_KEYS = 32
_LONGEST_KEY = 100


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
        if value is None or isinstance(value, Mapping):
            self.rest.pop(key, None)
        return dict(value) if isinstance(value, Mapping) else {}

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


def scalar_of(value: object) -> str | bool | int | float | None:
    """The value when it can be an attribute as it is."""
    return value if isinstance(value, str | bool) else number_of(value)


def titled(word: str, name: str | None) -> str:
    """A span name: the operation, and what it was done to where that is known."""
    return f"{word} {name}" if name else word
