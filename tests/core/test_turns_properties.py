"""What holds of every wait: its parts add up to it, none is negative, overlaps count once, and order says nothing."""

import random

from hypothesis import given
from hypothesis import strategies as st

from grafter.core import semconv
from grafter.core.call_latency import CallLatency, Step
from grafter.core.policy import GraftPolicy
from grafter.core.turns import latency
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.spans import map_realtime
from tests.core.turn_steps import CLIENT, CONSUMER, PRODUCER, SERVER, ident, step
from tests.guests.realtime.hand import T0, nano
from tests.simulator.observer import Posts
from tests.simulator.run import simulated
from tests.simulator.truth import PARTS, Truth

NAMES = ("endpointing", "model", "tool", "relay", "playout", "unknown", "accept")
TOLERANCE_NS = 2_000_000


def steps_of_call(posts: Posts) -> tuple[list[Step], dict[bytes, str]]:
    """The guest's spans of a simulated call as steps, and the name that the call gave each."""
    policy = GraftPolicy()
    parts = read_posts(posts.body, True, policy, nano(86_000_000)).parts  # type: ignore[arg-type]  # a plain int
    steps, names = [], {}
    for mapped in map_realtime(posts.key, [part.payload for part in parts], policy, None, final=True):
        for span in mapped.guest.spans:
            attributes = {key: value for key, value in span.attributes if not isinstance(value, tuple)}
            parent = b"" if span.parent is None else span.parent
            names[span.span_id] = str(attributes["grafter.guest.span_id"])
            steps.append(
                Step(span.span_id, parent, span.name, "openai", span.kind, span.start, span.end, False, attributes)
            )
    return steps, names


def holds(found: CallLatency) -> None:
    """What is true of any call."""
    for turn in (*found.caller_turns, *found.greetings[:1]):
        assert turn.parts
        assert sum(part.ns for part in turn.parts) == turn.end - turn.start
        assert all(part.ns > 0 for part in turn.parts)
        assert all(sum(one.ns for one in part.within) <= part.ns for part in turn.parts)
        assert all(one.ns >= 0 for part in turn.parts for one in part.within)
        assert turn.sentence
    sums = (found.app_ns, found.openai_ns, found.unknown_ns)
    assert all(one is None for one in sums) or all(one is not None and one >= 0 for one in sums)
    if found.caller_turns:
        waits = (*found.caller_turns, *found.greetings[:1])
        assert sum(filter(None, sums)) == sum(turn.end - turn.start for turn in waits)


@given(st.integers(0, 1 << 40), st.randoms(use_true_random=False))
def test_every_wait_of_a_simulated_call_adds_up_in_any_order(seed: int, chance: random.Random) -> None:
    """Of calls of all kinds, seen by all kinds of observers."""
    steps, _ = steps_of_call(simulated(seed)[2])
    found = latency(steps)
    holds(found)
    chance.shuffle(steps)
    assert latency(steps) == found


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 10**11)), max_size=12), st.integers(-3, 3), st.text())
def test_pieces_that_do_not_add_up_are_unknown(pieces: list[tuple[str, int]], off: int, noise: str) -> None:
    """However a span came to say it: what is stated adds up, or all of it is unknown."""
    text = " ".join(f"{name}:{ns}" for name, ns in pieces)
    total = sum(ns for _, ns in pieces) + off
    for said in (text, text + noise, noise):
        more = {
            "grafter.caller_wait.from_unix_nano": nano(0),
            "grafter.caller_wait.to_unix_nano": nano(0) + max(total, 0),
            "grafter.caller_wait.pieces": said,
        }
        holds(latency([step("chat", 0, 10, **more)]))
    assert semconv.CALLER_WAIT.pieces == "grafter.caller_wait.pieces"


spans_under_a_tool = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from([0, 1, SERVER, CLIENT, PRODUCER, CONSUMER]),
        st.sampled_from(["voice", "calendar", "worker"]),
        st.integers(-200, 1500),
        st.integers(-50, 1500),
    ),
    max_size=12,
)


@given(spans_under_a_tool, st.randoms(use_true_random=False))
def test_what_is_inside_a_tool_is_never_more_than_the_tool(
    spans: list[tuple[int, int, str, int, int]], chance: random.Random
) -> None:
    """Whatever hangs under it, circles and spans that end before they begin included."""
    wait = {
        "grafter.caller_wait.from_unix_nano": nano(0),
        "grafter.caller_wait.to_unix_nano": nano(1000),
        "grafter.caller_wait.pieces": f"tool:1000000000:{ident('tool').hex()}",
    }
    steps = [
        step("chat", 0, 1500, **wait),
        step("tool", 0, 1000, gen_ai__operation__name="execute_tool", grafter__guest__span_id="call_1"),
    ]
    for at, (parent, kind, service, start, length) in enumerate(spans):
        steps.append(step(f"s{at}", start, start + length, f"s{parent}" if parent < at else "tool", service, kind))
    found = latency(steps)
    holds(found)
    chance.shuffle(steps)
    assert latency(steps) == found


runs = st.lists(
    st.tuples(
        st.sampled_from(["invoke_agent", "chat", "execute_tool"]), st.integers(0, 50), st.integers(0, 30), st.booleans()
    ),
    max_size=15,
)


@given(runs, st.randoms(use_true_random=False))
def test_the_time_of_runs_is_counted_once(spans: list[tuple[str, int, int, bool]], chance: random.Random) -> None:
    """The sums of the sides are the time that agents ran, and the model's is the time in which any model answered."""
    steps = []
    for at, (operation, start, length, elsewhere) in enumerate(spans):
        more = {"gen_ai.operation.name": operation, "openai.agents.span.id": str(at)}
        steps.append(
            step(f"s{at}", start, start + length, service="openai" if elsewhere and at % 5 == 4 else "voice", **more)
        )
    found = latency(steps)
    ran, answered = set[int](), set[int]()
    for operation, start, length, _ in spans:
        if operation == "invoke_agent":
            ran.update(range(start, start + length))
        elif operation == "chat":
            answered.update(range(start, start + length))
    if ran:
        assert found.app_ns is not None
        assert found.openai_ns is not None
        assert found.unknown_ns is not None
        assert found.app_ns + found.openai_ns + found.unknown_ns == len(ran) * 10**6
        assert found.openai_ns == len(ran & answered) * 10**6
    else:
        assert found.app_ns is None
    chance.shuffle(steps)
    assert latency(steps) == found


def test_the_waits_are_those_of_the_simulated_calls() -> None:
    """500 calls: each wait, and each of its parts but what is said to be unknown, is what really happened, within what
    is said that it may be wrong and 2 ms; no wait is made up."""
    waits = parts = greetings = 0
    for seed in range(500):
        record, _, posts, truth = simulated(seed)
        steps, names = steps_of_call(posts)
        found = latency(steps)
        for turn in found.caller_turns:
            right = right_of(truth, names[turn.answer])
            wait = right.get("grafter.caller_wait_ms")
            if wait is not None:
                waits += 1
                assert within(turn.end - turn.start, wait, turn.error_ns), (seed, names[turn.answer])
            for name in PARTS[:-1]:
                length = sum(part.ns for part in turn.parts if part.name == name)
                known = right.get(f"grafter.caller_wait.{name}_ms")
                if known is not None and length:
                    parts += 1
                    assert within(length, known, turn.error_ns), (seed, names[turn.answer], name)
        if found.greetings:
            greetings += 1
            answer = next(one for one in record.responses if one.id == names[found.greetings[0].answer])
            heard = answer.heard_from
            assert heard is not None
            assert answer.answers is None
            assert within(found.greetings[0].end - T0 * 10**9, [(heard.at, heard.at)], 0)
            sounds = [one.heard_from.at for one in record.responses if one.heard_from is not None]
            assert heard.at == min(sounds), seed
    assert waits > 500
    assert parts > 1000
    assert greetings > 50


def right_of(truth: Truth, owner: str) -> dict[str, list[tuple[float, float]]]:
    return {figure.name: figure.right for figure in truth.figures if figure.owner == owner}


def within(ns: int, right: list[tuple[float, float]], error: int) -> bool:
    reach = error + TOLERANCE_NS
    return any(low * 1e6 - reach <= ns <= high * 1e6 + reach for low, high in right)
