"""A claim on its way out: what leaves of it, what is remembered, and what is counted once both are settled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from grafter.consumer import OutTrace
from grafter.core.call_latency import CallerTurn, CallLatency
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import Part, Source, UnixNano
from grafter.core.sampling.policy import SamplingDecision
from grafter.store.model import Claim, Memory, Outcome
from grafter.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class GuestCount:
    source: Source
    spans: int
    match: str
    """How its anchor was found; empty for a guest that left without a host."""
    waited_seconds: float
    late: bool = False
    first: bool = True
    """Nothing of the guest left before; only then it counts for the join rate."""
    malformed: bool = False
    """Its metadata seems to name a host, in a form that cannot be read."""


@dataclass(slots=True)
class Sampled:
    """What tail sampling decided about what leaves, or does not."""

    decision: SamplingDecision
    first: bool
    """Nobody had decided about the trace before: the decision counts."""
    late_keep: bool
    """The trace had been dropped, and what came late is kept all the same."""
    dry: bool
    """Nothing is dropped."""
    out: int = 0
    """Spans that were dropped."""
    odd: Mapping[str, int] = field(default_factory=dict)
    """Spans whose weight did not fit together, by what was odd."""

    def count(self, metrics: Metrics) -> None:
        policy = self.decision.policy
        if self.first:
            decision = "kept" if self.decision.kept else "would_drop" if self.dry else "dropped"
            metrics.sampled_traces.labels(policy, decision).inc()
        if self.out:
            metrics.sampled_out_spans.labels(policy).inc(self.out)
        if self.late_keep:
            metrics.late_keeps.inc()
        for what, spans in self.odd.items():
            metrics.odd_weights.labels(what).inc(spans)


@dataclass(slots=True)
class Assembled:
    """What leaves of one claim, what is remembered of it, and what is counted once it is settled."""

    trace: OutTrace | None
    """None: nothing leaves."""
    size: int = 0
    memories: tuple[Memory, ...] = ()
    merged: int = 0
    """Spans that came more than once."""
    synthetic: int = 0
    dropped: int = 0
    dropped_reason: str = ""
    guests: list[GuestCount] = field(default_factory=list)
    reason: ReleaseReason | None = None
    """What the release turned out to be, where that was not known when it was decided."""
    never: bool = False
    """A guest was expected and none has begun."""
    follow_ups: Sequence[Part] = ()
    """Empty parts that have to be held, so that somebody looks again: whether a parent came after all (stream mode), or
    whether a call that was running has fallen silent."""
    made: int = 0
    """Spans that were made of events: they count as accepted when they leave."""
    made_by: Source | None = None
    """Whose events those were."""
    sampled: Sampled | None = None
    """What was decided about it; None: nobody decided."""
    latency: CallLatency | None = None
    """Whose time the waits were that end in it; None: nothing is known of any."""
    summed: str = ""
    """What the sums are of that it states beside a host which has left without any; see ``TraceMemory.summed``."""
    left_out: OutTrace | None = None
    """What tail sampling dropped."""
    held_until: UnixNano | None = None
    """Nothing leaves: all of it stays held until then, unless a part comes earlier."""

    @property
    def plain(self) -> bool:
        """There is nothing to count but the release itself."""
        if self.sampled is not None:
            return False
        return not (self.merged or self.synthetic or self.dropped or self.never or self.guests or self.made)

    def count(self, metrics: Metrics, reason: ReleaseReason) -> None:
        """Count what became of the spans, once, when it is settled; the release itself is the caller's to count."""
        if self.made and self.made_by is not None:
            metrics.accepted_spans.labels("openai", self.made_by.value).inc(self.made)
        if self.merged:
            metrics.merged_spans.labels("repeat").inc(self.merged)
        if self.synthetic:
            metrics.synthetic_spans.inc(self.synthetic)
        if self.dropped:
            metrics.dropped_spans.labels(self.dropped_reason).inc(self.dropped)
        if self.sampled is not None:
            self.sampled.count(metrics)
        if self.latency is not None:
            for turn in self.latency.caller_turns:
                metrics.waited(_seconds(turn), greeting=False)
            for turn in self.latency.greetings:
                metrics.waited(_seconds(turn), greeting=True)
        if self.never:
            metrics.expected_guests.labels("unknown", "never").inc()
        for guest in self.guests:
            if guest.match:
                metrics.grafted_spans.labels(guest.source.value, guest.match).inc(guest.spans)
                if guest.first:
                    metrics.expected_guests.labels(guest.source.value, "late" if guest.late else "joined").inc()
                    metrics.join_delay_seconds.observe(guest.waited_seconds)
            elif guest.first:
                metrics.unlinked_guests.labels("malformed" if guest.malformed else reason.value).inc()


def _seconds(turn: CallerTurn) -> dict[str, float]:
    """A wait, and each of its parts that it has."""
    lengths = {"total": turn.end - turn.start}
    for part in turn.parts:
        lengths[part.name] = lengths.get(part.name, 0) + part.ns
    return {name: ns / 1e9 for name, ns in lengths.items()}


@dataclass(slots=True)
class Work:
    claim: Claim
    reason: ReleaseReason
    assembled: Assembled
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """What each exporter did with it, by its name."""
    retry_after: float = 0.0
    earlier: Sequence[str] = ()
    """Exporters that another process gave it to: they are done with it, and stand in that one's books."""
    void: set[str] = field(default_factory=set)
    """Exporters for which an intent is stored that turned out to be none: they have not taken it."""

    def trace_for(self, exporter: str) -> OutTrace:
        """What leaves of it, marked if that exporter may have it already."""
        return replace(self.trace, resend=True) if self.outcomes.get(exporter) is Outcome.INTENDED else self.trace

    def may_be_with(self, exporter: str) -> None:
        """Whether that exporter has it is unknown."""
        self.outcomes[exporter] = Outcome.INTENDED
        self.void.discard(exporter)

    @property
    def trace(self) -> OutTrace:
        assert self.assembled.trace is not None
        return self.assembled.trace
