"""A call that stands in several traces: at which hop each of them broke off.

That two traces begin with one id of a call, run at the same time and name each other by no link is the proof. At which
hop it happened is read from what asked the later one to begin, else from the message of the earlier one that nobody
takes up; where neither tells, it is said that nothing does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from grafter.calls.ids import SINGLE_KINDS
from grafter.core.joined_steps import word
from grafter.core.policy import SECOND
from grafter.doctor.hops import (
    CLIENT,
    CONSUMER,
    HOPS,
    RECEIVED,
    SERVER,
    destination,
    lines,
    messaging,
    receives,
    sends,
)
from grafter.doctor.model import Call, Finding, Spanned, Trace, Weight, evidence

_GAP = 60 * SECOND
"""A call may ring so long without a span. What begins later is somebody who looks at the call, or its bill."""
_CLOCKS = 2 * SECOND
"""By how much the clocks of two services may differ where no other evidence is."""
_MOST = 20
"""Traces that one call falls into. An id that more of them have is an app's default, and names no call."""
_ONE_A_LEG = {"twilio", "livekit_call", "pipecat"}
"""Kinds of ids of which no other leg has the same one. A SIP Call-ID and a session of OpenAI's are new behind each
bridge."""
_CARRIERS = {"twilio", "telnyx", "sip", "websocket", "webrtc", "edge"}
"""Hops of which the sender leaves no span of its own."""


@dataclass
class _Break:
    senders: list[Spanned] = field(default_factory=list)
    receivers: list[Spanned] = field(default_factory=list)
    inferred: bool = False
    weight: Weight = Weight.FAULT


def parted(call: Call) -> Iterator[Finding]:
    """One finding a hop, with every trace that begins behind it."""
    traces = [trace for trace in call.app_traces if named(call, trace)]
    groups = _tied(traces)
    if not 1 < len(groups) <= _MOST:
        return
    ends = open_ends(call)
    main = min(groups, key=lambda group: (_starts_at_a_hop(group[0]), group[0].start))
    breaks: dict[tuple[str, Weight], _Break] = {}
    for group in groups:
        part = group[0]
        others = [other for each in groups if each is not group for other in each]
        # A trace without its root was begun elsewhere, and what is missing of it is another matter.
        if group is main or part.root is None or not _at_the_same_time(part, others):
            continue
        if _goes_on_inside(part, others) or not any(_of_one_leg(call, part, other) for other in others):
            continue
        found = _hop(call, part, others, ends)
        if found is None:
            continue
        hop, sender, inferred = found
        # An app's page may ask for something of the call while it runs, and is no part of it.
        doubted = hop == "call" and part.root.step.kind == SERVER
        weight = Weight.DOUBT if doubted else Weight.FAULT
        one = breaks.setdefault((hop, weight), _Break(weight=weight))
        one.receivers.append(part.root)
        one.inferred |= inferred
        if sender is not None and sender not in one.senders:
            one.senders.append(sender)
    for (hop, _), one in breaks.items():
        yield _finding(call, hop, one, main[0])


def _of_one_leg(call: Call, one: Trace, other: Trace) -> bool:
    """They share an id, and none of them says that it is of another leg, or of another call."""
    mine, theirs = named(call, one), named(call, other)
    shared = {call.ids[each] for each in mine & theirs}
    apart = {
        kind
        for kind in SINGLE_KINDS
        if (own := {each for each in mine if call.ids[each] == kind})
        and (others := {each for each in theirs if call.ids[each] == kind})
        and own != others
    }
    return bool(shared) and not apart & (shared | _ONE_A_LEG)


def named(call: Call, trace: Trace) -> frozenset[str]:
    """The ids of the call that stand on the trace's root, or on any span of it where its root has none."""

    def on(spans: Sequence[Spanned]) -> frozenset[str]:
        return frozenset(
            value
            for span in spans
            for value in span.step.attributes.values()
            if isinstance(value, str) and value in call.ids
        )

    return (on([trace.root]) if trace.root is not None else frozenset()) or on(trace.app)


def open_ends(call: Call) -> list[Spanned]:
    """Spans that sent a message from which nothing goes on elsewhere, by start."""
    return [
        span
        for trace in call.app_traces
        for span in trace.app
        if (hop := sends(span)) and not _goes_on(call, span, hop)
    ]


def _goes_on(call: Call, span: Spanned, hop: str) -> bool:
    """Somebody took it up: under the span itself, or under the one around it, whose context the message then had."""
    if any(
        other.step.kind in (SERVER, CONSUMER) or other.remote or other.step.service != span.step.service
        for other in call.beneath.get(span.step.span_id, ())
    ):
        return True
    return any(
        other.step.kind in (SERVER, CONSUMER) and receives(other) in (hop, "queue", "") and _agrees(span, other)
        for other in call.beneath.get(span.step.parent, ())
        if other is not span
    )


def _tied(traces: Sequence[Trace]) -> list[list[Trace]]:
    """Traces that name each other by a link are one on purpose: a retry, a run that was put off. By start."""
    groups: list[list[Trace]] = []
    for trace in traces:
        linked = {trace_id for span in trace.spans for trace_id, _ in span.links}
        own = [
            group
            for group in groups
            if any(
                other.trace_id in linked
                or any(link == trace.trace_id for span in other.spans for link, _ in span.links)
                for other in group
            )
        ]
        groups = [group for group in groups if group not in own]
        groups.append(sorted([trace, *(one for group in own for one in group)], key=lambda one: one.start))
    return sorted(groups, key=lambda group: group[0].start)


def _goes_on_inside(part: Trace, others: Sequence[Trace]) -> bool:
    """The instrumentation of a server has begun it, and the program in it went on with the call: ``twilio_webhook`` in
    a web framework. Nothing is lost but that one span."""
    root = part.root
    assert root is not None
    return root.step.kind == SERVER and any(
        span.step.kind == SERVER
        and span.step.service == root.step.service
        and root.step.start <= span.step.start
        and span.step.end <= root.step.end
        for other in others
        for span in other.app
    )


def _starts_at_a_hop(trace: Trace) -> bool:
    """Something that takes up a context was to begin it; the call's own trace begins by itself."""
    return trace.root is not None and receives(trace.root) not in ("", "twilio", "telnyx", "sip")


def _at_the_same_time(part: Trace, others: Sequence[Trace]) -> bool:
    """It begins while the rest of the call runs, which may be silent for a while."""
    end = 0
    for other in sorted(others, key=lambda one: one.start):
        if end and other.start > end + _GAP:
            break
        end = max(end, other.end)
    return min(other.start for other in others) - _CLOCKS <= part.start <= end + _GAP


def _hop(
    call: Call, part: Trace, others: Sequence[Trace], ends: Sequence[Spanned]
) -> tuple[str, Spanned | None, bool] | None:
    """The hop, who sent, and whether the hop is only concluded from who sent; None where it may be no loss at all."""
    root = part.root
    assert root is not None
    hop = receives(root)
    before = [span for span in ends if span.trace_id != part.trace_id and span.step.start <= root.step.start + _CLOCKS]
    if hop in _CARRIERS:
        return hop, None, False
    if hop:
        fits = [span for span in before if (hop == "queue" or sends(span) == hop) and _agrees(span, root)]
        sender = fits[-1] if fits else None
        return (sends(sender) if sender is not None and hop == "queue" else hop), sender, False
    if root.step.kind == SERVER:
        client = _client(root, others)
        if client is not None:
            return "http", client, False
        # Somebody may look at a call while it runs.
        reads = word(root.step, "http.request.method", "http.method").upper() in ("GET", "HEAD")
        return None if reads else ("call", None, False)
    before = sorted((*before, *_handed_out(call, root, others)), key=lambda span: span.step.start)
    hops = {messaging(span) or sends(span) for span in before}
    if len(hops) == 1:
        return hops.pop(), before[-1], True
    return "call", None, False


def _handed_out(call: Call, root: Spanned, others: Sequence[Trace]) -> list[Spanned]:
    """Messages that were handed to a program before it began, with nothing done under them: an iterator's."""
    return [
        span
        for trace in others
        for span in trace.app
        if span.step.kind == CONSUMER
        and span.step.start <= root.step.start + _CLOCKS
        and not call.beneath.get(span.step.span_id)
    ]


def _agrees(sender: Spanned, receiver: Spanned) -> bool:
    """Both name one queue, or one of them names none."""
    to, at = destination(sender), destination(receiver)
    return not (to and at) or to == at


def _client(server: Spanned, others: Sequence[Trace]) -> Spanned | None:
    """Who asked, where a span says that it asked just that, while the server answered."""
    method = word(server.step, "http.request.method", "http.method").upper()
    path = _path(server)
    for trace in others:
        for span in trace.app:
            step = span.step
            if (
                step.kind == CLIENT
                and word(step, "http.request.method", "http.method").upper() == method
                and path
                and _path(span) == path
                and step.start - _CLOCKS <= server.step.start <= step.end + _CLOCKS
            ):
                return span
    return None


def _path(span: Spanned) -> str:
    """Of its address, without host and question."""
    url = word(span.step, "url.full", "http.url") or word(span.step, "url.path", "http.target", "http.route")
    return "/" + url.partition("?")[0].split("://")[-1].partition("/")[2] if "://" in url else url.partition("?")[0]


def _finding(call: Call, hop: str, one: _Break, main: Trace) -> Finding:
    words = HOPS[hop].words
    first = one.receivers[0]
    shared = sorted(named(call, main) & named(call, call.traces[first.trace_id])) or sorted(call.ids)
    count = len(one.receivers)
    begins = f"{_who(first)} begins a trace of its own" if count == 1 else f"{count} traces of their own begin"
    both = f"both have the id {shared[0]}" if count == 1 else f"all have the id {shared[0]}"
    sentence = f"the context is lost at {words}: {begins}, though the call is trace {main.trace_id.hex()}; {both}"
    if hop == "call":
        sentence = (
            f"the call falls into {count + 1} traces, and their spans do not tell at which hop: {begins} beside trace "
            f"{main.trace_id.hex()}; {both}"
        )
    if one.weight is Weight.DOUBT:
        sentence = f"{begins} while the call is trace {main.trace_id.hex()}; {both}. Nothing shows who asked"
    if one.inferred:
        sentence += f". What came before it, with nothing done under it, is {_who(one.senders[-1])}"
    # Where no span tells who sent, the call's own first service did, or knows who does.
    mended = lines(hop, one.senders or main.app[:1], one.receivers)
    carried = bool(one.senders) and all(span.step.kind == CONSUMER for span in one.senders)
    return Finding(
        "parted",
        one.weight,
        sentence,
        hop,
        (*evidence("before it", one.senders), *evidence("begins anew", one.receivers)),
        "the message carried its context; the work on it has to take it up" if carried else HOPS[hop].remedy,
        tuple(line for line in mended if not carried or line.where == RECEIVED),
        HOPS[hop].page,
    )


def _who(span: Spanned) -> str:
    return f"{span.step.service}'s {span.step.name}" if span.step.service else span.step.name
