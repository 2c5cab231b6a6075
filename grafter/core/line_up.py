"""Each step once: what the matches of tools and model calls change on the spans of both sides.

A host span changes by what is appended to it: a parent, attributes, links. A guest's span is grafter's own to write,
until it has left: then a host span that comes after it and counts the same tokens says so under another name. Nothing
hangs below itself afterwards: a host span is not moved where the guest's own anchor hangs below it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from grafter.core import duplicates, semconv, tools
from grafter.core.explain import MOST_STEPS, GuestRecord, Step
from grafter.core.join import Grafted
from grafter.core.left_steps import LEFT, GuestIndex, StepIndex, StepTime, clock_of
from grafter.core.memory import TraceMemory
from grafter.core.model import AttributeValue, GraftedSpan, HostSpan, SpanId, SpanLink
from grafter.core.policy import GraftPolicy, Tools
from grafter.core.steps import (
    USAGE,
    GuestSteps,
    GuestTool,
    HostSteps,
    HostTurn,
    guest_steps,
    is_model_call,
    is_tool,
    model_of,
)
from grafter.core.tools import Match, Refused

CIRCLE, SENT = "circle", "sent_before"
"""Why a match moves nothing: the guest hangs below the host's span, or may do so, or the host's span has left."""


@dataclass(slots=True)
class HostEdit:
    parent: SpanId | None = None
    """Where it hangs now; None: where it did."""
    attributes: list[tuple[str, AttributeValue]] = field(default_factory=list)
    links: list[SpanLink] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    """Attributes that stand under another name: a count that stands in the trace already, and has left."""


@dataclass(frozen=True, slots=True)
class LinedUp:
    """What leaves when each step stands where it belongs."""

    guests: tuple[Grafted, ...]
    """As they were given, their spans edited."""
    host: Mapping[SpanId, HostEdit]
    tools: tuple[Match, ...] = ()
    duplicates: tuple[Match, ...] = ()
    refused: tuple[Refused, ...] = ()
    """Matches that were not made, or that move nothing."""
    late: tuple[Step, ...] = ()
    """What was found, or was not to be told, between the host's spans and guests that had left before."""
    index: GuestIndex = field(default_factory=GuestIndex)
    """The steps of these guests, to be remembered."""
    spoken_for: frozenset[SpanId] = frozenset()
    """Model turns of guests that had left before, and that were matched now without their id."""


@dataclass(slots=True)
class _Added:
    """What is added to a guest's span, and what is taken from it."""

    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    links: list[SpanLink] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    name: str | None = None


_Edits = defaultdict[SpanId, HostEdit]
_Additions = defaultdict[SpanId, _Added]


def line_up(
    host: Sequence[HostSpan],
    own: HostSteps,
    guests: Sequence[Grafted],
    policy: GraftPolicy,
    memory: TraceMemory | None,
    left: GuestIndex | None = None,
) -> LinedUp:
    """Match the steps of a host's spans with those of the guests that leave with them, and say what that changes.

    ``host``: the host's spans that leave now, ``own``: their steps. ``memory``: what is kept of those that left before;
    their steps are matched by id alone, and only the guest's side can still say so. ``left``: the steps of guests that
    left before; of those only the host's side can still say so.
    """
    steps = guest_steps([guest.spans for guest in guests])
    if not (steps.tools or steps.turns or (left and host)):
        return LinedUp(tuple(guests), {})
    left = left or GuestIndex()
    held = {span.span_id: span for span in host}
    edits: _Edits = defaultdict(HostEdit)
    added: _Additions = defaultdict(_Added)
    above = _Above(held, guests, memory, left)
    found: list[Match] = []
    refused: list[Refused] = []
    if policy.tools is not Tools.OFF:
        tools.find_turns(steps)
        _describe_tools(steps.tools, added)
        everything = GuestSteps([*steps.tools, *left.tools], [*steps.turns, *left.turns])
        found, refused = tools.match(own.tools, held, everything)
        for match in found:
            _move(match, held, edits, above, policy, refused)
            if match.turn is not None:
                edits[match.host].links.append(_caused_by(match.turn))
    same, unclear = duplicates.match(own.turns, held, [*steps.turns, *left.turns])
    refused += unclear
    by_id = {call.span.span_id: call for call in own.turns}
    spans = {each.span.span_id: each for guest in guests for each in guest.spans}
    counted: dict[SpanId, HostTurn] = {}
    for match in same:
        call = by_id[match.host]
        _move(match, held, edits, above, policy, refused)
        edits[match.host].attributes.append((semconv.GRAFTER_DUPLICATE_OF, match.guest.hex()))
        if call.counted:
            counted.setdefault(match.guest, call)
    for match in same:
        call = by_id[match.host]
        if match.guest_index == LEFT:
            _counted_before(call, left.counts.get(match.guest, ()), edits)
            continue
        _enrich(call, spans[match.guest], edits, added)
        if counted.get(match.guest) is call:
            _count_once(call, spans[match.guest], edits, added)
    if memory is not None:
        _after_release(steps, memory.steps, policy, spans, added, refused)
    whose = {each.span.span_id: at for at, guest in enumerate(guests) for each in guest.spans}
    here = [match for match in found if match.guest_index != LEFT]
    folded = [match for match in same if match.guest_index != LEFT]
    by_usage = [match for match in same if match.how == duplicates.USAGE_TIME]
    records = _records(guests, here, folded, refused, whose)
    return LinedUp(
        tuple(_edited(guest.explained(record), added) for guest, record in zip(guests, records, strict=True)),
        dict(edits),
        tuple(here),
        tuple(folded),
        tuple(refused),
        late=_late([*found, *same], refused, whose),
        index=GuestIndex.of(
            steps,
            _counts([spans[turn.span_id] for turn in steps.turns], folded, by_id),
            [match.guest for match in by_usage if match.guest_index != LEFT],
            open_=above.open,
        ),
        spoken_for=frozenset(match.guest for match in by_usage if match.guest_index == LEFT),
    )


def step_index(host: HostSteps) -> StepIndex:
    """What to remember of the steps of host spans that leave: tools by call id, counted model calls by response id."""
    called = [tool for tool in host.tools if tool.call_id is not None]
    turns = [turn for turn in host.turns if turn.response_id and turn.counted]
    runs = {tool.span.span_id: is_tool(tool.span.attributes) for tool in called}
    runs |= {turn.span.span_id: is_model_call(turn.span.attributes) for turn in turns}
    steps = [*(tool.span for tool in called), *(turn.span for turn in turns)]
    # The steps of a call have a handful of resources.
    clocks = {resource: clock_of(resource) for resource in {span.envelope.resource for span in steps}}
    return StepIndex.of(
        {tool.call_id: tool.span.span_id for tool in reversed(called) if tool.call_id is not None},
        {turn.response_id: turn.span.span_id for turn in turns if turn.response_id},
        {
            span.span_id: StepTime(span.start, span.end, runs[span.span_id], clocks[span.envelope.resource])
            for span in steps
        },
    )


def step_ids(host: HostSteps) -> list[str]:
    """The ids of calls and responses that host spans name."""
    called = (tool.call_id for tool in host.tools)
    answered = (turn.response_id for turn in host.turns)
    return list(dict.fromkeys(step for step in (*called, *answered) if step is not None))


class _Above:
    """Which host spans stand above each guest, by its anchor: none of them may be moved below it."""

    def __init__(
        self,
        held: Mapping[SpanId, HostSpan],
        guests: Sequence[Grafted],
        memory: TraceMemory | None,
        left: GuestIndex,
    ) -> None:
        self._of: list[set[SpanId]] = []
        self._unknown: list[bool] = []
        self._left_open = left.open
        self.open = False
        """Above one of these guests something is missing, and may come later."""
        root = memory.root if memory is not None else None
        for guest in guests:
            above: set[SpanId] = set()
            anchor = guest.memory.anchor
            at = None if anchor is None else anchor.span_id
            while at is not None and at in held and at not in above:
                above.add(at)
                at = SpanId(held[at].parent_span_id) or None
            self._of.append(above)
            self.open |= at is not None and at not in above and at != root
            # Above what has left before there may be anything but the root, which hangs nowhere.
            sent = at is not None and at not in held and memory is not None and memory.sent(at)
            self._unknown.append(sent and at != root)

    def takes(self, guest: int, span_id: SpanId) -> bool:
        """Whether a host span may hang below a guest's; then it does."""
        if guest == LEFT:
            return not self._left_open
        if self._unknown[guest] or span_id in self._of[guest]:
            return False
        for above in self._of:
            if span_id in above:
                above |= self._of[guest]
        return True


def _move(
    match: Match,
    held: Mapping[SpanId, HostSpan],
    edits: _Edits,
    above: _Above,
    policy: GraftPolicy,
    refused: list[Refused],
) -> None:
    """Hang the host's span under the guest's, where that is wanted and closes no circle; say how it was matched."""
    edit = edits[match.host]
    if edit.parent is not None:
        return
    edit.attributes.append((semconv.GRAFTER_MATCH, match.how))
    if policy.tools is not Tools.UNDER_TURN:
        return
    if not above.takes(match.guest_index, match.host):
        refused.append(Refused(match.host, CIRCLE, (match.guest,)))
        return
    edit.parent = match.guest
    edit.attributes.append((semconv.GRAFTER_PARENT_ORIGINAL, held[match.host].parent_span_id.hex()))


def _describe_tools(called: Iterable[GuestTool], added: _Additions) -> None:
    """A guest's tools say which turn asked for them, and their id where only that turn's answer has it."""
    for tool in called:
        if tool.turn is not None:
            added[tool.span_id].links.append(_caused_by(tool.turn))
        if tool.call_id is not None:
            added[tool.span_id].attributes[semconv.GEN_AI_TOOL_CALL_ID] = tool.call_id


def _enrich(call: HostTurn, guest: GraftedSpan, edits: _Edits, added: _Additions) -> None:
    """Model and finish reasons, to whichever of the two has none."""
    named = guest.named
    model = model_of(named)
    if model is None and call.model is not None:
        key, word = call.model
        more = added[guest.span.span_id]
        more.attributes[key] = word
        if guest.span.name == "chat":
            more.name = f"chat {word}"
    elif model is not None and call.model is None:
        edits[call.span.span_id].attributes.append(model)
    reasons = named.get(semconv.GEN_AI_RESPONSE_FINISH_REASONS)
    if reasons is None and call.reasons:
        added[guest.span.span_id].attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = call.reasons
    elif reasons is not None and not call.reasons:
        edits[call.span.span_id].attributes.append((semconv.GEN_AI_RESPONSE_FINISH_REASONS, reasons))


def _count_once(call: HostTurn, guest: GraftedSpan, edits: _Edits, added: _Additions) -> None:
    """All counts on the host's span: those that it lacks move there, the others leave the guest's."""
    more = added[guest.span.span_id]
    edit = edits[call.span.span_id]
    for key, value in guest.attributes:
        if not key.startswith(USAGE):
            continue
        more.gone.add(key)
        known = call.counts.get(key)
        if known is None:
            edit.attributes.append((key, value))
        elif str(known) != str(value):
            more.attributes[_beside(key)] = value


def _counted_before(call: HostTurn, keys: Iterable[str], edits: _Edits) -> None:
    """Counts that stand in the trace already, on spans that have left: on this one they have another name."""
    edit = edits[call.span.span_id]
    edit.renamed.update((key, _beside(key)) for key in keys if key in call.counts)


def _counts(
    spans: Iterable[GraftedSpan], folded: Iterable[Match], calls: Mapping[SpanId, HostTurn]
) -> dict[SpanId, tuple[str, ...]]:
    """Under which names the tokens of each guest's turn stand in the trace, on whichever side."""
    found: dict[SpanId, dict[str, None]] = {}
    for each in spans:
        keys = {key: None for key, _ in each.attributes if key.startswith(USAGE)}
        if keys:
            found[each.span.span_id] = keys
    for match in folded:
        found.setdefault(match.guest, {}).update(dict.fromkeys(calls[match.host].counts))
    return {span_id: tuple(keys) for span_id, keys in found.items()}


def _late(found: Iterable[Match], refused: Iterable[Refused], whose: Mapping[SpanId, int]) -> tuple[Step, ...]:
    """What concerns guests that had left before, and have no record that could still be written."""
    matched = [_step(match) for match in found if match.guest_index == LEFT]
    left = [_refusal(each) for each in refused if each.between and each.between[0] not in whose]
    return (*matched, *left)


def _after_release(
    steps: GuestSteps,
    index: StepIndex,
    policy: GraftPolicy,
    spans: Mapping[SpanId, GraftedSpan],
    added: _Additions,
    refused: list[Refused],
) -> None:
    """Of host spans that have left the guest's side says what they are to it, and counts nothing twice."""
    if policy.tools is not Tools.OFF:
        for tool in steps.tools:
            host = index.tools.get(tool.call_id) if tool.call_id is not None else None
            if host is None:
                continue
            more = added[tool.turn or tool.span_id]
            more.links.append(SpanLink(host, ((semconv.GRAFTER_MATCH, tools.CALL_ID),)))
            more.attributes[semconv.GRAFTER_MATCH] = tools.CALL_ID
            refused.append(Refused(host, SENT, (tool.span_id,)))
    for turn in steps.turns:
        host = index.responses.get(turn.response_id) if turn.response_id is not None else None
        if host is None:
            continue
        more = added[turn.span_id]
        more.attributes[semconv.GRAFTER_DUPLICATE_OF] = host.hex()
        refused.append(Refused(host, SENT, (turn.span_id,)))
        for key, value in spans[turn.span_id].attributes:
            if key.startswith(USAGE):
                more.gone.add(key)
                more.attributes[_beside(key)] = value


def _records(
    guests: Sequence[Grafted],
    found: Iterable[Match],
    same: Iterable[Match],
    refused: Iterable[Refused],
    whose: Mapping[SpanId, int],
) -> list[GuestRecord]:
    """The guests' records, each with its own part of what was found."""
    called: list[list[Match]] = [[] for _ in guests]
    duplicated: list[list[Match]] = [[] for _ in guests]
    left: list[list[Refused]] = [[] for _ in guests]
    for match in found:
        called[match.guest_index].append(match)
    for match in same:
        duplicated[match.guest_index].append(match)
    for each in refused:
        if each.between and each.between[0] in whose:
            left[whose[each.between[0]]].append(each)
    return [
        guest.record.with_steps(
            [_step(match) for match in ran[:MOST_STEPS]],
            [_step(match) for match in twice[:MOST_STEPS]],
            [_refusal(each) for each in not_matched[:MOST_STEPS]],
            (len(ran), len(twice), len(not_matched)),
        )
        for guest, ran, twice, not_matched in zip(guests, called, duplicated, left, strict=True)
    ]


def _step(match: Match) -> Step:
    return Step(match.host.hex(), match.guest.hex(), match.how)


def _refusal(each: Refused) -> Step:
    return Step(each.host.hex(), each.between[0].hex(), each.why)


def _edited(guest: Grafted, added: Mapping[SpanId, _Added]) -> Grafted:
    if not any(each.span.span_id in added for each in guest.spans):
        return guest
    return replace(guest, spans=tuple(_edited_span(each, added.get(each.span.span_id)) for each in guest.spans))


def _edited_span(each: GraftedSpan, more: _Added | None) -> GraftedSpan:
    if more is None:
        return each
    span = each.span
    if more.links or more.name is not None:
        links = (*span.links, *(link for link in more.links if link.span_id != span.span_id))
        span = replace(span, links=links, name=more.name or span.name)
    kept = [pair for pair in each.attributes if pair[0] not in more.gone and pair[0] not in more.attributes]
    return each.with_attributes((*kept, *more.attributes.items()), span)


def _caused_by(turn: SpanId) -> SpanLink:
    return SpanLink(turn, ((semconv.GEN_AI_ATTRIBUTION_LINK_TYPE, semconv.CAUSED_BY_GENERATION),))


def _beside(key: str) -> str:
    return f"{semconv.GRAFTER_DUPLICATE_USAGE}.{key.removeprefix(USAGE)}"
