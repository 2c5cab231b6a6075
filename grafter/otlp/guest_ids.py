"""Host spans that name a guest: attributes in which an app, or an instrumentation, wrote OpenAI's id of a call, a
session, a trace or a response.

Nearly no request has one, so the bytes of a whole request are asked first; a span is decoded only where they seem to
hold such an attribute, and what it says then counts.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.core.link import GUEST_ID_BEGINNINGS, is_guest_id
from grafter.core.model import NamedLink, Part, TraceId
from grafter.otlp.frames import framed, spans_of

_BEGINNINGS = tuple(each.encode() for each in GUEST_ID_BEGINNINGS)
# Behind the key: the value (field 2), and in it a string (field 1) of fewer than 126 bytes.
_VALUE = re.compile(rb"\x12[\x00-\x7f]\x0a[\x00-\x7d](?:" + b"|".join(_BEGINNINGS) + rb")", re.DOTALL)
_KEY_TAG = 0x0A

Mentions = Callable[[bytes, tuple[bytes, ...], tuple[bytes, ...]], bool]


class GuestIds:
    """Finds them by their keys."""

    def __init__(self, keys: Sequence[str], mentions: Mentions | None) -> None:
        """``mentions``: the compiled look at bytes; None: the same in Python."""
        self._keys = frozenset(keys)
        self._framed = tuple(framed(_KEY_TAG, key.encode()) for key in keys)
        self._mentions = mentions or _mentions

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
            decoded = Span.FromString(span)
        except DecodeError:
            # Only its head was read so far. It is forwarded as it came.
            return
        for attribute in decoded.attributes:
            if attribute.key in self._keys and is_guest_id(attribute.value.string_value):
                yield attribute.value.string_value


def _mentions(data: bytes, keys: tuple[bytes, ...], beginnings: tuple[bytes, ...]) -> bool:
    # A value first, for one search costs less than one for each key.
    return any(data.endswith(keys, 0, value.start()) for value in _VALUE.finditer(data))
