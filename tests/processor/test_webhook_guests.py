"""Trace exports through the processor: in whatever events, order and repeats they come, the guest is the same."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grafter.core.model import Source
from grafter.guests.agents.intake import read_items
from grafter.guests.webhooks import read_delivery
from tests.rig import CALL, SESSION, Peer, Rig, recorded_call, rig
from tests.webhooks import envelope, span, trace_object

HEAD = trace_object(metadata={"trace_id": CALL.hex(), "span_id": SESSION.hex()})
ITEMS: list[dict[str, Any]] = [HEAD, span(1), span(2, 1), span(3, 2), span(4, 1)]
OTHER = [trace_object("trace_" + "b" * 32), span(9, trace_id="trace_" + "b" * 32)]


async def delivered(served: Rig, *items: dict[str, Any]) -> None:
    """One event arrives."""
    intake = read_items(
        read_delivery(orjson.dumps(envelope("trace.exported", list(items))), b"").items, Source.WEBHOOK, served.policy
    )
    await served.processor.consume(intake.parts)
    served.accepted += intake.spans


async def expected() -> str:
    """The tree of one event with everything in it, after its host."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(recorded_call())
        await delivered(served, *ITEMS)
        await served.pass_time(60)
    tree = peer.tree(CALL)
    assert tree.count("[openai]") == 4
    return tree


@given(
    order=st.permutations(range(len(ITEMS))),
    repeated=st.lists(st.sampled_from(ITEMS), max_size=4),
    cuts=st.sets(st.integers(0, 9), max_size=4),
    host_at=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_events_in_any_order_are_one_guest(
    order: list[int], repeated: list[dict[str, Any]], cuts: set[int], host_at: int
) -> None:
    """Cut anywhere, mixed with another trace's items, delivered again in other events: the same tree, nothing twice."""
    items = [ITEMS[i] for i in order] + repeated
    bounds = [0, *sorted(cut for cut in cuts if 0 < cut < len(items)), len(items)]
    events = [items[start:end] for start, end in pairwise(bounds)]
    peer = Peer()
    async with rig(peer) as served:
        for number, event in enumerate(events):
            if number == min(host_at, len(events) - 1):
                await served.host(recorded_call())
            await delivered(served, *event, *(OTHER if number == 0 else ()))
            await served.pass_time(1)
        await served.pass_time(120)
        assert peer.tree(CALL) == await expected()
        assert len(peer.ids) == len(set(peer.ids))
        assert served.store.stats().traces == 0
        came, became = served.books(len(peer.spans))
        assert came == became


@pytest.mark.parametrize("first", ["sdk", "webhook"])
async def test_what_the_sdk_sends_too_is_there_once(first: str) -> None:
    """A trace that comes by both doors is one guest."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(recorded_call())
        for door in (first, "webhook" if first == "sdk" else "sdk"):
            await (served.guest(ITEMS) if door == "sdk" else delivered(served, *ITEMS))
        await served.pass_time(60)
        assert len(peer.ids) == len(set(peer.ids))
        assert sum(each.name.startswith("step ") for each, _ in peer.spans) == 4
        came, became = served.books(len(peer.spans))
        assert came == became
