"""Deciding about guests that are held under a key of their own, and assembling them from what was found for it."""

from copy import deepcopy
from typing import Any

import pytest

from grafter.core.lifecycle import Release
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, GraftPolicy, Mode, Unlinked
from grafter.guests.realtime import source
from grafter.processor.assembling import Assembler
from grafter.processor.guest_keys import GuestKeys
from grafter.processor.leases import Leases
from grafter.processor.linking import Linking
from tests.processor.test_realtime_calls import HOST, WHOLE_HOST, linked, opened, post, turn
from tests.rig import Peer, Rig, rig

POLICIES = [GraftPolicy(), GraftPolicy(mode=Mode.STREAM), GraftPolicy(unlinked=Unlinked.DROP)]


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that were mapped, each time."""
    calls: list[str] = []
    real = source.map_realtime

    def counted(call: str, *rest: Any, **more: Any) -> Any:
        calls.append(call)
        return real(call, *rest, **more)

    monkeypatch.setattr(source, "map_realtime", counted)
    return calls


async def released_once(served: Rig, mapped: list[str]) -> int:
    """Claim what is due, decide, and assemble what is to leave; how many left. No claim is changed meanwhile."""
    now = UnixNano(served.now[0])
    claims = await served.store.claim(now, 10)
    before = deepcopy([claim.state for claim in claims])
    linking = Linking(served.store, served.policy.waits.remember)
    leases = Leases(served.store, lambda: now, 1.0)
    keys = GuestKeys(served.store, served.policy, Assembler(served.policy, "test"), linking, leases)
    released = 0
    for claim, decision, found in await keys.decide(claims, now):
        if isinstance(decision, Release):
            (parts,) = await served.store.read([claim])
            await keys.assemble(claim, parts, decision.reason, now, found)
            released += 1
    assert [claim.state for claim in claims] == before
    return released


@pytest.mark.parametrize("policy", POLICIES, ids=["hold", "stream", "drop"])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "running"])
async def test_a_call_is_mapped_once_a_claim(policy: GraftPolicy, ended: bool, mapped: list[str]) -> None:
    """Whether its anchor is looked for, its spans are dropped and counted, or it leaves: its events are read once."""
    async with rig(Peer(), policy=policy) as served:
        stream = policy.mode is Mode.STREAM
        if stream:
            await served.host(WHOLE_HOST)
            await served.pass_time(1)
        await served.realtime(post(opened(0.1), *turn(1, 1), ended=ended, **(linked() if stream else {})))
        served.now[0] += 700 * SECOND
        mapped.clear()
        assert await released_once(served, mapped) == 1
    assert len(mapped) == 1


async def test_a_stream_that_waits_for_its_anchor_maps_once_a_look(mapped: list[str]) -> None:
    """A guest whose host is known and whose anchor is not is looked at again and again: no look costs two."""
    policy = GraftPolicy(mode=Mode.STREAM)
    named = f"00-{HOST.hex()}-{'77' * 8}-01"
    async with rig(Peer(), policy=policy) as served:
        await served.host(WHOLE_HOST)
        await served.pass_time(1)
        await served.realtime(post(opened(0.1), *turn(1, 1), metadata={"traceparent": named}))
        for _ in range(3):
            served.now[0] += SECOND
            mapped.clear()
            await released_once(served, mapped)
            assert len(mapped) <= 1
