"""``always`` and ``drop``: the two that ask nothing, to end a list with."""

from dataclasses import dataclass
from typing import ClassVar

from grafter.core.sampling.policy import Keeps, Kind, SamplingDecision, TraceView


@dataclass(frozen=True, slots=True)
class Always(Keeps):
    """Everything."""

    def matches(self, view: TraceView) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing."""

    by_chance: ClassVar[bool] = True
    by_a_part: ClassVar[bool] = False

    name: str

    def decide(self, view: TraceView, now: int) -> SamplingDecision:
        return SamplingDecision(self.name, False)


ALWAYS = Kind("always", Always, last=True)
DROP = Kind("drop", Drop, last=True)
