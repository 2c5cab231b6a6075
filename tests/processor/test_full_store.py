"""While the store takes nothing more what is held leaves, and what cannot leave yet holds up nothing else."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grafter.core.model import UnixNano
from grafter.errors import UnavailableError
from tests.processor.conftest import Open
from tests.processor.test_call_records import call_rig, request
from tests.processor.test_processor import OTHER, host_request, items
from tests.processor.test_waits import ANCHOR, CALL, host, run_of_agents, summed
from tests.rig import Peer
from tests.store.redis.servers import Server

ANOTHER = b"\x77" * 16


@contextmanager
def full(redis: Server) -> Iterator[None]:
    """Redis takes nothing that may be refused."""
    redis.ask([("CONFIG", "SET", "maxmemory", "1mb")])
    try:
        yield
    finally:
        redis.ask([("CONFIG", "SET", "maxmemory", "0")])


def traces(peer: Peer) -> set[bytes]:
    return {span.trace_id for span, _ in peer.spans}


@pytest.mark.parametrize("open_rig", ["redis"], indirect=True)
async def test_a_late_guest_with_sums_leaves_while_redis_is_full(open_rig: Open, redis: Server) -> None:
    """What its sums are of is noted all the same; it and the trace beside it leave when they are due."""
    peer = Peer()
    async with open_rig(peer) as served:
        await served.host(host())
        await served.pass_time(60)
        peer.requests.clear()
        await served.guest(run_of_agents("a", ANCHOR.hex(), 7000))
        await served.host(host().replace(CALL, ANOTHER))
        with full(redis):
            await served.pass_time(60, step=5)
            assert traces(peer) == {CALL, ANOTHER}
            assert len(summed(peer)) == 1
            assert served.store.stats().traces == 0


async def test_a_call_is_written_down_and_settled_while_redis_is_full(redis: Server, tmp_path: Path) -> None:
    """Its record waits in the store until the database has it: that must not keep the trace, which makes the room."""
    async with call_rig(tmp_path, redis={"url": redis.url, "prefix": "full-calls"}) as made:
        await made.rig.host(request(1, call_id="CA" + "0" * 32))
        with full(redis):
            async with asyncio.timeout(60):
                await made.rig.pass_time(60, step=5)
            assert made.rig.store.stats().traces == 0
            (found,) = await made.known()
        assert found.spans == 1


@pytest.mark.parametrize("open_rig", ["redis"], indirect=True)
async def test_a_guest_that_cannot_move_to_its_host_holds_up_no_other(open_rig: Open, redis: Server) -> None:
    """A full Redis does not take its parts a second time; it moves when there is room, and is joined."""
    peer = Peer()
    async with open_rig(peer) as served:
        await served.host(host_request(OTHER, (2, 1, "not the root")))
        guest = f"trace_{OTHER.hex()}"
        await served.guest([{"object": "trace", "id": guest, "metadata": None}, *items(guest, None, ("a", None))])
        await served.host(host().replace(CALL, ANOTHER))
        with full(redis):
            await served.pass_time(120, step=5)
            assert traces(peer) == {ANOTHER}
        await served.host(host_request(OTHER, (1, 0, "root")))
        await served.pass_time(60)
        (own,) = [span for span, _ in peer.spans if span.name == "a"]
        assert (own.trace_id, own.parent_span_id) == (OTHER, (1).to_bytes(8))
        came, became = served.books(len(peer.spans))
        assert came == became


async def test_a_guest_whose_sums_cannot_be_noted_waits_alone(open_rig: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without any room left, say: what is due beside it leaves, and it leaves when the note is taken."""
    peer = Peer()
    async with open_rig(peer) as served:
        await served.host(host())
        await served.pass_time(60)
        before = len(peer.spans)
        peer.requests.clear()
        await served.guest(run_of_agents("a", ANCHOR.hex(), 7000))
        await served.host(host().replace(CALL, ANOTHER))
        with monkeypatch.context() as refusing:

            async def refuse(_name: str, _link: str, _now: UnixNano) -> str:
                raise UnavailableError("the store could not write", reason="store_down")

            refusing.setattr(served.store, "first_link", refuse)
            await served.pass_time(60, step=5)
            assert traces(peer) == {ANOTHER}
        await served.pass_time(5)
        assert traces(peer) == {CALL, ANOTHER}
        assert len(summed(peer)) == 1
        came, became = served.books(before + len(peer.spans))
        assert came == became
