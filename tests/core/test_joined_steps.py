"""Looking things up in a joined trace, however deep it is and whatever hangs below itself."""

from grafter.core import semconv
from grafter.core.agent_runs import time_of_runs
from grafter.core.call_latency import Step
from grafter.core.joined_steps import JoinedSteps
from tests.core.turn_steps import step
from tests.steps import at_most_steps


def test_the_nearest_above_all_steps_is_found_in_one_walk() -> None:
    """A chain of 2,000, of which each tenth is wanted: each is asked about once, whoever asks first."""
    chain = [step(f"{n}", 0, 1, parent=f"{n - 1}" if n else "") for n in range(2_000)]
    trace = JoinedSteps(chain)
    asked: list[Step] = []

    def wanted(one: Step) -> bool:
        asked.append(one)
        return int(one.name) % 10 == 0

    found = [trace.nearest(one, wanted) for one in reversed(chain)]
    assert [None if one is None else one.name for one in reversed(found)] == [
        None if n == 0 else str((n - 1) // 10 * 10) for n in range(2_000)
    ]
    assert len(asked) < 2_000


def test_what_hangs_below_itself_has_nothing_above_it_that_it_is_itself() -> None:
    trace = JoinedSteps([step("a", 0, 1, parent="b"), step("b", 0, 1, parent="a"), step("c", 0, 1, parent="b")])
    a, b, c = (next(one for one in trace.ordered if one.name == name) for name in "abc")

    def is_b(one: Step) -> bool:
        return one.name == "b"

    assert [trace.nearest(one, is_b) for one in (b, a, c)] == [None, b, b]
    assert [trace.nearest(one, lambda _: False) for one in (a, b, c)] == [None, None, None]


def test_agents_in_agents_cost_no_more_than_they_are() -> None:
    """Each of a thousand runs in one another has a model call: what it hangs under is found once, not for each."""
    run = {semconv.GEN_AI_OPERATION_NAME: "invoke_agent", semconv.GRAFTER_GUEST_SPAN_ID: "span_1"}
    chat = {semconv.GEN_AI_OPERATION_NAME: "chat", semconv.GRAFTER_GUEST_SPAN_ID: "span_1"}
    steps, above = [], b""
    for level in range(1000):
        own = level.to_bytes(8, "big")
        steps.append(Step(own, above, "run", "app", 1, level, 5000 - level, False, run))
        steps.append(Step(own[::-1] + b"m", own, "chat", "app", 3, level, level + 1, False, chat))
        above = own
    with at_most_steps(300_000):
        assert time_of_runs(JoinedSteps(steps))[1] == 1000
