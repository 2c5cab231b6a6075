"""What a caller waited in vain is never stated wrongly, nor of what nobody can know, and stated where it can be known.

Calls in which the caller hangs up, read by taps and by grafter's own recorder, held against what was at his ear.
"""

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.simulator.hang_ups import hung_up
from tests.simulator.unanswered_rules import NAME

WHOLE = 0.99
"""Of the calls whose evidence is whole, the share of which it is stated; the rest are answers that may have been heard
later than they were, by a player that nobody sees."""


def hold(seeds: Iterable[int]) -> Counter[tuple[str, str]]:
    """Nothing stated is wrong and nothing invented; how often it was what, by who read the calls."""
    found: Counter[tuple[str, str]] = Counter()
    faults = []
    for seed in seeds:
        call = hung_up(seed)
        for verdict in call.judged():
            if verdict.finding in ("wrong", "invented"):
                faults.append(f"{verdict}\n    {call.life or call.view}")
            if verdict.what == f"{NAME}_ms":
                found[call.read_by, verdict.finding] += 1
    assert not faults, "\n".join(faults[:20])
    for reader in ("a tap", "a recorder", "both"):
        stated, left = found[reader, "right"], found[reader, "left out"]
        assert stated >= WHOLE * (stated + left), found
    return found


def test_what_is_stated_of_a_hang_up_is_true() -> None:
    """1,000 calls: every ending, every kind of listener."""
    found = hold(range(1_000))
    assert found["a tap", "right"] > 100
    assert found["a recorder", "right"] > 20
    assert found["both", "right"] > 5
    assert found["a recorder", "absent"] > 100


@pytest.mark.slow
def test_what_is_stated_of_many_hang_ups_is_true() -> None:
    """30,000 calls, none of them among those of the quick run."""
    hold(range(1_000, 31_000))
