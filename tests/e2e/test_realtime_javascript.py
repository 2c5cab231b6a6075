"""A call of the real JavaScript Realtime client, recorded from beside it and joined into the app's trace."""

from pathlib import Path

from tests.e2e.apps import javascript_call
from tests.e2e.conftest import Start
from tests.e2e.realtime_server import RealtimeServer
from tests.e2e.recorded_call import recorded, recording_from, steady
from tests.e2e.sink import Sink
from tests.e2e.tree import outline, spans_in

TREE = (Path(__file__).parent / "trees" / "realtime_javascript.txt").read_text("utf-8")


async def test_a_javascript_call_is_recorded(start: Start, sink: Sink, realtime: RealtimeServer) -> None:
    """@openai/agents in JavaScript talks, grafter listens, linked by the trace metadata that the client set."""
    grafter = await start(openai=recording_from(realtime))
    trace_id = await recorded(grafter, realtime, javascript_call, linked_by_start=False)
    await sink.until_spans(trace_id, spans_in(TREE))

    assert steady(sink.tree(trace_id).text()) == outline(TREE)
    assert sink.trace_ids() == {trace_id}
    assert realtime.frames == []
