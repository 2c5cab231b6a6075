"""How much work something is, counted instead of timed: the count is the same on any machine, however busy it is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Steps:
    """Lines of Python that this thread has run in the block, and calls of functions."""

    taken: int = 0


class TooManyStepsError(AssertionError):
    """Raised where the step too many would be taken: what would take hours is not waited for."""


@contextmanager
def at_most_steps(most: int) -> Iterator[Steps]:
    """Fail when the block takes more steps. What one line does in C counts as one, so the data of a test are so large
    that a walk through them in each step shows."""
    steps = Steps()

    def step(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event in ("call", "line"):
            steps.taken += 1
            if steps.taken > most:
                raise TooManyStepsError(f"more than {most} steps")
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        yield steps
    finally:
        sys.settrace(before)
    # Again, for code that takes any exception.
    assert steps.taken <= most
