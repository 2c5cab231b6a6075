"""Host spans that name a guest: attributes in which an app, or an instrumentation, wrote OpenAI's id of a call, a
session, a trace or a response.

Nearly no request has one, so the bytes of a whole request are asked first; a span's attributes are read only where they
seem to hold such a one, and what they say then counts. An instrumentation may write one on each span: an attribute that
was read is known again by its bytes, and of answers, of which any one tells the guest, only so many are looked for.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from grafter.core.link import GUEST_ID_BEGINNINGS, RESPONSE_ID, is_guest_id
from grafter.core.model import NamedLink, Part, TraceId
from grafter.otlp.frames import framed, spans_of
from grafter.otlp.shallow_pb2 import Attributed

_BEGINNINGS = tuple(each.encode() for each in GUEST_ID_BEGINNINGS)
_NAMES = tuple(each for each in _BEGINNINGS if each != RESPONSE_ID.encode())
_KEY_TAG = 0x0A
MOST_ANSWERS = 100
"""Ids of answers that one trace names in one request: each costs a row in the store, and a guest has many."""

Mentions = Callable[[bytes, tuple[bytes, ...], tuple[bytes, ...]], bool]
Attributes = Callable[[bytes, tuple[bytes, ...]], Sequence[bytes] | None]


class GuestIds:
    """Finds them by their keys."""

    def __init__(self, keys: Sequence[str], mentions: Mentions | None, attributes: Attributes | None) -> None:
        """``mentions``, ``attributes``: the compiled looks at bytes; None: the same in Python."""
        self._keys = frozenset(keys)
        self._framed = tuple(framed(_KEY_TAG, key.encode()) for key in keys)
        self._mentions = mentions or _mentions
        self._attributes = attributes or attributes_in

    def mentioned(self, data: bytes) -> bool:
        """Whether a host span in these bytes seems to name a guest."""
        return bool(self._framed) and self._mentions(data, self._framed, _BEGINNINGS)

    def links(self, parts: Iterable[Part]) -> list[NamedLink]:
        """The guests that host parts name, each once, the first host first."""
        found: dict[str, NamedLink] = {}
        answers: Counter[TraceId] = Counter()
        for part in parts:
            if not self.mentioned(part.payload):
                continue
            host, read = TraceId(part.key), set[bytes]()
            for span in spans_of(part.payload):
                full = answers[host] >= MOST_ANSWERS
                if not self._mentions(span, self._framed, _NAMES if full else _BEGINNINGS):
                    continue
                for guest in self._named(span, read):
                    is_answer = guest.startswith(RESPONSE_ID)
                    if guest in found or (is_answer and answers[host] >= MOST_ANSWERS):
                        continue
                    found[guest] = NamedLink(guest, host)
                    answers[host] += is_answer
        return list(found.values())

    def _named(self, span: bytes, read: set[bytes]) -> Iterable[str]:
        """The guests that a span names, but for what was ``read`` before."""
        try:
            found = [KeyValue.FromString(each) for each in keyed(span, self._framed, self._attributes, read)]
        except DecodeError:
            # Only its head was read so far. It is forwarded as it came.
            return
        for attribute in found:
            if attribute.key in self._keys and is_guest_id(attribute.value.string_value):
                yield attribute.value.string_value


def keyed(span: bytes, keys: tuple[bytes, ...], attributes: Attributes, read: set[bytes]) -> list[bytes]:
    """The attributes of a span, serialised, that have one of these keys, each framed, at either end; without those that
    are ``read``, to which they are added. Raises DecodeError for what is no span."""
    found = attributes(span, keys)
    if found is None:
        found = attributes_in(span, keys)
    new = [each for each in found if each not in read]
    read.update(new)
    return new


@cache
def _value(beginnings: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """Behind the key, or before it, for the Go Collector writes fields backwards: the value (field 2), and in it a
    string (field 1) of fewer than 126 bytes."""
    return re.compile(rb"\x12[\x00-\x7f]\x0a[\x00-\x7d](?:" + b"|".join(beginnings) + rb")", re.DOTALL)


def _mentions(data: bytes, keys: tuple[bytes, ...], beginnings: tuple[bytes, ...]) -> bool:
    # A value first, for one search costs less than one for each key.
    for value in _value(beginnings).finditer(data):
        text = value.start() + 4
        if data.endswith(keys, 0, value.start()) or data.startswith(keys, text + data[text - 1]):
            return True
    return False


def attributes_in(span: bytes, keys: tuple[bytes, ...]) -> Sequence[bytes]:
    """What ``_split.attributes`` finds."""
    # In whichever order key and value stand: one that has a key at neither end has none of these.
    attributes = Attributed.FromString(span).attributes
    return [each for each in attributes if each.startswith(keys) or each.endswith(keys)]
