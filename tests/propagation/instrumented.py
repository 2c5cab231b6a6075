"""An app with the OpenTelemetry SDK, the Agents SDK and the one line of the helpers, run as a process of its own.

    python instrumented.py OTLP OPENAI_DOOR MODEL replace|beside

For each line on its input it runs an agent inside a span of its own and prints the span's trace id. At the end of its
input it prints how many traces a processor of its own has seen, exports its spans, and ends without flushing more.
"""

import asyncio
import sys

from agents import Agent, OpenAIProvider, RunConfig, Runner, set_trace_processors
from openai import AsyncOpenAI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import grafter_propagation


class Counting:
    """The app's own processor, there before the helpers."""

    traces = 0

    def on_trace_start(self, trace: object) -> None:
        self.traces += 1

    def ignore(self, *_: object, **__: object) -> None: ...

    on_trace_end = on_span_start = on_span_end = shutdown = force_flush = ignore


async def answer(model: str) -> None:
    client = AsyncOpenAI(api_key="sk-none", base_url=model, max_retries=0)
    config = RunConfig(model_provider=OpenAIProvider(openai_client=client, use_responses=True))
    await Runner.run(Agent(name="Guard", model="model-guard"), "Is it about an order?", run_config=config)
    await client.close()


def main(otlp: str, door: str, model: str, place: str) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "gateway"}))
    exporter = OTLPSpanExporter(endpoint=otlp, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    trace.set_tracer_provider(provider)
    own = Counting()
    set_trace_processors([own])  # type: ignore[list-item]

    grafter_propagation.instrument(door, replace=place == "replace")

    for _ in sys.stdin:
        with trace.get_tracer("app").start_as_current_span("call") as span:
            asyncio.run(answer(model))
        print(f"{span.get_span_context().trace_id:032x}", flush=True)
    print(own.traces, flush=True)


main(*sys.argv[1:])
