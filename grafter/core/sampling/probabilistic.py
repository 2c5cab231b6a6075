"""``probabilistic``: one of so many traces, which is the weight of each that it keeps.

So it decides about every trace that reaches it: were another policy to keep what it leaves, that would count twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from grafter.core.sampling.policy import Kind, Problem, SamplingDecision, TraceView
from grafter.core.sampling.weights import threshold


@dataclass(frozen=True, slots=True)
class Probabilistic:
    """One of so many, by the trace's own randomness: every replica and every sampler of the kind decides alike."""

    by_chance: ClassVar[bool] = True
    by_a_part: ClassVar[bool] = False

    name: str
    one_of: int

    def decide(self, view: TraceView, now: int) -> SamplingDecision:
        return SamplingDecision(self.name, view.randomness() >= threshold(self.one_of), self.one_of)


def one_of_share(percentage: float) -> int:
    """The nearest one of N to a share of 0 to 100 %."""
    return max(1, round(100 / percentage)) if percentage else 1


def _made(name: str, one_of: int | None = None, sampling_percentage: float = 0.0) -> Probabilistic:
    return Probabilistic(name, one_of_share(sampling_percentage) if one_of is None else one_of)


def _problems(keys: Mapping[str, object]) -> Iterable[Problem]:
    share, key = keys.get("sampling_percentage"), "sampling_percentage"
    if (share is None) == (keys.get("one_of") is None):
        yield Problem("probabilistic needs one_of or sampling_percentage, one of the two")
    elif isinstance(share, int | float):
        n = one_of_share(share)
        if share == 0:
            yield Problem("0 keeps nothing: that is the policy drop", key)
        elif 50 < share < 100:
            yield Problem(f"{share:g} is no one of N: the nearest are one_of: 1 (100 %) and one_of: 2 (50 %)", key)
        elif abs(100 / share - n) > 1e-9:
            yield Problem(f"{share:g} becomes one_of: {n} ({100 / n:.4g} %)", key, warning=True)


KIND = Kind("probabilistic", _made, ("one_of", "sampling_percentage"), last=True, problems=_problems)
