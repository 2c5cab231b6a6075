"""The policies of ``processors.tail_sampling``: each looks at a trace and decides about it, or leaves it to the next.

The first that decides is the last that is asked. Those that keep a trace for what it is (an error, a slow answer)
leave its weight as it came; ``probabilistic`` and ``rate_limit`` keep one of so many, which is the weight of what they
keep, and so they decide about every trace that reaches them: were another policy to keep what they leave, it would
count twice.

Pure: the time is an argument, and what a rate limit has seen is in its own object, one a process.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from grafter.core.policy import MINUTE, SECOND
from grafter.core.sampling.weights import MOST_RATE, threshold

CALLER_WAIT_KEYS: Mapping[str, float] = {
    "grafter.caller_wait_ms": 1.0,
    "lk.e2e_latency": 1000.0,
    "turn.user_bot_latency_seconds": 1000.0,
}
"""Attributes that say how long the caller waited for an answer, with the milliseconds of their unit: grafter's own,
LiveKit's (livekit-agents 1.8.9), Pipecat's (pipecat-ai 1.14.0)."""
MODEL_TURN_KEYS: Mapping[str, float] = {
    "grafter.turn.first_token_ms": 1.0,
    "gen_ai.response.time_to_first_chunk": 1000.0,
    "lk.response.ttft": 1000.0,
    "metrics.ttfb": 1000.0,
    "time_to_first_token_ms": 1.0,
}
"""The same for the first token of a model turn: grafter's own, the GenAI conventions', LiveKit's, Pipecat's,
OpenInference's."""


class TraceView(Protocol):
    """What policies see of a trace: all that leaves of it. Each answer is worked out when it is asked for."""

    @property
    def spans(self) -> int:
        """How many spans leave."""
        ...

    @property
    def guests(self) -> int:
        """How many guests were hung into it."""
        ...

    @property
    def complete(self) -> bool:
        """Its root has ended and its guests are whole."""
        ...

    def has_error(self) -> bool:
        """A span has the status ERROR."""
        ...

    def has_barge_in(self) -> bool:
        """The caller broke in on an answer."""
        ...

    def first_token_ms(self) -> float | None:
        """The longest wait for a first token: a caller turn's where it is known, else a model turn's; of an answer that
        was cancelled before its first token, how long it lasted."""
        ...

    def duration_ms(self) -> float:
        """From the earliest start to the latest end; spans that end before they start are left out."""
        ...

    def values(self, key: str) -> Iterable[str]:
        """What the attribute says, as text, on spans and their resources."""
        ...

    def randomness(self) -> int:
        """R, see ``weights``."""
        ...


class SamplingDecision(NamedTuple):
    """What became of a trace, and by which policy: kept for every span of it that will ever come."""

    policy: str
    """The policy's name."""
    kept: bool
    one_of: int = 1
    """It was kept as one of so many."""
    upstream: int = 0
    """The rate of the app's own spans, for those that grafter makes; 0 where there was none."""


class Policy(Protocol):
    """One policy, by its name in the file."""

    @property
    def name(self) -> str: ...

    def decide(self, view: TraceView, now: int) -> SamplingDecision | None:
        """None: it says nothing of this trace. ``now``: arrival clock, nanoseconds."""
        ...


@dataclass(frozen=True, slots=True)
class _Keeps:
    """Keeps every trace that matches."""

    name: str

    def matches(self, view: TraceView) -> bool:
        raise NotImplementedError

    def decide(self, view: TraceView, now: int) -> SamplingDecision | None:
        return SamplingDecision(self.name, True) if self.matches(view) else None


@dataclass(frozen=True, slots=True)
class Error(_Keeps):
    """A span with the status ERROR."""

    def matches(self, view: TraceView) -> bool:
        return view.has_error()


@dataclass(frozen=True, slots=True)
class FirstToken(_Keeps):
    """Somebody waited longer than this for a first token."""

    threshold_ms: int = 1500

    def matches(self, view: TraceView) -> bool:
        longest = view.first_token_ms()
        return longest is not None and longest > self.threshold_ms


@dataclass(frozen=True, slots=True)
class Latency(_Keeps):
    """The whole trace took longer than this, and no longer than the upper threshold where there is one."""

    threshold_ms: int = 0
    upper_threshold_ms: int | None = None

    def matches(self, view: TraceView) -> bool:
        took = view.duration_ms()
        return self.threshold_ms < took and (self.upper_threshold_ms is None or took <= self.upper_threshold_ms)


@dataclass(frozen=True, slots=True)
class Attribute(_Keeps):
    """A span or its resource has the attribute, with one of these values where there are any."""

    key: str = ""
    values: frozenset[str] = frozenset()

    def matches(self, view: TraceView) -> bool:
        return any(not self.values or value in self.values for value in view.values(self.key))


@dataclass(frozen=True, slots=True)
class SpanCount(_Keeps):
    """So many spans."""

    min_spans: int = 1
    max_spans: int | None = None

    def matches(self, view: TraceView) -> bool:
        return self.min_spans <= view.spans and (self.max_spans is None or view.spans <= self.max_spans)


@dataclass(frozen=True, slots=True)
class HasGuest(_Keeps):
    """It has a guest, or has none; complete or not, where that is asked for."""

    present: bool = True
    complete: bool | None = None

    def matches(self, view: TraceView) -> bool:
        return (view.guests > 0) == self.present and (self.complete is None or view.complete == self.complete)


@dataclass(frozen=True, slots=True)
class BargeIn(_Keeps):
    """The caller broke in on an answer."""

    def matches(self, view: TraceView) -> bool:
        return view.has_barge_in()


@dataclass(frozen=True, slots=True)
class Always(_Keeps):
    """Everything."""

    def matches(self, view: TraceView) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing."""

    name: str

    def decide(self, view: TraceView, now: int) -> SamplingDecision:
        return SamplingDecision(self.name, False)


@dataclass(frozen=True, slots=True)
class Probabilistic:
    """One of so many, by the trace's own randomness: every replica and every sampler of the kind decides alike."""

    name: str
    one_of: int

    def decide(self, view: TraceView, now: int) -> SamplingDecision:
        return SamplingDecision(self.name, view.randomness() >= threshold(self.one_of), self.one_of)


@dataclass(slots=True)
class RateLimit:
    """About so many spans a second, in this process, as one of N of the traces.

    N comes from what was seen, the trace that is decided about left out, so that it never depends on what it decides
    and every weight is right: that of the second before, and more where this second has already brought more. It is a
    whole number, as a rate has to be, so that between half and all of the limit is used.
    """

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


_BY_CHANCE = (Drop, Probabilistic, RateLimit)
_BY_A_PART = (Error, FirstToken, Attribute, BargeIn)
"""What one span says holds for the trace, whatever else there is of it."""

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
        return any(isinstance(policy, _BY_CHANCE) for policy in self.policies)

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
        enough = (policy for policy in self.policies if isinstance(policy, _BY_A_PART))
        return next(filter(None, (policy.decide(view, now) for policy in enough)), None)
