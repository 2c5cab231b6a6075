"""A call of the real Python Realtime client, recorded from beside it and joined into the app's trace."""

from pathlib import Path

import pytest
from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeModelEvent, RealtimeRunner

from tests.e2e.conftest import Start
from tests.e2e.realtime_server import DELTA_BYTES, KEY, RealtimeServer
from tests.e2e.recorded_call import CALL, record, recorded, recording_from, steady
from tests.e2e.reference_call import Call
from tests.e2e.sink import Sink
from tests.e2e.tree import outline, spans_in

TREE = (Path(__file__).parent / "trees" / "realtime_python.txt").read_text("utf-8")


async def talk(call: Call, url: str) -> None:
    """A caller who asks, hears the answer out to its fourth second of audio, cuts it off, and hears the last one."""

    @function_tool
    async def lookup_order(order_id: int) -> str:
        """Where an order is."""
        with call.tool("lookup_order", "call_7"):
            return f"order {order_id} is shipped"

    agent = RealtimeAgent(name="Support", instructions="Help with orders.", tools=[lookup_order])
    tracing = {"workflow_name": "Support call", "group_id": "conv_42", "metadata": call.metadata}
    runner = RealtimeRunner(agent, config={"model_settings": {"tracing": tracing}})
    sentence = bytes(DELTA_BYTES)
    session = await runner.run(model_config={"api_key": KEY, "url": url})
    async with session:
        chunks = turns = 0
        async for event in session:
            if event.type == "raw_model_event" and _traced(event.data):
                await session.send_audio(sentence)
            if event.type == "audio":
                chunks += 1
                if chunks == 20:
                    await session.send_audio(sentence)
            if event.type == "error":
                raise AssertionError(event.error)
            if event.type == "raw_model_event" and event.data.type == "turn_ended":
                turns += 1
                if turns == 3:
                    break


def _traced(data: RealtimeModelEvent) -> bool:
    """Whether this is the session's update with the app's metadata, before which nothing should be said."""
    raw = data.data if data.type == "raw_server_event" else {}
    return raw.get("type") == "session.updated" and isinstance(raw["session"].get("tracing"), dict)


@pytest.mark.parametrize("linked_by_start", [True, False])
async def test_a_python_call_is_recorded(
    start: Start, sink: Sink, realtime: RealtimeServer, linked_by_start: bool
) -> None:
    """openai-agents in Python talks, grafter listens: session, turns, tool and barge-in hang in the app's trace,
    linked by the recorder's start or by what the client put into the session's tracing."""
    grafter = await start(openai=recording_from(realtime))
    trace_id = await recorded(grafter, realtime, talk, linked_by_start=linked_by_start)
    await sink.until_spans(trace_id, spans_in(TREE))

    assert steady(sink.tree(trace_id).text()) == outline(TREE)
    assert sink.trace_ids() == {trace_id}
    assert realtime.frames == []
    assert (await record(grafter, CALL))["status"] == "started"
