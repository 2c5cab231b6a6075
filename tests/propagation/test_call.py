"""A call from the ringing phone to the last tool, with a line at each hop and nothing handed on beside them."""

import asyncio
from pathlib import Path

import nats
from agents.tracing import CustomSpanData
from agents.tracing.provider import DefaultTraceProvider
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from grafter_propagation import AgentsProcessor, call_context
from grafter_propagation.nats import publish, received
from grafter_propagation.telephony import twilio_ended, twilio_webhook
from tests.e2e.conftest import Start
from tests.e2e.sink import Sink
from tests.e2e.tree import outline, spans_in
from tests.propagation.nats_server import serving
from tests.propagation.spans import Spans
from tests.propagation.test_instrument import door_of, shape
from tests.propagation.test_telephony import OVER, SID, VOICE

TREE = """
    callsphere.call
      sip.invite
        send desk.orders
          process desk.orders
            look_up
              step
"""


async def test_the_parts_of_a_call_are_one_trace(start: Start, sink: Sink, spans: Spans, tmp_path: Path) -> None:
    """Twilio's webhook, a NATS hop, a service whose agent OpenAI traces, the status callback: six spans of four parts,
    under the trace id that the CallSid gives. The root comes last, and in between grafter is killed and started."""
    grafter = await start(wait={"for_guest": "20s", "local_root": "60s", "idle": "60s"})
    exporter = OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)
    spans.provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    agents = AgentsProcessor(door_of(grafter), interval=0.05)
    sdk = DefaultTraceProvider()
    sdk.set_disabled(False)
    sdk.set_processors([agents])  # type: ignore[list-item]

    async with serving(tmp_path / "nats") as url:
        client = await nats.connect(url)
        orders = await client.subscribe("desk.orders")
        with twilio_webhook(VOICE, tracer=spans.tracer):
            await publish(client, "desk.orders", b"7", tracer=spans.tracer)
        message = await orders.next_msg(timeout=60)
        await grafter.kill()
        with (
            received(message, tracer=spans.tracer),
            spans.span("look_up"),
            sdk.create_trace("Desk") as trace,
            sdk.create_span(CustomSpanData("step", {}), parent=trace),
        ):
            pass
        await client.close()
    await grafter.start()
    assert twilio_ended(OVER, tracer=spans.tracer)
    assert await asyncio.to_thread(spans.provider.force_flush)
    await asyncio.to_thread(agents.shutdown)

    call = call_context(SID).trace_id
    await sink.until_spans(call, spans_in(TREE))
    assert shape(sink.tree(call)) == outline(TREE)
    assert sink.trace_ids() == {call}
