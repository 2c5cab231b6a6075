"""Which steps a guest and its host both dated, what each says of the guest's clock, and its spans on the host's clock.

The host's clock is that of the guest's anchor: a host span of another resource may have another one, and says nothing.
A step counts where one side has from the other what it could not have earlier: the id of a tool call, the id of a
response, the id of the anchor, OpenAI's ``Date``. That two spans were joined, linked or matched by their looks or their
time proves nothing about clocks.

Times alone are changed, of a guest's spans and their events, all by one offset. Figures that stand in attributes were
measured on one clock each, and stay.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import cached_property
from math import inf, isfinite
from urllib.parse import urlsplit

from grafter.core import semconv
from grafter.core.clock import ANY, ClockRecord, Finding, Pair, Range, judge
from grafter.core.duplicates import RESPONSE_ID
from grafter.core.join import Grafted
from grafter.core.left_steps import StepIndex, clock_of
from grafter.core.line_up import LinedUp
from grafter.core.memory import TraceMemory
from grafter.core.model import (
    SPAN_KIND_CLIENT,
    AttributeValue,
    Envelope,
    GraftedSpan,
    GuestSpan,
    HostSpan,
    Source,
    SpanId,
    UnixNano,
)
from grafter.core.policy import SECOND
from grafter.core.steps import CHAT, TOOL, call_of, is_model_call, is_tool
from grafter.core.tools import CALL_ID, Match

_DATE = "http.response.header.date"
_ADDRESSES = ("server.address", "url.full", "http.url", "net.peer.name")
DATE_KEYS = frozenset((_DATE, *_ADDRESSES))
"""Attributes of host spans that are read here, where DATE_MARK stands among their bytes."""
DATE_MARK = "header.date"

_ROUNDED = 1_000_000
"""JavaScript's SDK writes whole milliseconds; what is written more coarsely shows it (``_grain``)."""
_WAITED = 60 * SECOND
"""A guest that ends this much later than the call that it hangs under was not waited for, whatever the clocks say."""
_LATE = SECOND
"""How much later than it was a program may date a step: an app that says "one moment" to a model may do so before it
runs the tool."""
_NOT_DATED = {semconv.GRAFTER_ODD_TIME, semconv.GRAFTER_TIME_ODD, semconv.GRAFTER_SYNTHETIC}


def on_host_clock(
    host: Sequence[HostSpan], lined: LinedUp, firsts: Sequence[bool], memory: TraceMemory | None = None
) -> tuple[Grafted, ...]:
    """The guests of ``lined``, each set back by what its clock is provably ahead, with that on its record.

    ``host``: the host's spans that leave now; ``memory``: what is kept of those that left before. ``firsts``: of each
    guest whether nothing of it has left before. What comes later of a guest is set back by what its first spans were,
    whatever is known by then.
    """
    dated_host = _DatedHost(host if any(firsts) else ())
    dated = []
    for at, (guest, first) in enumerate(zip(lined.guests, firsts, strict=True)):
        record = guest.record
        if first:
            pairs = _Pairs(guest, dated_host, memory).found(at, lined)
            record = replace(record, clock=judge(pairs))
        dated.append(guest if record.clock is None else _set_back(guest.explained(record), record.clock))
    return tuple(dated)


class _DatedHost:
    """The host's spans that leave now whose times can be true; what few guests ask for is found when one does."""

    def __init__(self, host: Sequence[HostSpan]) -> None:
        # Of two that claim one id the first.
        self.held: Mapping[SpanId, HostSpan] = {span.span_id: span for span in reversed(host) if _sane(span)}
        self._host = host

    @cached_property
    def begun_below(self) -> Mapping[bytes, UnixNano]:
        """When the first of the spans under each began."""
        found: dict[bytes, UnixNano] = {}
        for span in filter(_sane, self._host):
            found[span.parent_span_id] = min(span.start, found.get(span.parent_span_id, span.start))
        return found

    @cached_property
    def dates(self) -> Sequence[HostSpan]:
        """Those of requests whose answers say when they were written."""
        return [span for span in self.held.values() if _DATE in span.attributes]


class _Pairs:
    def __init__(self, guest: Grafted, host: _DatedHost, memory: TraceMemory | None) -> None:
        self._source = guest.record.source
        anchor = guest.memory.anchor
        self._envelope = None if anchor is None else anchor.envelope
        self._steps = StepIndex() if memory is None else memory.steps
        held = host.held
        if memory is not None and self._envelope is not None:
            held = {**_remembered(memory, self._envelope), **held}
        self._named = anchor is not None and anchor.how == "named"
        self._anchor = None if anchor is None or anchor.span_id is None else held.get(anchor.span_id)
        self._host = host
        self._held = held
        # Times that its source did not measure say nothing.
        self._spans = {
            each.span.span_id: each for each in guest.spans if _sane(each.span) and _NOT_DATED.isdisjoint(each.named)
        }

    def found(self, guest_index: int, lined: LinedUp) -> list[Pair]:
        """All of them, each as much weaker as the guest's times are coarse."""
        if self._envelope is None or not self._spans:
            return []
        pairs = self._of_anchor()
        tools, responses = self._matched_before(guest_index)
        tools += [match for match in lined.tools if match.guest_index == guest_index]
        called = [match for match in tools if match.how == CALL_ID]
        if called:
            turns, runs = self._turns(), self._runs(called)
            pairs += [pair for match in called if (pair := self._of_tool(match, turns, match.host in runs)) is not None]
        for match in (*responses, *lined.duplicates):
            if match.guest_index == guest_index and match.how == RESPONSE_ID:
                pairs += self._of_response(match)
        if self._source == Source.SESSIONS:
            pairs += [pair for span in self._host.dates if self._usable(span) and (pair := _of_date(span)) is not None]
        pairs = [pair for pair in pairs if pair.certain != ANY]
        if not pairs:
            return []
        coarse = max(_ROUNDED, _grain(each.span.start for each in self._spans.values()))
        return [Pair(pair.at, pair.certain.wider(coarse), pair.likely.wider(coarse)) for pair in pairs]

    def _of_anchor(self) -> list[Pair]:
        """The guest was given the id of the span that it hangs under, so that had begun.

        Mostly a call is waited for. That is not certain: a slow one that only begins the guest may end within it. A
        session's metadata may be replaced while it goes on, so what they name says nothing of its beginning.
        """
        anchor = self._anchor
        if anchor is None or not self._named or not self._usable(anchor):
            return []
        if self._source in (Source.REALTIME, Source.SESSIONS):
            return []
        # An id that is computed from a call's may be known before its span begins; what hangs below it shows that.
        begun = min(anchor.start, self._host.begun_below.get(anchor.span_id, anchor.start))
        first = min(each.span.start for each in self._spans.values())
        last = max(each.span.end for each in self._spans.values())
        low: float = -inf
        if anchor.kind == SPAN_KIND_CLIENT and last - first <= anchor.end - begun and last - anchor.end <= _WAITED:
            low = last - anchor.end
        return [_pair(anchor.start, Range(high=first - begun), Range(low, first - begun))]

    def _turns(self) -> dict[bytes, list[GraftedSpan]]:
        """The guest's model turns, by the span that they hang under, in order of time."""
        beside: dict[bytes, list[GraftedSpan]] = {}
        for each in self._spans.values():
            if each.named.get(semconv.GEN_AI_OPERATION_NAME) == CHAT:
                beside.setdefault(each.parent_span_id, []).append(each)
        for turns in beside.values():
            turns.sort(key=lambda each: each.span.start)
        return beside

    def _runs(self, called: Iterable[Match]) -> set[SpanId]:
        """Which host spans ran their calls: of each call the first that describes a tool. What else names the call,
        such as another attempt or a line of a log, may come at any time after it was asked for. Where another service
        ran it too, whose clock may be another, nobody knows which was first."""
        first: dict[str | None, HostSpan] = {}
        elsewhere = set()
        for match in called:
            tool = self._held.get(match.host)
            if tool is None or not is_tool(tool.attributes):
                continue
            call = call_of(tool.attributes)
            if self._usable(tool):
                first[call] = min(first.get(call, tool), tool, key=lambda span: (span.start, span.span_id))
            else:
                elsewhere.add(call)
        return {tool.span_id for call, tool in first.items() if call not in elsewhere}

    def _of_tool(self, match: Match, turns: Mapping[bytes, Sequence[GraftedSpan]], runs: bool) -> Pair | None:
        """A tool runs after the turn that asked for it began, and before its output is known to the model.

        Certain is that it began before that and ended after it was asked for: a span of it may include the sending of
        the output, and which of two spans in one process stands round the other nobody knows. Mostly it lies between.
        """
        tool, guest = self._held.get(match.host), self._spans.get(match.guest)
        if tool is None or guest is None or not self._usable(tool):
            return None
        turn = None if match.turn is None else self._spans.get(match.turn)
        requested = guest.span.start
        known: float = guest.span.end
        if turn is guest:
            known = next((each.span.start for each in turns[turn.parent_span_id] if each.span.start >= known), inf)
        elif semconv.GRAFTER_END in guest.named:
            known = inf
        low: float = requested - tool.end
        high = known - tool.start if runs else inf
        if runs and turn is not None:
            low = max(low, turn.span.start - tool.start)
        likely = Range(requested - tool.start, known - tool.end if runs else inf)
        if self._source == Source.REALTIME:
            # Another socket than the app's: the app may have heard of the call first.
            low, high, likely = -inf, high + _LATE, Range(high=likely.high)
        return _pair(tool.start, Range(low, high), likely)

    def _of_response(self, match: Match) -> list[Pair]:
        """Both spans of one model call are of the time at which it was answered."""
        call, guest = self._held.get(match.host), self._spans.get(match.guest)
        if call is None or guest is None or not self._usable(call) or self._source == Source.REALTIME:
            return []
        # Who asks again what became of a response names it at any time after it, and may call that a model call, too.
        certain = Range(low=guest.span.start - call.end)
        if self._source == Source.SDK or not is_model_call(call.attributes):
            return [Pair(call.start, certain, certain)]
        # What was measured at OpenAI lies within what was measured here.
        return [_pair(call.start, certain, Range(guest.span.end - call.end, guest.span.start - call.start))]

    def _usable(self, span: HostSpan) -> bool:
        return self._envelope is not None and span.envelope.resource == self._envelope.resource

    def _matched_before(self, guest_index: int) -> tuple[list[Match], list[Match]]:
        """Tools and model calls of the host's that have left, by the ids that the guest's spans have."""
        tools, responses = [], []
        index = self._steps
        if not index:
            return [], []
        for span_id, each in self._spans.items():
            named = each.named
            call, response = named.get(semconv.GEN_AI_TOOL_CALL_ID), named.get(semconv.GEN_AI_RESPONSE_ID)
            if isinstance(call, str) and call in index.tools:
                tools.append(Match(index.tools[call], span_id, CALL_ID, guest_index))
            if isinstance(response, str) and response in index.responses:
                responses.append(Match(index.responses[response], span_id, RESPONSE_ID, guest_index))
        return tools, responses


def _remembered(memory: TraceMemory, envelope: Envelope) -> dict[SpanId, HostSpan]:
    """What is kept of host spans that have left and have the clock of this resource."""
    found = {
        anchor.span_id: HostSpan(anchor.span_id, b"", "", anchor.start, anchor.end, 0, "", anchor.envelope)
        for anchor in memory.anchors
        if anchor.envelope is not None and anchor.start <= anchor.end
    }
    clock = clock_of(envelope.resource)
    steps = memory.steps
    for key, ids, operation in (
        (semconv.GEN_AI_TOOL_CALL_ID, steps.tools, TOOL),
        (semconv.GEN_AI_RESPONSE_ID, steps.responses, CHAT),
    ):
        for name, span_id in ids.items():
            time = steps.times.get(span_id)
            if time is not None and time.clock == clock and 0 < time.start <= time.end:
                attributes = {key: name} | ({semconv.GEN_AI_OPERATION_NAME: operation} if time.runs else {})
                found[span_id] = HostSpan(span_id, b"", "", time.start, time.end, 0, "", envelope, attributes)
    return found


def _pair(at: UnixNano, certain: Range, likely: Range) -> Pair:
    """What is likely, as far as it is possible."""
    possible = likely.within(certain) if likely.low <= likely.high else None
    return Pair(at, certain, possible or certain)


def _of_date(span: HostSpan) -> Pair | None:
    """OpenAI wrote the whole second of its clock while the app's request was under way."""
    values = span.attributes.get(_DATE)
    text = values[0] if isinstance(values, tuple) and values else values
    if not isinstance(text, str) or not any(_is_openais(span.attributes.get(key)) for key in _ADDRESSES):
        return None
    try:
        date = int(parsedate_to_datetime(text).timestamp()) * SECOND
    except (ValueError, OverflowError, TypeError):
        return None
    lies = Range(date - span.end, date + SECOND - span.start)
    return Pair(span.start, lies, lies)


def _is_openais(address: object) -> bool:
    """A host's name, or a URL, of OpenAI's own: a gateway that has its name in it answers by another clock."""
    if not isinstance(address, str):
        return False
    try:
        host = (urlsplit(address).hostname if "//" in address else address.partition(":")[0]) or ""
    except ValueError:
        return False
    return host.lower() == "openai.com" or host.lower().endswith(".openai.com")


def _sane(span: HostSpan | GuestSpan) -> bool:
    return 0 < span.start <= span.end


def _grain(times: Iterable[int]) -> int:
    """The unit that all of these are whole numbers of: seconds, milliseconds, or less."""
    units = [SECOND, _ROUNDED]
    for time in times:
        while units and time % units[0]:
            del units[0]
        if not units:
            return 0
    return units[0]


def _set_back(guest: Grafted, clock: ClockRecord) -> Grafted:
    """The guest's spans as its clock was found to be; where that is wrong and nothing was moved, they say so."""
    if clock.finding is Finding.AGREES:
        return guest
    anchor = guest.memory.anchor
    top = b"" if anchor is None or anchor.span_id is None else anchor.span_id
    if clock.finding is not Finding.SHIFTED:
        added: dict[str, AttributeValue] = {semconv.GRAFTER_CLOCK_UNSETTLED: clock.finding.value}
        spans = (_with(each, added) if each.parent_span_id == top else each for each in guest.spans)
        return replace(guest, spans=tuple(spans))
    added = {semconv.GRAFTER_CLOCK_METHOD: clock.method, semconv.GRAFTER_CLOCK_PAIRS: clock.pairs}
    for key, side in (
        (semconv.GRAFTER_CLOCK_OFFSET_MIN, clock.bounds.low),
        (semconv.GRAFTER_CLOCK_OFFSET_MAX, clock.bounds.high),
    ):
        if isfinite(side):
            added[key] = _milliseconds(side)
    if clock.left_out:
        added[semconv.GRAFTER_CLOCK_PAIRS_LEFT_OUT] = clock.left_out
    return replace(guest, spans=tuple(_moved(each, clock.offset, added) for each in guest.spans))


def _moved(each: GraftedSpan, offset: int, added: Mapping[str, AttributeValue]) -> GraftedSpan:
    span = each.span
    events = tuple(replace(event, time=UnixNano(event.time - offset)) for event in span.events)
    moved = replace(span, start=UnixNano(span.start - offset), end=UnixNano(span.end - offset), events=events)
    # The receiver may have set back an impossible clock before.
    before = each.named.get(semconv.GRAFTER_CLOCK_OFFSET, 0.0)
    already = before if isinstance(before, float) else 0.0
    return _with(replace(each, span=moved), {semconv.GRAFTER_CLOCK_OFFSET: already + _milliseconds(offset), **added})


def _with(each: GraftedSpan, added: Mapping[str, AttributeValue]) -> GraftedSpan:
    kept = (pair for pair in each.attributes if pair[0] not in added)
    return each.with_attributes((*kept, *added.items()))


def _milliseconds(nanoseconds: float) -> float:
    return round(nanoseconds / 1e6, 3)
