"""The app's half of a call that the demo plays: spans by their offsets, made into one OTLP request a service.

Offsets are milliseconds from the first ring.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from grafter.otlp.spans import key_value

# trace.proto, SpanFlags: the W3C trace flags, then whether the parent is in another process.
_SAMPLED, _HAS_IS_REMOTE, _IS_REMOTE = 0x001, 0x100, 0x200

Value = str | bool | int | float

GATEWAY, DESK, VOICE = "callsphere-gateway", "callsphere-desk", "callsphere-voice"
SERVER, CLIENT, INTERNAL = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_INTERNAL
PRODUCER, CONSUMER = Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER


@dataclass(frozen=True, slots=True)
class HostSpan:
    key: str
    parent: str
    service: str
    name: str
    kind: "Span.SpanKind.ValueType"
    start: int
    end: int
    attributes: dict[str, Value] = field(default_factory=dict)
    events: tuple[tuple[int, str, dict[str, Value]], ...] = ()
    error: str = ""


def tool(key: str, service: str, name: str, start: int, end: int, error: str = "") -> tuple[HostSpan, HostSpan]:
    """A tool as the app sees it: the caller's span, and the one of the tool's own service under it."""
    attributes: dict[str, Value] = {"gen_ai.tool.name": name, "gen_ai.tool.call.id": f"call_{key}"}
    served: dict[str, Value] = {"http.request.method": "POST", "http.response.status_code": 409 if error else 200}
    return (
        HostSpan(key, "session", VOICE, "gen_ai.tool.execute", CLIENT, start, end, attributes, error=error),
        HostSpan(f"{key}.served", key, service, f"POST /{name}", SERVER, start + 8, end - 6, served, error=error),
    )


class HostCall:
    def __init__(self, start: datetime, spans: Sequence[HostSpan]) -> None:
        """``start``: the first ring, in UTC."""
        self.trace_id = secrets.token_bytes(16)
        self.ids = {span.key: secrets.token_bytes(8) for span in spans}
        self._start = start
        self._spans = spans
        self._services = {span.key: span.service for span in spans}

    def __len__(self) -> int:
        return len(self._spans)

    def requests(self) -> Iterator[tuple[str, bytes]]:
        """Each service's name and its ExportTraceServiceRequest."""
        for service in dict.fromkeys(self._services.values()):
            request = ExportTraceServiceRequest()
            resource_spans = request.resource_spans.add()
            resource_spans.resource.attributes.extend(_attributes({"service.name": service}))
            scope_spans = resource_spans.scope_spans.add()
            scope_spans.scope.name = "callsphere"
            scope_spans.spans.extend(self._span(span) for span in self._spans if span.service == service)
            yield service, request.SerializeToString()

    def metadata(self) -> dict[str, str]:
        """What the app puts into OpenAI's metadata: the ids of its session span."""
        return {"trace_id": self.trace_id.hex(), "span_id": self.ids["session"].hex()}

    def at(self, offset: int) -> datetime:
        return self._start + timedelta(milliseconds=offset)

    def _nanoseconds(self, offset: int) -> int:
        return (self.at(offset) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000

    def _span(self, span: HostSpan) -> Span:
        elsewhere = self._services.get(span.parent, span.service) != span.service
        built = Span(
            trace_id=self.trace_id,
            span_id=self.ids[span.key],
            parent_span_id=self.ids.get(span.parent, b""),
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=self._nanoseconds(span.start),
            end_time_unix_nano=self._nanoseconds(span.end),
            attributes=_attributes(span.attributes),
            flags=_SAMPLED | _HAS_IS_REMOTE | (_IS_REMOTE if elsewhere else 0),
        )
        for offset, name, attributes in span.events:
            built.events.add(name=name, time_unix_nano=self._nanoseconds(offset), attributes=_attributes(attributes))
        if span.error:
            built.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=span.error))
        return built


def _attributes(values: dict[str, Value]) -> list[KeyValue]:
    return [key_value(key, value) for key, value in values.items()]
