"""grafter's own counters, in one table: name, meaning, labels. Names and labels are PRODUCT's; dashboards rely on them.

The books balance in each process: accepted + recovered + taken over + synthetic + revived + resumed = sent + held +
handed over + sampled out + dead + dropped + merged + deferred + earlier, for each exporter; what is dropped of the dead
(reasons ``dead_letters_…``) stays among the dead there, of a backlog (``backlog_…``) among the deferred. Labels
are few and bounded: a label value is never text from outside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import partial
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DELAYS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_WAITS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Metrics:
    """Every metric of one process, on a registry of its own, so that two services in one test do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, registry=self.registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)

        def gauge(name: str, meaning: str, workers: Literal["livesum", "livemax", "livemin"], *labels: str) -> Gauge:
            """``workers``: what the values of several together are."""
            return Gauge(name, meaning, labels, registry=self.registry, multiprocess_mode=workers)

        self.accepted_spans = counter(
            "grafter_receiver_accepted_spans", "Spans stored and acknowledged.", "receiver", "transport"
        )
        self.refused_spans = counter(
            "grafter_receiver_refused_spans", "Spans refused at the door.", "receiver", "transport", "reason"
        )
        self.receiver_requests = counter(
            "grafter_receiver_requests", "Requests answered.", "receiver", "transport", "outcome"
        )
        self.receiver_seconds = histogram(
            "grafter_receiver_request_seconds", "Time to answer a request.", _SECONDS, "receiver"
        )
        self.guest_items = counter("grafter_guest_items", "OpenAI items read, by what they were.", "source", "kind")
        self.webhook_events = counter(
            "grafter_webhook_events", "Events of accepted webhooks, by what they were.", "kind"
        )
        self.tee_items = counter("grafter_tee_items", "Items sent on to OpenAI's ingest.", "outcome")
        self.recorders = gauge("grafter_recorders", "Calls recorded now.", "livesum")
        self.recorder_connects = counter(
            "grafter_recorder_connects", "Attempts to open the sideband of a call.", "outcome"
        )
        self.recorder_ends = counter("grafter_recorder_ends", "Recorders that ended.", "reason")
        self.recorder_lost_events = counter(
            "grafter_recorder_lost_events", "Events of recorded calls that the store did not take in time.", "reason"
        )
        self.session_requests = counter(
            "grafter_session_requests", "Requests to OpenAI's Agents API, by what came of them.", "outcome"
        )
        self.session_polls = counter(
            "grafter_session_looks", "Polls of hosted sessions, by what came of them.", "outcome"
        )
        self.written_calls = counter("grafter_calls_written", "Records of calls that came into the calls' database.")
        self.dropped_calls = counter(
            "grafter_calls_dropped", "Records of calls, or traces with them, that never come into it.", "reason"
        )
        self.followed_calls = counter(
            "grafter_calls_told", "Calls that a table or a webhook was told of, by what came of it.", "to", "outcome"
        )
        # Of several workers and replicas each sees the whole outbox, and what it has put into the store itself.
        self.calls_backlog = gauge(
            "grafter_calls_backlog", "Calls that a table or a webhook was not told of yet.", "livemax", "to"
        )
        self.calls_backlog_oldest = gauge(
            "grafter_calls_backlog_oldest_seconds", "How long ago the first of them changed.", "livemax", "to"
        )
        self.unwritten_calls = gauge(
            "grafter_calls_unwritten",
            "Records of calls, and pieces of their traces, that wait in the store for the calls' database.",
            "livesum",
        )
        self.released_traces = counter("grafter_released_traces", "Traces released.", "reason")
        self.grafted_spans = counter("grafter_grafted_spans", "Guest spans hung under a host trace.", "source", "match")
        self.unlinked_guests = counter("grafter_unlinked_guests", "Guests released without a host.", "reason")
        self.expected_guests = counter(
            "grafter_expected_guests", "Guests that a host trace expected.", "source", "outcome"
        )
        self.join_delay_seconds = histogram(
            "grafter_join_delay_seconds", "From a guest's first part to its release with the host.", _DELAYS
        )
        # Workers share one machine.
        self.wall_clock_ahead = gauge(
            "grafter_wall_clock_ahead_seconds",
            "By how much this machine's clock is ahead of the time that waits run on.",
            "livemax",
        )
        self.caller_wait_seconds = histogram(
            "grafter_caller_wait_seconds",
            "What callers waited for an answer, in all and for each part of it.",
            _WAITS,
            "part",
        )
        self.greeting_seconds = histogram(
            "grafter_greeting_seconds",
            "What callers waited for the first word of a call, in all and for each part of it.",
            _WAITS,
            "part",
        )
        self.forgotten_traces = counter("grafter_forgotten_traces", "Traces that are remembered no more.", "reason")
        self.lost_records = counter(
            "grafter_lost_records", "Damaged records of the embedded store; of each there is an ERROR in the log."
        )
        self.forgotten_marks = counter(
            "grafter_forgotten_marks", "Marks of webhook deliveries that the limit on their number ended."
        )
        self.recovered_spans = counter(
            "grafter_recovered_spans", "Spans that the store held at start, or kept of requests that were not answered."
        )
        self.synthetic_spans = counter("grafter_synthetic_spans", "Spans that grafter made up.")
        self.merged_spans = counter("grafter_merged_spans", "Spans that came more than once, kept once.", "reason")
        self.dropped_spans = counter("grafter_dropped_spans", "Spans dropped, each with a reason.", "reason")
        self.sampled_out_spans = counter("grafter_sampled_out_spans", "Spans that tail sampling dropped.", "policy")
        self.sampled_traces = counter(
            "grafter_sampled_traces", "Traces that tail sampling decided about, by what decided.", "policy", "decision"
        )
        self.late_keeps = counter(
            "grafter_late_keep_after_drop",
            "Late parts that were kept though their traces had been dropped.",
        )
        self.odd_weights = counter(
            "grafter_odd_weights", "Spans whose incoming sampling weight cannot be read or disagrees.", "reason"
        )
        self.resent_spans = counter("grafter_resent_spans", "Spans sent again after an unknown outcome.", "exporter")
        # 0 as soon as one worker finds it down.
        self.exporter_up = gauge(
            "grafter_exporter_up",
            "1 while the peer takes traces, 0 from a failure until the next success.",
            "livemin",
            "exporter",
        )
        self.sent_spans = counter("grafter_exporter_sent_spans", "Spans that the peer accepted.", "exporter")
        self.failed_spans = counter(
            "grafter_exporter_failed_spans", "Spans of failed attempts; they are tried again.", "exporter"
        )
        self.rejected_spans = counter(
            "grafter_exporter_rejected_spans", "Spans that the peer refused in a partial success.", "exporter"
        )
        self.dead_spans = counter("grafter_dead_spans", "Spans put into the dead-letter box.", "exporter", "reason")
        self.revived_spans = counter(
            "grafter_revived_spans",
            "Spans of dead letters that were sent again, and that the peer accepted.",
            "exporter",
        )
        self.deferred_spans = counter(
            "grafter_exporter_deferred_spans",
            "Spans that other exporters have, put off for this one until it takes them.",
            "exporter",
        )
        self.earlier_spans = counter(
            "grafter_exporter_earlier_spans",
            "Spans that another process gave to this exporter, settled by this one.",
            "exporter",
        )
        self.resumed_spans = counter(
            "grafter_exporter_resumed_spans", "Spans that were put off, and are so no longer.", "exporter"
        )
        self.exporter_seconds = histogram(
            "grafter_exporter_request_seconds", "Time of one attempt.", _SECONDS, "exporter"
        )
        self.passed_requests = counter(
            "grafter_passed_requests", "Metrics and logs requests passed through.", "signal", "outcome"
        )

    def waited(self, seconds: Mapping[str, float], *, greeting: bool) -> None:
        """Count one wait of a caller, in all and by part."""
        histogram = self.greeting_seconds if greeting else self.caller_wait_seconds
        for part, length in seconds.items():
            histogram.labels(part).observe(length)

    def watch(self, read: Callable[[], "Held"]) -> None:
        """Add the gauges of what is held now; ``read`` is called once a scrape."""
        self.registry.register(HeldCollector(read))


@dataclass(frozen=True, slots=True)
class HeldFor:
    """What a store that several processes share holds for one of them. A number is given anew when it is free."""

    replica: int
    traces: int
    spans: int
    bytes: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class DeadLettersHeld:
    """What the dead-letter box has for one exporter."""

    exporter: str
    letters: int
    spans: int
    bytes: int


@dataclass(frozen=True, slots=True)
class BacklogHeld:
    """What waits for one exporter alone."""

    exporter: str
    spans: int
    bytes: int
    oldest_seconds: float


def _first(values: Sequence[float]) -> float:
    """Of what each process that shares a store says alike."""
    return values[0]


def _shown(
    name: str,
    meaning: str,
    joined: Callable[[Sequence[float]], float] = _first,
    family: type[GaugeMetricFamily | CounterMetricFamily] = GaugeMetricFamily,
) -> dict[str, object]:
    """How a field of Held is shown, and what the workers' values are together."""
    return {"joined": joined, "family": partial(family, f"grafter_{name}", meaning)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreGauges:
    """Those of the gauges below that are shown as a store says them: its ``Stats`` are these, and more."""

    limit_bytes: int = field(metadata=_shown("store_limit_bytes", "Live bytes past which parts are refused."))
    disk_bytes: int = field(metadata=_shown("store_bytes", "Bytes that the store takes, dead ones included."))
    remembered: int = field(metadata=_shown("remembered_traces", "Released traces that late parts still find."))
    remembered_bytes: int = field(
        default=0, metadata=_shown("remembered_bytes", "Bytes of what is remembered of them.")
    )
    unreadable: int = field(
        default=0,
        metadata=_shown("unreadable_traces", "Due keys that wait for the newer version that wrote them.", max),
    )
    taken_over_spans: int = field(
        default=0,
        metadata=_shown(
            "taken_over_spans",
            "Spans of other replicas that this one settled, or that were added to its traces or left by the dead.",
            sum,
            CounterMetricFamily,
        ),
    )
    handed_over_spans: int = field(
        default=0,
        metadata=_shown(
            "handed_over_spans",
            "Spans of this replica that others settled, or that it added to others' traces.",
            sum,
            CounterMetricFamily,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(StoreGauges):
    """The gauges of what is held, in one table; plain numbers, so that this room needs no other."""

    traces: int = field(metadata=_shown("held_traces", "Keys held now.", sum))
    spans: int = field(metadata=_shown("held_spans", "Spans held now.", sum))
    bytes: int = field(metadata=_shown("held_bytes", "Live payload bytes held now.", sum))
    oldest_seconds: float = field(metadata=_shown("oldest_held_seconds", "Age of the oldest part held.", max))
    store_up: bool = field(metadata=_shown("store_up", "1 while the store takes parts."))
    replicas: Sequence[HeldFor] = ()
    letters: Sequence[DeadLettersHeld] = ()
    backlogs: Sequence[BacklogHeld] = ()

    @classmethod
    def nothing(cls) -> "Held":
        """Before there is a store."""
        zeros: dict[str, Any] = dict.fromkeys([one.name for one in _SHOWN], 0)
        return cls(**zeros | {"store_up": True})

    @classmethod
    def together(cls, helds: Sequence["Held"]) -> "Held":
        """What several processes, one at least, hold of the store that they share."""
        joined = {one.name: one.metadata["joined"]([getattr(held, one.name) for held in helds]) for one in _SHOWN}
        first = helds[0]
        return cls(**joined, replicas=first.replicas, letters=first.letters, backlogs=first.backlogs)


_SHOWN = tuple(one for one in fields(Held) if one.metadata)


# By name, in the order of the fields behind the first, which is the label.
_OF_REPLICAS = {
    "replica_held_traces": "Keys that the shared store holds, by the replica that began them.",
    "replica_held_spans": "Spans that the shared store holds, by the replica that began them.",
    "replica_held_bytes": "Live payload bytes that the shared store holds, by the replica that began them.",
    "replica_oldest_held_seconds": (
        "Age of the oldest part that the shared store holds, by the replica that began them."
    ),
}
_OF_DEAD_LETTERS = {
    "dead_letters": "Letters in the dead-letter box now.",
    "dead_letter_spans": "Spans in the dead-letter box now.",
    "dead_letter_bytes": "Bytes in the dead-letter box now.",
}
_OF_BACKLOGS = {
    "exporter_backlog_spans": "Spans that wait for this exporter alone.",
    "exporter_backlog_bytes": "Live payload bytes that wait for this exporter alone.",
    "exporter_backlog_oldest_seconds": "For how long the first span waits for this exporter alone.",
}


class HeldCollector(Collector):
    """The gauges of what is held; ``read`` is called once a scrape."""

    def __init__(self, read: Callable[[], Held]) -> None:
        self._read = read

    def collect(self) -> list[Metric]:
        held = self._read()
        shown = [one.metadata["family"](value=getattr(held, one.name)) for one in _SHOWN]
        # Of a shared store the whole, whichever process is asked.
        replicas = _by("replica", _OF_REPLICAS, held.replicas) if held.replicas else []
        letters = _by("exporter", _OF_DEAD_LETTERS, held.letters)
        return [*shown, *replicas, *letters, *_by("exporter", _OF_BACKLOGS, held.backlogs)]


def _by(
    label: str, gauges: Mapping[str, str], rows: Sequence[HeldFor | DeadLettersHeld | BacklogHeld]
) -> list[GaugeMetricFamily]:
    """These gauges, each with a sample a row."""
    made = [GaugeMetricFamily(f"grafter_{name}", meaning, labels=[label]) for name, meaning in gauges.items()]
    for row in rows:
        of, *values = astuple(row)
        for family, value in zip(made, values, strict=True):
            family.add_metric([str(of)], value)
    return made
