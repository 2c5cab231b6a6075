"""``POST /api/links``: what it takes, what it refuses, and that nobody takes a guest away."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from grafter.core.calls import CallNote
from grafter.core.model import UnixNano, unlinked_trace_id
from grafter.errors import UnavailableError
from grafter.receiver.http_server import serving
from grafter.receiver.links_http import link_routes
from grafter.receiver.openai_http import application
from tests.processor.test_named_links import GUEST, OTHER, hosts, items, link_of, spans
from tests.processor.test_realtime_calls import CALL, HOST, opened, post, turn
from tests.rig import Peer, Rig, rig

NAMED, ELSEWHERE = (f"00-{host.hex()}-{host[:7].hex()}02-01" for host in (HOST, OTHER))
TOKEN = "a-token-0123456789"


@dataclass
class Door:
    rooms: Rig
    peer: Peer
    url: str

    async def post(self, body: Any, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body)
        told = {"Content-Type": "application/json", **headers}
        async with aiohttp.ClientSession() as client, client.post(self.url, data=data, headers=told) as answer:
            return answer.status, await answer.json() if answer.status != 204 else None

    async def say(self, guest: str = GUEST, traceparent: str = NAMED) -> tuple[int, str]:
        status, answer = await self.post({"guest": guest, "traceparent": traceparent})
        return status, "" if answer is None else answer["error"]["code"]


@asynccontextmanager
async def opened_door(*tokens: str, store: Any = None) -> AsyncIterator[Door]:
    peer = Peer()
    async with rig(peer) as rooms:
        routes = link_routes(rooms.processor, store or rooms.store, rooms.metrics, lambda: rooms.now[0], tokens=tokens)
        async with serving(application(routes), "127.0.0.1:0", None, 1.0) as (_, port):
            yield Door(rooms, peer, f"http://127.0.0.1:{port}/api/links")


@pytest.mark.parametrize("when", ["before", "held", "late"])
async def test_a_guest_hangs_where_the_post_says(when: str) -> None:
    async with opened_door() as door:
        await door.rooms.host(spans())
        if when == "held":
            await door.rooms.guest(items())
        if when == "late":
            await door.rooms.pass_time(60)
        assert await door.say() == (204, "")
        assert await door.say() == (204, "")
        if when != "held":
            await door.rooms.guest(items())
        await door.rooms.pass_time(60)
        # Beside an anchor that has left stand the sums of the guest's turns.
        tree = [line for line in door.peer.tree(HOST).splitlines() if "grafter.summary" not in line]
        assert tree[:3] == ["call []", "  ask []", "    invoke_agent clerk []"]
        assert link_of(door.peer) == "api"
        assert await door.say() == (204, "")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "json"),
        (b"{", "json"),
        (b"[]", "shape"),
        ({}, "guest"),
        ({"guest": 7, "traceparent": NAMED}, "guest"),
        ({"guest": "", "traceparent": NAMED}, "guest"),
        ({"guest": "a b", "traceparent": NAMED}, "guest"),
        ({"guest": "é", "traceparent": NAMED}, "guest"),
        ({"guest": "x" * 257, "traceparent": NAMED}, "guest"),
        ({"guest": GUEST}, "traceparent"),
        ({"guest": GUEST, "traceparent": HOST.hex()}, "traceparent"),
        ({"guest": GUEST, "traceparent": f"00-{'0' * 32}-{'1' * 16}-01"}, "traceparent"),
        ({"guest": GUEST, "traceparent": {"a": 1}}, "traceparent"),
    ],
)
async def test_what_says_nothing_is_refused(body: Any, code: str) -> None:
    async with opened_door() as door:
        status, answer = await door.post(body)
        assert (status, answer["error"]["code"]) == (400, code)
        assert await door.rooms.store.find_calls([GUEST], UnixNano(door.rooms.now[0])) == [None]


@pytest.mark.parametrize("first", ["post", "span", "metadata", "metadata that left", "itself"])
async def test_nobody_takes_a_guest_away(first: str) -> None:
    """Whatever linked it before stands, the answer says which that is, and it goes where it would have gone."""
    async with opened_door() as door:
        rooms = door.rooms
        await rooms.host(spans(openai__trace_id=GUEST) if first == "span" else spans())
        await rooms.host(spans(OTHER))
        told: dict[str, Any] = {"trace_id": HOST.hex()} if first.startswith("metadata") else {}
        if first == "post":
            assert await door.say() == (204, "")
        if first == "metadata":
            await rooms.guest(items(**told))
        if first in ("metadata that left", "itself"):
            await rooms.guest(items(**told))
            await rooms.pass_time(60)
        status, answer = await door.post({"guest": GUEST, "traceparent": ELSEWHERE})
        assert (status, answer["error"]["code"]) == (409, "left" if first == "itself" else "linked")
        assert first == "itself" or HOST.hex() in answer["error"]["message"]
        if first in ("post", "span"):
            await rooms.guest(items())
        await rooms.pass_time(60)
        assert hosts(door.peer) == [unlinked_trace_id(GUEST) if first == "itself" else HOST]


async def test_a_call_that_is_heard_is_taken_up_at_once() -> None:
    """The host waits for it from then on, though the call says nothing for a while."""
    async with opened_door() as door:
        rooms = door.rooms
        await rooms.realtime(post(opened(0.1)))
        await rooms.host(spans())
        assert await door.say(CALL) == (204, "")
        await rooms.pass_time(60)
        assert door.peer.spans == []
        await rooms.realtime(post(*turn(1, 61), ended=True))
        await rooms.pass_time(60)
        assert hosts(door.peer, "realtime_session gpt-realtime") == [HOST]


@pytest.mark.parametrize(
    ("tokens", "headers", "status"),
    [
        ((), {}, 204),
        ((), {"Origin": "https://page.example"}, 403),
        ((), {"Host": "page.example"}, 403),
        ((TOKEN,), {}, 401),
        ((TOKEN,), {"Authorization": "Bearer other"}, 401),
        ((TOKEN,), {"Authorization": f"Bearer {TOKEN}", "Origin": "https://page.example"}, 204),
    ],
)
async def test_it_is_opened_as_the_other_doors_are(
    tokens: tuple[str, ...], headers: dict[str, str], status: int
) -> None:
    async with opened_door(*tokens) as door:
        assert (await door.post({"guest": GUEST, "traceparent": NAMED}, **headers))[0] == status
        assert door.rooms.count("grafter_receiver_requests_total", transport="links") == 1


async def test_a_store_that_is_away_is_said() -> None:
    class Away:
        async def find_calls(self, call_ids: Sequence[str], now: UnixNano) -> Sequence[CallNote | None]:
            raise UnavailableError("the store does not answer")

    async with opened_door(store=Away()) as door:
        status, answer = await door.post({"guest": GUEST, "traceparent": NAMED})
        assert (status, answer["error"]["type"]) == (503, "server_error")
