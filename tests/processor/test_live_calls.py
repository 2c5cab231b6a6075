"""Calls of the Live API through the processor: held, joined and released as Realtime calls are."""

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, GraftPolicy, Mode
from grafter.guests.realtime.event_buffer import EventBuffer
from grafter.guests.realtime.stored_event import ENDED, METADATA, SIP, STARTED, Side
from tests.e2e.live_events import closed, conversation, live_event, live_session
from tests.rig import START, Peer, Rig, rig

HOST = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
ROOT, FIRST = (number.to_bytes(8) for number in (1, 2))
HEADER = f"00-{HOST.hex()}-{FIRST.hex()}-01"
TREE = """\
call []
  gen_ai.realtime.session []
    realtime_session gpt-live-1 [openai]
      user_speech [openai]
      assistant_speech [openai]
      chat gpt-5.5-2026-08-01 [openai]
        execute_tool insurance.check [openai]
      chat gpt-5.5-2026-08-01 [openai]
      assistant_speech [openai]"""


def whole_host() -> bytes:
    """The app's trace of the call."""
    spans = [
        Span(
            trace_id=HOST,
            span_id=own,
            parent_span_id=parent,
            name=name,
            start_time_unix_nano=START,
            end_time_unix_nano=START + 10 * SECOND,
        )
        for own, parent, name in ((ROOT, b"", "call"), (FIRST, ROOT, "gen_ai.realtime.session"))
    ]
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])]
    ).SerializeToString()


class Recorded:
    """What a recorder stores of one call."""

    def __init__(self, served: Rig, call: str) -> None:
        self.served = served
        self.buffer = EventBuffer(call, served.policy, beside=True)

    async def says(self, *notes: dict[str, Any]) -> None:
        for note in notes:
            self.buffer.add_own(note, UnixNano(self.served.now[0]))
        await self._store()

    async def hears(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.buffer.add_event(event, UnixNano(self.served.now[0]), Side.SERVER)
        await self._store()

    async def _store(self) -> None:
        part = self.buffer.take()
        if part is not None:
            await self.served.processor.consume([part])


async def until_nothing_is_held(served: Rig) -> None:
    for _ in range(800):
        if not served.store.stats().traces:
            return
        await served.pass_time(10, step=10)
    raise AssertionError("something is still held")


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("host_first", [False, True])
@pytest.mark.parametrize("loser", ["rtc_1", None])
async def test_a_call_of_two_ids_is_one_tree(mode: Mode, host_first: bool, loser: str | None) -> None:
    """The app takes it by the Live API. The other id's recorder, which waits a minute for nothing, adds nothing: no
    span, no trace, nothing unlinked, and no longer wait than its own."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        if host_first:
            await served.host(whole_host())
        start = [{"type": SIP, "traceparent": HEADER}, {"type": STARTED}]
        live = Recorded(served, "live_1")
        await live.says(*start)
        other = None if loser is None else Recorded(served, loser)
        if other is not None:
            await other.says(*start)
        await served.pass_time(1)
        session = live_session("live_1")
        await live.hears(live_event("session.started", session=session))
        for event in conversation():
            await served.pass_time(0.25, step=0.25)
            await live.hears(event)
        await live.hears(closed(session))
        await live.says({"type": ENDED, "by": "close"})
        if not host_first:
            await served.host(whole_host())
        await served.pass_time(54)
        if other is not None:
            await other.says({"type": ENDED, "by": "disconnect"})
        await served.pass_time(15)
        # The anchor that has left before the call ended says no sums any more: a span beside it does.
        tree = [*TREE.splitlines(), *(["    grafter.summary []"] if mode is Mode.STREAM else [])]
        assert sorted(peer.tree(HOST).splitlines()) == sorted(tree)
        await until_nothing_is_held(served)
        assert sorted(peer.tree(HOST).splitlines()) == sorted(tree)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        assert len(peer.ids) == len(set(peer.ids))
        assert served.count("grafter_unlinked_guests_total") == 0
        came, became = served.books(len(peer.spans))
        assert came == became > 0


@pytest.mark.parametrize("mode", Mode)
async def test_a_call_that_no_api_took_leaves_nothing(mode: Mode) -> None:
    """Rejected, or hung up before anybody answered: its host leaves as it came."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        await served.host(whole_host())
        for call in ("live_1", "rtc_1"):
            recorded = Recorded(served, call)
            await recorded.says({"type": SIP, "traceparent": HEADER}, {"type": STARTED})
            await served.pass_time(60)
            await recorded.says({"type": ENDED, "by": "disconnect"})
        await until_nothing_is_held(served)
        assert peer.tree(HOST) == "call []\n  gen_ai.realtime.session []"
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        assert served.count("grafter_unlinked_guests_total") == 0


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("pause", [2, 40])
@pytest.mark.parametrize("says_so", [True, False])
async def test_a_session_that_follows_a_closed_one_is_whole(mode: Mode, pause: int, says_so: bool) -> None:
    """An app posts both under its own key: the connection is lost, and a fork goes on, at once or when all that was
    known has left. Nothing of the second session is cut short, and its turns leave once."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        await served.host(whole_host())
        app = Recorded(served, "CA1")
        await app.says({"type": METADATA, "origin": "posted", "metadata": {"traceparent": HEADER}})
        first, second = live_session("live_1"), live_session("live_2")
        await app.hears(live_event("session.started", session=first))
        await served.pass_time(2)
        await app.hears(closed(first, "connection_lost"))
        await served.pass_time(pause)
        await app.hears(live_event("session.started", session=second))
        for event in conversation():
            # Longer than anything but a call that runs is waited for.
            await served.pass_time(45, step=5)
            await app.hears(event)
        await app.hears(closed(second))
        if says_so:
            await app.says({"type": ENDED, "by": "posted"})
        await until_nothing_is_held(served)
        # What is said in real time is laid out by the session's own, which is shorter here: by name, then.
        lost = "    realtime_session gpt-live-1 [openai]"
        assert sorted(peer.tree(HOST).splitlines()) == sorted([*TREE.splitlines(), lost, "    grafter.summary []"])
        told = [one for span, _ in peer.spans for one in span.attributes if one.key == "grafter.ended_by"]
        assert [one.value.string_value for one in told] == ["disconnect", "close"]
        assert len(peer.ids) == len(set(peer.ids))
        came, became = served.books(len(peer.spans))
        assert came == became > 0
