"""A small stand-in of the Realtime API: one question, a tool, an answer that the caller cuts off.

It says what the openai package's types say, in the order of a real call, and remembers what the client sent.
"""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = dict[str, Any]
AUDIO = base64.b64encode(b"\x00\x01" * 2400).decode()
"""100 ms of PCM at 24 kHz."""
USAGE: Json = {
    "total_tokens": 60,
    "input_tokens": 40,
    "output_tokens": 20,
    "input_token_details": {"text_tokens": 30, "audio_tokens": 10, "cached_tokens": 8},
    "output_token_details": {"text_tokens": 5, "audio_tokens": 15},
}


@dataclass
class Api:
    """A running stand-in."""

    url: str = ""
    said: list[Json] = field(default_factory=list)
    """Every event of the server, in its order."""
    heard: list[Json] = field(default_factory=list)
    """Every event of the client, as it came."""

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        talk = _Talk(self, socket)
        await talk.say("session.created", session={"type": "realtime", "id": "sess_1", "model": "gpt-realtime"})
        async for message in socket:
            event: Json = json.loads(message.data)
            self.heard.append(event)
            await talk.answer(event)
        return socket


@dataclass
class _Talk:
    api: Api
    socket: web.WebSocketResponse
    called: bool = False
    tools: bool | None = None
    """Whether a session.update gave some; None before any. An agent without tools is answered at once."""
    responses: int = 0

    async def say(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{len(self.api.said)}", **fields}
        self.api.said.append(event)
        await self.socket.send_str(json.dumps(event))

    async def answer(self, event: Json) -> None:
        match event["type"]:
            case "session.update":
                self.tools = bool(self.tools) or bool(event["session"].get("tools"))
                await self.say("session.updated", session={**event["session"], "id": "sess_1", "type": "realtime"})
            case "conversation.item.create":
                item = {"id": f"item_{len(self.api.said)}", "object": "realtime.item", "status": "completed"}
                await self.say("conversation.item.added", item={**item, **event["item"]}, previous_item_id=None)
            case "conversation.item.truncate":
                fields = {key: event[key] for key in ("item_id", "content_index", "audio_end_ms")}
                await self.say("conversation.item.truncated", **fields)
            case "response.create" if not self.called and self.tools is not False:
                self.called = True
                await self._call_tool()
            case "response.create":
                await self._speak()

    async def _call_tool(self) -> None:
        call = {
            "id": "item_call",
            "object": "realtime.item",
            "type": "function_call",
            "call_id": "call_1",
            "name": "lookup",
            "arguments": '{"order":7}',
        }
        ids = {"response_id": "resp_1", "output_index": 0}
        await self.say("response.created", response=_response("resp_1", "in_progress"))
        await self.say("response.output_item.added", item={**call, "status": "in_progress", "arguments": ""}, **ids)
        done = {"item_id": "item_call", "call_id": "call_1", "name": "lookup", "arguments": call["arguments"]}
        await self.say("response.function_call_arguments.done", **done, **ids)
        await self.say("response.output_item.done", item={**call, "status": "completed"}, **ids)
        await self.say("response.done", response=_response("resp_1", "completed", {**call, "status": "completed"}))

    async def _speak(self) -> None:
        item = {"id": "item_answer", "object": "realtime.item", "type": "message", "role": "assistant"}
        place = {"response_id": "resp_2", "item_id": "item_answer", "output_index": 0, "content_index": 0}
        ids = {"response_id": "resp_2", "output_index": 0}
        await self.say("response.created", response=_response("resp_2", "in_progress"))
        await self.say("response.output_item.added", item={**item, "status": "in_progress", "content": []}, **ids)
        await self.say("response.content_part.added", part={"type": "audio", "transcript": ""}, **place)
        for _ in range(3):
            await self.say("response.output_audio.delta", delta=AUDIO, **place)
        await self.say("input_audio_buffer.speech_started", audio_start_ms=900, item_id="item_caller")
        await self.say("response.output_audio_transcript.done", transcript="It is on its way.", **place)
        await self.say("response.output_audio.done", **place)
        content = [{"type": "output_audio", "audio": AUDIO, "transcript": "It is on its way."}]
        item |= {"status": "completed", "content": content}
        await self.say("response.output_item.done", item=item, **ids)
        await self.say("response.done", response=_response("resp_2", "completed", item))


def _response(name: str, status: str, *output: Json) -> Json:
    response: Json = {"id": name, "object": "realtime.response", "status": status, "status_details": None}
    response |= {"output": list(output), "conversation_id": "conv_1", "metadata": None}
    return response | {"usage": USAGE if status == "completed" else None}


@asynccontextmanager
async def calling() -> AsyncIterator[Api]:
    """A stand-in on a free port."""
    api = Api()
    app = web.Application()
    app.router.add_get("/v1/realtime", api.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.url = f"ws://127.0.0.1:{runner.addresses[0][1]}/v1/realtime"
        yield api
    finally:
        await runner.cleanup()
