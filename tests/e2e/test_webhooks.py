"""Webhooks at a grafter as a user runs it: repeats over restarts, and the three guests of one call in one trace."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from agents import custom_span, function_span, set_trace_processors, trace
from agents.tracing.processors import BackendSpanExporter, BatchTraceProcessor
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from tests.e2e.conftest import Start
from tests.e2e.process import Grafter
from tests.e2e.realtime_server import KEY, Call, RealtimeServer, event
from tests.e2e.recorded_call import steady
from tests.e2e.reference_call import Services, play, reference_call
from tests.e2e.sink import Sink
from tests.e2e.tree import outline, spans_in
from tests.webhooks import OTHER, SECRET, delivery, envelope, incoming, span, trace_object

THREE_GUESTS = (Path(__file__).parent / "trees" / "three_guests.txt").read_text("utf-8")
HOST = "0af7651916cd43dd8448eb211c80319c"
GUEST = "trace_" + "c" * 32
# A call that is linked by its SIP header alone is not waited for once it is whole, so its host is to come before that.
LONG = {"for_guest": "10s", "guest_quiet": "2s", "after_root": "2s", "idle": "60s", "local_root": "60s"}
SETTINGS = {"projects": {"default": {"webhook_secrets": [SECRET]}}}


def export(*spans: dict[str, Any], host: str = HOST, **metadata: str) -> dict[str, Any]:
    """A trace of a gateway's, in one event."""
    data = trace_object(GUEST, workflow_name="gateway", metadata={"trace_id": host, **metadata})
    return envelope("trace.exported", {**data, "spans": list(spans)})


async def deliver(grafter: Grafter, body: Any, **signed: Any) -> str:
    data, headers = delivery(body, **signed)
    async with aiohttp.ClientSession() as session, session.post(grafter.webhooks, data=data, headers=headers) as answer:
        said = await answer.json()
        assert answer.status == 200, said
        return str(said["status"])


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_a_repeat_after_a_restart_has_no_effect(start: Start, sink: Sink, how: str) -> None:
    """What was answered with 200 leaves once, and is known to have been delivered, however the process ended."""
    grafter = await start(openai=SETTINGS, wait={"idle": "1s"})
    body = export(span(1, trace_id=GUEST), span(2, 1, trace_id=GUEST))
    assert await deliver(grafter, body) == "accepted"
    await (grafter.kill() if how == "SIGKILL" else grafter.terminate())
    await grafter.start()
    assert await deliver(grafter, body) == "repeat"
    await sink.until_spans(HOST, 2)
    assert await deliver(grafter, body) == "repeat"
    assert await deliver(grafter, export(span(3, trace_id=GUEST)), id="wh_2") == "accepted"
    await sink.until_spans(HOST, 3)
    assert sink.repeats() == {}


async def test_killed_between_the_parts_and_their_mark(start: Start, sink: Sink) -> None:
    """The sender had no answer and delivers again: that is no repeat, nothing is lost, and nothing leaves twice."""
    grafter = await start(openai=SETTINGS, wait={"idle": "3s"})
    await grafter.terminate()
    await grafter.start("tests.faults.killed_before_mark")
    body = export(span(1, trace_id=GUEST), span(2, 1, trace_id=GUEST))
    with pytest.raises(aiohttp.ClientError):
        await deliver(grafter, body)
    assert await grafter.ended() == -signal.SIGKILL
    await grafter.start()
    async with aiohttp.ClientSession() as session:
        assert (await grafter.counters(session))["grafter_recovered_spans_total"] == 2
    assert await deliver(grafter, body) == "accepted"
    assert await deliver(grafter, body) == "repeat"
    await sink.until_spans(HOST, 2)
    assert sink.repeats() == {}


def run_agents(url: str, metadata: dict[str, str]) -> None:
    """A workflow of the real SDK's, exported by its own exporter."""
    exporter = BackendSpanExporter(api_key="none", endpoint=url)
    processor = BatchTraceProcessor(exporter)
    set_trace_processors([processor])
    try:
        with trace("Support call", metadata=metadata), custom_span("triage"), function_span("insurance.check"):
            pass
    finally:
        processor.shutdown()
        exporter.close()
        set_trace_processors([])


async def talk(server: RealtimeServer, call: Call) -> None:
    """The caller says a sentence and is answered; then the call is over."""
    output = {
        "id": "item_2",
        "object": "realtime.item",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [],
    }
    response = {"id": "resp_rt", "object": "realtime.response", "status": "completed", "output": [output]}
    await server.show(
        call,
        event("input_audio_buffer.speech_started", audio_start_ms=0, item_id="item_1"),
        event("input_audio_buffer.speech_stopped", audio_end_ms=900, item_id="item_1"),
        event("input_audio_buffer.committed", item_id="item_1"),
        event("response.created", response={**response, "status": "in_progress", "output": []}),
        event("response.done", response=response),
    )
    await server.hang_up(call)


async def test_three_guests_of_one_call_are_one_trace(start: Start, sink: Sink, realtime: RealtimeServer) -> None:
    """An incoming call starts a recorder with its own project's key and is linked by its SIP header; the app's agents
    send their own trace; a gateway exports one in two events, the later part first: three grafts, one tree."""
    projects = {
        "default": {
            "api_key": "sk-of-another-project",
            "base_url": "http://127.0.0.1:9/v1",
            "webhook_secrets": [OTHER],
        },
        "voice": {"api_key": KEY, "base_url": realtime.url, "webhook_secrets": ["", SECRET]},
    }
    grafter = await start(openai={"projects": projects, "realtime": {"record": True}}, wait=LONG)
    services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
    with reference_call(services) as app:
        traceparent = f"00-{app.trace_id}-{app.session_span_id}-01"
        assert await deliver(grafter, incoming("rtc_1", ("X-Traceparent", traceparent))) == "accepted"
        call = await realtime.until_listening("rtc_1")
        assert await deliver(grafter, incoming("rtc_1", ("X-Traceparent", traceparent)), id="wh_2") == "accepted"
        play(app)
        await asyncio.to_thread(run_agents, grafter.ingest, app.metadata)
        later = envelope("trace.exported", [span(12, 11, trace_id=GUEST)])
        assert await deliver(grafter, later, id="wh_3") == "accepted"
        first = export(span(11, trace_id=GUEST), host=app.trace_id, span_id=app.session_span_id)
        assert await deliver(grafter, first, id="wh_4") == "accepted"
        await talk(realtime, call)
    await asyncio.to_thread(services.flush)
    services.shutdown()
    await sink.until_spans(app.trace_id, spans_in(THREE_GUESTS))

    assert steady(sink.tree(app.trace_id).text()) == outline(THREE_GUESTS)
    assert sink.trace_ids() == {app.trace_id}
    assert sink.repeats() == {}
    assert len(realtime.attempts) == 1
    assert "+1555" not in str(sink.requests)


async def test_no_secret_leaves_the_process(start: Start, sink: Sink) -> None:
    """Neither a webhook secret nor a key is in the log, the metrics or the store."""
    projects = {"default": {"api_key": KEY, "webhook_secrets": [SECRET, OTHER]}}
    grafter = await start(openai={"projects": projects, "realtime": {"record": True}}, wait={"idle": "1s"})
    assert await deliver(grafter, export(span(1, trace_id=GUEST))) == "accepted"
    data, headers = delivery(export(), secret="whsec_" + "A" * 32)
    async with aiohttp.ClientSession() as session:
        async with session.post(grafter.webhooks, data=data, headers=headers) as answer:
            text = await answer.text()
        async with session.get(grafter.metrics) as page:
            text += await page.text()
    await sink.until_spans(HOST, 1)
    assert await grafter.terminate() == 0
    kept = b"".join(path.read_bytes() for path in (grafter.home / "store").rglob("*") if path.is_file())
    for secret in (SECRET, OTHER, KEY):
        assert secret not in text + grafter.log()
        assert secret.encode() not in kept
        assert secret.removeprefix("whsec_").encode() not in kept
