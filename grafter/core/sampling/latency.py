"""``latency``: it took long, from its first start to its last end."""

from dataclasses import dataclass

from grafter.core.sampling.policy import Keeps, Kind, TraceView


@dataclass(frozen=True, slots=True)
class Latency(Keeps):
    """The whole trace took longer than this, and no longer than the upper threshold where there is one."""

    threshold_ms: float = 0
    upper_threshold_ms: int | None = None

    def matches(self, view: TraceView) -> bool:
        took = view.duration_ms()
        return self.threshold_ms < took and (self.upper_threshold_ms is None or took <= self.upper_threshold_ms)


KIND = Kind("latency", Latency, ("threshold_ms", "upper_threshold_ms"), needs=("threshold_ms",))
