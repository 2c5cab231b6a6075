"""No figure of a Realtime call is ever wrong: what grafter states of simulated calls is held against their truth."""

import pytest

from tests.simulator.run import Tally, tally


def hold(result: Tally) -> None:
    """Nothing stated is wrong and nothing is invented; the table says what was left out though it could be known."""
    print("\n".join(result.lines()))
    faults = "\n".join(map(str, result.faults))
    assert (result.count("wrong"), result.count("invented")) == (0, 0), (
        f"{faults}\n\nReplay one with: python -m tests.simulator --one SEED"
    )
    assert result.count("right") > 10 * result.calls


def test_no_stated_figure_is_wrong() -> None:
    """2,000 calls: of all kinds, seen by taps and by recorders, posted in every order."""
    hold(tally(range(2_000)))


@pytest.mark.slow
def test_no_stated_figure_of_many_calls_is_wrong() -> None:
    """100,000 calls, none of them among those of the quick run."""
    hold(tally(range(2_000, 102_000)))
