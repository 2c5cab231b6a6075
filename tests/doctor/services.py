"""Services of an app with OpenTelemetry's own SDK, and what grafter would read of what they sent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

from grafter.calls.ids import GUEST_KEYS, ID_KEYS, call_id
from grafter.core.call_latency import Step
from grafter.doctor.call_findings import examine_call
from grafter.doctor.model import Call, Finding, Weight
from grafter.otlp.reading import ReadSpan, read_spans
from grafter_propagation import CallIds

SID = "CA5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f"


@dataclass
class Services:
    """Each with a provider of its own, as processes have."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    providers: dict[str, TracerProvider] = field(default_factory=dict)
    documents: list[bytes] = field(default_factory=list)
    """What did not come from an SDK of Python."""

    def provider(self, service: str) -> TracerProvider:
        if service not in self.providers:
            resource = Resource.create({"service.name": service})
            made = TracerProvider(resource=resource, id_generator=CallIds(), shutdown_on_exit=False)
            made.add_span_processor(SimpleSpanProcessor(self.exporter))
            self.providers[service] = made
        return self.providers[service]

    def tracer(self, service: str) -> Tracer:
        return self.provider(service).get_tracer(service)

    def read(self) -> list[ReadSpan]:
        """All that ended, as it would be read of what grafter forwarded."""
        own = encode_spans(self.exporter.get_finished_spans()).SerializeToString()
        return list(read_spans([own, *self.documents]))

    def call(self, *, anchor: Callable[[Step], bool] = lambda _step: False, never_came: bool = False) -> Call:
        """Everything as one call."""
        spans = self.read()
        return Call(SID, ids_of(spans), spans, never_came=never_came, is_anchor=anchor)


def ids_of(spans: Sequence[ReadSpan]) -> dict[str, str]:
    """The ids of the call that these spans are of, as the call map finds them."""
    found = [
        call_id(key, str(span.step.attributes[key]))
        for span in spans
        for key in (*ID_KEYS, *GUEST_KEYS)
        if key in span.step.attributes
    ]
    return {one.value: one.kind for one in found if one is not None}


def weighed(call: Call, *weights: Weight) -> list[Finding]:
    """Those findings that have one of these weights; faults where none is given."""
    return [finding for finding in examine_call(call) if finding.weight in (weights or (Weight.FAULT,))]
