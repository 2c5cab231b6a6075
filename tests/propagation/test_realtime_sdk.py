"""The tap inside the real frameworks, which talk to a stand-in of the Realtime API."""

import asyncio
import base64
import os
import sys
import venv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner
from agents.realtime.openai_realtime import OpenAIRealtimeWebSocketModel

from grafter_propagation import RealtimeTap
from tests.e2e.apps import why_no_javascript
from tests.propagation.apps import APP_DEADLINE, example, run
from tests.propagation.door import Door
from tests.propagation.realtime_api import AUDIO, Api, calling

HERE = Path(__file__).parent
LIVEKIT = "livekit-agents[openai]==1.8.9"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A stand-in of the Realtime API."""
    async with calling() as api:
        yield api


def told(door: Door, side: str) -> list[dict[str, Any]]:
    """The stored events of a side."""
    return [row["event"] for row in door.rows if row["from"] == side]


def assert_whole(door: Door, api: Api, client: set[str]) -> None:
    """The door has what was said and heard on the wire, each event once, in order, without its audio."""
    server = told(door, "server")
    assert [(event["type"], event["event_id"]) for event in server] == [
        (event["type"], event["event_id"]) for event in api.said[: len(server)]
    ]
    assert server[-1]["type"] in {"response.done", "conversation.item.truncated"}
    assert {event["type"] for event in told(door, "client")} >= client
    (call,) = [event["call_id"] for event in server if event["type"] == "response.function_call_arguments.done"]
    assert call == "call_1"
    deltas = [event["delta_bytes"] for event in server if event["type"] == "response.output_audio.delta"]
    assert deltas == [len(base64.b64decode(AUDIO))] * 3
    assert AUDIO[:64].encode() not in door.raw
    times = [row["at"] for row in door.rows]
    assert times == sorted(times)
    assert door.ended


@pytest.mark.parametrize("way", ["attach", "model", "listener"])
async def test_an_agents_session_in_python(door: Door, api: Api, way: str) -> None:
    """openai-agents: the whole session by ``attach``, the server's half as a plain listener."""

    @function_tool
    async def lookup(order: int) -> str:
        """Where an order is."""
        return f"{order} is shipped"

    agent = RealtimeAgent(name="Desk", instructions="Find the order.", tools=[lookup])
    model = OpenAIRealtimeWebSocketModel()
    tap = RealtimeTap(door.url, "call_1", metadata={"trace_id": "a" * 32}, interval=0.05)
    if way == "model":
        tap.attach(model)
    settings: Any = {"url": api.url, "api_key": "sk-none"}
    session = await RealtimeRunner(agent, model=model).run(model_config=settings)
    if way == "attach":
        assert tap.attach(session) is session
    elif way == "listener":
        session.model.add_listener(tap)
    async with asyncio.timeout(APP_DEADLINE), session:
        await session.send_message("Where is order 7?")
        await door.until(lambda d: [e["response"]["id"] for e in told(d, "server") if e["type"] == "response.done"][1:])
    await tap.aclose()

    expected = {"session.update", "conversation.item.create", "response.create", "conversation.item.truncate"}
    assert_whole(door, api, set() if way == "listener" else expected)
    if way == "listener":
        assert told(door, "client") == []
    else:
        assert told(door, "client") == api.heard
        (output,) = [
            event["item"] for event in told(door, "client") if event.get("item", {}).get("type", "").endswith("_output")
        ]
        assert output == {"type": "function_call_output", "call_id": "call_1", "output": "7 is shipped"}
    assert tap.dropped == 0


async def test_a_socket_of_the_apps_own(door: Door, api: Api) -> None:
    """A raw loop shows the texts as it reads and writes them."""
    tap = RealtimeTap(door.url, "call_1", metadata={})

    async def send(text: str) -> None:
        tap.client(text)
        await socket.send_str(text)

    async with tap, aiohttp.ClientSession() as client, client.ws_connect(api.url) as socket:
        await send('{"type": "response.create"}')
        async for message in socket:
            tap.server(message.data)
            if '"response.done"' in message.data:
                if '"resp_2"' in message.data:
                    break
                await send('{"type": "response.create"}')
    assert_whole(door, api, {"response.create"})


def test_what_is_no_session_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong object costs the call its trace, not its life."""

    class Broken:
        def add_listener(self, listener: object) -> None:
            raise RuntimeError("no")

    tap = RealtimeTap("localhost:9", "call_1", metadata={})
    for thing in (None, 7, object(), Broken()):
        assert tap.attach(thing) is thing
    assert len(caplog.records) == 4


@pytest.mark.parametrize("way", ["session", "transport", "socket"])
async def test_an_agents_session_in_javascript(door: Door, api: Api, way: str) -> None:
    """@openai/agents in Node: a RealtimeSession, its transport, and a bare WebSocket."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    await run("node", str(HERE / "realtime_session.mjs"), door.url, api.url, way)
    assert door.stored[0]["metadata"] == {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert_whole(door, api, {"conversation.item.create", "response.create"})
    client = told(door, "client")
    assert client == api.heard[: len(client)]


@pytest.mark.slow
async def test_a_livekit_agent(door: Door, api: Api, tmp_path: Path) -> None:
    """livekit-agents with its openai plugin, installed for this test only: it brings 400 MB for one test.

    ``GRAFTER_LIVEKIT_PYTHON`` names an interpreter that has it already.
    """
    python = os.environ.get("GRAFTER_LIVEKIT_PYTHON")
    if python is None:
        await asyncio.to_thread(venv.create, tmp_path, with_pip=True)
        python = str(tmp_path / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq", LIVEKIT]
        process = await asyncio.create_subprocess_exec(*pip, stderr=asyncio.subprocess.PIPE)
        _, error = await process.communicate()
        if process.returncode:
            pytest.skip(f"pip could not fetch {LIVEKIT}: {error.decode()[-300:]}")
    await run(python, str(HERE / "livekit_agent.py"), door.url, api.url)
    assert_whole(door, api, {"session.update", "conversation.item.create", "response.create"})
    # The documents' own example needs a LiveKit server to run; its names are there.
    file = tmp_path / "example.py"
    file.write_text(example("Python: LiveKit Agents"), encoding="utf-8")
    await run(python, "-c", "import runpy, sys; runpy.run_path(sys.argv[1])", str(file))
