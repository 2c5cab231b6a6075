"""What can be found in one call; ``CALL_FINDINGS`` is the place to add a finding.

Each is a function of the call to findings, and none knows of another. What is still held is no evidence: a call that
runs has spans that have not ended.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from grafter.core import semconv
from grafter.doctor.hops import (
    CALL_IDS,
    CONSUMER,
    ENDED,
    ENDPOINT,
    FLUSH,
    HOPS,
    INSTRUMENT,
    RECEIVED,
    SENT,
    SERVER,
    TAP,
    TWILIO_ENDED,
    destination,
    lines,
    receives,
    sends,
    spoken,
)
from grafter.doctor.model import Call, Evidence, Finding, Guest, Line, Spanned, Trace, Weight, count, evidence, ranked
from grafter.doctor.parted import open_ends, parted

_CLOCK_NS = 5_000_000
"""By so much two spans of one machine may seem out of order."""
_MOST = 6


def openai(call: Call) -> Iterator[Finding]:
    """OpenAI's half: never came, named no trace, or hangs under nothing."""
    alone = [guest for guest in call.guests if not guest.joined]
    known = {guest.trace_id for guest in alone}
    alone += [guest for guest in _guests_alone(call) if guest.trace_id not in known]
    for guest in alone:
        yield _unlinked(call, guest)
    hosts = call.app_traces
    joined = any(span.guest for trace in hosts for span in trace.spans)
    if call.never_came and not joined and not alone:
        anchors = [span for trace in hosts for span in trace.app if call.is_anchor(span.step)]
        yield Finding(
            "openai_never_came",
            Weight.FAULT,
            "a session with OpenAI was opened, and nothing of OpenAI's side came" + _strays(call.strays),
            "openai",
            evidence("opened", anchors),
            "show grafter the session's events, or the SDK's traces",
            _showing(anchors),
            HOPS["openai"].page,
        )
    for trace in call.traces.values():
        yield from _unanchored(trace)


def _strays(number: int) -> str:
    if not number:
        return ""
    was = "was" if number == 1 else "were"
    return (
        f"; {count(number, 'trace')} of OpenAI's {was} joined with nothing since the start, for want of an id in the "
        "metadata, and may be this call's"
    )


def _guests_alone(call: Call) -> Iterator[Guest]:
    """Traces of OpenAI's spans alone that name no trace."""
    for trace in call.traces.values():
        top = [span for span in trace.spans if span.guest and not span.step.parent]
        if not trace.app and top and not any(semconv.GRAFTER_LINK in span.step.attributes for span in trace.spans):
            attributes = top[0].step.attributes
            realtime = attributes.get(semconv.GRAFTER_GUEST_TRACE_ID)
            name = realtime or attributes.get(semconv.AGENTS_TRACE_ID) or trace.trace_id.hex()
            yield Guest(str(name), "realtime" if realtime else "sdk", trace.trace_id.hex(), False)


def _unlinked(call: Call, guest: Guest) -> Finding:
    why = (
        "its metadata seems to name a trace, in a form that cannot be read"
        if guest.malformed
        else "its metadata names no trace"
    )
    apps = [span for trace in call.app_traces for span in trace.app]
    return Finding(
        "openai_unlinked",
        Weight.FAULT,
        f"OpenAI's trace {guest.name} was joined with nothing: {why}",
        "openai",
        (Evidence("left alone", guest.source, guest.name, guest.trace_id, ""),),
        "put the ids of your span into the metadata, when the trace or session begins",
        _linking(guest.source, apps),
        HOPS["openai"].page,
    )


def _linking(source: str, spans: Sequence[Spanned]) -> tuple[Line, ...]:
    if source == "realtime":
        return spoken("where the session begins", HOPS["openai"].sends, spans)
    return spoken("at the app's start", INSTRUMENT, spans)


def _showing(spans: Sequence[Spanned]) -> tuple[Line, ...]:
    return (
        *spoken("an Agents SDK app, at its start", INSTRUMENT, spans),
        *spoken("a Realtime session", TAP, spans),
    )


def _unanchored(trace: Trace) -> Iterator[Finding]:
    guests = [span for span in trace.spans if semconv.GRAFTER_ANCHOR in span.step.attributes]
    if guests and not trace.app:
        yield Finding(
            "app_missing",
            Weight.FAULT,
            f"OpenAI's trace names trace {trace.trace_id.hex()} of the app, of which no span came",
            "",
            evidence("names it", guests),
            "send the app's own spans to grafter",
            spoken("in the app's environment", ENDPOINT),
            "docs/quickstart.md",
        )
    seen = {span.step.span_id for span in trace.spans}
    unseen = [
        span
        for span in guests
        if span.step.attributes[semconv.GRAFTER_ANCHOR] == "unseen" and span.step.parent not in seen
    ]
    if unseen and trace.app:
        yield Finding(
            "anchor_unseen",
            Weight.FAULT,
            "the span that OpenAI's metadata names never came: it was begun and not ended, or its service sends its "
            "spans elsewhere",
            "",
            evidence("names it", unseen),
            "end that span when the call ends, and flush the exporter before the process goes",
            spoken("before the process ends", FLUSH, trace.app),
            "docs/agents-sdk.md",
        )


def ends_open(call: Call) -> Iterator[Finding]:
    """Messages that nobody took up, as far as what arrived goes; and receivers that nobody sent anything."""
    broken_off = {each.span_id for finding in parted(call) for each in finding.evidence}
    by_hop: dict[tuple[str, str], list[Spanned]] = {}
    for span in open_ends(call):
        if span.step.span_id.hex() not in broken_off:
            by_hop.setdefault((sends(span), destination(span)), []).append(span)
    for (hop, where), spans in by_hop.items():
        to = f" to {where}" if where else ""
        yield Finding(
            "nothing_goes_on",
            Weight.DOUBT,
            f"nothing goes on from what was sent over {HOPS[hop].words}{to}: whoever receives it takes up no context, "
            "or sends no spans here, or there is nobody",
            hop,
            evidence("sent", spans),
            "take the context up where the message is received",
            tuple(line for line in lines(hop, spans, spans) if line.where == RECEIVED),
            HOPS[hop].page,
        )
    for trace in call.app_traces:
        root = trace.root
        if root is None or root.step.kind != CONSUMER or any(span.links for span in trace.app):
            continue
        if root.step.span_id.hex() not in broken_off:
            hop = receives(root) or "queue"
            yield Finding(
                "nobody_sent",
                Weight.DOUBT,
                f"{root.step.name} takes a message, and nothing says whose: its sender hands no context on, or is no "
                "part of a trace",
                hop,
                evidence("received", [root]),
                "hand the context on where the message is sent",
                tuple(line for line in lines(hop, [root], [root]) if line.where == SENT),
                HOPS[hop].page,
            )


_HEX_ID = re.compile(r"(?:CA)?([0-9a-f]{32})", re.ASCII | re.IGNORECASE)


def call_root(call_id: str) -> tuple[bytes, bytes]:
    """The trace id and span id of the root that ``grafter_propagation.call_context`` computes of a call's id."""
    found = _HEX_ID.fullmatch(call_id.replace("-", ""))
    own = found[1].lower() if found and int(found[1], 16) else None
    digest = hashlib.sha256(f"grafter.call\0{own or call_id}".encode("utf-8", "replace")).hexdigest()
    return bytes.fromhex(own or digest[16:48]), bytes.fromhex(digest[:16])


def never_ended(call: Call) -> Iterator[Finding]:
    """Spans that were begun, for others name them as parents, and that never came."""
    if not call.whole:
        return
    roots = {call_root(call_id): call_id for call_id in call.ids}
    for trace in call.app_traces:
        seen = {span.step.span_id for span in trace.spans}
        orphans = [span for span in trace.app if span.step.parent and span.step.parent not in seen]
        own = [span for span in orphans if (trace.trace_id, span.step.parent) in roots]
        if own:
            call_id = roots[trace.trace_id, own[0].step.parent]
            yield _root_missing(call, call_id, own)
        within = [span for span in orphans if span not in own and span.remote is False]
        if within:
            runs = "" if call.over else "still runs, or "
            yield Finding(
                "parent_never_ended",
                Weight.FAULT if call.over else Weight.DOUBT,
                f"{count(len({span.step.parent for span in within}), 'span')} of {_services(within)} began and "
                f"{'never came' if call.over else 'has not come'}: it {runs}did not end, or its process went before it "
                "was sent",
                "",
                evidence("is under it", within),
                "end every span, also where the call breaks off, and flush before the process ends",
                spoken("before the process ends", FLUSH, within),
                "docs/hops/README.md",
            )
        beyond = [span for span in orphans if span not in own and span.remote is not False]
        if beyond:
            yield Finding(
                "sender_elsewhere",
                Weight.DOUBT,
                f"{_services(beyond)} goes on from a span that is not here: the service before it sends its spans "
                "elsewhere, or they were sampled away, or the span never ended",
                "",
                evidence("goes on from it", beyond),
                "send the spans of that service to grafter too",
                spoken("in its environment", ENDPOINT),
                "docs/quickstart.md",
            )


def _root_missing(call: Call, call_id: str, spans: Sequence[Spanned]) -> Finding:
    twilio = call.ids[call_id] == "twilio"
    hop, ended = ("twilio", TWILIO_ENDED) if twilio else ("call", ENDED)
    if call.over:
        open_root = f"the root of call {call_id} was never written: nobody said that it is over"
    else:
        open_root = f"the root of call {call_id} has not been written: it still runs, or nobody said that it is over"
    return Finding(
        "root_never_written",
        Weight.FAULT if call.over else Weight.DOUBT,
        f"{open_root}, or the tracer's ids are not from CallIds",
        hop,
        evidence("is under it", spans),
        "write the root when the carrier says that the call is over, by a provider whose ids come from CallIds",
        (*spoken("when the call is over", ended, spans), *spoken("where the provider is made", CALL_IDS, spans)),
        HOPS[hop].page,
    )


def clocks(call: Call) -> Iterator[Finding]:
    """Clocks that are provably not one: what was caused before its cause, and what grafter found of OpenAI's."""
    behind: dict[tuple[str, str], tuple[int, Spanned, Spanned]] = {}
    for trace in call.app_traces:
        by_id = {span.step.span_id: span for span in trace.app}
        for span in trace.app:
            above = by_id.get(span.step.parent)
            if above is None or span.step.kind not in (SERVER, CONSUMER) or _odd(span) or _odd(above):
                continue
            early = above.step.start - span.step.start
            key = (span.step.service, above.step.service)
            if early > _CLOCK_NS and key[0] != key[1] and early > behind.get(key, (0, span, above))[0]:
                behind[key] = (early, span, above)
    for (service, other), (early, span, above) in behind.items():
        yield Finding(
            "clocks_differ",
            Weight.NOTE,
            f"the clock of {service or 'a service'} is at least {early / 1e6:,.0f} ms behind that of "
            f"{other or 'another'}: {span.step.name} began before {above.step.name}, which caused it",
            "",
            (*evidence("caused", [above]), *evidence("began before it", [span])),
            "have both machines set their clocks by NTP",
            (),
            "docs/clocks.md",
        )
    unsettled = [span for span in call.spans if semconv.GRAFTER_CLOCK_UNSETTLED in span.step.attributes]
    if unsettled:
        yield Finding(
            "clock_unsettled",
            Weight.NOTE,
            "OpenAI's times and the app's contradict each other, so they are drawn as they came",
            "",
            evidence("was dated", unsettled),
            "have the clocks of the app's machines set by NTP",
            (),
            "docs/clocks.md",
        )


def _odd(span: Spanned) -> bool:
    return not 0 < span.step.start <= span.step.end or semconv.GRAFTER_TIME_ODD in span.step.attributes


def _services(spans: Sequence[Spanned]) -> str:
    names = list(dict.fromkeys(span.step.service or "a service" for span in spans))
    return ", ".join(names[:_MOST]) + (" …" if len(names) > _MOST else "")


CALL_FINDINGS: Sequence[Callable[[Call], Iterable[Finding]]] = (parted, openai, never_ended, ends_open, clocks)
"""All of them."""


def examine_call(call: Call) -> list[Finding]:
    return ranked(finding for check in CALL_FINDINGS for finding in check(call))
