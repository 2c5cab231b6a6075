"""Twilio's marks say what the caller heard: a media server as an app writes it, on a real WebSocket.

Twilio cannot be had on a laptop; what connects here does as its documents say: it sends a mark back once what came
before it has been played, and all that wait at once when it is told to drop the rest.
"""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, web
from aiohttp.test_utils import TestServer

from grafter_propagation import RealtimeTap
from grafter_propagation.playout import PLAYED, TwilioPlayout
from tests.e2e.apps import why_no_javascript
from tests.propagation.apps import with_packages
from tests.propagation.door import Door
from tests.rig import Peer, rig

STREAM = "MZ0123456789abcdef0123456789abcdef"
PIECE_MS, PIECES, HEARD = 200, 10, 4
START = {"event": "start", "streamSid": STREAM, "start": {"streamSid": STREAM, "customParameters": {}}}


def delta(number: int) -> dict[str, Any]:
    """A piece of OpenAI's answer, mu-law as Twilio takes it."""
    audio = base64.b64encode(bytes([number]) * 8 * PIECE_MS).decode()
    return {
        "type": "response.output_audio.delta",
        "event_id": f"event_{number}",
        "response_id": "resp_1",
        "item_id": "item:1",
        "delta": audio,
    }


SESSION: dict[str, Any] = {
    "type": "session.created",
    "session": {
        "id": "sess_1",
        "model": "gpt-realtime",
        "audio": {"output": {"format": {"type": "audio/pcmu"}}, "input": {"turn_detection": {"type": "server_vad"}}},
    },
}
BEGUN: dict[str, Any] = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}
DONE: dict[str, Any] = {"type": "response.done", "response": {"id": "resp_1", "status": "completed"}}
SPEAKS: dict[str, Any] = {"type": "input_audio_buffer.speech_started", "item_id": "item_2", "audio_start_ms": 1000}


class Phone:
    """What plays, at the other end of the stream."""

    def __init__(self, stream: ClientWebSocketResponse) -> None:
        self.stream = stream
        self.waiting: list[str] = []
        self.media = 0
        self.cleared = False

    async def takes(self, message: Mapping[str, Any]) -> None:
        match message["event"]:
            case "media":
                self.media += len(base64.b64decode(message["media"]["payload"]))
            case "mark":
                self.waiting.append(message["mark"]["name"])
            case "clear":
                self.cleared = True
                await self.played(len(self.waiting))

    async def played(self, count: int) -> None:
        for name in self.waiting[:count]:
            await self.stream.send_json({"event": "mark", "streamSid": STREAM, "mark": {"name": name}})
        del self.waiting[:count]


CUT = {"item_id": "item:1", "audio_end_ms": 1100, "content_index": 0}
App = Callable[[Door, Path], AbstractAsyncContextManager[str]]
"""A media server that posts to the door: its URL, and when it is left everything is posted."""


@asynccontextmanager
async def in_python(door: Door, directory: Path) -> AsyncIterator[str]:
    """OpenAI's events come from a list."""
    tap = RealtimeTap(door.url, "call_1", metadata={}, interval=0.01)

    async def media(request: web.Request) -> web.WebSocketResponse:
        twilio = web.WebSocketResponse()
        await twilio.prepare(request)
        playout = TwilioPlayout(tap)
        marks = 0
        async for message in twilio:
            if playout.received(message.data):
                marks += 1
                if marks == HEARD:
                    tap.server(SPEAKS)
                    tap.client({"type": "conversation.item.truncate", **CUT})
                    tap.server({"type": "conversation.item.truncated", **CUT})
                    await twilio.send_str(playout.clear())
                continue
            if json.loads(message.data)["event"] != "start":
                continue
            for event in (SESSION, BEGUN):
                tap.server(event)
            for event in map(delta, range(PIECES)):
                tap.server(event)
                frame = {"event": "media", "streamSid": playout.stream, "media": {"payload": event["delta"]}}
                await twilio.send_json(frame)
                if mark := playout.mark(event):
                    await twilio.send_str(mark)
            tap.server(DONE)
        return twilio

    app = web.Application()
    app.router.add_get("/media", media)
    async with TestServer(app) as server:
        yield str(server.make_url("/media"))
    await tap.aclose()


@asynccontextmanager
async def in_javascript(door: Door, directory: Path) -> AsyncIterator[str]:
    """The same in a process of Node's."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    with_packages(directory)
    program = shutil.copy(Path(__file__).parent / "playout.mjs", directory)
    process = await asyncio.create_subprocess_exec(
        *("node", program, door.url), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    given = {"before": [SESSION, BEGUN], "deltas": [*map(delta, range(PIECES))], "after": [DONE]}
    process.stdin.write(json.dumps({**given, "speaks": SPEAKS, "cut": CUT, "heard": HEARD}).encode())
    process.stdin.close()
    try:
        yield f"http://127.0.0.1:{int(await asyncio.wait_for(process.stdout.readline(), 20))}"
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("app", [in_python, in_javascript])
async def test_an_interruption_says_what_was_played(app: App, door: Door, tmp_path: Path) -> None:
    """Four of ten pieces were played when the caller spoke: 800 ms were heard, whatever came back because of the
    clear."""
    async with app(door, tmp_path) as url, ClientSession() as client, client.ws_connect(url) as ws:
        phone = Phone(ws)
        await ws.send_json({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        await ws.send_json(START)
        async with asyncio.timeout(60):
            while not phone.cleared:
                await phone.takes(await ws.receive_json())
                if len(phone.waiting) == PIECES:
                    await phone.played(HEARD)
            await ws.send_json({"event": "stop", "streamSid": STREAM})
    told = [row["event"]["played_bytes"] for row in door.rows if row["event"]["type"] == PLAYED]
    assert told == [8 * PIECE_MS * number for number in range(1, HEARD + 1)]
    assert phone.media == 8 * PIECE_MS * PIECES
    # As if it had taken its time: audio at 1 s, a piece played each 200 ms from 1.3 s on, the caller speaks at 2.2 s.
    moments = {SESSION["type"]: 0.0, BEGUN["type"]: 0.5, DONE["type"]: 1.1}
    at = [moments.get(row["event"]["type"], 1.0) for row in door.rows]
    for number, row in enumerate(door.rows):
        if row["event"]["type"] == PLAYED:
            at[number] = 1.3 + row["event"]["played_bytes"] / 8_000
        elif row["event"]["type"] == SPEAKS["type"] or "trunca" in row["event"]["type"]:
            at[number] = 2.2
    said = await barge_in([{**row, "at": 1_790_000_000 + moment} for row, moment in zip(door.rows, at, strict=True)])
    # Truncated to 1,100 ms, and 1,200 had passed.
    assert said == {
        "audio.elapsed_ms": PIECE_MS * HEARD,
        "grafter.audio.heard_by": "mark",
        "grafter.audio.heard_error_ms": 1100 - PIECE_MS * HEARD,
        "grafter.barge_in.by": "speech",
    }


async def barge_in(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What grafter says of the interruption in these events."""
    async with rig(peer := Peer()) as r:
        await r.realtime({"call": "call_1", "events": rows}, {"call": "call_1", "ended": True})
        await r.pass_time(700, step=10)
    (event,) = [event for span, _ in peer.spans for event in span.events if event.name == "gen_ai.audio.barge_in"]
    return {one.key: one.value.int_value or one.value.string_value for one in event.attributes}


@pytest.mark.parametrize("message", ["", "{", "[]", b"\xff", {"event": "mark"}, {"event": "mark", "mark": {"name": 7}}])
def test_what_is_no_mark_of_these_is_the_apps_to_read(message: Any, door_free_tap: RealtimeTap) -> None:
    """Marks of its own, and anything that a peer may send."""
    playout = TwilioPlayout(door_free_tap)
    assert playout.mark(delta(1)) is None
    playout.received(json.dumps(START))
    assert not playout.received(message)
    assert not playout.received({"event": "mark", "mark": {"name": "the app's own"}})
    assert playout.mark({"type": "response.done"}) is None
    assert playout.mark(7) is None


@pytest.fixture
def door_free_tap() -> RealtimeTap:
    """Of a call that nothing is posted of."""
    return RealtimeTap("http://localhost:9", "call_1", metadata={})
