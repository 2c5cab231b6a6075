"""Whose time a call's waits were, said on the spans as they leave.

The waits are worked out in ``core.turns`` from what leaves together. A sentence stands on the answer that ends a wait,
what was inside a tool on the tool, and the sums on the anchor; on a span beside it, ``grafter.summary``, where the
anchor has left before. Each release speaks of its own turns only, so that sums of several add up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from grafter.core import semconv
from grafter.core.call_latency import CallerTurn, CallLatency, Side, Step
from grafter.core.caller_turns import is_evidence
from grafter.core.join import Grafted
from grafter.core.line_up import HostEdit
from grafter.core.model import (
    SPAN_KIND_INTERNAL,
    AttributeValue,
    Envelope,
    GraftedSpan,
    GuestSpan,
    HostSpan,
    SpanId,
    UnixNano,
)
from grafter.core.steps import CALL_IDS
from grafter.core.turns import latency, span_totals
from grafter.otlp.steps import service_of, step_of

_MILLISECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Told:
    """A release whose spans say whose time its waits were."""

    guests: Sequence[Grafted]
    latency: CallLatency | None
    """None: nothing is known of any wait or answer."""


def tell(
    guests: Sequence[Grafted],
    host: Sequence[HostSpan],
    runs: Iterable[tuple[Envelope, Sequence[bytes]]],
    edits: dict[SpanId, HostEdit],
    openai_service: str,
) -> Told:
    """Work out the waits of what leaves together, and add what they say to the guests' spans and to ``edits``.

    ``host``: the host's spans as they were read, ``runs`` the same serialised, in the same order.
    """
    own = _guest_steps(guests, openai_service)
    steps = [*own, *_host_steps(host, runs, edits, own)]
    found = latency(steps)
    waits = found.caller_turns if found.greeting is None else (found.greeting, *found.caller_turns)
    if not waits and not found.model_turns and found.app_ns is None:
        return Told(guests, None)
    added: dict[SpanId, list[tuple[str, AttributeValue]]] = {}
    for turn in waits:
        for span_id, name, value in _words(turn):
            added.setdefault(span_id, []).append((name, value))
    mine = {each.span.span_id for guest in guests for each in guest.spans}
    for span_id in [one for one in added if one not in mine]:
        edits.setdefault(span_id, HostEdit()).attributes += added.pop(span_id)
    summed = _anchored(guests, found, steps)
    held = {span.span_id for span in host}
    extra: dict[int, GraftedSpan] = {}
    for at, sums in summed:
        anchor = guests[at].memory.anchor
        values = [(semconv.LATENCY_MS.format(side=side), round(ns / _MILLISECOND, 3)) for side, ns in sums.items()]
        top = next((each.span.span_id for each in guests[at].spans if each.span.parent is None), None)
        if anchor is not None and anchor.span_id in held:
            edits.setdefault(anchor.span_id, HostEdit()).attributes += values
        elif top is not None and (anchor is None or anchor.how in ("unseen", "none")):
            added.setdefault(top, []).extend(values)
        else:
            extra[at] = _summary(guests[at], waits, values)
    told = [_with(guest, added, extra.get(at)) for at, guest in enumerate(guests)]
    return Told(told, found)


def _guest_steps(guests: Sequence[Grafted], openai_service: str) -> list[Step]:
    services: dict[int, str] = {}
    found = []
    for guest in guests:
        for each in guest.spans:
            span, envelope = each.span, each.envelope
            service = openai_service
            if envelope is not None:
                known = services.get(id(envelope))
                service = services[id(envelope)] = service_of(envelope.resource) if known is None else known
            found.append(
                Step(
                    span.span_id,
                    each.parent_span_id,
                    span.name,
                    service,
                    span.kind,
                    span.start,
                    span.end,
                    bool(span.status_code),
                    {key: value for key, value in each.attributes if not isinstance(value, tuple)},
                )
            )
    return found


def _host_steps(
    host: Sequence[HostSpan],
    runs: Iterable[tuple[Envelope, Sequence[bytes]]],
    edits: Mapping[SpanId, HostEdit],
    guests: Sequence[Step],
) -> Iterator[Step]:
    """The host's spans that may say something: those with attributes that are read, and all under a tool, whole."""
    if not host:
        return
    everything = not any(is_evidence(step) for step in guests)
    whole = _under_tools(host, edits, guests)
    services: dict[int, str] = {}
    raws = (raw for _, run in runs for raw in run)
    for span, raw in zip(host, raws, strict=True):
        inside = span.span_id in whole
        if not (everything or inside or span.attributes):
            continue
        service = services.get(id(span.envelope))
        if service is None:
            service = services[id(span.envelope)] = service_of(span.envelope.resource)
        edit = edits.get(span.span_id)
        parent = span.parent_span_id if edit is None or edit.parent is None else edit.parent
        step = step_of(raw, service) if inside else None
        if step is not None:
            yield replace(step, parent=parent)
            continue
        attributes = {key: value for key, value in span.attributes.items() if not isinstance(value, tuple)}
        yield Step(span.span_id, parent, span.name, service, 0, span.start, span.end, False, attributes)


def _under_tools(host: Sequence[HostSpan], edits: Mapping[SpanId, HostEdit], guests: Iterable[Step]) -> set[bytes]:
    """The host's spans of tools and everything below them."""
    tools = {step.span_id for step in guests if semconv.GEN_AI_TOOL_NAME in step.attributes}
    children: dict[bytes, list[bytes]] = {}
    open_: list[bytes] = []
    for span in host:
        edit = edits.get(span.span_id)
        parent = span.parent_span_id if edit is None or edit.parent is None else edit.parent
        children.setdefault(parent, []).append(span.span_id)
        if parent in tools or (span.attributes and any(key in span.attributes for key in CALL_IDS)):
            open_.append(span.span_id)
    found: set[bytes] = set()
    while open_:
        span_id = open_.pop()
        if span_id not in found:
            found.add(span_id)
            open_ += children.get(span_id, ())
    return found


def _words(turn: CallerTurn) -> Iterator[tuple[SpanId, str, AttributeValue]]:
    """What one wait says, and on which span."""
    wait = semconv.CALLER_WAIT if turn.number else semconv.GREETING
    yield SpanId(turn.answer), semconv.WAIT_SENTENCE.format(wait=wait), turn.sentence
    if turn.answer_audio_ns is not None:
        yield SpanId(turn.last_answer), semconv.ANSWER_AUDIO_MS, round(turn.answer_audio_ns / _MILLISECOND, 3)
    for part in turn.parts:
        inside: dict[str, int] = {}
        for one in part.within:
            inside[one.name] = inside.get(one.name, 0) + one.ns
        for name, ns in inside.items():
            yield SpanId(part.span_id), semconv.TOOL_PART_MS.format(part=name), round(ns / _MILLISECOND, 3)


def _anchored(
    guests: Sequence[Grafted], found: CallLatency, steps: Sequence[Step]
) -> Iterator[tuple[int, Mapping[Side, int]]]:
    """The sums of each anchor, with the first guest that hangs there."""
    groups: dict[bytes | None, list[int]] = {}
    for at, guest in enumerate(guests):
        if guest.spans:
            anchor = guest.memory.anchor
            groups.setdefault(None if anchor is None else anchor.span_id, []).append(at)
    if len(groups) == 1:
        yield from _sums(next(iter(groups.values()))[0], (found.app_ns, found.openai_ns, found.unknown_ns))
        return
    waits = found.caller_turns if found.greeting is None else (found.greeting, *found.caller_turns)
    spans = {each.span.span_id: at for at, guest in enumerate(guests) for each in guest.spans}
    for members in groups.values():
        own = [turn for turn in waits if spans.get(SpanId(turn.answer)) in members]
        sums = span_totals(own)
        if not waits:
            alone = latency([step for step in steps if spans.get(SpanId(step.span_id)) in (None, *members)])
            sums = alone.app_ns, alone.openai_ns, alone.unknown_ns
        yield from _sums(members[0], sums)


def _sums(at: int, sums: tuple[int | None, int | None, int | None]) -> Iterator[tuple[int, Mapping[Side, int]]]:
    named = zip((Side.APP, Side.OPENAI, Side.UNKNOWN), sums, strict=True)
    known = {side: ns for side, ns in named if ns is not None}
    if known:
        yield at, known


def _summary(guest: Grafted, waits: Sequence[CallerTurn], values: Sequence[tuple[str, AttributeValue]]) -> GraftedSpan:
    """A span for what its anchor can no longer say. Its id is that of the spans that it sums up, so that the same
    release makes the same span, and another one another."""
    anchor, first = guest.memory.anchor, guest.spans[0]
    ids = b"".join(sorted(each.span.span_id for each in guest.spans))
    digest = sha256(semconv.SUMMARY.encode() + first.trace_id + ids).digest()[:8]
    starts = [turn.start for turn in waits] or [each.span.start for each in guest.spans]
    ends = [turn.end for turn in waits] or [each.span.end for each in guest.spans]
    attributes = ((semconv.GRAFTER_SYNTHETIC, True), *values)
    span = GuestSpan(
        span_id=SpanId(digest if any(digest) else b"\0\0\0\0\0\0\0\1"),
        parent=None,
        parent_name="",
        name=semconv.SUMMARY,
        kind=SPAN_KIND_INTERNAL,
        start=UnixNano(min(starts)),
        end=UnixNano(max(ends)),
        attributes=attributes,
    )
    parent = b"" if anchor is None or anchor.span_id is None else anchor.span_id
    envelope = None if anchor is None else anchor.envelope
    return GraftedSpan(span, first.trace_id, parent, first.trace_state, first.flags, envelope, attributes)


def _with(
    guest: Grafted, added: Mapping[SpanId, Sequence[tuple[str, AttributeValue]]], summary: GraftedSpan | None
) -> Grafted:
    spans = tuple(
        each if (more := added.get(each.span.span_id)) is None else replace(each, attributes=(*each.attributes, *more))
        for each in guest.spans
    )
    if summary is None:
        return replace(guest, spans=spans)
    return replace(guest, spans=(*spans, summary), synthetic=guest.synthetic + 1)
