"""``first_token``: somebody waited long for an answer; and which attributes say so.

The names stand here for whoever reads such a wait: of the spans of a trace, or of a framework's model turns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from grafter.core.sampling.policy import Keeps, Kind, TraceView

FRAMEWORK_WAIT_KEYS: Mapping[str, float] = {"lk.e2e_latency": 1000.0, "turn.user_bot_latency_seconds": 1000.0}
"""In which LiveKit and Pipecat say how long the caller waited for an answer, with the milliseconds of their unit."""
CALLER_WAIT_KEYS: Mapping[str, float] = {
    "grafter.caller_wait_ms": 1.0,
    "grafter.unanswered_ms": 1.0,
    **FRAMEWORK_WAIT_KEYS,
}
"""Attributes that say how long the caller waited for an answer, or for one that never came, with the milliseconds of
their unit: grafter's own, LiveKit's (livekit-agents 1.8.9), Pipecat's (pipecat-ai 1.14.0)."""
MODEL_TURN_KEYS: Mapping[str, float] = {
    "grafter.turn.first_token_ms": 1.0,
    "gen_ai.response.time_to_first_chunk": 1000.0,
    "lk.response.ttft": 1000.0,
    "metrics.ttfb": 1000.0,
    "time_to_first_token_ms": 1.0,
}
"""The same for the first token of a model turn: grafter's own, the GenAI conventions', LiveKit's, Pipecat's,
OpenInference's."""


@dataclass(frozen=True, slots=True)
class FirstToken(Keeps):
    """Somebody waited longer than this for a first token."""

    by_a_part: ClassVar[bool] = True

    threshold_ms: float = 1500

    def matches(self, view: TraceView) -> bool:
        longest = view.first_token_ms()
        return longest is not None and longest > self.threshold_ms


KIND = Kind("first_token", FirstToken, ("threshold_ms",))
