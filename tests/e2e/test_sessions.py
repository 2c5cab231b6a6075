"""Hosted sessions by a grafter process: killed between two pages, and asked by command."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from tests import agents_server
from tests.agents_server import KEY, PROMPT, SESSION, AgentsServer, session, trace, turn_id
from tests.e2e.commands import command, typed
from tests.e2e.conftest import Start
from tests.e2e.reference_call import Services, play, reference_call
from tests.e2e.sink import Sink
from tests.e2e.tree import outline, spans_in
from tests.webhooks import SECRET, delivery, envelope

LONG = {"after_root": "1s", "guest_quiet": "300ms", "for_guest": "60s", "idle": "60s", "local_root": "60s"}
"""Nothing may be released before the session was read."""

TREE = (Path(__file__).parent / "trees" / "sessions.txt").read_text("utf-8")
"""The whole call, with three turns of a hosted session in it."""


@pytest.fixture
async def agents() -> AsyncIterator[AgentsServer]:
    """A stand-in of the Agents API."""
    async with agents_server.serving() as server:
        yield server


def project(server: AgentsServer) -> dict[str, Any]:
    return {"projects": {"default": {"api_key": KEY, "base_url": server.base_url}}}


async def test_a_webhook_has_a_session_read(start: Start, sink: Sink, agents: AgentsServer) -> None:
    """In the name of the project whose secret signed it, once however often it is delivered."""
    agents.traces = [trace(number) for number in (1, 2, 3)]
    projects = {"default": {"api_key": "sk-another"}, "voice": {**project(agents)["projects"]["default"]}}
    projects["voice"]["webhook_secrets"] = [SECRET]
    grafter = await start(wait=LONG, openai={"projects": projects})
    services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
    with reference_call(services) as call:
        play(call)
        agents.sessions[SESSION] = session(metadata={"trace_id": call.trace_id})
        body, headers = delivery(envelope("agent.session.idle", {"id": SESSION, "environment_type": "none"}))
        async with aiohttp.ClientSession() as client:
            for status in ("accepted", "repeat"):
                async with client.post(grafter.webhooks, data=body, headers=headers) as answer:
                    assert (answer.status, (await answer.json())["status"]) == (200, status)
        await agents.until_asked(2)
    await asyncio.to_thread(services.flush)
    services.shutdown()
    await sink.until_spans(call.trace_id, spans_in(TREE))
    assert sink.tree(call.trace_id).text() == outline(TREE)
    assert sink.trace_ids() == {call.trace_id}


async def test_a_session_survives_a_kill_between_two_pages(start: Start, sink: Sink, agents: AgentsServer) -> None:
    """The next process goes on behind the page that was stored; the tree is whole, and no span came twice."""
    agents.most = 1
    agents.traces = [trace(number) for number in (1, 2, 3)]
    grafter = await start(wait=LONG, openai=project(agents))
    services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
    with reference_call(services) as call:
        play(call)
        await asyncio.to_thread(services.flush)
        agents.sessions[SESSION] = session(metadata={"trace_id": call.trace_id})
        # The answer to the second page is held back until nobody waits for it any more.
        agents.answer = lambda r: web.Response(status=503) if "after" in r.query and not restarted else None
        restarted = False
        asking = asyncio.ensure_future(command(grafter, "pull", SESSION))
        await agents.until_asked(3)
        await grafter.kill()
        assert (await asking)[0] == 1
        stored = b"".join(path.read_bytes() for path in (grafter.home / "store").iterdir())
        assert b"agent Reception" in stored
        assert PROMPT.encode() not in stored
        assert KEY.encode() not in stored
        restarted = True
        asked = len(agents.asked)
        await grafter.start()
        await agents.until_asked(asked + 3)
        assert agents.asked[asked : asked + 2] == [SESSION, f"{SESSION}/traces?limit=100&order=asc&after={turn_id(1)}"]
    await asyncio.to_thread(services.flush)
    services.shutdown()
    await sink.until_spans(call.trace_id, spans_in(TREE))

    told = sink.tree(call.trace_id).text()
    assert told == outline(TREE)
    assert sink.trace_ids() == {call.trace_id}
    for secret in (PROMPT, KEY):
        assert secret not in told
        assert secret not in grafter.log()


async def test_the_command_asks_the_grafter_that_runs(start: Start, agents: AgentsServer) -> None:
    """Exit 0 when all pages were read, in words and as JSON; 1 with OpenAI's refusal; 2 for no session at all."""
    agents.traces = [trace(1), trace(2)]
    agents.sessions[SESSION] = session(metadata={"trace_id": "ab" * 16})
    agents.sessions["own"] = session("own")
    grafter = await start(wait=LONG, openai=project(agents))
    code, out, _ = await typed(grafter, "pull", SESSION)
    assert (code, out) == (0, f"{SESSION}: 2 new traces\n")
    code, out, _ = await command(grafter, "pull", SESSION, "--json")
    assert code == 0
    assert json.loads(out) == {"session": SESSION, "project": "default", "traces": 0, "skipped": 0, "linked": True}
    code, out, _ = await command(grafter, "pull", "own")
    assert code == 0
    assert "names no trace of yours" in out
    code, out, err = await command(grafter, "pull", "unknown")
    assert (code, out, err) == (1, "", "pull: OpenAI knows no such session in this project\n")
    assert (await command(grafter, "pull", "a/b"))[0] == 1
    assert (await command(grafter, "pull", SESSION, "--project", "other"))[2].startswith("pull: no api_key under")
    assert (await command(grafter, "pull"))[0] == 2


async def test_the_command_does_it_itself_where_nobody_listens(start: Start, agents: AgentsServer, sink: Sink) -> None:
    """What it fetched leaves with the next grafter that runs; a store that somebody holds is said to be held."""
    agents.traces = [trace(1)]
    agents.sessions[SESSION] = session()
    grafter = await start(wait={"for_guest": "500ms"}, openai=project(agents))
    held = await command(grafter, "pull", SESSION, "--set", "receivers.openai.endpoint=127.0.0.1:1")
    assert held[0] == 1
    assert "in use by process" in held[2]
    assert await grafter.terminate() == 0
    code, out, err = await command(grafter, "pull", SESSION)
    assert (code, out.splitlines()[0], err) == (0, f"{SESSION}: 1 new traces", "")
    assert sink.spans() == []
    await grafter.start()
    await sink.until(lambda came: len(came.spans()) >= 3, "the turn")
    assert {each.service for each in sink.spans()} == {"openai"}
    memory = await command(
        grafter,
        *("pull", SESSION),
        *("--set", "receivers.openai.endpoint=127.0.0.1:1"),
        *("--set", "extensions.store.embedded.memory=true"),
    )
    assert memory[0] == 1
    assert "in the memory of one" in memory[2]


async def test_who_may_command(start: Start, agents: AgentsServer) -> None:
    """A process of this machine, and neither a page in its browser nor what a proxy passes on."""
    agents.sessions[SESSION] = session()
    grafter = await start(openai=project(agents))
    json_type, proxied = {"Content-Type": "application/json"}, {"X-Forwarded-For": "203.0.113.9"}
    strangers: list[dict[str, str]] = [
        {"Content-Type": "text/plain"},
        {**json_type, "Origin": "https://page.example"},
        {**json_type, **proxied},
        {**json_type, **proxied, "Authorization": "Bearer wrong"},
    ]
    async with aiohttp.ClientSession() as client:

        async def status(headers: dict[str, str]) -> int:
            async with client.post(grafter.admin, data=json.dumps({"session": SESSION}), headers=headers) as answer:
                return answer.status

        assert [await status(headers) for headers in strangers] == [401] * 4
        assert agents.asked == []
        assert await status(json_type) == 200
        assert agents.asked != []
