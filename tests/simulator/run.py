"""One simulated call after another, judged and counted."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.simulator.calls import play
from tests.simulator.figure_rules import answers, cut, first, wait
from tests.simulator.judge import Finding, Verdict, judge
from tests.simulator.live import Live
from tests.simulator.machine import spans_of
from tests.simulator.observer import Posts, View, observe
from tests.simulator.span_rules import assistant_span, half_call, speech_span, tool_span
from tests.simulator.truth import Expected, Facts, Truth, Word
from tests.simulator.unanswered_rules import session_name, unanswered
from tests.simulator.world import Record, Response

LIVE = 25
"""One in so many calls is a session of the Live API."""
FINDINGS: tuple[Finding, ...] = ("right", "wrong", "invented", "left out", "absent")


def truth_of(record: Record, view: View, posts: Posts) -> Truth:
    """The truth of an observed call."""
    truth = Truth(record.seed)
    facts = Facts(record, view, posts)
    sessions = sum(opening.seen for opening in record.openings)
    truth.spans += [Expected(session_name(number), "session") for number in range(1, sessions + 1)]
    unanswered(truth, facts)
    for speech in record.speeches:
        speech_span(truth, facts, speech)
    for tool in record.tools:
        tool_span(truth, facts, tool)
    for call_id, half in record.halves:
        half_call(truth, call_id, half)
    for response in record.responses:
        if response.created is not None and response.created.seen:
            _response(truth, facts, response)
    return truth


def _response(truth: Truth, facts: Facts, response: Response) -> None:
    truth.spans.append(Expected(response.id, response.kind))
    assistant_span(truth, response)
    first(truth, facts, response)
    answers(truth, facts, response)
    wait(truth, facts, response)
    cut(truth, facts, response)
    if response.mcp and response.done is not None and response.done.seen:
        truth.words.append(
            Word(response.id, "gen_ai.response.finish_reasons", response.kind, frozenset(("stop",)), knowable=True)
        )


def simulated(seed: int) -> tuple[Record, View, Posts, Truth]:
    """The call of this seed: what happened, who watched, what was posted, and what is true of it."""
    view = View.drawn(random.Random(seed ^ 0x51EE))
    if seed % LIVE == LIVE - 1:
        live = Live.played(seed)
        posts = observe(live.record, view)
        return live.record, view, posts, live.truth(posts)
    record = play(seed)
    posts = observe(record, view)
    return record, view, posts, truth_of(record, view, posts)


def verdicts_of(seed: int) -> list[Verdict]:
    """What grafter made of the call of this seed, judged."""
    _, _, posts, truth = simulated(seed)
    return judge(truth, spans_of(posts))


@dataclass(slots=True)
class Tally:
    """Verdicts counted by kind of scene and by figure, and the first faults."""

    kinds: Counter[tuple[str, Finding]] = field(default_factory=Counter)
    figures: Counter[tuple[str, Finding]] = field(default_factory=Counter)
    faults: list[Verdict] = field(default_factory=list)
    most: int = 40
    calls: int = 0

    def add(self, verdicts: list[Verdict]) -> None:
        self.calls += 1
        for verdict in verdicts:
            self.kinds[verdict.kind, verdict.finding] += 1
            self.figures[verdict.what, verdict.finding] += 1
            if verdict.finding in ("wrong", "invented") and len(self.faults) < self.most:
                self.faults.append(verdict)

    def count(self, finding: Finding) -> int:
        return sum(n for (_, one), n in self.kinds.items() if one == finding)

    def lines(self) -> Iterator[str]:
        """The two tables: how often each figure was stated right, wrong, invented, left out though knowable, absent."""
        for title, counts in (("kind", self.kinds), ("figure", self.figures)):
            yield f"{title:44}" + "".join(f"{word:>10}" for word in FINDINGS)
            for name in sorted({name for name, _ in counts}):
                yield f"{name:44}" + "".join(f"{counts[name, word]:>10}" for word in FINDINGS)
            yield f"{'all':44}" + "".join(f"{self.count(word):>10}" for word in FINDINGS)
            yield ""


def tally(seeds: range, most: int = 40) -> Tally:
    """Play, observe, map and judge the calls of these seeds."""
    result = Tally(most=most)
    for seed in seeds:
        result.add(verdicts_of(seed))
    return result
