"""/metrics of all workers as one: what they count added up, what they share shown once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from grafter.telemetry import Held, HeldCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of the page."""

# What of a process's own metrics has a sum; of the others the parent's are shown.
_SUMMED = {"process_cpu_seconds", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the parent knows beside what the workers count themselves."""

    running: int
    """Workers that are ready."""
    restarts: int
    """Since the start."""
    held: Held | None
    """What the store holds for all of them together; None while nobody knows."""
    pids: Sequence[int]
    """Of the workers that live."""
    ended_cpu_seconds: float
    """What workers that ended had used."""


class Page:
    """The metrics of the workers that count in a directory; ``see`` is called once a scrape."""

    def __init__(self, directory: str, see: Callable[[], Seen]) -> None:
        self._directory = directory
        self._registry = CollectorRegistry()
        MultiProcessCollector(self._registry, path=directory)  # type: ignore[no-untyped-call]
        self._registry.register(_SeenCollector(see))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def forget(self, number: int) -> None:
        """A worker ended: its gauges go; its counters stay, and whoever takes its place counts on."""
        mark_process_dead(number, self._directory)  # type: ignore[no-untyped-call]


class _SeenCollector(Collector):
    def __init__(self, see: Callable[[], Seen]) -> None:
        self._see = see

    def collect(self) -> Iterator[Metric]:
        seen = self._see()
        yield GaugeMetricFamily("grafter_workers", "Workers that are ready.", value=seen.running)
        yield CounterMetricFamily(
            "grafter_worker_restarts", "Workers started again after their end.", value=seen.restarts
        )
        if seen.held is not None:
            held = seen.held
            yield from HeldCollector(lambda: held).collect()
        yield from _processes(seen.pids, seen.ended_cpu_seconds)


def _processes(pids: Sequence[int], ended_cpu_seconds: float) -> Iterator[Metric]:
    """The parent's own process metrics, with the workers' added where that means something."""
    sums = {"process_cpu_seconds": ended_cpu_seconds}
    for pid in pids:
        # Nothing of a process that has ended since.
        for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            sums[metric.name] = sums.get(metric.name, 0.0) + metric.samples[0].value
    for metric in ProcessCollector(registry=None).collect():
        if metric.name in _SUMMED:
            (sample,) = metric.samples
            metric.samples = [sample._replace(value=sample.value + sums.get(metric.name, 0.0))]
        yield metric
