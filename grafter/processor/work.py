"""A claim on its way out, and what became of it."""

from dataclasses import dataclass, field

from grafter.consumer import OutTrace
from grafter.core.lifecycle import ReleaseReason
from grafter.processor.release_result import Assembled
from grafter.store.base import Claim, Outcome


@dataclass(slots=True)
class Work:
    """A claim and what became of it."""

    claim: Claim
    reason: ReleaseReason
    assembled: Assembled
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    retry_after: float = 0.0

    @property
    def trace(self) -> OutTrace:
        """What leaves of it."""
        assert self.assembled.trace is not None
        return self.assembled.trace
