"""Host spans that name a guest: attributes in which an app, or an instrumentation, wrote OpenAI's id of a call, a
session, a trace or a response.

Nearly no request has one, so the bytes of a whole request are asked first; a span's attributes are read only where they
seem to hold such a one, and what they say then counts.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from grafter.core.link import GUEST_ID_BEGINNINGS, is_guest_id
from grafter.core.model import NamedLink, Part, TraceId
from grafter.otlp.frames import framed, spans_of
from grafter.otlp.shallow_pb2 import Attributed

_BEGINNINGS = tuple(each.encode() for each in GUEST_ID_BEGINNINGS)
# Behind the key, or before it, for the Go Collector writes fields backwards: the value (field 2), and in it a string
# (field 1) of fewer than 126 bytes.
_VALUE = re.compile(rb"\x12[\x00-\x7f]\x0a[\x00-\x7d](?:" + b"|".join(_BEGINNINGS) + rb")", re.DOTALL)
_KEY_TAG = 0x0A

Mentions = Callable[[bytes, tuple[bytes, ...], tuple[bytes, ...]], bool]
Attributes = Callable[[bytes, tuple[bytes, ...]], Sequence[bytes] | None]


class GuestIds:
    """Finds them by their keys."""

    def __init__(self, keys: Sequence[str], mentions: Mentions | None, attributes: Attributes | None) -> None:
        """``mentions``, ``attributes``: the compiled looks at bytes; None: the same in Python."""
        self._keys = frozenset(keys)
        self._framed = tuple(framed(_KEY_TAG, key.encode()) for key in keys)
        self._mentions = mentions or _mentions
        self._attributes = attributes or _attributes

    def mentioned(self, data: bytes) -> bool:
        """Whether a host span in these bytes seems to name a guest."""
        return bool(self._framed) and self._mentions(data, self._framed, _BEGINNINGS)

    def links(self, parts: Iterable[Part]) -> list[NamedLink]:
        """The guests that host parts name, each once, the first host first."""
        found: dict[str, NamedLink] = {}
        for part in parts:
            if not self.mentioned(part.payload):
                continue
            for span in spans_of(part.payload):
                if self.mentioned(span):
                    for guest in self._named(span):
                        found.setdefault(guest, NamedLink(guest, TraceId(part.key)))
        return list(found.values())

    def _named(self, span: bytes) -> Iterable[str]:
        try:
            keyed = self._attributes(span, self._framed)
            if keyed is None:
                keyed = _attributes(span, self._framed)
            found = [KeyValue.FromString(each) for each in keyed]
        except DecodeError:
            # Only its head was read so far. It is forwarded as it came.
            return
        for attribute in found:
            if attribute.key in self._keys and is_guest_id(attribute.value.string_value):
                yield attribute.value.string_value


def _mentions(data: bytes, keys: tuple[bytes, ...], beginnings: tuple[bytes, ...]) -> bool:
    # A value first, for one search costs less than one for each key.
    for value in _VALUE.finditer(data):
        text = value.start() + 4
        if data.endswith(keys, 0, value.start()) or data.startswith(keys, text + data[text - 1]):
            return True
    return False


def _attributes(span: bytes, keys: tuple[bytes, ...]) -> Sequence[bytes]:
    # In whichever order key and value stand: one that has a key at neither end has none of these.
    attributes = Attributed.FromString(span).attributes
    return [each for each in attributes if each.startswith(keys) or each.endswith(keys)]
