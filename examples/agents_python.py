"""One call whose two halves meet in grafter: the app's own span, and an Agents SDK trace that names it.

    pip install openai-agents opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc grafter-propagation
    python agents_python.py

Needs a running grafter and no OpenAI key: the spans that a Runner would make are made by hand here.
GRAFTER_OTLP (localhost:4317) and GRAFTER_INGEST (http://localhost:4319) say where it is.
"""

import json
import os

import agents
from agents import agent_span, function_span
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import grafter_propagation

otlp = os.environ.get("GRAFTER_OTLP", "localhost:4317")
ingest = os.environ.get("GRAFTER_INGEST", "http://localhost:4319")

# The app's half, by OpenTelemetry.
provider = TracerProvider(resource=Resource.create({"service.name": "voice-gateway"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp, insecure=True)))
trace.set_tracer_provider(provider)

# OpenAI's half, by the Agents SDK. Nothing goes to OpenAI from here.
grafter_propagation.instrument(ingest, replace=True)


def answer() -> None:
    """What a Runner would trace; it happens inside the app's own span, which is current."""
    with (
        agents.trace("Support call", group_id="conv_42"),
        agent_span("Triage"),
        function_span("lookup_order", input=json.dumps({"order_id": 7}), output="shipped"),
    ):
        pass


tracer = trace.get_tracer("example")
with tracer.start_as_current_span("call") as call, tracer.start_as_current_span("gen_ai.realtime.session"):
    answer()

# A process that ends by SIGTERM or os._exit flushes neither half by itself.
agents.flush_traces()
provider.shutdown()
print(f"sent: trace {call.get_span_context().trace_id:032x}")
