"""What a service is sent of a call that has left: signed, again where it was not taken, and to nobody else."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web
from standardwebhooks import Webhook

from grafter.calls.call_link import CallLinks
from grafter.calls.following import Due, Notified, NotifyOutcome
from grafter.calls.merge import Call, row
from grafter.calls.model import CallId, CallRow
from grafter.core.policy import SECOND
from grafter.receiver.call_webhook import call_webhook
from grafter.receiver.http_server import serving
from tests.calls.records import ANNA, CLINIC, START, record, trace, wait
from tests.webhooks import SECRET

SID = "CA" + "a" * 32
KEYED = record(
    "a", ids=(CallId("twilio", SID),), traces=(trace(1),), caller=ANNA, callee=CLINIC, start=START,
    end=START + 90 * SECOND, turns=(wait(1, 2930.0),), recording="RE" + "b" * 32, outcome="completed",
)  # fmt: skip


@dataclass
class Recordings:
    """A service that shows recordings; what it answers is the test's to say."""

    answers: list[web.Response] = field(default_factory=list)
    came: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.came.append((request.path, dict(request.headers), await request.read()))
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@asynccontextmanager
async def recordings() -> AsyncIterator[tuple[Recordings, str]]:
    made = Recordings()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    async with serving(app, "127.0.0.1:0", None, 1.0) as (_, port):
        yield made, f"http://127.0.0.1:{port}/hooks/grafter"


def call() -> tuple[Due, CallRow]:
    return Due("a key", START + 91 * SECOND, 1, 0, START + 160 * SECOND), row(Call((KEYED,)), START + 100 * SECOND)


async def notified(url: str) -> Notified:
    links = CallLinks(b"secret", 3600 * SECOND, lambda: "https://calls.example.com")
    async with call_webhook("webhook", url, SECRET, links, lambda: START + 100 * SECOND) as webhook:
        (answer,) = await webhook.notify([call()])
        return answer


async def test_what_is_told_and_how_it_is_signed() -> None:
    """The library that others check it with takes it; no digit of a number is in it."""
    async with recordings() as (made, url):
        assert (await notified(url)).outcome is NotifyOutcome.TAKEN
        ((path, headers, body),) = made.came
        assert path == "/hooks/grafter"
        lower = {name.lower(): value for name, value in headers.items()}
        at = datetime.fromtimestamp(int(lower["webhook-timestamp"]), UTC)
        assert lower["webhook-signature"] == Webhook(SECRET).sign(lower["webhook-id"], at, body.decode())
        event = json.loads(body)
        assert event["type"] == "call.released"
        assert event["data"]["ids"] == [{"kind": "twilio", "id": SID}]
        assert event["data"]["recording"] == "RE" + "b" * 32
        assert event["data"]["verdict"].startswith("turn 1 was slow: the caller waited 2.93 s")
        assert event["data"]["link"].startswith(f"https://calls.example.com/links/{event['data']['key']}.")
        assert b"1234" not in body.replace(trace(1).hex().encode(), b"")
        assert "from" not in event["data"]
        await notified(url)
        assert {name.lower(): value for name, value in made.came[1][1].items()}["webhook-id"] == lower["webhook-id"]


async def test_what_comes_of_each_answer() -> None:
    """Notified again where it may be taken then, at the time that is asked for; given up where it would be refused."""
    async with recordings() as (made, url):
        for answer, came, seconds in (
            (web.Response(status=503, headers={"Retry-After": "7"}), NotifyOutcome.FAILED, 7.0),
            (web.Response(status=429), NotifyOutcome.FAILED, 0.0),
            (web.Response(status=500), NotifyOutcome.FAILED, 0.0),
            (web.Response(status=410), NotifyOutcome.REFUSED, 0.0),
            (web.Response(status=400), NotifyOutcome.REFUSED, 0.0),
        ):
            made.answers.append(answer)
            got = await notified(url)
            assert (got.outcome, got.wait) == (came, seconds)
    assert (await notified(url)).outcome is NotifyOutcome.FAILED


async def test_a_redirect_is_not_followed() -> None:
    """An answer cannot send it to an address that nobody configured, such as one within the network."""
    async with recordings() as (made, url), recordings() as (other, elsewhere):
        made.answers.append(web.Response(status=307, headers={"Location": elsewhere}))
        assert await notified(url) == Notified(NotifyOutcome.REFUSED, "HTTP 307")
        assert other.came == []
