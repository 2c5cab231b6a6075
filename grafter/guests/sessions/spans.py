"""A session's turns, as OTLP JSON in whatever order they came, to spans of one guest.

The spans are OpenTelemetry's already, in words that nobody has documented: names, kinds, times, attributes, events and
status stay as they are. grafter adds ids, the session's metadata at the top, and keeps under ``openai.agents.extra``
what has no place on a span. A span that comes again, later and fuller, replaces the one before; which of two it is
does not depend on the order.
"""

import re
from collections.abc import Mapping, Sequence

from grafter.core import semconv
from grafter.core.model import (
    SPAN_KIND_INTERNAL,
    STATUS_ERROR,
    STATUS_UNSET,
    AttributeValue,
    Guest,
    GuestSpan,
    Source,
    SpanEvent,
    SpanLink,
    UnixNano,
    guest_span_id,
)
from grafter.core.policy import GraftPolicy
from grafter.guests import trace_object as trace_objects
from grafter.guests.agents.intake import read_payload
from grafter.guests.attributes import ATTRIBUTE_BYTES, NAME_BYTES, Json, bounded, cut_text
from grafter.guests.json_values import (
    MAX_DEPTH,
    canonical,
    list_of,
    mapping_of,
    names_of,
    nanoseconds,
    number_of,
    scalar_of,
    span_times,
    text_of,
)
from grafter.guests.sessions.content import clean_session, clean_trace
from grafter.guests.sessions.intake import SESSION, TRACE, SpanItem, agent_name, own_id, spans_of
from grafter.guests.source import Mapped
from grafter.guests.trace_object import TraceObject

_MOST_ATTRIBUTES = 1_000
_MOST_EVENTS = 1_000
_LONGEST_KEY = 256

_KINDS = {
    "SPAN_KIND_INTERNAL": 1,
    "SPAN_KIND_SERVER": 2,
    "SPAN_KIND_CLIENT": 3,
    "SPAN_KIND_PRODUCER": 4,
    "SPAN_KIND_CONSUMER": 5,
}
_ERRORS = (STATUS_ERROR, "STATUS_CODE_ERROR")
_READ = frozenset(
    {
        "traceId",
        "spanId",
        "parentSpanId",
        "name",
        "kind",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "attributes",
        "events",
        "links",
        "status",
    }
)
_INTEGER = re.compile(r"-?[0-9]{1,20}")

_Id = tuple[str, str]
"""A span's own trace id and span id."""


def map_session(
    session_id: str, payloads: Sequence[bytes], policy: GraftPolicy, earlier: Mapping[str, object] | None = None
) -> Mapped:
    """Map the parts of one session, given as payloads in order of arrival; ``earlier`` as for ``map_guest``.

    Never raises for what a payload holds.
    """
    head = trace_objects.remembered(earlier)
    found: dict[_Id, SpanItem] = {}
    repeated = odd = 0
    for payload in payloads:
        try:
            items = read_payload(payload)
        except ValueError:
            odd += 1
            continue
        for item in items:
            if item.get("object") == SESSION:
                head = _introduced_by(head, clean_session(item), policy)
            elif item.get("object") == TRACE:
                # What was stored under a wider rule, before a restart with a narrower one, may not leave either.
                for each in spans_of(clean_trace(item, policy.content)):
                    identity = each.ids
                    if identity is None:
                        odd += 1
                    elif identity in found:
                        repeated += 1
                        found[identity] = max(found[identity], each, key=_fullness)
                    else:
                        found[identity] = each
            else:
                odd += 1
    guest = Guest(
        trace_id=session_id,
        source=Source.SESSIONS,
        spans=tuple(
            sorted(
                (_span(session_id, identity, found, head, policy) for identity in found),
                key=lambda span: (span.start, span.span_id),
            )
        ),
        link=head.link,
        conversation_ids=frozenset({session_id}),
        one_trace=False,
    )
    return Mapped(guest=guest, repeated=repeated, odd=odd, head=trace_objects.memory(head))


def _introduced_by(head: TraceObject, session: Mapping[str, object], policy: GraftPolicy) -> TraceObject:
    more = {key: value for key, value in session.items() if key in ("agent", "created_at")}
    introduced = {"metadata": session.get("metadata"), "workflow_name": agent_name(session), **more}
    return head.merged(introduced, policy.trace_id_keys)


def _fullness(each: SpanItem) -> tuple[int, int, bytes]:
    """A span that is sent again mostly says more: it ended later, or has more to tell."""
    content = canonical(
        [each.span, each.trace.get("id"), each.resource_spans.get("resource"), each.scope_spans.get("scope")]
    )
    return _time(each.span.get("endTimeUnixNano")) or 0, len(list_of(each.span.get("attributes"))), content


def _span(
    session_id: str, identity: _Id, found: Mapping[_Id, SpanItem], head: TraceObject, policy: GraftPolicy
) -> GuestSpan:
    item = found[identity]
    span = item.span
    trace_id, span_id = identity
    parent = own_id(span.get("parentSpanId"))
    made = nanoseconds(item.trace.get("created_at"))
    unknown = UnixNano(max(made or 0, 0))
    start, end, odd_time = span_times(_time(span.get("startTimeUnixNano")), _time(span.get("endTimeUnixNano")), unknown)
    extra: dict[str, object] = {key: value for key, value in span.items() if key not in _READ and _is_set(value)}
    draft, left_out = _attributes(span.get("attributes"))
    if left_out:
        extra["attributes"] = left_out
    draft.setdefault(semconv.GEN_AI_CONVERSATION_ID, session_id)
    draft[semconv.GRAFTER_GUEST_TRACE_ID] = trace_id
    draft[semconv.GRAFTER_GUEST_SPAN_ID] = span_id
    links, elsewhere = _links(span.get("links"), found)
    if elsewhere:
        extra["links"] = elsewhere
    kept: dict[str, object] = {"span": extra} if extra else {}
    if parent is None:
        kept.update(_surroundings(item, head))
        draft.update(trace_objects.introduction(head, policy.metadata_keys))
    if kept:
        draft[semconv.AGENTS_EXTRA] = Json(dict(sorted(kept.items())))
    if odd_time:
        draft[semconv.GRAFTER_ODD_TIME] = True
    if end < start:
        draft[semconv.GRAFTER_TIME_ODD] = True
    status = mapping_of(span.get("status"))
    failed = status.get("code") in _ERRORS
    kind = span.get("kind")
    number = _KINDS.get(kind, 0) if isinstance(kind, str) else kind if isinstance(kind, int) else 0
    return GuestSpan(
        span_id=guest_span_id(trace_id, span_id),
        parent=None if parent is None else guest_span_id(trace_id, parent),
        parent_name=parent or "",
        name=cut_text(text_of(span.get("name")) or "unnamed", NAME_BYTES),
        kind=int(number) if 1 <= number <= len(_KINDS) else SPAN_KIND_INTERNAL,
        start=start,
        end=end,
        attributes=bounded(draft),
        status_code=STATUS_ERROR if failed else STATUS_UNSET,
        status_message=cut_text(text_of(status.get("message")) or "", ATTRIBUTE_BYTES) if failed else "",
        links=links,
        events=_events(span.get("events"), start),
    )


def _surroundings(item: SpanItem, head: TraceObject) -> dict[str, object]:
    """What stood around a turn's spans and has no place on one: stated once, at its top."""
    found: dict[str, object] = {}
    turn = {key: value for key, value in item.trace.items() if key not in ("object", "otlp") and _is_set(value)}
    otlp = mapping_of(item.trace.get("otlp"))
    turn.update({key: value for key, value in otlp.items() if key != "resourceSpans" and _is_set(value)})
    if turn:
        found["trace"] = turn
    for name, around, inside in (
        ("resource", item.resource_spans, "scopeSpans"),
        ("scope", item.scope_spans, "spans"),
    ):
        thing = dict(mapping_of(around.get(name)))
        named = {key: _plain(value) for key, value in _pairs(thing.pop("attributes", None))}
        around_it = {key: value for key, value in around.items() if key not in (name, inside)}
        kept = {key: value for key, value in {**named, **thing, **around_it}.items() if _is_set(value)}
        if kept:
            found[name] = kept
    if head.extra:
        found["session"] = dict(head.extra)
    return found


def _attributes(value: object) -> tuple[dict[str, AttributeValue | Json], int]:
    """The attributes as they are, and how many there was no room for."""
    kept: dict[str, AttributeValue | Json] = {}
    left_out = 0
    for key, member in _pairs(value):
        plain = _plain(member)
        if plain is None:
            continue
        if key not in kept and (len(kept) >= _MOST_ATTRIBUTES or len(key) > _LONGEST_KEY):
            left_out += 1
            continue
        scalar = scalar_of(plain)
        names = names_of(plain)
        kept[key] = scalar if scalar is not None else names if names is not None else Json(plain)
    return kept, left_out


def _pairs(value: object) -> list[tuple[str, object]]:
    pairs = []
    for member in list_of(value):
        key = text_of(mapping_of(member).get("key"))
        if key is not None:
            pairs.append((key, mapping_of(member).get("value")))
    return pairs


def _plain(value: object, depth: int = MAX_DEPTH) -> object:
    """An AnyValue as the value that it stands for; None where there is none."""
    if not isinstance(value, dict):
        return value
    if depth <= 0:
        return None
    for kind, member in value.items():
        match kind:
            case "stringValue":
                return member if isinstance(member, str) else None
            case "boolValue":
                return member if isinstance(member, bool) else None
            case "intValue":
                return number_of(int(member) if isinstance(member, str) and _INTEGER.fullmatch(member) else member)
            case "doubleValue":
                return number_of(member)
            case "arrayValue":
                return [_plain(each, depth - 1) for each in list_of(mapping_of(member).get("values"))]
            case "kvlistValue":
                pairs = _pairs(mapping_of(member).get("values"))
                return {key: _plain(each, depth - 1) for key, each in pairs}
    return None


def _links(value: object, spans: Mapping[_Id, SpanItem]) -> tuple[tuple[SpanLink, ...], list[object]]:
    """Links to spans of the session, and those to other places, whose ids mean nothing in the host's trace."""
    links: list[SpanLink] = []
    elsewhere: list[object] = []
    for member in list_of(value)[:_MOST_EVENTS]:
        link = mapping_of(member)
        target = (own_id(link.get("traceId")) or "", own_id(link.get("spanId")) or "")
        if target in spans:
            attributes, _ = _attributes(link.get("attributes"))
            links.append(SpanLink(guest_span_id(*target), bounded(attributes)))
        else:
            elsewhere.append(member)
    return tuple(links), elsewhere


def _events(value: object, start: UnixNano) -> tuple[SpanEvent, ...]:
    events = []
    for member in list_of(value)[:_MOST_EVENTS]:
        event = mapping_of(member)
        at, _, _ = span_times(_time(event.get("timeUnixNano")), None, start)
        attributes, _ = _attributes(event.get("attributes"))
        events.append(SpanEvent(at, cut_text(text_of(event.get("name")) or "unnamed", NAME_BYTES), bounded(attributes)))
    return tuple(events)


def _time(value: object) -> int | None:
    """A time in nanoseconds: OTLP JSON writes 64 bits as a string, some as a number. Zero is no time."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    number = number_of(value)
    return int(number) if number is not None and number > 0 else None


def _is_set(value: object) -> bool:
    return value is not None and value != "" and value != [] and value != {}
