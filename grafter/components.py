"""Which components there are: each type with its keys, which stand beside its code and open it (``open``).

A new one is its own file, its line here, and its keys in config.yaml. Nothing that this file imports may need gRPC,
aiohttp or protobuf: whatever opens a component imports those when it opens it, so that `grafter validate` starts fast.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator

from grafter.calls.config import CallsExtension
from grafter.config import load as loading
from grafter.config.model import Component, Components, FilledSecret, Flag, Model, component_type
from grafter.config.problems import Finding
from grafter.config.root import RootConfig
from grafter.config.service import PassThroughPipeline, TracesPipeline
from grafter.config.units import Endpoint
from grafter.core.policy import GraftPolicy, Mode
from grafter.core.sampling.policies import SamplingPolicy
from grafter.exporter.config import ExporterConfig
from grafter.exporter.debug import DebugExporter
from grafter.exporter.file import FileExporter
from grafter.exporter.honeycomb import HoneycombExporter
from grafter.exporter.otlp import OtlpGrpcExporter, OtlpHttpExporter
from grafter.processor.config import GraftProcessor
from grafter.processor.tail_sampling import TailSamplingProcessor
from grafter.receiver.config import ReceiverConfig
from grafter.receiver.openai_receiver import OpenAIReceiver
from grafter.receiver.otlp_receiver import OtlpReceiver
from grafter.store.config import StoreExtension
from grafter.web.config import LookupExtension

RECEIVERS = Components(
    {"otlp": OtlpReceiver, "openai": OpenAIReceiver},
    default=("otlp", "openai"),
    always=("otlp", "openai"),
    null_is_none=True,
)
PROCESSORS = Components(
    {"graft": GraftProcessor, "tail_sampling": TailSamplingProcessor},
    default=("graft", "tail_sampling"),
    always=("graft",),
)
EXPORTERS = Components(
    {
        "debug": DebugExporter,
        "honeycomb": HoneycombExporter,
        "otlp_grpc": OtlpGrpcExporter,
        "otlp_http": OtlpHttpExporter,
        "file": FileExporter,
    },
    default=("debug",),
    # The Collector's names before it renamed them.
    old_names={"otlp": "otlp_grpc", "otlphttp": "otlp_http"},
)

ProcessorConfig = GraftProcessor | TailSamplingProcessor


class HealthCheck(Component):
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


class Extensions(Model):
    """What is no part of a pipeline. The store and `admin` are always there, `health_check` until it is null, `calls`
    and `lookup` where the file names them."""

    null_is_none: ClassVar[frozenset[str]] = frozenset({"calls", "health_check", "lookup"})

    store: StoreExtension = StoreExtension()
    """What holds traces until they are released."""
    health_check: HealthCheck | None = HealthCheck()
    """`/healthz` and `/readyz`; null: neither."""
    calls: CallsExtension | None = None
    """The call map; it runs where the file names it, or where there is no file."""
    lookup: LookupExtension | None = None
    """The lookup page over the call map; it runs where the file names it, or where there is no file."""
    admin: Admin = Admin()
    """`/admin/…` at `receivers.openai.endpoint`."""

    @field_validator("health_check", mode="wrap")
    @classmethod
    def _absent(cls, value: object, read: ValidatorFunctionWrapHandler) -> object:
        """Elsewhere a null means the defaults."""
        return None if value is None else read(value)

    @field_validator("calls", "lookup", mode="wrap")
    @classmethod
    def _named(cls, value: object, read: ValidatorFunctionWrapHandler) -> object:
        """What is named runs."""
        return read({} if value is None else value)


@dataclass(frozen=True, slots=True)
class Active:
    """What runs, by component id; nothing that is merely configured."""

    receivers: Mapping[str, ReceiverConfig]
    processors: Mapping[str, ProcessorConfig]
    exporters: Mapping[str, ExporterConfig]
    extensions: Mapping[str, Component]
    pipelines: Mapping[str, TracesPipeline | PassThroughPipeline]
    """``traces``, and ``metrics`` and ``logs`` where they are."""


class Config(RootConfig):
    """Everything. Built without arguments it is what runs without a config file."""

    default_extensions: ClassVar[tuple[str, ...]] = ("calls", "lookup")

    receivers: Annotated[dict[str, ReceiverConfig], RECEIVERS] = Field(default_factory=dict)
    """The doors in."""
    processors: Annotated[dict[str, ProcessorConfig], PROCESSORS] = Field(default_factory=dict)
    """What happens between the doors."""
    exporters: Annotated[dict[str, ExporterConfig], EXPORTERS] = Field(default_factory=dict)
    """The doors out."""
    extensions: Extensions = Extensions(calls=CallsExtension(), lookup=LookupExtension())
    """What is no part of a pipeline."""

    def findings(self) -> Iterator[Finding]:
        """Several processes need a store that they share, the lookup page calls."""
        if self.service.workers > 1 and not self.extensions.store.shared:
            yield Finding(
                ("service", "workers"),
                f"{self.service.workers} processes need a store that they share, extensions.store.redis; "
                "the embedded store belongs to one",
                also=(("extensions", "store"),),
            )
        if self.extensions.lookup is not None and self.extensions.calls is None:
            yield Finding(("extensions", "lookup"), "needs extensions.calls, the calls that it looks up")
        yield from self._sampling_findings()

    def _sampling_findings(self) -> Iterator[Finding]:
        """Whole traces are needed to decide about them."""
        running = self.running("processors")
        where = ("service", "pipelines", "traces", "processors")
        kinds = [component_type(name) for name in self.service.pipelines.traces.processors]
        if kinds and "graft" not in kinds:
            yield Finding(where, "needs graft: it holds the traces")
        elif kinds[-1:] == ["graft"] and "tail_sampling" in kinds:
            yield Finding(where, "names tail_sampling before graft: it decides about joined traces")
        stream = any(isinstance(one, GraftProcessor) and one.mode is Mode.STREAM for one in running.values())
        for name, one in running.items():
            if stream and isinstance(one, TailSamplingProcessor) and one.policy().looks:
                also = (("processors", "graft", "mode"),)
                yield Finding(("processors", name), "needs graft's mode hold: stream holds no trace back", also)

    def graft_policy(self) -> GraftPolicy:
        """``processors.graft`` for the core; ``redact.secret`` is left empty."""
        running = self.active().processors.values()
        graft = next(one for one in running if isinstance(one, GraftProcessor))
        return graft.policy(self.extensions.store.max_trace_bytes)

    def sampling_policy(self) -> SamplingPolicy | None:
        """``processors.tail_sampling`` for the core; None where it does not run."""
        running = self.active().processors.values()
        return next((one.policy() for one in running if isinstance(one, TailSamplingProcessor)), None)

    def active(self) -> Active:
        return Active(
            receivers={name: self.receivers[name] for name in self.running("receivers")},
            processors={name: self.processors[name] for name in self.running("processors")},
            exporters={name: self.exporters[name] for name in self.running("exporters")},
            extensions=self.running_extensions(),
            pipelines=self.service.pipelines.by_signal(),
        )


def load(paths: Sequence[str], sets: Sequence[str] = (), env: Mapping[str, str] = os.environ) -> Config:
    """The effective config of these files and settings. Raises ConfigError with all problems; see config.load."""
    return loading.load(Config, paths, sets, env)
