"""What went wrong in a call, in plain words, the worst first, each with the spans that show it. Pure.

A problem costs the caller something: time over 1500 ms that they waited, an answer that failed, a line that came up
late. What is only missing from the trace is another matter (``missing``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

from grafter.core import semconv
from grafter.core.call_latency import CallerTurn, CallLatency, Part, Side
from grafter.core.joined_steps import nanoseconds
from grafter.web.kinds import Kind, in_tool, is_tool, kind, tool_name
from grafter.web.lanes import LIMIT_NS, barge_ins
from grafter.web.tree import Node, Tree
from grafter.web.words import MS, SECOND, count, error, length, offset, plain

LATE_MEDIA_NS = 2 * SECOND
"""From the beginning of the peer connection to the first word that it is connected."""
LONG_QUEUE_NS = SECOND
LONG_GREETING_NS = 4 * SECOND
"""LiveKit's users complain of four seconds (livekit/agents 7131)."""

_MOST_OF_A_KIND = 8
_SLOWEST = 3
_MOST_TOOLS = 3
_MOST_NUMBERS = 20
_LONG_TOOL_NS = SECOND
ENDED_BADLY = {"failed", "busy", "no-answer", "canceled"}
_BROKEN_ENDS = {"disconnect": "the connection to OpenAI broke", "silence": "nothing more came from OpenAI"}
_CONNECTED = ("connected", "completed")


class Weight(IntEnum):
    """How much a problem matters; the word stands beside it."""

    NOTE = 1
    SLOW = 2
    BROKEN = 3

    @property
    def word(self) -> str:
        return {Weight.NOTE: "note", Weight.SLOW: "slow", Weight.BROKEN: "broken"}[self]


@dataclass(frozen=True, slots=True)
class Problem:
    weight: Weight
    sentence: str
    detail: str = ""
    evidence: tuple[bytes, ...] = ()
    """Span ids, what shows it best first."""
    lost_ns: int = 0
    at: int = 0
    turn: int | None = None


def problems(
    tree: Tree, latency: CallLatency, outcome: str, medians: Mapping[str, float], *, messages: bool = False
) -> list[Problem]:
    """All of them, ranked: what is broken, what was slow by the time it cost, then what is worth knowing.

    ``medians``: of ``wait_ms`` and each part over the last calls. ``messages``: quote the status messages of spans,
    which may hold what somebody said.
    """
    found = [
        *_slow_turns(latency.caller_turns, medians),
        *[problem for greeting in latency.greetings for problem in _greeting(tree, greeting)],
        *_put_off(latency.caller_turns),
        *_unanswered(tree),
        *_long_tools(tree, latency),
        *_errors(tree, messages),
        *_outcome(tree, outcome),
        *_media(tree),
        *_queues(tree),
        *_interruptions(tree),
    ]
    return sorted(found, key=lambda one: (-one.weight, -one.lost_ns, one.at))


def _slow_turns(turns: Sequence[CallerTurn], medians: Mapping[str, float]) -> Iterator[Problem]:
    """The slowest one by one, the others together."""
    slow = sorted((turn for turn in turns if _wait(turn) > LIMIT_NS), key=lambda turn: (-_wait(turn), turn.start))
    usual = medians.get("wait_ms")
    for turn in slow[:_SLOWEST]:
        detail = [turn_detail(turn)]
        if usual:
            detail.append(f"The median of the last calls is {length(usual * MS)}.")
        yield Problem(
            Weight.SLOW,
            turn_sentence(turn),
            " ".join(each for each in detail if each),
            turn_evidence(turn),
            _wait(turn) - LIMIT_NS,
            turn.start,
            turn.number,
        )
    if rest := slow[_SLOWEST:]:
        numbers = sorted(turn.number for turn in rest)
        some = ", ".join(map(str, numbers[:_MOST_NUMBERS])) + (" …" if len(numbers) > _MOST_NUMBERS else "")
        sentence = f"{count(len(rest), 'more turn')} took over 1.5 s, up to {length(_wait(rest[0]))}: {some}."
        evidence = tuple(span_id for turn in rest[:_MOST_OF_A_KIND] for span_id in turn_evidence(turn)[:1])
        yield Problem(Weight.SLOW, sentence, "", evidence, _wait(rest[0]) - LIMIT_NS, rest[0].start)


def _put_off(turns: Sequence[CallerTurn]) -> Iterator[Problem]:
    """The answers that came late behind a quick word such as "one moment, please"; the latest of them first."""
    late = [turn for turn in turns if _wait(turn) <= LIMIT_NS < (turn.answer_audio_ns or 0)]
    for turn in sorted(late, key=lambda turn: -(turn.answer_audio_ns or 0))[:_SLOWEST]:
        sentence = (
            f"In turn {turn.number} the caller heard something after {length(_wait(turn))}, "
            f"and the answer itself after {length(turn.answer_audio_ns or 0)}."
        )
        cost = (turn.answer_audio_ns or 0) - LIMIT_NS
        yield Problem(Weight.NOTE, sentence, "", (turn.answer, turn.last_answer), cost, turn.start, turn.number)


def _unanswered(tree: Tree) -> Iterator[Problem]:
    """A caller who was still waiting when the call ended."""
    for node in tree.nodes:
        waited = nanoseconds(node.step, semconv.UNANSWERED.ms, MS)
        if waited is not None and waited > LIMIT_NS:
            sentence = f"The caller waited at least {length(waited)} for an answer, then the call ended."
            yield Problem(Weight.SLOW, sentence, "", (node.step.span_id,), waited - LIMIT_NS, node.step.end)


def _wait(turn: CallerTurn) -> int:
    return turn.end - turn.start


def turn_sentence(turn: CallerTurn) -> str:
    """``Turn 3 took 2.93 s; 1.68 s of it was your tool book_slot.``"""
    wait = turn.end - turn.start
    name = f"Turn {turn.number}" if turn.number else "The greeting"
    about = f" ({error(turn.error_ns)})" if error(turn.error_ns) else ""
    took = f"{name} took {length(wait)}{about}"
    ns, words = biggest(turn)
    return f"{took}; {length(ns)} of it was {words}." if words else f"{took}; nothing tells what it was spent on."


def biggest(turn: CallerTurn) -> tuple[int, str]:
    """What took longest, parts of one name and side added up; no words where nothing is known."""
    sums: dict[tuple[str, Side], int] = {}
    tools: dict[tuple[str, Side], dict[str, int]] = {}
    for part in turn.parts:
        key = (part.name, part.side)
        sums[key] = sums.get(key, 0) + part.ns
        named = tools.setdefault(key, {})
        named[part.what] = named.get(part.what, 0) + part.ns
    if not sums or {name for name, _ in sums} == {"unknown"}:
        return 0, ""
    (name, side), ns = max(sums.items(), key=lambda item: item[1])
    longest = sorted(tools[name, side].items(), key=lambda item: -item[1])
    whats = [what for what, _ in longest if what]
    return ns, part_words(name, side, whats, sum(part.name == "model" for part in turn.parts))


def part_words(name: str, side: Side, whats: Sequence[str] = (), answers: int = 1) -> str:
    """A part of a wait, as it ends a sentence."""
    match name, side:
        case "endpointing", Side.APP:
            return "your turn detection, which waited for silence"
        case "endpointing", _:
            return "the voice detector, which waited for silence"
        case (("model" | "greeting"), _):
            return f"OpenAI's model, in {answers} answers" if answers > 1 else "OpenAI's model"
        case "tool", _:
            whose = {Side.APP: "your", Side.OPENAI: "OpenAI's"}.get(side, "the MCP")
            names = [plain(what, 60) for what in whats[:_MOST_TOOLS]]
            more = " and more" if len(whats) > _MOST_TOOLS else ""
            return f"{whose} tool{'' if len(names) == 1 else 's'} {' and '.join(names)}{more}".rstrip()
        case _:
            return _PARTS.get(name, name)


_PARTS = {
    "relay": "your app, between what it knew and what it asked for",
    "accept": "your app, until it asked for the greeting",
    "dispatch": "the dispatch of the call to a worker",
    "connect": "connecting",
    "playout": "the time until the answer was played",
    "unknown": "time that no span explains",
}


def turn_detail(turn: CallerTurn) -> str:
    """What its tools spent their time on, and when the caller heard something only to wait on."""
    words = []
    for part in turn.parts:
        inside = [f"{length(each.ns)} {_within_words(each)}" for each in part.within if each.ns >= MS]
        if part.name == "tool" and inside:
            words.append(f"In {plain(part.what, 60) or 'the tool'}: {', '.join(inside)}.")
    if turn.answer_audio_ns is not None and turn.answer_audio_ns > turn.end - turn.start:
        words.append(f"What was heard first was not the answer: that came after {length(turn.answer_audio_ns)}.")
    return " ".join(words)


def _within_words(part: Part) -> str:
    what = plain(part.what, 60)
    match part.name:
        case "queue":
            return "in a queue"
        case "network":
            return "on the network"
        case "service":
            return f"in the service {what}" if what else "in its service"
    return part.name


def turn_evidence(turn: CallerTurn) -> tuple[bytes, ...]:
    """The spans of its parts, the longest first, then the answer."""
    parts = sorted((part for part in turn.parts if part.span_id), key=lambda part: -part.ns)
    return tuple(dict.fromkeys([*(part.span_id for part in parts), *([turn.answer] if turn.answer else [])]))


def _greeting(tree: Tree, greeting: CallerTurn) -> Iterator[Problem]:
    if _wait(greeting) <= LONG_GREETING_NS:
        return
    evidence = turn_evidence(greeting)
    detail = ""
    inside = [
        node
        for node in tree.nodes
        if not node.children
        and kind(node) in (Kind.APP, Kind.TOOL, Kind.QUEUE)
        and min(node.step.end, greeting.end) - max(node.step.start, greeting.start) > _wait(greeting) // 2
    ]
    if inside:
        node = max(inside, key=lambda node: node.ns)
        detail = f"{plain(node.step.name, 60)} ran {length(node.ns)} of that."
        evidence = (node.step.span_id, *evidence)
    late = _wait(greeting) - LONG_GREETING_NS
    yield Problem(Weight.SLOW, turn_sentence(greeting), detail, evidence, late, greeting.start, 0)


def _long_tools(tree: Tree, latency: CallLatency) -> Iterator[Problem]:
    """Of a call whose waits nobody knows, the tools that a caller may have waited for."""
    if latency.caller_turns:
        return
    tools = [node for node in tree.nodes if is_tool(node) and node.ns > _LONG_TOOL_NS]
    tools = [node for node in tools if node.parent is None or not in_tool(node.parent)]
    for node in sorted(tools, key=lambda node: -node.ns)[:_MOST_OF_A_KIND]:
        sentence = (
            f"Your tool {plain(tool_name(node), 60)} ran {length(node.ns)}; whether the caller waited is not known."
        )
        yield Problem(Weight.NOTE, sentence, "", (node.step.span_id,), node.ns, node.step.start)


def _errors(tree: Tree, messages: bool) -> Iterator[Problem]:
    """Where an error began: of spans that fail one under the other the lowest, and the others as its evidence."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in tree.nodes:
        if node.step.error and not any(below.step.error for below in node.below()):
            tool = _tool_above(node)
            groups.setdefault((tool_name(tool) if tool else node.step.name, _reason(node, messages)), []).append(node)
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))
    for (name, reason), nodes in ranked[:_MOST_OF_A_KIND]:
        first = nodes[0]
        chain = [first, *islice((above for above in first.above() if above.step.error), _MOST_OF_A_KIND)]
        spans = [node.step.span_id for node in dict.fromkeys([*chain, *nodes[:_MOST_OF_A_KIND]])]
        times = "" if len(nodes) == 1 else f" {len(nodes)} times"
        tool = _tool_above(first)
        who = f"Your tool {plain(name, 60)}" if tool else _subject(first)
        sentence = f"{who} failed{times}{': ' + reason if reason else ''}."
        detail = f"First at {offset(first.step.start - tree.start)}, in {plain(first.step.service, 60) or 'a service'}."
        yield Problem(Weight.BROKEN, sentence, detail, tuple(spans), at=first.step.start)
    if len(ranked) > _MOST_OF_A_KIND:
        rest = sum(len(nodes) for _, nodes in ranked[_MOST_OF_A_KIND:])
        yield Problem(Weight.BROKEN, f"{count(rest, 'more span')} of {len(ranked) - _MOST_OF_A_KIND} names failed.")


def _tool_above(node: Node) -> Node | None:
    return next((each for each in (node, *node.above()) if is_tool(each)), None)


def _subject(node: Node) -> str:
    match kind(node):
        case Kind.OPENAI:
            return f"OpenAI's {plain(node.step.name, 60)}" if node.span.guest else plain(node.step.name, 60)
        case other:
            return f"{plain(node.step.name, 60)} ({other.word})"


def _reason(node: Node, messages: bool) -> str:
    attributes = node.step.attributes
    if messages and node.span.message:
        return plain(node.span.message, 160)
    code = attributes.get("http.response.status_code")
    if isinstance(code, int) and code >= 400:
        return f"HTTP {code}"
    return plain(str(attributes.get(semconv.RESPONSE_STATUS_REASON) or attributes.get(semconv.ERROR_TYPE) or ""), 60)


def _outcome(tree: Tree, outcome: str) -> Iterator[Problem]:
    for node in tree.nodes:
        ended = str(node.step.attributes.get(semconv.GRAFTER_ENDED_BY, ""))
        if ended in _BROKEN_ENDS:
            sentence = f"The session ended because {_BROKEN_ENDS[ended]}, {offset(node.step.end - tree.start)} in."
            yield Problem(Weight.BROKEN, sentence, "", (node.step.span_id,), at=node.step.end)
    if outcome in ENDED_BADLY:
        evidence = (tree.roots[0].step.span_id,) if tree.roots else ()
        # Whatever broke before says more.
        yield Problem(Weight.BROKEN, f"The call ended as {outcome}.", "", evidence, at=tree.end)


def _media(tree: Tree) -> Iterator[Problem]:
    """A media path that came up late, and one that had to go through a relay."""
    for node in tree.nodes:
        if kind(node) is not Kind.MEDIA or not node.step.events:
            continue
        moments = media_moments(node)
        ready = moments.get("connected")
        if ready is not None and ready - node.step.start > LATE_MEDIA_NS:
            took = ready - node.step.start
            how = " It goes through a TURN relay." if "relay" in moments else ""
            sentence = f"The media path came up late: {length(took)} from its beginning until it was connected."
            late = took - LATE_MEDIA_NS
            yield Problem(Weight.SLOW, sentence, f"That was not the model.{how}", (node.step.span_id,), late, ready)
        if "failed" in moments:
            sentence = f"The media path failed at {offset(moments['failed'] - tree.start)}."
            yield Problem(Weight.BROKEN, sentence, "", (node.step.span_id,), at=moments["failed"])


def media_moments(node: Node) -> dict[str, int]:
    """When a media path was ``connected``, ``failed``, and whether (when) its pair was found to be a ``relay``."""
    moments: dict[str, int] = {}
    for time, name, attributes in node.step.events:
        for key, value in attributes.items():
            text = str(value).lower()
            if key.endswith("state"):
                if text in _CONNECTED:
                    moments.setdefault("connected", time)
                elif text == "failed":
                    moments.setdefault("failed", time)
            elif text == "relay" and "pair" in name:
                # Each candidate that TURN gave says relay too, whether it is used or not.
                moments.setdefault("relay", time)
    return moments


def _queues(tree: Tree) -> Iterator[Problem]:
    slow = [node for node in tree.nodes if kind(node) is Kind.QUEUE and node.ns > LONG_QUEUE_NS]
    for node in sorted(slow, key=lambda node: -node.ns)[:_MOST_OF_A_KIND]:
        if not any(above in slow for above in node.above()):
            queue = str(node.step.attributes.get("messaging.destination.name") or node.step.name)
            sentence = f"{length(node.ns)} went by in the queue {plain(queue, 60)}."
            detail = f"At {offset(node.step.start - tree.start)}, in {plain(node.step.service, 60) or 'a service'}."
            yield Problem(Weight.SLOW, sentence, detail, (node.step.span_id,), node.ns - LONG_QUEUE_NS, node.step.start)


def _interruptions(tree: Tree) -> Iterator[Problem]:
    cut = barge_ins(tree)
    if not cut:
        return
    heard = sorted(one.heard_ms for one in cut if one.heard_ms is not None)
    after = ""
    if heard:
        low, middle, high = (f"{heard[at]:,.0f}" for at in (0, len(heard) // 2, -1))
        most = " at most" if any(one.at_most for one in cut) else " at least" if any(one.more_ms for one in cut) else ""
        after = f", having heard {low} ms{most} of it"
        if len(cut) > 1:
            after = f", having heard {low} to {high} ms{most} of them, the median {middle} ms"
    sentence = f"The caller interrupted {count(len(cut), 'answer')}{after}."
    evidence = tuple(dict.fromkeys(one.span_id for one in cut))[:_MOST_OF_A_KIND]
    yield Problem(Weight.NOTE, sentence, "", evidence, at=cut[0].at)
