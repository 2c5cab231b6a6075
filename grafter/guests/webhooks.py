"""A delivery at the webhook endpoint: which events are in it, and what each one says.

OpenAI's session and call events show by their ``type``, for their data are bare ids. A trace export shows by the
shape of its ``data``, whatever its type: OpenAI sends no such event today (docs/webhooks.md), and gateways that do so
have each its own name for it. What is neither is no error: an endpoint is often subscribed to more than one receiver
needs.

Source of types and members: openai-python 3.54.0, ``types/webhooks``.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from grafter.core.calls import CALLEE_HEADERS, CALLER_HEADERS, Phone, phone_in_headers
from grafter.core.link import from_headers
from grafter.guests.agents.intake import is_item, unfolded
from grafter.guests.json_values import list_of, mapping_of, parse_json, plain_id

CALLS = frozenset({"realtime.call.incoming", "live.call.incoming", "live.transport.incoming"})
SESSIONS = "agent.session."

_CALL_ID_HEADERS = ("call-id", "i")
"""In lower case; the second is the compact one (RFC 3261, section 20.8)."""

KINDS = ("call", "session", "export", "other", "odd")
"""What an event is counted as; ``odd`` is one that cannot be read, ``other`` one that asks nothing of grafter."""


_SIGN = re.compile(rb"\S")
# A stream that was cut off, or passed through something that adds lines of its own, has a few.
MOST_ODD = 1_000
# One of these costs a microsecond or two, beside the event loop. An endpoint that is subscribed to everything gets one
# in a delivery.
MOST_OTHER = 100_000


class JunkError(ValueError):
    """More of a body says nothing than any sender of events would write; the rest was not read."""


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """Somebody calls; the app has not accepted it yet. One call may come as two, with an id for each API that could
    take it: the app accepts one of them."""

    call_id: str
    """``rtc_…`` of the Realtime API, ``live_…`` of the Live API."""
    traceparent: str | None = None
    """Of its SIP headers; the caller wrote it, so it is only a hint."""
    caller: Phone | None = None
    """Of its From header, which the caller wrote too."""
    callee: Phone | None = None
    """Of its To header."""
    sip_call_id: str | None = None
    """Of its Call-ID header: both announcements of one call have the same."""


@dataclass(slots=True)
class Delivery:
    """What one request brought, each thing once."""

    items: list[object] = field(default_factory=list)
    """Of trace exports: trace objects and spans, of any number of traces."""
    calls: dict[str, IncomingCall] = field(default_factory=dict)
    """By call id."""
    sessions: dict[str, None] = field(default_factory=dict)
    """Ids of hosted Agents sessions that have something to pull."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Every event once, by KINDS."""


def read_delivery(body: bytes, secret: bytes) -> Delivery:
    """The events of a body: one envelope, a list, or NDJSON, each line an envelope or an item.

    ``secret`` is the one that phone numbers are hashed under; without one there are none.
    Raises ValueError, without the payload, for what is neither JSON nor lines of it whose first is a whole object, and
    JunkError for what is mostly neither.
    """
    found = Delivery()
    for document in _documents(body, found):
        _read(document, found, secret)
        if found.kinds["other"] > MOST_OTHER:
            raise JunkError(f"body has more than {MOST_OTHER} events that ask nothing of grafter")
    return found


def _documents(body: bytes, found: Delivery) -> Iterator[object]:
    try:
        whole = parse_json(body)
    except ValueError as error:
        lines = _lines(body)
        first = _parsed(next(lines, b""))
        second = next(lines, None)
        if not isinstance(first, Mapping) or second is None:
            raise ValueError(f"{error}; expected an event, or lines of events") from None
        yield first
        for line in chain([second], lines):
            document = _parsed(line)
            if document is None:
                found.kinds["odd"] += 1
                if found.kinds["odd"] > MOST_ODD:
                    raise JunkError(f"body has more than {MOST_ODD} lines that are no event") from None
            else:
                yield document
        return
    yield from whole if isinstance(whole, list) else [whole]


def _lines(body: bytes) -> Iterator[bytes]:
    """The lines that are not blank; one after the other, for a list of millions of short ones takes many times the
    body."""
    at = 0
    while found := _SIGN.search(body, at):
        end = body.find(b"\n", found.start())
        at = len(body) if end < 0 else end
        yield body[found.start() : at]


def _parsed(line: bytes) -> object:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _read(document: object, found: Delivery, secret: bytes) -> None:
    kind = document.get("type") if isinstance(document, Mapping) else None
    data = document.get("data") if isinstance(document, Mapping) else None
    if isinstance(kind, str) and kind in CALLS:
        call = _call(mapping_of(data), secret)
        if call is not None:
            # Named twice in one delivery, what the first one says of its host stands.
            found.calls.setdefault(call.call_id, call)
        found.kinds["odd" if call is None else "call"] += 1
    elif isinstance(kind, str) and kind.startswith(SESSIONS):
        session = plain_id(mapping_of(data).get("id"))
        if session is not None:
            found.sessions[session] = None
        found.kinds["odd" if session is None else "session"] += 1
    else:
        items = _items(document if data is None else data)
        found.items += items
        found.kinds["export" if items else "other"] += 1


def _call(data: Mapping[str, object], secret: bytes) -> IncomingCall | None:
    call_id = plain_id(data.get("call_id")) or plain_id(data.get("session_id"))
    if call_id is None:
        return None
    headers = [
        (name, value)
        for header in map(mapping_of, list_of(data.get("sip_headers")))
        if isinstance(name := header.get("name"), str) and isinstance(value := header.get("value"), str)
    ]
    return IncomingCall(
        call_id,
        from_headers(headers),
        phone_in_headers(headers, CALLER_HEADERS, secret),
        phone_in_headers(headers, CALLEE_HEADERS, secret),
        next((value.strip() for name, value in headers if name.strip().lower() in _CALL_ID_HEADERS), None),
    )


def _items(data: object) -> Sequence[object]:
    """The items that an event's data are: an item, a list of them, or ``{"data": [...]}``; none for anything else."""
    if is_item(data):
        return unfolded([data])
    if isinstance(data, Mapping):
        data = data.get("data")
    return unfolded(data) if isinstance(data, list) and any(map(is_item, data)) else ()
