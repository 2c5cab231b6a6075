"""The page as it runs: calls through the real doors, joined, in the real call map, looked up by their number."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import grpc.aio
from aiohttp import web

from grafter.commands.demo.command import Sender
from grafter.commands.demo.many_calls import play
from grafter.commands.demo.script import PlayedCall
from grafter.components import Config
from grafter.receiver.http_server import serving
from grafter.service import running

_FREE = {"endpoint": "127.0.0.1:0"}
_DEADLINE = 60.0


def settings(directory: Path) -> dict[str, Any]:
    return {
        "receivers": {"otlp": {"protocols": {"grpc": _FREE, "http": _FREE}}, "openai": _FREE},
        "processors": {"graft": {"wait": {"after_root": "300ms", "guest_quiet": "200ms", "for_guest": "1s"}}},
        "exporters": {"file": {"path": str(directory / "out.jsonl")}},
        "extensions": {
            "store": {"embedded": {"directory": str(directory / "store")}},
            "calls": {"url": f"sqlite:///{directory}/calls.db"},
            "lookup": _FREE,
            "health_check": _FREE,
        },
        "service": {"telemetry": {"metrics": _FREE}},
    }


@asynccontextmanager
async def grafter(
    directory: Path, processors: dict[str, Any] | None = None, **calls: Any
) -> AsyncIterator[tuple[Sender, aiohttp.ClientSession, str]]:
    """A whole grafter: what sends to it, a browser with cookies, the address of its page. ``processors``: more of them;
    ``calls``: more keys of theirs."""
    config = settings(directory)
    config["extensions"]["calls"] |= calls
    config["processors"] |= processors or {}
    async with (
        running(Config.model_validate(config)) as service,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{service.ports['otlp_grpc']}") as channel,
    ):
        yield Sender(session, channel, service.ports), session, f"http://localhost:{service.ports['lookup']}"


async def shown(session: aiohttp.ClientSession, address: str, fits: Callable[[str], bool]) -> str:
    """The page once it says so: a call is written down some moments after its end."""
    text = ""
    async with asyncio.timeout(_DEADLINE):
        while not fits(text):
            async with session.get(address) as answer:
                text = await answer.text()
            await asyncio.sleep(0.05)
    return text


async def find(session: aiohttp.ClientSession, page: str, text: str) -> tuple[str, str]:
    """The form of the list, with this text in it: where it leads, and what stands there."""
    async with session.get(page) as answer:
        proof = re.search(r'name="csrf" value="([0-9a-f]+)"', await answer.text())
    assert proof
    async with session.post(f"{page}/search", data={"csrf": proof[1], "q": text}) as answer:
        return answer.url.path, await answer.text()


def played(*names: str) -> list[PlayedCall]:
    begin = datetime.now(UTC) - timedelta(minutes=len(names) + 1)
    return [play(name, begin + timedelta(minutes=at), at) for at, name in enumerate(names)]


async def test_a_number_leads_to_the_verdict(tmp_path: Path) -> None:
    """Every kind of call by the real way, and each found by the number of its caller."""
    calls = played("slow tool", "tool fails", "interruptions", "late media", "metadata missing", "no openai", "busy")
    verdicts = {
        "slow tool": "Turn 3 took 2.93 s; 1.68 s of it was your tool book_slot.",
        "tool fails": "Your tool book_slot failed 2 times: HTTP 409.",
        "interruptions": "Nothing was slow",
        "late media": "The media path came up late: 4.15 s",
        "metadata missing": "An OpenAI session was expected, and nothing of it came.",
        "no openai": "how long the caller waited is not known",
        "busy": "The call ended as busy.",
    }
    async with grafter(tmp_path) as (sender, session, page):
        await sender.calls(calls)
        await shown(session, page, lambda text: all(f"•••• {call.script.caller[-4:]}" in text for call in calls))
        for call in calls:
            number = call.script.caller
            said = f"({number[2:5]}) {number[5:8]}-{number[8:]}"
            path, _ = await find(session, page, f"+1 {said}")
            assert path.startswith("/calls/"), (call.name, path)
            text = await shown(session, page + path, lambda text, call=call: verdicts[call.name] in text)  # type: ignore[misc]
            assert number not in text
            assert call.sid in text
        path, text = await find(session, page, calls[0].host.trace_id.hex())
        assert calls[0].sid in text
        assert (await find(session, page, calls[0].sid))[0] == path
        async with session.get(f"{page}{path}/trace.json") as answer:
            document = json.loads(await answer.read())
        names = [
            span["name"]
            for each in document["resourceSpans"]
            for scope in each["scopeSpans"]
            for span in scope["spans"]
        ]
        assert {"callsphere.call", "execute_tool book_slot", "SELECT appointments"} <= set(names)
        async with session.get(f"{page}{path}/ticket.html") as answer:
            assert "1.68 s of it was your tool book_slot" in await answer.text()


async def test_forgetting_by_the_page(tmp_path: Path) -> None:
    """Its calls are gone from the list, and their trace is named."""
    (call,) = played("quick")
    async with grafter(tmp_path) as (sender, session, page):
        await sender.call(call)
        await shown(session, page, lambda text: "/calls/" in text)
        async with session.get(f"{page}/forget") as answer:
            proof = re.search(r'name="csrf" value="([0-9a-f]+)"', await answer.text())
        assert proof
        form = {"csrf": proof[1], "number": call.script.caller, "sure": "yes"}
        async with session.post(f"{page}/forget", data=form) as answer:
            assert call.host.trace_id.hex() in await answer.text()
        await shown(session, page, lambda text: "No calls yet" in text)


async def test_a_recording_page_is_told_and_gets_a_link(tmp_path: Path) -> None:
    """What it is told while it is away comes after a restart; the link that it asks for, by the recording's id, opens
    the call to somebody who has no cookie; and a number gets none."""
    (call,) = played("slow tool")
    came: list[dict[str, Any]] = []
    heard = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        came.append(json.loads(await request.read())["data"])
        heard.set()
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/told", take)
    async with serving(web.Application(), "127.0.0.1:0", None, 1.0) as (_, port):
        pass
    told = {"webhooks": [{"url": f"http://127.0.0.1:{port}/told", "secret": "a secret of both"}]}
    async with grafter(tmp_path, **told) as (sender, session, page):
        await sender.call(call)
        await shown(session, page, lambda text: "/calls/" in text)
        recording = f"https://api.twilio.com/2010-04-01/Accounts/AC1/Recordings/RE{'e' * 32}"
        posted = {"ids": {"twilio": call.sid}, "recording": recording}
        async with session.post(f"http://127.0.0.1:{sender.ports['openai']}/api/calls", json=posted) as answer:
            assert answer.status == 204
    assert came == []
    async with (
        serving(app, f"127.0.0.1:{port}", None, 1.0),
        grafter(tmp_path, **told) as (sender, session, page),
        asyncio.timeout(_DEADLINE),
    ):
        await heard.wait()
        assert came[0]["ids"][-1] == {"kind": "twilio", "id": call.sid}
        assert came[0]["verdict"] == "turn 3 was slow: the caller waited 2.93 s; 1.68 s of it was your tools"
        api = f"http://127.0.0.1:{sender.ports['openai']}/api/calls"
        for named in (call.sid, "RE" + "e" * 32, call.host.trace_id.hex(), call.call, came[0]["key"]):
            async with session.get(f"{api}/{named}/link") as answer:
                link = await answer.json()
                assert answer.status == 200, link
            assert link["recording"] == recording
            assert link["link"].startswith(f"http://127.0.0.1:{urlsplit(page).port}/links/{came[0]['key']}.")
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as stranger,
            stranger.get(link["link"]) as answer,
        ):
            assert "1.68 s of it was your tool book_slot" in await answer.text()
        number = call.script.caller
        for asked, status in (
            (number, 400),
            (f"tel:{number}", 400),
            (number.removeprefix("+"), 404),
            ("CA" + "0" * 32, 404),
        ):
            async with session.get(f"{api}/{quote(asked)}/link") as answer:
                assert answer.status == status
                assert number not in await answer.text()
        async with session.get(f"{api}/{call.sid}/link", headers={"X-Forwarded-For": "203.0.113.7"}) as answer:
            assert answer.status == 401
    assert len(came) == 1
