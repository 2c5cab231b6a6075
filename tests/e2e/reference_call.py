"""The reference call, played with the OpenTelemetry Python SDK: one AI phone call as the app itself traces it.

callsphere.call                 gateway, SERVER: the root, ends with the call
├─ sip.invite                   gateway, SERVER
├─ queue.wait                   gateway, PRODUCER
│  └─ queue.wait                agent desk, CONSUMER: context came in the message's headers
├─ webrtc.peer_connection       gateway, span events for ICE
└─ gen_ai.realtime.session      voice, CLIENT; event gen_ai.audio.barge_in
   ├─ gen_ai.client             voice, CLIENT, one a model turn
   └─ gen_ai.tool.execute       voice, CLIENT, one a tool
      └─ tool.<name>            the tool's service, SERVER: context came in HTTP headers
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

GATEWAY = "callsphere-gateway"
DESK = "callsphere-agent-desk"
VOICE = "callsphere-voice"

NEVER_MS = 3_600_000
"""A batch processor with this delay exports only when told, so that a test decides the order of arrival."""

_propagator = TraceContextTextMapPropagator()


@dataclass
class Services:
    """The six services of the call, each with a tracer provider of its own, as separate processes would have."""

    exporters: Callable[[], list[SpanExporter]]
    _providers: dict[str, TracerProvider] = field(default_factory=dict)

    def tracer(self, service: str) -> trace.Tracer:
        provider = self._providers.get(service)
        if provider is None:
            provider = TracerProvider(resource=Resource({"service.name": service}), shutdown_on_exit=False)
            for exporter in self.exporters():
                provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=NEVER_MS))
            self._providers[service] = provider
        return provider.get_tracer("callsphere", "1.4.0")

    def flush(self, *services: str) -> None:
        """Export what has ended, of these services or of all. Blocks until the receiver has answered."""
        for name, provider in self._providers.items():
            if not services or name in services:
                assert provider.force_flush(), f"{name} could not export"

    def shutdown(self) -> None:
        for provider in self._providers.values():
            provider.shutdown()


@dataclass
class Call:
    """The call while its session is open: what the app puts into OpenAI's metadata, and the spans it still makes."""

    services: Services
    trace_id: str
    root_span_id: str
    session_span_id: str
    session: trace.Span

    @property
    def metadata(self) -> dict[str, str]:
        """What the app stashes in OpenAI's trace metadata."""
        return {"trace_id": self.trace_id, "span_id": self.session_span_id}

    @contextmanager
    def model_turn(self, response_id: str) -> Iterator[trace.Span]:
        """The app's own span around one answer of the model."""
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.response.id": response_id}
        tracer = self.services.tracer(VOICE)
        with tracer.start_as_current_span("gen_ai.client", kind=SpanKind.CLIENT, attributes=attributes) as span:
            yield span

    @contextmanager
    def tool(self, name: str, call_id: str, arguments: str = "") -> Iterator[trace.Span]:
        """A tool run: the caller's span, and under it the one of the tool's own service, reached over HTTP.

        ``arguments``: as JSON. By them two that run at the same moment are told apart where OpenAI's side has no ids.
        """
        attributes = {"gen_ai.tool.name": name, "gen_ai.tool.call.id": call_id}
        if arguments:
            attributes["gen_ai.tool.call.arguments"] = arguments
        tracer = self.services.tracer(VOICE)
        with tracer.start_as_current_span("gen_ai.tool.execute", kind=SpanKind.CLIENT, attributes=attributes):
            headers: dict[str, str] = {}
            _propagator.inject(headers)
            with self.services.tracer(f"tool-{name}").start_as_current_span(
                f"tool.{name}", context=_propagator.extract(headers), kind=SpanKind.SERVER
            ) as span:
                yield span

    def barge_in(self, elapsed_ms: int) -> None:
        """The caller interrupted after so many milliseconds of heard audio."""
        self.session.add_event("gen_ai.audio.barge_in", {"audio.elapsed_ms": elapsed_ms})


@contextmanager
def reference_call(services: Services) -> Iterator[Call]:
    """Play the call; the block runs while the OpenAI session is open. Nothing is exported before ``flush``."""
    gateway, desk, voice = services.tracer(GATEWAY), services.tracer(DESK), services.tracer(VOICE)
    with gateway.start_as_current_span(
        "callsphere.call",
        kind=SpanKind.SERVER,
        attributes={"call.id": "CA0123456789abcdef0123456789abcdef", "call.outcome": "booked"},
    ) as root:
        with gateway.start_as_current_span("sip.invite", kind=SpanKind.SERVER, attributes={"sip.status_code": 200}):
            pass
        with gateway.start_as_current_span("queue.wait", kind=SpanKind.PRODUCER):
            message: dict[str, str] = {}
            _propagator.inject(message)
        with desk.start_as_current_span("queue.wait", context=_propagator.extract(message), kind=SpanKind.CONSUMER):
            pass
        with gateway.start_as_current_span("webrtc.peer_connection") as media:
            media.add_event("ice.gathering", {"ice.state": "complete", "ice.candidates": 4})
            media.add_event("ice.candidate_pair", {"ice.local": "relay", "ice.remote": "srflx", "ice.nominated": True})
            media.add_event("ice.connection", {"ice.state": "connected"})
        with voice.start_as_current_span(
            "gen_ai.realtime.session",
            kind=SpanKind.CLIENT,
            attributes={"gen_ai.operation.name": "realtime", "gen_ai.conversation.id": "conv_42"},
        ) as session:
            yield Call(
                services=services,
                trace_id=format_trace_id(root.get_span_context().trace_id),
                root_span_id=format_span_id(root.get_span_context().span_id),
                session_span_id=format_span_id(session.get_span_context().span_id),
                session=session,
            )


def play(call: Call) -> None:
    """What happens in the session when no real model is asked: two turns, a tool between them, an interruption."""
    with call.model_turn("resp_1"):
        pass
    with call.tool("insurance.check", "call_1"):
        pass
    call.barge_in(740)
    with call.model_turn("resp_2"):
        pass


HOST_TREE = """
callsphere.call [callsphere-gateway server] call.outcome=booked
  gen_ai.realtime.session [callsphere-voice client] gen_ai.conversation.id=conv_42 gen_ai.operation.name=realtime
    * gen_ai.audio.barge_in audio.elapsed_ms=740
    gen_ai.client [callsphere-voice client] gen_ai.operation.name=chat
    gen_ai.client [callsphere-voice client] gen_ai.operation.name=chat
    gen_ai.tool.execute [callsphere-voice client] gen_ai.tool.call.id=call_1 gen_ai.tool.name=insurance.check
      tool.insurance.check [tool-insurance.check server]
  queue.wait [callsphere-gateway producer]
    queue.wait [callsphere-agent-desk consumer]
  sip.invite [callsphere-gateway server] sip.status_code=200
  webrtc.peer_connection [callsphere-gateway internal]
    * ice.gathering ice.candidates=4 ice.state=complete
    * ice.candidate_pair ice.local=relay ice.nominated=True ice.remote=srflx
    * ice.connection ice.state=connected
"""
"""What comes out of ``reference_call`` with ``play``, guest apart."""
