"""Answers of OpenAI's Agents API about one session, made into the parts of one guest.

The guest's own trace id is the session's id: all its turns are one guest. A part holds one turn's trace, so that a
turn that is read again unchanged is the same part again. Around those of an event stand an *opening* part, which
promises that more will come, and a *closing* one, which keeps that promise: the guest is whole when it has closed and
no promise is open.

Source of the shapes: openai-python 3.54.0, types/beta/agent_session.py and types/beta/agents/sessions/session_trace.py.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

import orjson

from grafter.core.link import Malformed, from_metadata
from grafter.core.model import GuestFacts, Link, Part, Source, SpanId, guest_key, guest_span_id
from grafter.core.policy import GraftPolicy
from grafter.guests.json_values import canonical, json_safe, list_of, mapping_of, parse_json, text_of, usable_id
from grafter.guests.sessions.content import clean_session, clean_trace

SESSION = "agent.session"
TRACE = "agent.session.trace"

DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What the session says of itself."""

    session_id: str
    link: Link | None
    malformed: bool
    """Its metadata seems to name a host, in a form that cannot be read."""
    item: bytes
    """The session as an item, without what may not be stored."""


@dataclass(slots=True)
class Page:
    """What one answer of the list of traces brought."""

    parts: list[Part] = field(default_factory=list)
    """A part for each trace that is new."""
    digests: list[str] = field(default_factory=list)
    """Of each of those, by which it is known again."""
    spans: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Every entry once, as ``trace``, ``known`` (read before, unchanged), ``odd`` (skipped); and every span that
    cannot be told apart as ``odd_span``."""
    after: str | None = None
    """The cursor of the next page: the last trace's id; None where there is none."""
    more: bool = False
    """There is a next page."""


def read_session(body: bytes, session_id: str, policy: GraftPolicy) -> SessionInfo:
    """The answer to GET …/sessions/{id}. Raises ValueError when it is no JSON object."""
    session = parse_json(body)
    if not isinstance(session, dict):
        raise ValueError("the session is no JSON object")
    item = mapping_of(json_safe(clean_session(session)))
    named = from_metadata(item.get("metadata"), policy.trace_id_keys)
    malformed = isinstance(named, Malformed)
    link = None if isinstance(named, Malformed) else named
    return SessionInfo(session_id, link, malformed, orjson.dumps(item))


def read_page(body: bytes, info: SessionInfo, seen: Container[str], policy: GraftPolicy) -> Page:
    """The answer to GET …/sessions/{id}/traces in ascending order. ``seen``: digests of what was read before.

    One odd entry never loses its page. Raises ValueError when the body is no JSON object with a list under ``data``.
    """
    answer = parse_json(body)
    data = mapping_of(answer).get("data")
    if not isinstance(data, list):
        raise ValueError("the page has no list under data")
    page = Page()
    for entry in data:
        trace = entry if isinstance(entry, dict) else None
        identity = None if trace is None else usable_id(trace.get("id"))
        if identity is not None:
            page.after = identity
        if trace is None or identity is None or not isinstance(trace.get("otlp"), dict):
            page.kinds["odd"] += 1
            continue
        digest = sha256(canonical(trace)).hexdigest()[:DIGEST_CHARACTERS]
        if digest in seen or digest in page.digests:
            page.kinds["known"] += 1
            continue
        item = mapping_of(json_safe(clean_trace({**trace, "object": TRACE}, policy.content)))
        ids = [each.ids for each in spans_of(item)]
        found = len(ids) - ids.count(None)
        page.kinds["trace"] += 1
        page.kinds["odd_span"] += ids.count(None)
        page.spans += found
        page.digests.append(digest)
        page.parts.append(_part(info, b"[" + orjson.dumps(item) + b"]", found, top_level=found > 0))
    page.after = usable_id(mapping_of(answer).get("last_id")) or page.after
    more = mapping_of(answer).get("has_more")
    # Unpublished traces are skipped, so a page of them alone may be empty and have a next one.
    page.more = (more is True or (more is not False and bool(data))) and page.after is not None
    return page


def opening(info: SessionInfo, run: int) -> Part:
    """The part that begins the answer to an event: the session itself, and the promise that its traces will come."""
    return _part(info, b"[" + info.item + b"]", 0, head=True, parents=(_promise(info, run),))


def closing(info: SessionInfo, run: int, since: int = 0) -> Part:
    """The part that ends it: what this event, and those from ``since`` on, promised was read."""
    kept = range(since or run, run + 1)
    ids = tuple(_promise(info, one) for one in kept)
    return _part(info, b"[" + info.item + b"]", 0, head=True, ended=True, ids=ids)


class SpanItem(NamedTuple):
    """A span object, and what it stands in."""

    trace: Mapping[str, object]
    resource_spans: Mapping[str, object]
    scope_spans: Mapping[str, object]
    span: Mapping[str, object]

    @property
    def ids(self) -> tuple[str, str] | None:
        """The span's own trace id and span id, hex in lower case; None for a span that cannot be told apart.

        A span without a trace id has that of its turn.
        """
        span_id = own_id(self.span.get("spanId"))
        trace_id = own_id(self.span.get("traceId")) or usable_id(self.trace.get("id"))
        return None if span_id is None or trace_id is None else (trace_id, span_id)


def spans_of(trace: Mapping[str, object]) -> Iterator[SpanItem]:
    """Every span object of a trace."""
    for resource_spans in list_of(mapping_of(trace.get("otlp")).get("resourceSpans")):
        for scope_spans in list_of(mapping_of(resource_spans).get("scopeSpans")):
            for span in list_of(mapping_of(scope_spans).get("spans")):
                if isinstance(span, dict):
                    yield SpanItem(trace, mapping_of(resource_spans), mapping_of(scope_spans), span)


def own_id(value: object) -> str | None:
    """An OTLP id as it is compared: in lower case where it is hex; None where it is missing or all zero."""
    name = usable_id(value)
    if name is None or not name.strip("0 "):
        return None
    lower = name.strip().lower()
    return lower if all(sign in "0123456789abcdef" for sign in lower) else name


def _part(
    info: SessionInfo,
    payload: bytes,
    spans: int,
    *,
    head: bool = False,
    top_level: bool = False,
    ended: bool = False,
    ids: tuple[SpanId, ...] = (),
    parents: tuple[SpanId, ...] = (),
) -> Part:
    facts = GuestFacts(
        guest=info.session_id,
        source=Source.SESSIONS,
        host=None if info.link is None else info.link.host,
        sampled=None if info.link is None else info.link.sampled,
        head=head,
        top_level=top_level,
        ids=ids,
        parents=parents,
        ended=ended,
    )
    return Part(guest_key(info.session_id), payload, spans, guest=facts)


def _promise(info: SessionInfo, run: int) -> SpanId:
    return guest_span_id(info.session_id, f"promise {run}")


def agent_name(session: Mapping[str, object]) -> str | None:
    return text_of(mapping_of(session.get("agent")).get("name"))
