"""``service``: what runs, and how. Pipelines name components by id and know nothing else of them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from grafter.config import collector
from grafter.config.model import Count, Model, PositiveDuration, Text
from grafter.config.units import Duration, Endpoint, MemoryLimit


class TracesPipeline(Model):
    """Components by id."""

    receivers: tuple[Text, ...] = ("otlp", "openai")
    """Left out: all that are configured, and `otlp` and `openai` unless they are null."""
    processors: tuple[Text, ...] = ("graft", "tail_sampling")
    """Left out: `graft` and all that are configured, else `graft` and `tail_sampling`."""
    exporters: tuple[Text, ...] = ("debug",)
    """Left out: all that are configured, else `debug`."""


class PassThroughPipeline(Model):
    """Metrics or logs, passed through unread."""

    receivers: tuple[Text, ...] = ("otlp",)
    """OTLP receivers. Left out: those of `traces`."""
    processors: tuple[Text, ...] = ()
    """None: nothing reads them."""
    exporters: tuple[Text, ...] = ("debug",)
    """Left out: those of `traces`."""


class Pipelines(Model):
    """From which doors through what to which doors."""

    traces: TracesPipeline = TracesPipeline()
    """The joined traces."""
    metrics: PassThroughPipeline | None = None
    """Null: metrics are not taken."""
    logs: PassThroughPipeline | None = None
    """Null: logs are not taken."""

    def by_signal(self) -> dict[str, TracesPipeline | PassThroughPipeline]:
        """``traces``, and ``metrics`` and ``logs`` where they are taken."""
        every = {"traces": self.traces, "metrics": self.metrics, "logs": self.logs}
        return {signal: pipeline for signal, pipeline in every.items() if pipeline is not None}


class TelemetryMetrics(Model):
    """grafter's own metrics."""

    collectors_own = collector.METRICS

    endpoint: Endpoint = Endpoint("localhost:8888")
    """Where Prometheus finds `/metrics`."""


def _lower(value: object) -> object:
    return str(value).lower() if isinstance(value, str) else value


class TelemetryLogs(Model):
    """grafter's own log, on stderr."""

    collectors_own = collector.LOGS

    level: Annotated[Literal["debug", "info", "warn", "error"], BeforeValidator(_lower)] = "info"
    """The least that is logged: `debug`, `info`, `warn` or `error`."""
    encoding: Literal["console", "json"] = "console"
    """`console` for people, `json` for one object a line."""


class Telemetry(Model):
    """What grafter says of itself."""

    metrics: TelemetryMetrics = TelemetryMetrics()
    """grafter's own metrics."""
    logs: TelemetryLogs = TelemetryLogs()
    """grafter's own log."""


class Service(Model):
    """What runs, and how."""

    collectors_own = collector.SERVICE

    pipelines: Pipelines = Pipelines()
    """From which doors through what to which doors."""
    telemetry: Telemetry = Telemetry()
    """What grafter says of itself."""
    shutdown_timeout: PositiveDuration = Duration.parse("30s")
    """How long a stop may take to finish what is in flight."""
    memory_limit: MemoryLimit = MemoryLimit("80%")
    """Memory past which the doors refuse: a share of what the cgroup allows, or a size. Several
    workers share it equally."""
    workers: Count = 1
    """Processes behind the same ports, on this host; more than one needs a store that they share."""
