"""How long a failed attempt waits for the next one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.retry import RetryPolicy

EXACT = RetryPolicy(initial_interval=1.0, max_interval=300.0, multiplier=2.0, randomization_factor=0.0)


def test_waits_grow_to_a_limit() -> None:
    """Each failure multiplies the wait, up to the longest, however many there are."""
    assert [EXACT.wait(failures, 0.5) for failures in (0, 1, 2, 5, 9, 10, 100_000)] == [1, 1, 2, 16, 256, 300, 300]


@pytest.mark.parametrize(("hint", "wait"), [(0.5, 4.0), (60.0, 60.0), (1e9, 3600.0)])
def test_a_longer_hint_wins_within_its_bound(hint: float, wait: float) -> None:
    """What the peer asks for is obeyed where it is longer, and never for more than an hour."""
    assert EXACT.wait(3, 0.5, hint) == wait


@given(failures=st.integers(1, 1000), chance=st.floats(0, 1, exclude_max=True), factor=st.floats(0, 1))
def test_chance_moves_a_wait_within_its_share(failures: int, chance: float, factor: float) -> None:
    """A wait is at most the factor's share longer or shorter, and the hint is never undercut."""
    policy = RetryPolicy(initial_interval=2.0, max_interval=8.0, randomization_factor=factor)
    middle = RetryPolicy(initial_interval=2.0, max_interval=8.0, randomization_factor=0.0).wait(failures, chance)
    assert middle * (1 - factor) - 1e-9 <= policy.wait(failures, chance) <= middle * (1 + factor) + 1e-9
    assert policy.wait(failures, chance, 30.0) == 30.0
