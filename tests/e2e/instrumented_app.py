"""An app with the Agents SDK and a real instrumentation of somebody else's beside it, run as a process of its own.

    python -m tests.e2e.instrumented_app --with openai-v2 --model http://…/v1

Prints one JSON object: for ``responses`` and ``chat_completions``, OpenAI's two APIs, the host's spans as one OTLP
request (base64), the items that the SDK exports, and the tokens that the model said were used. Instrumentations patch
what they find when they are switched on, so each of them is a process.
"""

import argparse
import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

from agents import (
    Agent,
    OpenAIProvider,
    RunConfig,
    Runner,
    add_trace_processor,
    flush_traces,
    function_tool,
    set_trace_processors,
)
from agents.tracing import Span as AgentsSpan
from agents.tracing import Trace
from agents.tracing.processor_interface import TracingExporter
from agents.tracing.processors import BatchTraceProcessor
from openai import AsyncOpenAI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.e2e import model_api


class Items(TracingExporter):
    """Keeps what the SDK would post."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any] | None] = []

    def export(self, items: Sequence[Trace | AgentsSpan[Any]]) -> None:
        self.items += [item.export() for item in items]


def tracing(kind: str, spans: InMemorySpanExporter) -> None:
    """Have the app's spans kept: as Logfire sets it up for an app of its own, else by the SDK."""
    if kind.startswith("logfire"):
        import logfire

        kept = [SimpleSpanProcessor(spans)]
        logfire.configure(
            send_to_logfire=False,
            console=False,
            metrics=False,
            service_name="callsphere-voice",
            additional_span_processors=kept,
        )
        return
    provider = TracerProvider(resource=Resource({"service.name": "callsphere-voice"}))
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)


def instrument(kind: str) -> None:
    """Switch one on. Imported here: to import an instrumentation may already patch."""
    provider = trace.get_tracer_provider()
    if kind == "openai-v2":
        from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=provider)
    elif kind == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

        OpenInference().instrument(tracer_provider=provider)
    elif kind == "openinference-agents":
        from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor

        OpenAIAgentsInstrumentor().instrument(tracer_provider=provider)
    elif kind == "logfire":
        import logfire

        logfire.instrument_openai()
    elif kind == "logfire-agents":
        import logfire

        logfire.instrument_openai_agents()
    elif kind == "openllmetry":
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor as OpenLLMetry

        OpenLLMetry().instrument(tracer_provider=provider)
    elif kind == "openllmetry-agents":
        from opentelemetry.instrumentation.openai_agents import OpenAIAgentsInstrumentor as OpenLLMetryAgents

        OpenLLMetryAgents().instrument(tracer_provider=provider)


async def talk(model_url: str, responses: bool, metadata: dict[str, str]) -> tuple[int, int]:
    """The reference question; the tokens that all its model calls used, as the SDK adds them up."""
    client = AsyncOpenAI(api_key="sk-none", base_url=model_url, max_retries=0)
    config = RunConfig(
        model_provider=OpenAIProvider(openai_client=client, use_responses=responses),
        workflow_name="Support call",
        trace_metadata=metadata,
    )

    @function_tool
    async def lookup_order(order_id: int) -> str:
        """Where an order is."""
        with trace.get_tracer("app").start_as_current_span("lookup") as span:
            span.set_attribute("gen_ai.tool.name", "lookup_order")
            span.set_attribute("gen_ai.tool.call.id", f"call_{'a' if order_id == 7 else 'b'}")
            span.set_attribute("gen_ai.tool.call.arguments", json.dumps({"order_id": order_id}))
            await asyncio.sleep(0.01)
            return "shipped"

    billing = Agent(name="Billing", model=model_api.BILLING, instructions="Say sorry.")
    triage = Agent(
        name="Triage",
        model=model_api.TRIAGE,
        instructions="Find the order.",
        tools=[lookup_order],
        handoffs=[billing],
    )
    result = await Runner.run(triage, "Where are orders 7 and 8?", run_config=config, max_turns=3)
    await client.close()
    usage = result.context_wrapper.usage
    return usage.input_tokens, usage.output_tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--with", dest="kind", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    spans = InMemorySpanExporter()
    tracing(options.kind, spans)
    kept = Items()
    set_trace_processors([])
    instrument(options.kind)
    add_trace_processor(BatchTraceProcessor(kept))
    said = {}
    for api in ("responses", "chat_completions"):
        with trace.get_tracer("app").start_as_current_span("callsphere.call") as root:
            context = root.get_span_context()
            metadata = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
            used, made = asyncio.run(talk(options.model, api == "responses", metadata))
        flush_traces()
        said[api] = {
            "trace_id": metadata["trace_id"],
            "host": base64.b64encode(encode_spans(spans.get_finished_spans()).SerializeToString()).decode(),
            "items": kept.items,
            "used": used,
            "made": made,
        }
        spans.clear()
        kept.items = []
    print(json.dumps(said))


if __name__ == "__main__":
    main()
