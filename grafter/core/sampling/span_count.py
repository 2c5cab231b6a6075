"""``span_count``: it has so many spans."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grafter.core.sampling.policy import Keeps, Kind, Problem, TraceView


@dataclass(frozen=True, slots=True)
class SpanCount(Keeps):
    """So many spans."""

    min_spans: int = 1
    max_spans: int | None = None

    def matches(self, view: TraceView) -> bool:
        return self.min_spans <= view.spans and (self.max_spans is None or view.spans <= self.max_spans)


def _problems(keys: Mapping[str, object]) -> Iterable[Problem]:
    if not (keys.get("min_spans") or keys.get("max_spans")):
        yield Problem("span_count needs min_spans, max_spans or both")


KIND = Kind("span_count", SpanCount, ("min_spans", "max_spans"), problems=_problems)
