"""Whose time a call's waits were, said on the spans as they leave.

The waits are worked out in ``core.turns`` from what leaves together. A sentence stands on the answer that ends a wait,
what was inside a tool on the tool, and the sums on the anchor; on a span beside it, ``grafter.summary``, where the
anchor has left before. Nothing is summed up twice: what is said is of turns that no span has summed up before, and once
waits have been summed up no runs of agents are, nor the other way round, for they may lie within each other. In stream
mode the sums of a call are kept until its session's own span leaves, which ends last.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import cast

from grafter.core import semconv
from grafter.core.call_latency import CallerTurn, CallLatency, Scalar, Side, Step
from grafter.core.caller_turns import heard_of_frameworks, is_evidence, waits_for_tool
from grafter.core.join import Grafted
from grafter.core.line_up import HostEdit
from grafter.core.model import (
    SPAN_KIND_INTERNAL,
    AttributeValue,
    GraftedSpan,
    GuestSpan,
    HostSpan,
    Source,
    SpanId,
    UnixNano,
)
from grafter.core.policy import GraftPolicy, Mode
from grafter.core.steps import CALL_IDS
from grafter.core.turns import latency, span_totals
from grafter.otlp.reading import service_of
from grafter.processor.hung_guests import Hung

SUMS = "waits"
"""The key of a guest's memory that holds its sums, in ns, until some span says them: the app's, OpenAI's, unknown.
Empty once its own span has left in stream mode: what comes after that is said at once."""

WAITS, RUNS = "waits", "runs"
"""What sums are of."""

_Sums = tuple[int | None, int | None, int | None]
_MILLISECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Latencies:
    """The guests of a release with their waits as attributes, and the latency they were worked out of."""

    guests: Sequence[Grafted]
    latency: CallLatency | None
    """None: nothing is known of any wait or answer."""
    summed: str = ""
    """WAITS or RUNS, where some span says sums of them."""


def with_latencies(
    hung: Sequence[Hung],
    guests: Sequence[Grafted],
    host: Sequence[HostSpan],
    edits: dict[SpanId, HostEdit],
    policy: GraftPolicy,
    before: str = "",
) -> Latencies:
    """Work out the waits of what leaves together, and add them as attributes to the guests' spans and to ``edits``.

    ``guests``: those of ``hung``, lined up. ``host``: the host's spans as they were read. ``before``: what those sums
    are of that have left with the trace before.
    """
    own = _guest_steps(guests, policy.openai_service_name)
    steps = [*own, *_host_steps(host, edits, own)]
    steps += _anchor_steps(guests, {step.span_id for step in steps})
    whole = policy.mode is Mode.HOLD and all(one.first for one in hung)
    found = latency(steps, whole=whole)
    waits = (*found.greetings, *found.caller_turns)
    pending = any(_pending(guest)[0] is not None or _ends(guest, policy) for guest in guests)
    if not (waits or found.model_turns or pending or found.app_ns is not None):
        return Latencies(guests, None)
    added: dict[SpanId, list[tuple[str, AttributeValue]]] = {}
    for turn in waits:
        for span_id, name, value in _words(turn):
            added.setdefault(span_id, []).append((name, value))
    mine = {each.span.span_id: at for at, guest in enumerate(guests) for each in guest.spans}
    for span_id in [one for one in added if one not in mine]:
        edits.setdefault(span_id, HostEdit()).attributes += added.pop(span_id)
    stated = list(guests)
    held = {span.span_id for span in host}
    # Waits that the host itself states are said once, with the first guest's.
    first_at = next((at for at, guest in enumerate(guests) if guest.spans), 0)
    summed = ""
    for members in _by_anchor(guests):
        anchor = guests[members[0]].memory.anchor
        place = None if anchor is None else anchor.span_id
        sums: list[_Sums] = []
        for at in members:
            turns = [turn for turn in waits if mine.get(SpanId(turn.answer), first_at) == at]
            so_far = _added([_pending(guests[at]), span_totals(turns)])
            # What leaves in pieces has its own span last; what comes after that, or whole, is summed up at once.
            ended = _ends(guests[at], policy) or guests[at].memory.head.get(SUMS) == []
            last = policy.mode is Mode.HOLD or place in held or _top(guests[at]) is not None or ended
            stated[at] = _keeping(stated[at], None if last else so_far, ended=ended)
            if last and before != RUNS:
                sums.append(so_far)
        if not waits and whole and before != WAITS:
            sums.append(_of_runs(members, guests, found, steps, mine))
        values = _values(_added(sums))
        if not values:
            continue
        summed = WAITS if waits or not whole else RUNS
        top = next(filter(None, (_top(guests[at]) for at in members)), None)
        if place in held:
            edits.setdefault(SpanId(place or b""), HostEdit()).attributes += values
        elif top is not None and (anchor is None or anchor.how in ("unseen", "none")):
            added.setdefault(top, []).extend(values)
        else:
            first = stated[members[0]]
            own_waits = [turn for turn in waits if mine.get(SpanId(turn.answer), first_at) in members]
            summary = _summary(first, own_waits, values)
            stated[members[0]] = replace(first, spans=(*first.spans, summary), synthetic=first.synthetic + 1)
    return Latencies([_with(guest, added) for guest in stated], found, summed)


def _by_anchor(guests: Sequence[Grafted]) -> Iterable[list[int]]:
    groups: dict[bytes | None, list[int]] = {}
    for at, guest in enumerate(guests):
        if guest.spans:
            anchor = guest.memory.anchor
            groups.setdefault(None if anchor is None else anchor.span_id, []).append(at)
    return groups.values()


def _top(guest: Grafted) -> SpanId | None:
    """The guest's first span, where it leaves now."""
    return next((each.span.span_id for each in guest.spans if each.span.parent is None), None)


def _pending(guest: Grafted) -> _Sums:
    match guest.memory.head.get(SUMS):
        case [int(app), int(openai), int(unknown)]:
            return app, openai, unknown
    return None, None, None


def _ends(guest: Grafted, policy: GraftPolicy) -> bool:
    """A call that leaves in pieces, and its own span now."""
    return policy.mode is Mode.STREAM and guest.record.source == Source.REALTIME and _top(guest) is not None


def _keeping(guest: Grafted, sums: _Sums | None, *, ended: bool) -> Grafted:
    """The guest with these sums to remember; None: with none."""
    head: dict[str, object] = {key: value for key, value in guest.memory.head.items() if key != SUMS}
    if sums is not None and sums[0] is not None:
        head[SUMS] = list(sums)
    elif ended:
        head[SUMS] = []
    return guest if head == guest.memory.head else replace(guest, memory=replace(guest.memory, head=head))


def _added(sums: Iterable[_Sums]) -> _Sums:
    known = [one for one in sums if one[0] is not None]
    if not known:
        return None, None, None
    app, openai, unknown = (sum(filter(None, column)) for column in zip(*known, strict=True))
    return app, openai, unknown


def _of_runs(
    members: Sequence[int],
    guests: Sequence[Grafted],
    found: CallLatency,
    steps: Sequence[Step],
    mine: Mapping[SpanId, int],
) -> _Sums:
    """The sums of agents' runs, of these guests alone where there are others elsewhere."""
    if sum(bool(guest.spans) for guest in guests) > len(members):
        found = latency([step for step in steps if mine.get(SpanId(step.span_id)) in (None, *members)])
    return found.app_ns, found.openai_ns, found.unknown_ns


def _values(sums: _Sums) -> list[tuple[str, AttributeValue]]:
    named = zip((Side.APP, Side.OPENAI, Side.UNKNOWN), sums, strict=True)
    return [(semconv.LATENCY_MS.format(side=side), round(ns / _MILLISECOND, 3)) for side, ns in named if ns is not None]


def _guest_steps(guests: Sequence[Grafted], openai_service: str) -> list[Step]:
    """The guests' spans. Lists stay among their attributes, here and below: nobody reads a time from one."""
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
                    cast("Mapping[str, Scalar]", each.named),
                )
            )
    return found


def _host_steps(host: Sequence[HostSpan], edits: Mapping[SpanId, HostEdit], guests: Sequence[Step]) -> Iterator[Step]:
    """The host's spans that may say something: those with attributes that are read, and, where a caller waited for a
    tool, all under it."""
    if not host:
        return
    everything = heard_of_frameworks(host) and not any(map(is_evidence, guests))
    inside = _under_tools(host, edits, guests) if any(map(waits_for_tool, guests)) else frozenset()
    services: dict[int, str] = {}
    for span in host:
        if not (everything or span.attributes or span.span_id in inside):
            continue
        service = services.get(id(span.envelope))
        if service is None:
            service = services[id(span.envelope)] = service_of(span.envelope.resource)
        edit = edits.get(span.span_id)
        parent = span.parent_span_id if edit is None or edit.parent is None else edit.parent
        attributes = cast("Mapping[str, Scalar]", span.attributes)
        yield Step(span.span_id, parent, span.name, service, span.kind, span.start, span.end, False, attributes)


def _anchor_steps(guests: Iterable[Grafted], known: set[bytes]) -> Iterator[Step]:
    """The spans under which guests hang, where they say nothing themselves or have left before: whose process measured
    a guest is told by theirs. Without times, so that no figure is made of them."""
    for guest in guests:
        anchor = guest.memory.anchor
        if anchor is None or anchor.span_id is None or anchor.envelope is None or anchor.span_id in known:
            continue
        known.add(anchor.span_id)
        yield Step(anchor.span_id, b"", "", service_of(anchor.envelope.resource), 0, 0, 0, False, {})


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
    yield SpanId(turn.answer), wait.sentence, turn.sentence
    if turn.answer_audio_ns is not None:
        yield SpanId(turn.last_answer), semconv.ANSWER_AUDIO_MS, round(turn.answer_audio_ns / _MILLISECOND, 3)
    for part in turn.parts:
        inside: dict[str, int] = {}
        for one in part.within:
            inside[one.name] = inside.get(one.name, 0) + one.ns
        for name, ns in inside.items():
            yield SpanId(part.span_id), semconv.TOOL_PART_MS.format(part=name), round(ns / _MILLISECOND, 3)


def _summary(guest: Grafted, waits: Sequence[CallerTurn], values: Sequence[tuple[str, AttributeValue]]) -> GraftedSpan:
    """A span for what its anchor can no longer say. Its id is that of the spans that it sums up, so that the same
    release makes the same span, and another one another."""
    anchor, first = guest.memory.anchor, guest.spans[0]
    ids = b"".join(sorted(each.span.span_id for each in guest.spans))
    digest = sha256(semconv.SUMMARY.encode() + first.trace_id + ids).digest()[:8]
    # Moments of a wait are stated by the guest's own clock, its spans drawn by the host's.
    ahead = 0 if guest.record.clock is None else guest.record.clock.offset
    starts = [turn.start - ahead for turn in waits] or [each.span.start for each in guest.spans]
    ends = [turn.end - ahead for turn in waits] or [each.span.end for each in guest.spans]
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
    parent = first.parent_span_id if anchor is None or anchor.span_id is None else anchor.span_id
    envelope = None if anchor is None else anchor.envelope
    return GraftedSpan(span, first.trace_id, parent, first.trace_state, first.flags, envelope, attributes)


def _with(guest: Grafted, added: Mapping[SpanId, Sequence[tuple[str, AttributeValue]]]) -> Grafted:
    mine = [each.span.span_id in added for each in guest.spans]
    if not any(mine):
        return guest
    spans = [
        each.with_attributes((*each.attributes, *added[each.span.span_id])) if more else each
        for each, more in zip(guest.spans, mine, strict=True)
    ]
    return replace(guest, spans=tuple(spans))
