"""The config: its models, how files become one, and every way in which they can be wrong.

``model``/``units`` hold the field types; ``receivers``, ``processors``, ``exporters`` and ``models`` hold the keys in
the order of config.yaml, each with its reference text; ``tree``, ``expand``, ``load`` and ``check`` read files;
``show`` prints. This is the only room that uses pydantic.
"""

from grafter.config.check import listening
from grafter.config.exporters import (
    ClientTls,
    DebugExporter,
    Exporter,
    FileExporter,
    HoneycombExporter,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    Retry,
    SendingBatch,
    SendingQueue,
)
from grafter.config.load import load
from grafter.config.models import (
    Active,
    Config,
    Extensions,
    HealthCheck,
    PassThroughPipeline,
    Pipeline,
    Pipelines,
    Service,
    Telemetry,
    TelemetryLogs,
    TelemetryMetrics,
    TracesPipeline,
)
from grafter.config.ports import with_ports
from grafter.config.problems import ConfigError, Problem
from grafter.config.processors import Anchor, GraftProcessor, RedactKeys, Wait
from grafter.config.receivers import (
    Cors,
    Ingest,
    OpenAIReceiver,
    OtlpGrpc,
    OtlpHttp,
    OtlpReceiver,
    Protocols,
    Receiver,
    ServerTls,
    Tee,
)
from grafter.config.show import as_json, as_schema, as_yaml, lines
from grafter.config.stores import EmbeddedStore, RedisStore, StoreExtension
from grafter.config.units import Duration, Endpoint, MemoryLimit, Size, Target, Url

__all__ = [
    "Active",
    "Anchor",
    "ClientTls",
    "Config",
    "ConfigError",
    "Cors",
    "DebugExporter",
    "Duration",
    "EmbeddedStore",
    "Endpoint",
    "Exporter",
    "Extensions",
    "FileExporter",
    "GraftProcessor",
    "HealthCheck",
    "HoneycombExporter",
    "Ingest",
    "MemoryLimit",
    "OpenAIReceiver",
    "OtlpGrpc",
    "OtlpGrpcExporter",
    "OtlpHttp",
    "OtlpHttpExporter",
    "OtlpReceiver",
    "PassThroughPipeline",
    "Pipeline",
    "Pipelines",
    "Problem",
    "Protocols",
    "Receiver",
    "RedactKeys",
    "RedisStore",
    "Retry",
    "SendingBatch",
    "SendingQueue",
    "ServerTls",
    "Service",
    "Size",
    "StoreExtension",
    "Target",
    "Tee",
    "Telemetry",
    "TelemetryLogs",
    "TelemetryMetrics",
    "TracesPipeline",
    "Url",
    "Wait",
    "as_json",
    "as_schema",
    "as_yaml",
    "lines",
    "listening",
    "load",
    "with_ports",
]
