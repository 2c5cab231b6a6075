"""The policies of ``processors.tail_sampling`` together: the first that decides is the last that is asked.

Those that keep a trace for what it is (an error, a slow answer) leave its weight as it came; ``probabilistic`` and
``rate_limit`` keep one of so many, which is the weight of what they keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grafter.core.policy import MINUTE
from grafter.core.sampling.error import Error
from grafter.core.sampling.everything import Always
from grafter.core.sampling.first_token import FirstToken
from grafter.core.sampling.policy import Policy, SamplingDecision, TraceView

INCOMPLETE = "incomplete"
"""The policy of a trace of which more may come, and which can be held no longer: it is kept."""
LATE = "late"
"""The policy of what comes late of a trace that left before anybody decided about it: it follows."""


@dataclass(frozen=True, slots=True)
class SamplingPolicy:
    """Everything under ``processors.tail_sampling``."""

    policies: Sequence[Policy] = (Error("error"), FirstToken("first_token"), Always("always"))
    """The last one decides about everything."""
    dry_run: bool = False
    regret: int = 15 * MINUTE
    """How long, in nanoseconds, the payload of an incomplete trace stays that would be dropped."""
    claims_upstream: bool = True
    """What came without a weight was not sampled before; False: nothing is known of that."""

    @property
    def drops(self) -> bool:
        """Some trace may be dropped. Where none can be there is nothing to look at: each span stands for itself."""
        return any(policy.by_chance for policy in self.policies)

    @property
    def looks(self) -> bool:
        """Traces are looked at, and what leaves says what was decided."""
        return self.drops or self.dry_run

    def judge(self, view: TraceView, now: int) -> SamplingDecision:
        """The first decision."""
        for policy in self.policies:
            decision = policy.decide(view, now)
            if decision is not None:
                return decision
        return SamplingDecision(INCOMPLETE, True)

    def kept_for_itself(self, view: TraceView, now: int) -> SamplingDecision | None:
        """The decision of the policies that a part of a trace is enough for; None: none of them keeps it."""
        enough = (policy for policy in self.policies if policy.by_a_part)
        return next(filter(None, (policy.decide(view, now) for policy in enough)), None)
