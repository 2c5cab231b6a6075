"""The counter of steps that other tests measure with."""

from contextlib import suppress

import pytest

from tests.steps import TooManyStepsError, at_most_steps


def walk(many: int) -> int:
    total = 0
    for each in range(many):
        total += each
    return total


def test_the_same_work_is_the_same_count() -> None:
    """A loop's turns count, also those of a generator; what is done before and after the block does not."""
    counts = []
    for many in (1_000, 1_000, 2_000):
        walk(5_000)
        with at_most_steps(10_000) as steps:
            walk(many)
        counts.append(steps.taken)
    assert counts[0] == counts[1] > 1_000
    assert 1.9 < counts[2] / counts[0] < 2.1
    with at_most_steps(10_000) as steps:
        sum(each for each in range(1_000))
    assert steps.taken > 1_000


def test_what_takes_too_many_is_stopped() -> None:
    """At once, and also where the code that is counted takes any exception for its own."""
    with pytest.raises(TooManyStepsError), at_most_steps(1_000):
        walk(10**12)
    with pytest.raises(AssertionError), at_most_steps(1_000), suppress(AssertionError):
        walk(10**12)
