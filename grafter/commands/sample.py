"""``grafter sample``: what ``tail_sampling`` would do with the traces in files, by the server's own rooms.

The files are joined as ``grafter graft`` joins them, the decisions are made as the server makes them, and what is shown
is the server's own count of them. A set that keeps everything is asked too: then it says which policy would be named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grafter.commands.graft import guest_parts, host_parts, released
from grafter.commands.send import Receiver, read
from grafter.core.model import NamedLink, Part
from grafter.core.policy import GraftPolicy
from grafter.core.sampling.policies import SamplingPolicy
from grafter.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class Row:
    """What one policy decided: numbers of traces."""

    policy: str
    kept: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Report:
    """What would leave, and by which policies."""

    rows: Sequence[Row]
    """In the order of the config, then what has no row there."""
    spans: int
    """Of all traces, those included that grafter makes."""
    kept_spans: int

    @property
    def traces(self) -> int:
        return sum(row.kept + row.dropped for row in self.rows)

    @property
    def kept_traces(self) -> int:
        return sum(row.kept for row in self.rows)

    def as_dict(self) -> dict[str, object]:
        return {
            "policies": {row.policy: {"kept": row.kept, "dropped": row.dropped} for row in self.rows},
            "traces": {"kept": self.kept_traces, "all": self.traces},
            "spans": {"kept": self.kept_spans, "all": self.spans},
        }


async def sample(files: Sequence[Path], policy: GraftPolicy, sampling: SamplingPolicy) -> Report:
    """The decisions about the traces in these files, as if all of them arrived at once.

    Raises ValueError, naming the file, for one that cannot be read.
    """
    parts: list[Part] = []
    links: list[NamedLink] = []
    for file in files:
        for request in read(file):
            if request.receiver is Receiver.OTLP:
                split = host_parts(file, request, policy)
                parts += split.parts
                links += split.links
            else:
                parts += guest_parts(file, request, policy)
    metrics = Metrics()
    # A set that drops nothing is only looked at in a dry run. One that drops is not to be: what leaves is counted.
    dry_run = replace(sampling, dry_run=not sampling.drops)
    traces = await released(parts, policy, metrics, dry_run, links)
    decisions = _by_labels(metrics)
    named = [one.name for one in sampling.policies]
    others = sorted({name for name, _ in decisions} - set(named))
    rows = [
        Row(name, decisions.get((name, "kept"), 0), decisions.get((name, "dropped"), 0))
        for name in [*named, *others]
        if (name, "kept") in decisions or (name, "dropped") in decisions
    ]
    kept = sum(trace.spans for trace in traces)
    out = sum(int(s.value) for m in metrics.sampled_out_spans.collect() for s in m.samples if s.name.endswith("_total"))
    return Report(rows, kept + out, kept)


def _by_labels(metrics: Metrics) -> dict[tuple[str, str], int]:
    """The server's count of decisions, by policy and decision."""
    return {
        (sample.labels["policy"], sample.labels["decision"]): int(sample.value)
        for metric in metrics.sampled_traces.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def table(report: Report) -> str:
    width = max([6, *(len(row.policy) for row in report.rows)])
    lines = [f"{'policy':{width}}  {'kept':>9}  {'dropped':>9}"]
    lines += [f"{row.policy:{width}}  {row.kept:>9,}  {row.dropped:>9,}" for row in report.rows]
    lines.append(
        f"{report.kept_traces:,} of {report.traces:,} traces kept, {report.kept_spans:,} of {report.spans:,} spans"
    )
    return "\n".join(lines)
