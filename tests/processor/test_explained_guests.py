"""``grafter explain`` asked by a guest's own id: while it is held with its host, alone, and when it was dropped."""

from tests.processor.conftest import Open
from tests.receiver.test_explaining import GUEST, RUN, explainer, said, with_metadata
from tests.rig import CALL, START, Peer, recorded_call, recorded_guest, rig

CREATED = {
    "at": START / 10**9,
    "from": "server",
    "event": {"type": "session.created", "event_id": "e1", "session": {"id": "sess_1", "type": "realtime"}},
}


def metadata_of(**metadata: str) -> list[object]:
    """The recorded run's items, naming this host or none."""
    return [with_metadata(item, metadata) for request in recorded_guest(RUN) for item in request]


async def test_a_guest_that_is_held_with_its_host_is_found_by_its_own_id(open_rig: Open) -> None:
    """By an OpenAI trace id, a call's and a hosted session's: what it waits for, and under which trace."""
    call = {"call": "rtc_held", "metadata": {"trace_id": CALL.hex()}, "events": [CREATED]}
    async with open_rig(Peer()) as r:
        await r.host(recorded_call())
        await r.guest(metadata_of(trace_id=CALL.hex())[:3])
        await r.realtime(call)
        for asked in (GUEST, "rtc_held"):
            answer = await explainer(r).explain(asked)
            assert answer["filed_under"] == CALL.hex()
            assert f"held with your trace {CALL.hex()}, to which it belongs" in said(answer)
            assert f"top_level {GUEST}" in answer["held"]["waits_for"]  # type: ignore[index]
            assert "leaves, should nothing more come, in" in said(answer)
        assert "held" not in await explainer(r).explain("rtc_other")


async def test_a_guest_that_waits_for_a_link_says_what_would_join_it(open_rig: Open) -> None:
    """While it is held, when something can still be done; and that which names a host of which nothing comes."""
    async with open_rig(Peer()) as r:
        await r.guest(metadata_of())
        alone = said(await explainer(r).explain(GUEST))
        assert "waits for a link to a trace of yours" in alone
        assert "to change: put trace_id or traceparent into the metadata, or its id on a span of yours" in alone
    async with rig(Peer()) as r:
        await r.guest(metadata_of(trace_id=CALL.hex()))
        waiting = said(await explainer(r).explain(GUEST))
        assert "waits for your trace, of which no span has come" in waiting
        assert "to change: look whether your trace is exported here" in waiting
        await r.pass_time(700, step=5)
        left = said(await explainer(r).explain(GUEST))
        assert "hangs under nothing: your trace had no span to hang it under" in left
        assert "to change: end and export the spans of your trace" in left


async def test_a_guest_that_was_dropped_with_its_host_says_so() -> None:
    """Its traceparent says that the host was sampled away."""
    async with rig(Peer()) as r:
        await r.guest(metadata_of(traceparent=f"00-{CALL.hex()}-{'1' * 16}-00"))
        await r.pass_time(700, step=5)
        assert "OpenAI's half was dropped" in said(await explainer(r).explain(GUEST))
