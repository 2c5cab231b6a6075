"""The whole config, in the order of config.yaml, and what it says shall run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from grafter.config.exporters import EXPORTERS, Exporter
from grafter.config.model import Components, Count, FilledSecret, Flag, Model, PositiveDuration, Text, component_type
from grafter.config.processors import PROCESSORS, GraftProcessor
from grafter.config.receivers import RECEIVERS, Receiver
from grafter.config.stores import StoreExtension
from grafter.config.units import Duration, Endpoint, MemoryLimit
from grafter.core.policy import GraftPolicy


class HealthCheck(Model):
    """`/healthz` and `/readyz`."""

    endpoint: Endpoint = Endpoint("localhost:13133")
    """Where to listen, over HTTP."""
    readiness_on_store: Flag = False
    """True: `/readyz` answers 503 while the store takes no parts. False: the store's trouble stands in its body, and
    the doors answer for it request by request."""

    def describe(self) -> str:
        return f"http {self.endpoint}"


class Admin(Model):
    """`/admin/…` at `receivers.openai.endpoint`: what `grafter pull` and the like ask of the grafter that runs."""

    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens for commands of other machines; those of this one need none."""

    @property
    def secrets(self) -> list[str]:
        """The tokens."""
        return [token.get_secret_value() for token in self.tokens]


class Extensions(Model):
    """What is no part of a pipeline. The store and `admin` are always there, the others when they are named."""

    store: StoreExtension = StoreExtension()
    """What holds traces until they are released."""
    health_check: HealthCheck | None = None
    """`/healthz` and `/readyz`."""
    admin: Admin = Admin()
    """`/admin/…` at `receivers.openai.endpoint`."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        """An extension that is named without a value runs with its defaults."""
        if not isinstance(data, Mapping):
            return data
        return {name: {} if value is None and name in cls.model_fields else value for name, value in data.items()}


class TracesPipeline(Model):
    """Components by id."""

    receivers: tuple[Text, ...] = ("otlp", "openai")
    """Left out: all that are configured, else `otlp` and `openai`."""
    processors: tuple[Text, ...] = ("graft",)
    """Left out: all that are configured, else `graft`."""
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


class TelemetryMetrics(Model):
    """grafter's own metrics."""

    endpoint: Endpoint = Endpoint("localhost:8888")
    """Where Prometheus finds `/metrics`."""


def _lower(value: object) -> object:
    return str(value).lower() if isinstance(value, str) else value


class TelemetryLogs(Model):
    """grafter's own log, on stderr."""

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


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline, by component ids."""

    receivers: tuple[str, ...]
    processors: tuple[str, ...]
    exporters: tuple[str, ...]


Extension = StoreExtension | HealthCheck


@dataclass(frozen=True, slots=True)
class Active:
    """What runs, by component id; nothing that is merely configured."""

    receivers: Mapping[str, Receiver]
    processors: Mapping[str, GraftProcessor]
    exporters: Mapping[str, Exporter]
    extensions: Mapping[str, Extension]
    pipelines: Mapping[str, Pipeline]
    """``traces``, and ``metrics`` and ``logs`` where they are."""


class Config(Model):
    """Everything. Built without arguments it is what runs without a config file."""

    receivers: Annotated[dict[str, Receiver], RECEIVERS] = Field(default_factory=dict)
    """The doors in."""
    processors: Annotated[dict[str, GraftProcessor], PROCESSORS] = Field(default_factory=dict)
    """What happens between the doors."""
    exporters: Annotated[dict[str, Exporter], EXPORTERS] = Field(default_factory=dict)
    """The doors out."""
    extensions: Extensions = Extensions(health_check=HealthCheck())
    """What is no part of a pipeline."""
    service: Service = Service()
    """What runs, and how."""

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know though nothing is wrong; lines like those of a Problem."""
        return self._warnings

    def with_warnings(self, warnings: Sequence[str]) -> "Config":
        """The same config; only the file loader knows where a warning stands."""
        self._warnings = tuple(warnings)
        return self

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: object) -> object:
        return complete(data) if isinstance(data, Mapping) else data

    def graft_policy(self) -> GraftPolicy:
        """``processors.graft`` for the core; ``redact.secret`` is left empty."""
        (graft,) = self.active().processors.values()
        return graft.policy(self.extensions.store.max_trace_bytes)

    def active(self) -> Active:
        """What runs. The checks that a loaded config has passed make every id here a configured one."""
        named = self.service.pipelines
        pipelines = {
            signal: Pipeline(lists.receivers, lists.processors, lists.exporters)
            for signal, lists in (("traces", named.traces), ("metrics", named.metrics), ("logs", named.logs))
            if lists is not None
        }
        runs = {
            section: dict.fromkeys(name for pipeline in pipelines.values() for name in getattr(pipeline, section))
            for section in SECTIONS
        }
        extensions: dict[str, Extension] = {"store": self.extensions.store}
        if self.extensions.health_check is not None:
            extensions["health_check"] = self.extensions.health_check
        return Active(
            receivers={name: self.receivers[name] for name in runs["receivers"]},
            processors={name: self.processors[name] for name in runs["processors"]},
            exporters={name: self.exporters[name] for name in runs["exporters"]},
            extensions=extensions,
            pipelines=pipelines,
        )


SECTIONS: Mapping[str, Components] = {"receivers": RECEIVERS, "processors": PROCESSORS, "exporters": EXPORTERS}
UNCONFIGURED: Mapping[str, tuple[str, ...]] = {
    "receivers": ("otlp", "openai"),
    "processors": ("graft",),
    "exporters": ("debug",),
}
"""What runs where a section configures nothing; these alone may be named without being configured."""


def complete(data: Mapping[str, Any]) -> dict[str, Any]:
    """Write out what pipelines leave to the rules, and the components that they name without configuring them.

    Takes the config as maps and lists, of any shape: what is malformed is left as it is, for the models to refuse.
    """
    whole = dict(data)
    service = _given(whole.get("service"))
    pipelines = _given(service.get("pipelines")) if isinstance(service, Mapping) else None
    if not isinstance(service, Mapping) or not isinstance(pipelines, Mapping):
        return whole
    traces = _fill(pipelines.get("traces"), {section: _configured(whole, section) for section in SECTIONS})
    filled: dict[str, Any] = {**pipelines, "traces": traces}
    otlp = [name for name in _names(traces, "receivers") if component_type(name) == "otlp"]
    for signal in ("metrics", "logs"):
        if pipelines.get(signal) is not None:
            shared = {"receivers": otlp, "exporters": _names(traces, "exporters")}
            filled[signal] = _fill(pipelines[signal], shared)
    for section, defaults in UNCONFIGURED.items():
        if isinstance(components := whole.get(section) or {}, Mapping):
            named = {name for lists in filled.values() for name in _names(lists, section)}
            missing: dict[str, Any] = {name: {} for name in defaults if name in named and name not in components}
            whole[section] = {**components, **missing}
    whole["service"] = {**service, "pipelines": filled}
    return whole


def _configured(data: Mapping[str, Any], section: str) -> list[str]:
    """Ids of a section in the order of its types, or what runs without any."""
    components = data.get(section)
    if not isinstance(components, Mapping) or not components:
        return list(UNCONFIGURED[section])
    order = list(SECTIONS[section].types)
    known = [name for name in components if component_type(name) in order]
    return sorted(known, key=lambda name: order.index(component_type(name))) or list(UNCONFIGURED[section])


def _given(value: Any) -> Any:
    """A map of what was said: nothing for null, and what a model was built with."""
    if isinstance(value, Model):
        return {key: getattr(value, key) for key in value.model_fields_set}
    return {} if value is None else value


def _fill(pipeline: Any, lists: Mapping[str, list[str]]) -> Any:
    given = _given(pipeline)
    if not isinstance(given, Mapping):
        return given
    return {**lists, **{key: value for key, value in given.items() if value is not None}}


def _names(pipeline: Any, section: str) -> list[str]:
    names = pipeline.get(section) if isinstance(pipeline, Mapping) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, (list, tuple)) else []
