"""An app with the OpenTelemetry SDK and the Agents SDK for Python, run as a process of its own.

    python -m tests.e2e.agents_app --otlp 127.0.0.1:4317 --ingest http://…/v1/traces/ingest --model http://…/v1

It plays the reference call; in the session a real ``Runner.run`` works through a guardrail, two tools at once, a
handoff and a failing tool, and a second run meets a model that is down. Prints one JSON line: the call's trace id,
the session's span id, the answer. Neither half is exported before the call is over; ``--first`` says which goes first.
"""

import argparse
import asyncio
import json

from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    ModelResponse,
    OpenAIProvider,
    RunConfig,
    RunHooks,
    Runner,
    flush_traces,
    function_tool,
    set_trace_processors,
)
from agents.tracing.processors import BackendSpanExporter, BatchTraceProcessor
from openai import APIStatusError, AsyncOpenAI
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from tests.e2e import model_api
from tests.e2e.reference_call import NEVER_MS, Call, Services, reference_call


class AppSpans(RunHooks[None]):
    """The app's own span for each answer of the model, with the id that OpenAI gave it."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def on_llm_end(self, context: object, agent: object, response: ModelResponse) -> None:
        with self._call.model_turn(response.response_id or ""):
            pass


async def talk(call: Call, model_url: str) -> str:
    """Run the agents inside the call's session; what the caller hears at the end."""
    client = AsyncOpenAI(api_key="sk-none", base_url=model_url, max_retries=0)
    config = RunConfig(
        model_provider=OpenAIProvider(openai_client=client, use_responses=True),
        workflow_name="Support call",
        group_id="conv_42",
        trace_metadata=call.metadata,
    )
    hooks = AppSpans(call)

    @function_tool
    async def lookup_order(order_id: int) -> dict[str, object]:
        """Where an order is."""
        with call.tool("lookup_order", f"call_{'a' if order_id == 7 else 'b'}", f'{{"order_id": {order_id}}}'):
            return {"order_id": order_id, "status": "shipped"}

    @function_tool
    async def refund(order_id: int) -> str:
        """Give the money back."""
        with call.tool("refund", "call_d"):
            raise RuntimeError(f"order {order_id} was paid by invoice")

    guard = Agent(name="Guard", model=model_api.GUARD, instructions="Is it about an order?")

    async def about_orders(context: object, agent: object, question: object) -> GuardrailFunctionOutput:
        seen = await Runner.run(guard, str(question), run_config=config, hooks=hooks)
        return GuardrailFunctionOutput(output_info=seen.final_output, tripwire_triggered=False)

    billing = Agent(name="Billing", model=model_api.BILLING, instructions="Refund.", tools=[refund])
    triage = Agent(
        name="Triage",
        model=model_api.TRIAGE,
        instructions="Find the order.",
        tools=[lookup_order],
        handoffs=[billing],
        input_guardrails=[InputGuardrail(guardrail_function=about_orders, name="about_orders")],
    )
    result = await Runner.run(triage, "Where are orders 7 and 8?", run_config=config, hooks=hooks)
    call.barge_in(740)
    try:
        await Runner.run(Agent(name="Wrap up", model=model_api.DOWN), "Thanks.", run_config=config, hooks=hooks)
    except APIStatusError as error:
        assert error.status_code == 500  # noqa: PT017 - an app, not a test: any other failure has to end it
    await client.close()
    return str(result.final_output)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--otlp", required=True)
    parser.add_argument("--ingest", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--first", choices=["host", "guest"], default="host")
    options = parser.parse_args()

    exporter = BackendSpanExporter(api_key="sk-none", endpoint=options.ingest)
    set_trace_processors([BatchTraceProcessor(exporter, schedule_delay=NEVER_MS / 1000)])
    services = Services(lambda: [OTLPSpanExporter(endpoint=options.otlp, insecure=True)])
    with reference_call(services) as call:
        answer = asyncio.run(talk(call, options.model))
    for half in [services.flush, flush_traces] if options.first == "host" else [flush_traces, services.flush]:
        half()
    services.shutdown()
    print(json.dumps({"trace_id": call.trace_id, "session": call.session_span_id, "answer": answer}))


if __name__ == "__main__":
    main()
