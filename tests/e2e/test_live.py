"""A call that the app takes through the Live API, recorded from beside it and joined into the app's trace."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from tests.e2e.conftest import Start
from tests.e2e.live_events import closed, conversation
from tests.e2e.process import Grafter
from tests.e2e.realtime_server import KEY, RealtimeServer
from tests.e2e.recorded_call import record, steady
from tests.e2e.reference_call import Services, play, reference_call
from tests.e2e.sink import Sink
from tests.e2e.tree import outline, spans_in
from tests.webhooks import SECRET, delivery, incoming

TREE = (Path(__file__).parent / "trees" / "live.txt").read_text("utf-8")
LIVE = "live_u1_9c6574da8b8a41a18da9308f4ad974ce"
WAIT = {"for_guest": "10s", "after_root": "2s", "idle": "60s", "local_root": "60s"}


async def announce(grafter: Grafter, traceparent: str) -> None:
    """OpenAI tells of the call."""
    event = incoming(LIVE, ("X-Traceparent", traceparent), kind="live.transport.incoming")
    event["data"]["type"] = "sip"
    data, headers = delivery(event)
    async with aiohttp.ClientSession() as session, session.post(grafter.webhooks, data=data, headers=headers) as answer:
        assert answer.status == 200, await answer.text()


@pytest.mark.parametrize("started_by", ["webhook", "door"])
async def test_a_live_call_is_recorded(start: Start, sink: Sink, realtime: RealtimeServer, started_by: str) -> None:
    """Announced by a webhook with ``record: true``, or by the app itself: what was said, the responses that the
    session delegated and the tool between them hang in the app's trace, under the span that opened the session."""
    projects = {"default": {"api_key": KEY, "base_url": realtime.url, "webhook_secrets": [SECRET]}}
    grafter = await start(openai={"projects": projects, "realtime": {"record": True}}, wait=WAIT)
    services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
    realtime.answers.append((404, {}))
    with reference_call(services) as app:
        traceparent = f"00-{app.trace_id}-{app.session_span_id}-01"
        if started_by == "webhook":
            await announce(grafter, traceparent)
        else:
            answer = await record(grafter, LIVE, traceparent=traceparent)
            assert answer == {"call_id": LIVE, "status": "started"}
        call = await realtime.until_listening(LIVE)
        play(app)
        await realtime.show(call, *conversation(), closed(call.session))
    await asyncio.to_thread(services.flush)
    services.shutdown()
    await sink.until_spans(app.trace_id, spans_in(TREE))

    text = steady(sink.tree(app.trace_id).text())
    assert text.replace("grafter.link=sip", "grafter.link=traceparent") == outline(TREE)
    assert ("grafter.link=sip" in text) is (started_by == "webhook")
    assert sink.trace_ids() == {app.trace_id}
    assert sink.repeats() == {}
    assert [attempt["path"] for attempt in realtime.attempts] == [f"/v1/live/sessions/{LIVE}/attach"] * 2
    assert "+1555" not in str(sink.requests)
    assert "covered" not in str(sink.requests)
