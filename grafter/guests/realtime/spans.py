"""A call's events, in whatever order and pieces they came, to one guest a session.

The state machine's memory travels in the ``head`` of the first guest, so that each release goes on where the one
before it stopped; a span leaves once, when it has ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson

from grafter.core import semconv
from grafter.core.model import Guest, GuestSpan, Link, Source
from grafter.core.policy import Content, GraftPolicy
from grafter.guests import trace_object as trace_objects
from grafter.guests.attributes import Json, bounded
from grafter.guests.json_values import mapping_of, scalar_of
from grafter.guests.realtime.content import kept
from grafter.guests.realtime.event_types import RANK
from grafter.guests.realtime.machine import Machine
from grafter.guests.realtime.naming import Naming
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.stored_event import ENDED, Side, StoredEvent, begins, in_order
from grafter.guests.source import Mapped
from grafter.guests.trace_object import TraceObject

STATE = "realtime"
"""The key of a head that holds what the state machine knows."""


def map_realtime(
    call: str,
    payloads: Sequence[bytes],
    policy: GraftPolicy,
    earlier: Mapping[str, object] | None = None,
    *,
    final: bool,
) -> tuple[Mapped, ...]:
    """Map the parts of one Realtime call, given as payloads in order of arrival: one guest a session.

    The first guest's trace id is the call's key, a further session's is ``KEY/sess_…``. ``earlier`` is the first
    guest's ``head`` of an earlier release. Spans come once: those that have ended, and with ``final``, or once the
    call is known to have ended, all. A session that nothing else has ended was ended by ``disconnect``.

    Always gives the first guest, which may have no spans yet. Notes that were read before change nothing. Never
    raises for what a payload holds.
    """
    memory = mapping_of(mapping_of(earlier).get(STATE))
    machine = Machine.restored(call, memory.get("machine"), content=policy.content is not Content.NONE)
    naming = Naming.restored(memory.get("naming"))
    spans: dict[str, list[GuestSpan]] = {}
    begun, odd = _begun(payloads)
    for stored in in_order(begun, _rank):
        # What was stored under a wider rule, before a restart with a narrower one, may not leave either.
        event = kept(stored.event, stored.side, policy.content)
        if event is None:
            continue
        stored = replace(stored, event=event)
        if stored.side is Side.GRAFTER:
            naming.take(stored)
        for ended in machine.feed(stored):
            spans.setdefault(ended.guest, []).append(ended.span)
    if final or machine.ended:
        for ended in machine.close():
            spans.setdefault(ended.guest, []).append(ended.span)

    links = mapping_of(memory.get("links"))
    # The call's own guest is there before any session is.
    sessions: dict[str, Session | None] = {call: None} | {session.guest: session for session in machine.sessions}
    found: dict[str, TraceObject] = {}
    for guest, session in sessions.items():
        used = trace_objects.remembered({"link": links.get(guest)})
        if guest == call and used.link is None:
            used = trace_objects.remembered({"link": mapping_of(earlier).get("link")})
        found[guest] = _head(naming, session, used, policy)
    # One key is one call: a session that names no host is of the host that another one names.
    shared = next((head.link for head in found.values() if head.link is not None), None)
    found = {guest: head if head.link is not None else _sharing(head, shared) for guest, head in found.items()}
    written = {guest: trace_objects.memory(head) for guest, head in found.items()}
    state = {
        "machine": machine.state(),
        "naming": naming.state(),
        "links": {guest: head["link"] for guest, head in written.items() if "link" in head},
    }
    written[call][STATE] = orjson.loads(orjson.dumps(state))
    weak = naming.weak()
    return tuple(
        Mapped(
            guest=Guest(
                trace_id=guest,
                source=Source.REALTIME,
                spans=tuple(
                    sorted(
                        (_introduced(span, found[guest], naming.clock, policy) for span in spans.get(guest, ())),
                        key=lambda span: (span.start, span.span_id),
                    )
                ),
                link=found[guest].link,
                conversation_ids=frozenset() if session is None else _ids(session),
            ),
            repeated=0,
            odd=odd if guest == call else 0,
            head=written[guest],
            weak=weak if found[guest].link is None else None,
        )
        for guest, session in sessions.items()
    )


def _rank(stored: StoredEvent) -> int:
    """Of events of one moment: what grafter says of the call first, its end last; else the order of cause."""
    kind = stored.event.get("type")
    if stored.side is Side.GRAFTER:
        return len(RANK) + 1 if kind == ENDED else -1
    return RANK.get(str(kind), len(RANK))


def _begun(payloads: Sequence[bytes]) -> tuple[list[tuple[int, bytes]], int]:
    """The payloads that hold events, each with the time of its first; and how many are no payloads."""
    begun, odd = [], 0
    for payload in payloads:
        try:
            at = begins(payload)
        except ValueError:
            odd += 1
            continue
        if at is not None:
            begun.append((at, payload))
    return begun, odd


def _head(naming: Naming, session: Session | None, used: TraceObject, policy: GraftPolicy) -> TraceObject:
    """What is known of a guest as a whole; a link that was used stays."""
    own = {} if session is None else session.config.metadata
    link, malformed = (used.link, None) if used.link is not None else naming.link(own, policy.trace_id_keys)
    return TraceObject(
        workflow_name=None if session is None else session.config.workflow,
        group_id=None if session is None else session.config.group,
        metadata=naming.merged(own) or None,
        link=link,
        malformed=malformed,
    )


def _sharing(head: TraceObject, link: Link | None) -> TraceObject:
    return head if link is None else replace(head, link=link, malformed=None)


def _introduced(span: GuestSpan, head: TraceObject, clock: Mapping[str, float], policy: GraftPolicy) -> GuestSpan:
    """The session's span with the call's metadata, and what is known of its sender's clock."""
    metadata = mapping_of(head.metadata)
    if span.parent is not None or not (metadata or clock):
        return span
    more: dict[str, Json | str | bool | int | float] = {}
    if metadata:
        more[semconv.AGENTS_TRACE_METADATA] = Json(dict(sorted(metadata.items())))
    if "ahead_ms" in clock:
        more[semconv.GRAFTER_CLOCK_AHEAD_MIN] = clock["ahead_ms"]
    if "offset_ms" in clock:
        more[semconv.GRAFTER_CLOCK_OFFSET] = clock["offset_ms"]
    for key in policy.metadata_keys:
        value = metadata.get(key)
        if value is not None:
            scalar = scalar_of(value)
            more[f"{semconv.AGENTS_TRACE_METADATA}.{key}"] = Json(value) if scalar is None else scalar
    return replace(span, attributes=(*span.attributes, *bounded(more)))


def _ids(session: Session) -> frozenset[str]:
    names = (session.id, session.name, session.conversation, session.config.group)
    return frozenset(name for name in names if name is not None)
