"""What a worker that was killed had done and not counted, as the one in its place finds it.

Its counters outlive it, and so do the books that a shared store keeps. Between the two it may have been killed: when
the store had parts that nobody was told of, or when a peer had taken spans that are held all the same and go out again.
On the side of what came these are missing, and stand there as what a start recovers does.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample

from grafter.telemetry import Held

# Of grafter.telemetry, which says how they balance.
_CAME = ("receiver_accepted", "recovered", "synthetic")
_CAME_OF = ("revived", "exporter_resumed")
_WENT = ("sampled_out", "dropped", "merged")
_WENT_OF = ("exporter_sent", "dead", "exporter_deferred", "exporter_earlier")
_ELSEWHERE = ("dead_letters_", "backlog_")
"""What is dropped for these reasons stays among the dead, or what was put off."""


def counted(directory: str, number: int) -> list[Sample]:
    """What workers of this number have counted in this directory; to be read before another one begins to count."""
    file = Path(directory) / f"counter_{number}.db"
    if not file.exists():
        return []
    metrics = MultiProcessCollector.merge([str(file)])  # type: ignore[no-untyped-call]
    return [sample for metric in metrics for sample in metric.samples]


def uncounted(samples: Iterable[Sample], held: Held, recovered: int, exporters: Collection[str]) -> int:
    """Spans that are missing on the side of what came, by these counters and what is held at a start and was recovered
    at it; of what differs from exporter to exporter only what is missing for each."""
    common, of_one = 0.0, dict.fromkeys(exporters, 0.0)
    for sample in samples:
        term = sample.name.removeprefix("grafter_").removesuffix("_spans_total")
        labels: Mapping[str, str] = sample.labels
        exporter = labels.get("exporter", "")
        if term in _CAME:
            common -= sample.value
        elif (term in _WENT and not labels.get("reason", "").startswith(_ELSEWHERE)) or (term, exporter) == (
            "dead",
            "none",
        ):
            common += sample.value
        elif exporter in of_one and term in _CAME_OF:
            of_one[exporter] -= sample.value
        elif exporter in of_one and term in _WENT_OF:
            of_one[exporter] += sample.value
    common += held.spans + held.handed_over_spans - held.taken_over_spans - recovered
    return max(0, round(common + min(of_one.values(), default=0.0)))
