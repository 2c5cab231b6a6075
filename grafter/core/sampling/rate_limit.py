"""``rate_limit``: about so many spans a second, as one of as many traces as that takes.

As ``probabilistic``, it decides about every trace that reaches it. What it has seen is in its own object, one a
process.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from grafter.core.policy import SECOND
from grafter.core.sampling.policy import Kind, SamplingDecision, TraceView
from grafter.core.sampling.weights import MOST_RATE, threshold


@dataclass(slots=True)
class RateLimit:
    """About so many spans a second, in this process, as one of N of the traces.

    N comes from what was seen, the trace that is decided about left out, so that it never depends on what it decides
    and every weight is right: that of the second before, and more where this second has already brought more. It is a
    whole number, as a rate has to be, so that between half and all of the limit is used.
    """

    by_chance: ClassVar[bool] = True
    by_a_part: ClassVar[bool] = False

    name: str
    spans_per_second: int
    _second: int = field(default=-1, init=False)
    _seen: int = field(default=0, init=False)
    _before: int = field(default=0, init=False)

    def decide(self, view: TraceView, now: int) -> SamplingDecision:
        second = now // SECOND
        if second != self._second:
            self._before = self._seen if second == self._second + 1 else 0
            self._second, self._seen = second, 0
        busiest = max(self._before, self._seen)
        one_of = min(max(1, math.ceil(busiest / self.spans_per_second)), MOST_RATE)
        self._seen += view.spans
        return SamplingDecision(self.name, view.randomness() >= threshold(one_of), one_of)


KIND = Kind("rate_limit", RateLimit, ("spans_per_second",), needs=("spans_per_second",), last=True)
