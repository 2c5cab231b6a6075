"""What a guest says about its host: the trace id that the app stashed in OpenAI's metadata.

Metadata is free JSON that people write by hand, so its form is forgiven where nothing else can be meant (case, dashes,
space around), and what cannot be meant is reported as malformed rather than left out in silence.

Source of the traceparent's form: W3C Trace Context, section 3.2 (a version 00 has exactly four fields, a later one may
have more; version ff and all-zero ids are invalid).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from grafter.core.model import FLAG_SAMPLED, NAMED_BY, Link, NamedLink, SpanId, TraceId, openai_trace_id

TRACEPARENT_KEY = "traceparent"
SPAN_ID_KEY = "span_id"
GUEST_ID_BEGINNINGS = ("rtc_", "live_", "sess_", "trace_", "resp_")
"""Of OpenAI's ids of calls, sessions, traces and responses: what else stands in an attribute is no guest's."""
RESPONSE_ID = "resp_"
MOST_CHARACTERS = 256
"""Of an id of OpenAI's that somebody else may name."""
TRACE_HEADERS = ("traceparent", "x-traceparent")
"""SIP headers that may name a host. Some carriers pass headers on only when their name begins with X-."""

_PLAIN = re.compile(rf"[!-~]{{1,{MOST_CHARACTERS}}}")
_GUEST_ID = re.compile(rf"(?:{'|'.join(GUEST_ID_BEGINNINGS)})[!-~]*")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_TRACEPARENT_LENGTH = 55
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Malformed:
    """The metadata names a host in a form that cannot be read, and no other key of it does better."""

    reason: str
    """Which key, and what was expected; without the value."""


def from_metadata(metadata: object, keys: Sequence[str]) -> Link | Malformed | None:
    """The host that metadata names: by ``traceparent``, else by the first of ``keys`` that holds a trace id.

    Takes any JSON value. A key that is missing or null says nothing; one that cannot be read is passed over, and is
    the answer only when no other key can be read either. Beside a trace id, ``span_id`` names the anchor when it is
    16 hex digits and not all zero; otherwise it is ignored, for the link holds without it.
    """
    if not isinstance(metadata, Mapping):
        return None
    malformed: Malformed | None = None
    parent = metadata.get(TRACEPARENT_KEY)
    if parent is not None:
        link = _traceparent(parent)
        if link is not None:
            return link
        malformed = Malformed(f"{TRACEPARENT_KEY}: expected 00-<32 hex>-<16 hex>-<2 hex>, ids not zero")
    for key in keys:
        named = metadata.get(key)
        if named is None:
            continue
        host = _trace_id(named)
        if host is not None:
            return Link(host=host, span_id=_span_id(metadata.get(SPAN_ID_KEY)), how="trace_id")
        malformed = malformed or Malformed(f"{key}: expected 32 hex digits, not all zero")
    return malformed


def from_headers(headers: Iterable[tuple[str, str]]) -> str | None:
    """The traceparent among a call's SIP headers: of ``traceparent``, else of ``X-Traceparent``, in any case.

    Whoever calls can write these, and as often as they like: the first that can be read is it, in the form and length
    of version 00 whatever came with it.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        name = name.strip().lower()
        if name in TRACE_HEADERS and name not in found and _traceparent(value) is not None:
            found[name] = value.strip().lower()[:_TRACEPARENT_LENGTH]
    return next((found[name] for name in TRACE_HEADERS if name in found), None)


def from_openai_trace_id(guest_trace_id: str) -> Link | None:
    """The host whose trace id an OpenAI trace id of the form ``trace_<32 hex>`` spells, else None.

    Any random OpenAI id has this form, so the link holds only where such a host is known.
    """
    host = openai_trace_id(guest_trace_id)
    return None if host is None else Link(host=host, how="openai_trace_id")


def is_nameable(guest: str) -> bool:
    """Whether somebody else can name a guest of this id: 1 to 256 printable ASCII characters."""
    return _PLAIN.fullmatch(guest) is not None


def is_guest_id(text: str) -> bool:
    """Whether an attribute's value is an id of OpenAI's."""
    return len(text) <= MOST_CHARACTERS and _GUEST_ID.fullmatch(text) is not None


def as_text(link: NamedLink) -> str:
    """A link as a store keeps it: how it was named, and a traceparent without a span where none is named."""
    flags = "" if link.sampled is None else f"{link.sampled:02x}"
    return f"{link.how} {link.host.hex()} {(link.span_id or b'').hex()} {flags}"


def from_text(guest: str, text: str) -> NamedLink | None:
    """What ``as_text`` made; None for what a newer version wrote."""
    how, _, rest = text.partition(" ")
    host, _, rest = rest.partition(" ")
    span, _, flags = rest.partition(" ")
    named = _trace_id(host)
    if named is None or how not in NAMED_BY:
        return None
    return NamedLink(guest, named, _span_id(span), bool(int(flags, 16)) if flags in ("00", "01") else None, how)


def _traceparent(value: object) -> Link | None:
    if not isinstance(value, str):
        return None
    match = _TRACEPARENT.fullmatch(value.strip().lower())
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    host, anchor = _trace_id(trace), _span_id(span)
    if version == "ff" or (version == "00" and more) or host is None or anchor is None:
        return None
    return Link(host=host, span_id=anchor, sampled=bool(int(flags, 16) & FLAG_SAMPLED), how="traceparent")


def _trace_id(value: object) -> TraceId | None:
    raw = _hex(value, _TRACE_ID)
    return None if raw is None else TraceId(raw)


def _span_id(value: object) -> SpanId | None:
    raw = _hex(value, _SPAN_ID)
    return None if raw is None else SpanId(raw)


def _hex(value: object, form: re.Pattern[str]) -> bytes | None:
    if not isinstance(value, str):
        return None
    digits = value.strip().lower().replace("-", "")
    if form.fullmatch(digits) is None or not digits.strip("0"):
        return None
    return bytes.fromhex(digits)
