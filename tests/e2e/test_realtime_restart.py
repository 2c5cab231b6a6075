"""A recorded call over the end of grafter: what was finished is kept, and a call recorded again goes on."""

import asyncio

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from tests.e2e.conftest import Start
from tests.e2e.process import Grafter
from tests.e2e.realtime_server import Call, RealtimeServer, event
from tests.e2e.recorded_call import CALL, record, recording_from
from tests.e2e.reference_call import Services, reference_call
from tests.e2e.sink import Sink
from tests.e2e.tree import Value


async def sentence(server: RealtimeServer, call: Call, number: int) -> None:
    """The caller says one sentence."""
    item_id = f"item_{number}"
    await server.show(
        call,
        event("input_audio_buffer.speech_started", audio_start_ms=number * 1000, item_id=item_id),
        event("input_audio_buffer.speech_stopped", audio_end_ms=number * 1000 + 900, item_id=item_id),
        event("input_audio_buffer.committed", item_id=item_id),
    )


async def stored(grafter: Grafter, events: int) -> None:
    """Return when grafter has stored so many events of calls; it counts them after that."""

    async def counted(session: object) -> bool:
        counters = await grafter.counters(session)  # type: ignore[arg-type]
        return counters["grafter_guest_items_total"] >= events

    await grafter.until(counted, f"{events} events stored")


def session_of(sink: Sink, trace_id: str) -> dict[str, Value]:
    (session,) = [each for each in sink.spans(trace_id) if each.span.name.startswith("realtime_session")]
    return session.attributes


@pytest.mark.parametrize(
    ("killed", "again"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
)
async def test_a_call_outlives_grafter(
    start: Start, sink: Sink, realtime: RealtimeServer, killed: bool, again: bool
) -> None:
    """SIGKILL and SIGTERM in a running call: the sentence before it is there, once; recorded again, the same session
    has the one after it too and ends by its close; left alone, it ends by disconnect."""
    # A call that ends by its close needs no idle wait, and a restart on a busy machine must not count as one.
    wait = {"idle": "60s" if again else "4s"}
    grafter = await start(openai=recording_from(realtime), wait=wait)
    services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
    with reference_call(services) as app:
        await record(grafter, CALL, metadata=app.metadata)
        call = await realtime.until_listening(CALL)
        await sentence(realtime, call, 1)
        await stored(grafter, 4)
        await (grafter.kill() if killed else grafter.terminate())
        await grafter.start()
        if again:
            call.listeners.clear()
            await record(grafter, CALL, metadata=app.metadata)
            await realtime.until_listening(CALL)
            await sentence(realtime, call, 2)
            await stored(grafter, 4)
            await realtime.hang_up(call)
    await asyncio.to_thread(services.flush)
    services.shutdown()
    speech = 2 if again else 1
    await sink.until_spans(app.trace_id, 6 + 1 + speech)

    names = [each.span.name for each in sink.spans(app.trace_id)]
    assert names.count("user_speech") == speech
    assert session_of(sink, app.trace_id)["grafter.ended_by"] == ("close" if again else "disconnect")
    assert sink.trace_ids() == {app.trace_id}
    assert sink.repeats() == {}
