"""A call's page as plain data: what the templates print, and no more. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from grafter.calls.model import RUNNING, CallRow, PhoneView
from grafter.core.call_latency import CallLatency
from grafter.core.turns import latency
from grafter.otlp.reading import ReadSpan
from grafter.web import lanes, words
from grafter.web.kinds import Kind, kind
from grafter.web.links import Link, links
from grafter.web.missing import Missing, missing, rates, sampling
from grafter.web.problems import Problem, Weight, problems
from grafter.web.redaction import Sight, seen
from grafter.web.span_rows import SHOWN_EVENTS, SpanRow, span_rows, value_text
from grafter.web.tree import Tree
from grafter.web.turn_view import SHOWN_TURNS, Comparison, TurnView, comparisons, turn_views, turns_of
from grafter.web.waterfall import Waterfall, page_of, waterfall

_SHOWN_PROBLEMS = 12
_LONGEST_NS = 24 * words.HOUR
_AROUND_TURN_NS = 400 * words.MS
_KINDS_OF_ID = {
    "twilio": "Twilio call",
    "sip": "SIP Call-ID",
    "openai_realtime": "OpenAI Realtime call",
    "openai_live": "OpenAI Live session",
    "openai_session": "OpenAI session",
    "openai_trace": "OpenAI trace",
    "livekit_room": "LiveKit room",
    "livekit_call": "LiveKit call",
    "pipecat": "Pipecat conversation",
    "telnyx": "Telnyx call",
    "app": "app's own",
}


@dataclass(frozen=True, slots=True)
class PageQuery:
    """What of a call a page shows, as its address says it."""

    turn: int | None = None
    """Only the time of this turn."""
    opened: tuple[str, ...] = ()
    """Groups whose members are shown."""
    span: str = ""
    """The span whose attributes are shown, 16 hex digits."""
    page: int | None = None
    """Of the waterfall."""
    all_turns: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    id: str
    label: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class ProblemView:
    weight: Weight
    sentence: str
    detail: str
    evidence: tuple[Evidence, ...]
    turn: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    sentence: str
    detail: str
    weight: Weight | None
    """None: nothing is wrong that is known."""
    turn: TurnView | None
    """The turn that it is about."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class MediaEvent:
    """Something that happened to the media path."""

    at: str
    name: str
    details: str
    span: str


@dataclass(frozen=True, slots=True)
class CallView:
    key: str
    caller: str
    callee: str
    day: str
    clock: str
    stamp: str
    length: str
    """Empty where it is not known."""
    outcome: str
    live: bool
    kept: bool
    ids: tuple[tuple[str, str], ...]
    traces: tuple[str, ...]
    guests: tuple[str, ...]
    recording: str
    spans: int
    services: tuple[str, ...]
    verdict: Verdict
    problems: tuple[ProblemView, ...]
    more_problems: int
    turns: tuple[TurnView, ...]
    all_turns: int
    totals: tuple[tuple[str, str, str], ...]
    """Side, length, share of what is known."""
    comparisons: tuple[Comparison, ...]
    strips: tuple[lanes.Strip, ...]
    barge_ins: tuple[tuple[str, str, str], ...]
    """When, what was heard, span."""
    media: tuple[MediaEvent, ...]
    more_media: int
    missing: tuple[Missing, ...]
    sampling: str
    rates: tuple[str, ...]
    links: tuple[Link, ...]
    waterfall: Waterfall
    rows: tuple[SpanRow, ...]
    query: PageQuery
    window: str
    """Which piece of time the waterfall shows; empty: all of it."""
    start: int
    end: int


def phone(view: PhoneView | None, numbers: bool) -> str:
    """``+15550104821`` for who may see it, ``•••• 4821`` for others, empty where nobody knows."""
    if view is None:
        return ""
    if numbers and view.number:
        return view.number
    return f"•••• {view.last_four}" if view.last_four else "a short number"


def call_view(
    row: CallRow,
    spans: Sequence[ReadSpan],
    medians: Mapping[str, float],
    sight: Sight,
    query: PageQuery,
    templates: Mapping[str, str],
    now: int,
) -> CallView:
    """Everything that the page of this call says.

    ``spans``: of its joined trace; ``medians``: of the last calls; ``sight``: what the viewer may see; ``templates``:
    of the links out, by label.
    """
    known = _latency(row, spans)
    tree = Tree(seen(spans, sight))
    found = problems(tree, known, row.outcome, medians, messages=sight.content)
    evidence = {span_id for problem in found[:_SHOWN_PROBLEMS] for span_id in problem.evidence}
    start, end = _bounds(row, tree, now)
    turns = turn_views(known, start, medians)
    window = _window(known, query, start, end)
    fall = _waterfall(tree, window, start, query, evidence)
    media = list(_media(tree, start))
    cut = lanes.barge_ins(tree)
    strips = tuple(lanes.strips(tree, known.caller_turns, *window)) if end > start else ()
    return CallView(
        key=row.key,
        caller=phone(row.caller, sight.numbers),
        callee=phone(row.callee, sight.numbers),
        day=words.day(row.start),
        clock=words.clock(row.start),
        stamp=words.stamp(row.start),
        length=words.length(end - start) if row.end or tree.nodes else "",
        outcome=words.plain(row.outcome, 40),
        live=row.outcome == RUNNING,
        kept=row.kept,
        ids=tuple((_KINDS_OF_ID.get(each.whose, each.whose), words.plain(each.value, 80)) for each in row.ids),
        traces=tuple(trace.hex() for trace in row.traces),
        guests=tuple(words.plain(guest, 80) for guest in row.guests if guest not in {each.value for each in row.ids}),
        recording=row.recording if row.recording and row.recording.startswith("https://") and sight.content else "",
        spans=len(tree),
        services=tuple(words.plain(each, 60) for each in dict.fromkeys(n.step.service for n in tree.nodes) if each),
        verdict=_verdict(row, tree, known, found, turns),
        problems=tuple(_problem(tree, each) for each in found[:_SHOWN_PROBLEMS]),
        more_problems=max(0, len(found) - _SHOWN_PROBLEMS),
        turns=tuple(_some(turns, query)),
        all_turns=len(turns),
        totals=tuple(_totals(known)),
        comparisons=tuple(comparisons(known.caller_turns, medians)),
        strips=tuple(strip for strip in strips if not strip.empty),
        barge_ins=tuple(_cut(each, start) for each in cut),
        media=tuple(media[:SHOWN_EVENTS]),
        more_media=max(0, len(media) - SHOWN_EVENTS),
        missing=tuple(missing(row, tree, known)),
        sampling=sampling(row, tree),
        rates=tuple(rates(tree)),
        links=tuple(links(row, templates, end)),
        waterfall=fall,
        rows=tuple(span_rows(fall, start, query.span)),
        query=replace(query, page=fall.page),
        window=f"{words.offset(window[0] - start)} to {words.offset(window[1] - start)}"
        if query.turn is not None
        else "",
        start=start,
        end=end,
    )


def _bounds(row: CallRow, tree: Tree, now: int) -> tuple[int, int]:
    """When it began and ended, by whatever says so; a span that claims to be of another day says nothing of it."""
    likely = range(row.start - _LONGEST_NS, row.start + _LONGEST_NS)
    start = min([row.start, *(node.step.start for node in tree.nodes if node.step.start in likely)])
    ends = [node.step.end for node in tree.nodes if node.step.end in likely and node.step.start in likely]
    end = max([row.end or start, *ends, start])
    return start, max(end, now) if row.outcome == RUNNING else end


def _latency(row: CallRow, spans: Sequence[ReadSpan]) -> CallLatency:
    """Of the spans; where they say nothing, what the call map remembers."""
    found = latency([span.step for span in spans])
    if found.caller_turns or not row.turns:
        return found
    ns = [None if each is None else round(each * words.MS) for each in (row.app_ms, row.openai_ms, row.unknown_ms)]
    return CallLatency(turns_of(row.turns), found.model_turns, found.greetings, *ns)


def _window(known: CallLatency, query: PageQuery, start: int, end: int) -> tuple[int, int]:
    for turn in (*known.greetings, *known.caller_turns):
        if turn.number == query.turn:
            around = max(_AROUND_TURN_NS, (turn.end - turn.start) // 3)
            return max(start, turn.start - around), min(end, turn.end + around)
    return start, end


def _waterfall(
    tree: Tree, window: tuple[int, int], origin: int, query: PageQuery, evidence: Collection[bytes]
) -> Waterfall:
    shown, page, whole = set(evidence), query.page, query.turn is None
    if len(query.span) == 16:
        span_id = bytes.fromhex(query.span)
        shown.add(span_id)
        if page is None:
            page = page_of(tree, *window, span_id, shown, everything=whole)
    return waterfall(
        tree, *window, opened=query.opened, evidence=shown, page=page or 1, everything=whole, origin=origin
    )


def _verdict(
    row: CallRow, tree: Tree, known: CallLatency, found: Sequence[Problem], turns: Sequence[TurnView]
) -> Verdict:
    worst = max(turns, key=lambda turn: (turn.number > 0, turn.wait_ns or 0), default=None)
    for problem in found:
        if problem.weight is not Weight.NOTE:
            about = next(
                (turn for turn in turns if turn.number == problem.turn and (turn.number or turn.start == problem.at)),
                None,
            )
            return Verdict(
                problem.sentence, problem.detail, problem.weight, about, tuple(_evidence(tree, problem.evidence))
            )
    if row.outcome == RUNNING:
        words_ = "This call is running; its trace comes when it has ended."
        return Verdict(words_, "", None, worst, ())
    waits = known.caller_turns
    if waits:
        assert worst is not None
        count = words.count(len(waits), "wait")
        sentence = f"Nothing was slow: the longest of {count} was {worst.wait}, in turn {worst.number}."
        if len(waits) == 1:
            sentence = f"Nothing was slow: the caller waited {worst.wait}."
        return Verdict(sentence, "No span failed, and every wait stayed below 1.5 s.", None, worst, ())
    if not tree.nodes:
        sentence = "The spans of this call are not here." if row.kept else "The spans of this call were sampled away."
        return Verdict(sentence, "", None, None, ())
    sentence = "No span failed; how long the caller waited is not known."
    return Verdict(sentence, "What is missing, and how to have it, stands below.", None, None, ())


def _problem(tree: Tree, problem: Problem) -> ProblemView:
    evidence = tuple(_evidence(tree, problem.evidence))
    return ProblemView(problem.weight, problem.sentence, problem.detail, evidence, problem.turn)


def _evidence(tree: Tree, ids: Sequence[bytes]) -> Iterator[Evidence]:
    for span_id in ids:
        if node := tree.by_id.get(span_id):
            yield Evidence(node.id, words.plain(node.step.name, 48), kind(node))


def _some(turns: Sequence[TurnView], query: PageQuery) -> list[TurnView]:
    if query.all_turns or len(turns) <= SHOWN_TURNS:
        return list(turns)
    slowest = sorted(turns, key=lambda turn: -(turn.wait_ns or 0))[:SHOWN_TURNS]
    return sorted(slowest, key=lambda turn: turn.number)


def _totals(known: CallLatency) -> Iterator[tuple[str, str, str]]:
    sums = (("app", known.app_ns), ("openai", known.openai_ns), ("unknown", known.unknown_ns))
    whole = sum(ns for _, ns in sums if ns) or 1
    for name, ns in sums:
        if ns is not None:
            yield name, words.length(ns), f"{ns / whole:.0%}"


def _cut(one: lanes.BargeIn, start: int) -> tuple[str, str, str]:
    heard = "not known how much was heard" if one.heard_ms is None else f"{one.heard_ms:,.0f} ms heard"
    if one.at_most:
        heard = f"at most {heard}"
    elif one.heard_ms is not None and one.more_ms:
        heard = f"{heard}, and up to {one.more_ms:,.0f} ms more"
    return words.offset(one.at - start), heard, one.span_id.hex()


def _media(tree: Tree, start: int) -> Iterator[MediaEvent]:
    for node in tree.nodes:
        if node.span.guest or kind(node) is not Kind.MEDIA:
            continue
        for time, name, attributes in node.step.events:
            details = ", ".join(
                f"{_short(key)} {words.plain(value_text(value), 60)}" for key, value in attributes.items()
            )
            yield MediaEvent(words.offset(time - start), words.plain(name, 60), details, node.id)


def _short(key: str) -> str:
    return words.plain(key.rpartition(".")[2].replace("_", " "), 40)
