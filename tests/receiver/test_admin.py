"""Who may command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from grafter.core.policy import GraftPolicy
from grafter.receiver.admin import admin_routes, is_local
from grafter.receiver.explaining import Explainer
from grafter.receiver.http_server import serving
from grafter.receiver.openai_api import Account
from grafter.receiver.openai_http import application
from grafter.receiver.sessions import pulling
from grafter.store.base import TaskStore
from grafter.telemetry import Metrics
from tests import agents_server
from tests.agents_server import KEY, SESSION, AgentsServer
from tests.rig import rig

TOKEN = "admin-token-0123456789"
JSON = {"Content-Type": "application/json"}
AWAY = {"X-Forwarded-For": "203.0.113.9"}


@asynccontextmanager
async def door(server: AgentsServer, store: TaskStore, *tokens: str, wait: float = 30.0) -> AsyncIterator[str]:
    """The address of a door with these tokens."""
    metrics, policy = Metrics(), GraftPolicy()
    accounts = {"default": Account(KEY, server.base_url)}
    async with rig() as rooms, pulling(store, rooms.processor, accounts, metrics, policy) as pulls:
        explainer = Explainer(rooms.store, policy, lambda: rooms.now[0])
        routes = admin_routes(pulls, explainer, metrics, tokens=tokens, wait_seconds=wait)
        async with serving(application(routes), "127.0.0.1:0", None, 1.0) as (_, port):
            yield f"http://127.0.0.1:{port}/admin/pull"


async def post(url: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as client, client.post(url, data=body, headers=headers) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("authorization", "status"), [(f"Bearer {TOKEN}", 200), ("Bearer other", 401), (TOKEN, 401), (None, 401)]
)
async def test_from_another_machine_a_token_opens(authorization: str | None, status: int) -> None:
    headers = {**JSON, **AWAY, **({"Authorization": authorization} if authorization else {})}
    async with agents_server.serving() as server, rig() as rooms, door(server, rooms.store, TOKEN) as url:
        server.sessions[SESSION] = agents_server.session()
        assert (await post(url, f'{{"session": "{SESSION}"}}', headers))[0] == status


async def test_without_tokens_no_token_opens() -> None:
    """An empty list is no list that everything matches."""
    async with agents_server.serving() as server, rig() as rooms, door(server, rooms.store) as url:
        headers = {**JSON, **AWAY, "Authorization": "Bearer "}
        assert (await post(url, f'{{"session": "{SESSION}"}}', headers))[0] == 401


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "json"),
        ("[]", "shape"),
        ("{}", "shape"),
        ('{"session": 7}', "shape"),
        ('{"session": "a", "project": 7}', "shape"),
        ('{"session": "../x"}', "session_id"),
    ],
)
async def test_what_is_no_command_is_refused(body: str, code: str) -> None:
    async with agents_server.serving() as server, rig() as rooms, door(server, rooms.store) as url:
        status, answer = await post(url, body, JSON)
        assert (status, answer["error"]["code"]) == (400, code)
        assert server.asked == []


async def test_openai_in_trouble_is_not_waited_for_for_ever() -> None:
    """503, and the pull stays in the store."""
    async with agents_server.serving() as server, rig() as rooms, door(server, rooms.store, wait=0.2) as url:
        server.answer = lambda _: web.Response(status=500)
        status, answer = await post(url, f'{{"session": "{SESSION}"}}', JSON)
        assert (status, answer["error"]["code"]) == (503, "still_trying")


@pytest.mark.parametrize(
    ("peer", "headers", "local"),
    [
        (("127.0.0.1", 5), {}, True),
        (("127.9.9.9", 5), {}, True),
        (("::1", 5, 0, 0), {}, True),
        (("::ffff:127.0.0.1", 5, 0, 0), {}, True),
        (("::ffff:203.0.113.9", 5, 0, 0), {}, False),
        (("203.0.113.9", 5), {}, False),
        (("fe80::1%eth0", 5, 0, 2), {}, False),
        (("127.0.0.1", 5), {"Forwarded": "for=203.0.113.9"}, False),
        (("127.0.0.1", 5), AWAY, False),
        (("127.0.0.1", 5), {"Host": "localhost:4319"}, True),
        (("127.0.0.1", 5), {"Host": "LocalHost."}, True),
        (("127.0.0.1", 5), {"Host": "127.0.0.1:4319"}, True),
        (("::1", 5, 0, 0), {"Host": "[::1]:4319"}, True),
        (("127.0.0.1", 5), {"Host": "page.example:4319"}, False),
        (("127.0.0.1", 5), {"Host": "localhost.page.example"}, False),
        (("127.0.0.1", 5), {"Host": "127.0.0.1.page.example"}, False),
        (("127.0.0.1", 5), {"Host": "192.0.2.7"}, False),
        (("127.0.0.1", 5), {"Host": ""}, False),
        ("", {}, False),
        (None, {}, False),
    ],
)
def test_who_is_of_this_machine(peer: Any, headers: dict[str, str], local: bool) -> None:
    """By the address of the connection, an IPv4 address inside IPv6 too, and by the name that it was asked under."""

    class Transport:
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return peer if name == "peername" else default

    request = make_mocked_request("POST", "/admin/pull", headers=headers, transport=Transport())
    assert is_local(request) is local


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"call": "CA0123456789abcdef0123456789abcdef"}', 200),
        ('{"closed": [["localhost:4317", "receivers.otlp.protocols.grpc.endpoint"]]}', 200),
        ("{}", 200),
        ('{"call": 7}', 400),
        ('{"call": " "}', 400),
        ('{"call": "' + "1" * 301 + '"}', 400),
        ('{"closed": 7}', 400),
        ('{"closed": [["localhost:4317"]]}', 400),
    ],
)
async def test_the_doctor_is_asked_in_one_shape(body: str, status: int) -> None:
    """A call that nobody knows is an answer, and what is no question is refused."""
    async with agents_server.serving() as server, rig() as rooms, door(server, rooms.store) as url:
        answered, answer = await post(url.replace("/pull", "/doctor"), body, JSON)
        assert answered == status
        if status == 200:
            assert answer["lines"]
        assert (await post(url.replace("/pull", "/doctor"), body, {**JSON, "Origin": "http://page.example"}))[0] == 401
