"""A stand-in of OpenAI's Realtime API for one talking client and any listeners on its sideband, call by call.

Every event that it sends is made by the ``openai`` package's own types, so that a wrong shape fails here and not in
grafter. What it cannot know is how OpenAI's sideband behaves where nothing is written about it: here a listener gets
``session.created`` when it comes, then each server event of the call, and no client event. Sessions of the Live API
(``live_…``) have a sideband of their own, with ``session.started`` in its place.

The story that it tells a talking client: the caller says something (any audio will do), the model calls a tool, the
answer is spoken and cut off by the caller, a last short answer follows.
"""

import asyncio
import base64
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import WSMsgType, web
from openai.types.realtime import RealtimeServerEvent
from openai.types.realtime.realtime_session_create_response import RealtimeSessionCreateResponse
from pydantic import TypeAdapter

from tests.e2e.live_events import live_event, live_session

Json = dict[str, Any]

KEY = "sk-proj-the-standard-key"
DELTA_BYTES = 9_600
"""200 ms of PCM at 24 kHz."""
_ANY_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
_NUMBERS = count(1)


def event(kind: str, **fields: Any) -> Json:
    """A server event of this type. Fails where the openai package would not read it, or knows a field not."""
    made = _ANY_EVENT.validate_python({"type": kind, "event_id": f"event_{next(_NUMBERS)}", **fields})
    assert not made.model_extra, f"{kind} has no {sorted(made.model_extra)}"
    dumped: Json = made.model_dump(mode="json", exclude_unset=True, warnings=False)
    return dumped


def session(session_id: str, expires_at: int | None = None, tracing: Any = None) -> Json:
    """A session as session.created holds it."""
    made = RealtimeSessionCreateResponse.model_validate(
        {
            "id": session_id,
            "object": "realtime.session",
            "type": "realtime",
            "model": "gpt-realtime",
            "output_modalities": ["audio"],
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "turn_detection": {
                        "type": "server_vad",
                        "silence_duration_ms": 500,
                        "prefix_padding_ms": 300,
                        "create_response": True,
                        "interrupt_response": True,
                    },
                },
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "alloy"},
            },
            "expires_at": int(time.time_ns() / 1e9) + 3600 if expires_at is None else expires_at,
            **({} if tracing is None else {"tracing": tracing}),
        }
    )
    dumped: Json = made.model_dump(mode="json", exclude_unset=True)
    return dumped


def delta(response_id: str = "resp_1", item_id: str = "item_1", size: int = DELTA_BYTES) -> Json:
    """An audio delta."""
    return event(
        "response.output_audio.delta",
        response_id=response_id,
        item_id=item_id,
        output_index=0,
        content_index=0,
        delta=base64.b64encode(bytes(size)).decode(),
    )


@dataclass
class Call:
    """One call, as the server sees it."""

    call_id: str
    session: Json
    listeners: list[web.WebSocketResponse] = field(default_factory=list)
    client: web.WebSocketResponse | None = None
    story: "_Story | None" = None
    over: bool = False


@dataclass
class RealtimeServer:
    """The server, and what a test may ask of it."""

    url: str = ""
    """The base URL for grafter's config, ``http://host:port/v1``."""
    answers: deque[tuple[int, Mapping[str, str]]] = field(default_factory=deque)
    """Taken by the next sideband attempts, one each: status and headers. Empty: they are accepted."""
    attempts: list[Mapping[str, str]] = field(default_factory=list)
    """Of every sideband attempt its headers, with ``path`` (query included) among them."""
    frames: list[str] = field(default_factory=list)
    """What listeners sent, pings apart."""
    calls: dict[str, Call] = field(default_factory=dict)
    pongs: bool = True
    introduces: bool = True
    """A listener is told of the session when it comes."""
    refuses: Json | None = None
    """Lets listeners in, tells them this, and closes: an answer that comes too late to be a status."""
    key: str = KEY
    """The only one that it takes."""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def talk_url(self) -> str:
        """Where a talking client connects: ``?model=…&talks=CALL_ID`` is to be added."""
        return self.url.replace("http", "ws") + "/realtime"

    def call(self, call_id: str = "rtc_1", **of_session: Any) -> Call:
        """The call of this id; it begins when it is first asked for."""
        if call_id not in self.calls:
            if call_id.startswith("live_"):
                made = live_session(call_id, **of_session)
            else:
                made = session(f"sess_{len(self.calls) + 1}", **of_session)
            self.calls[call_id] = Call(call_id, made)
        return self.calls[call_id]

    async def until_listening(self, call_id: str = "rtc_1", listeners: int = 1) -> Call:
        """Return when so many listen to the call."""
        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(lambda: len(self.call(call_id).listeners) >= listeners)
        return self.call(call_id)

    async def until_attempts(self, number: int) -> None:
        """Return when so many sideband attempts were made."""
        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(lambda: len(self.attempts) >= number)

    async def show(self, call: Call, *events: Json) -> None:
        """Send events to everybody on the call."""
        for each in events:
            for socket in [*call.listeners, *([call.client] if call.client else [])]:
                if not socket.closed:
                    await socket.send_json(each)

    async def hang_up(self, call: Call, code: int = 1000) -> None:
        """The call is over: everybody is closed with this code."""
        call.over = True
        for socket in [*call.listeners, *([call.client] if call.client else [])]:
            await socket.close(code=code)

    async def drop(self, call: Call) -> None:
        """Cut the listeners' connections, without a word; the call goes on."""
        for socket in list(call.listeners):
            # A server that dies says nothing, and aiohttp has no word for that.
            assert socket._req is not None
            assert socket._req.transport is not None
            socket._req.transport.abort()
        call.listeners.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {self.key}"
        if "call_id" in request.query:
            return await self._listener(request, request.query["call_id"])
        return await self._client(request, request.query["talks"])

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """The sideband of a Live session."""
        assert request.headers["Authorization"] == f"Bearer {self.key}"
        return await self._listener(request, request.match_info["session"])

    async def _listener(self, request: web.Request, call_id: str) -> web.StreamResponse:
        async with self._news:
            self.attempts.append({**request.headers, "path": request.path_qs})
            self._news.notify_all()
        if self.answers:
            status, headers = self.answers.popleft()
            return web.json_response({"error": {"message": "no"}}, status=status, headers=headers)
        call = self.call(call_id)
        if call.over:
            return web.json_response({"error": {"message": "no call"}}, status=404)
        socket = web.WebSocketResponse(autoping=self.pongs)
        await socket.prepare(request)
        if self.refuses is not None:
            await socket.send_json(self.refuses)
            await socket.close()
            return socket
        if self.introduces:
            live = call_id.startswith("live_")
            await socket.send_json(
                (live_event if live else event)("session.started" if live else "session.created", session=call.session)
            )
        async with self._news:
            call.listeners.append(socket)
            self._news.notify_all()
        async for message in socket:
            if message.type not in (WSMsgType.PING, WSMsgType.PONG):
                self.frames.append(str(message.data))
        async with self._news:
            if socket in call.listeners:
                call.listeners.remove(socket)
            self._news.notify_all()
        return socket

    async def _client(self, request: web.Request, call_id: str) -> web.StreamResponse:
        call = self.call(call_id)
        call.client = socket = web.WebSocketResponse(protocols=["realtime"])
        await socket.prepare(request)
        await socket.send_json(event("session.created", session=call.session))
        call.story = _Story(self, call)
        async for message in socket:
            await call.story.hear(message.json())
        call.client = None
        await self.hang_up(call)
        return socket


class _Story:
    """The model's side of one conversation."""

    def __init__(self, server: RealtimeServer, call: Call) -> None:
        self._server = server
        self._call = call
        self._heard = 0
        self._turns = 0
        self._last_item: str | None = None
        self._open = ""
        self._sentence = ""
        self._numbers = count(1)

    def _id(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers)}"

    async def hear(self, said: Json) -> None:
        """Answer one client event."""
        match said["type"]:
            case "session.update":
                self._call.session |= {
                    name: value
                    for name, value in said["session"].items()
                    # What a client leaves out stays; null would take the server's own voice detection away.
                    if value is not None and name in ("instructions", "tools", "tracing")
                }
                await self._show(event("session.updated", session=self._call.session))
            case "input_audio_buffer.append":
                self._heard += len(base64.b64decode(said["audio"])) // 48
                await self._speech()
            case "conversation.item.create":
                await self._item({"id": self._id("item"), "status": "completed", **_plain(said["item"])})
            case "response.create":
                await self._speak("Order 7 is shipped and will arrive tomorrow.", 20, cut=True)
            case "conversation.item.truncate":
                await self._show(
                    event(
                        "conversation.item.truncated",
                        item_id=said["item_id"],
                        content_index=said["content_index"],
                        audio_end_ms=said["audio_end_ms"],
                    )
                )
                await self._end_of_speech()
            case "conversation.item.retrieve" | "response.cancel":
                pass
            case kind:
                raise AssertionError(f"the client sent {kind}")

    async def _speech(self) -> None:
        """The caller says something: each append is one sentence."""
        self._turns += 1
        self._sentence = self._id("item")
        start = self._heard - 200
        await self._show(event("input_audio_buffer.speech_started", audio_start_ms=start, item_id=self._sentence))
        if not self._open:
            await self._end_of_speech()
            return
        # The caller talks into the answer: it ends, and the client says how much of it was heard while the caller is
        # still talking.
        response_id, self._open = self._open, ""
        spoken = _spoken(self._last_item, "Order 7", "incomplete")
        details = {"type": "cancelled", "reason": "turn_detected"}
        cancelled = _response(response_id, "cancelled", [spoken], status_details=details)
        await self._show(event("response.done", response=cancelled))

    async def _end_of_speech(self) -> None:
        item_id = self._sentence
        await self._show(
            event("input_audio_buffer.speech_stopped", audio_end_ms=self._heard + 500, item_id=item_id),
            event("input_audio_buffer.committed", item_id=item_id, previous_item_id=self._last_item),
        )
        content = [{"type": "input_audio", "transcript": None}]
        await self._item({"id": item_id, "type": "message", "role": "user", "status": "completed", "content": content})
        await self._show(
            event(
                "conversation.item.input_audio_transcription.completed",
                item_id=item_id,
                content_index=0,
                transcript="Where is order 7?",
                usage={"type": "duration", "seconds": 1.0},
            )
        )
        if self._turns == 1:
            await self._call_tool()
        else:
            await self._speak("You are welcome.", 2, cut=False)

    async def _call_tool(self) -> None:
        response_id, item_id = self._id("resp"), self._id("item")
        item = {
            "id": item_id,
            "object": "realtime.item",
            "type": "function_call",
            "status": "completed",
            "name": "lookup_order",
            "call_id": "call_7",
            "arguments": '{"order_id": 7}',
        }
        at = {"response_id": response_id, "output_index": 0}
        await self._show(
            event("response.created", response=_response(response_id, "in_progress", [])),
            event("response.output_item.added", item={**item, "status": "in_progress", "arguments": ""}, **at),
            event("conversation.item.added", item={**item, "status": "in_progress", "arguments": ""}),
            event("response.function_call_arguments.delta", item_id=item_id, call_id="call_7", delta='{"order', **at),
            event(
                "response.function_call_arguments.done",
                item_id=item_id,
                call_id="call_7",
                name="lookup_order",
                arguments=item["arguments"],
                **at,
            ),
            event("conversation.item.done", item=item),
            event("response.output_item.done", item=item, **at),
            event("response.done", response=_response(response_id, "completed", [item])),
        )
        self._last_item = item_id

    async def _speak(self, text: str, deltas: int, cut: bool) -> None:
        response_id, item_id = self._id("resp"), self._id("item")
        at = {"response_id": response_id, "output_index": 0}
        within = {**at, "item_id": item_id, "content_index": 0}
        started = {**_spoken(item_id, "", "in_progress"), "content": []}
        await self._show(
            event("response.created", response=_response(response_id, "in_progress", [])),
            event("response.output_item.added", item=started, **at),
            event("conversation.item.added", item=started, previous_item_id=self._last_item),
            event("response.content_part.added", part={"type": "audio", "transcript": ""}, **within),
            event("response.output_audio_transcript.delta", delta=text, **within),
        )
        self._last_item = item_id
        await self._show(*(delta(response_id, item_id) for _ in range(deltas)))
        if cut:
            # It goes on until the caller speaks.
            self._open = response_id
            return
        spoken = _spoken(item_id, text, "completed")
        await self._show(
            event("response.output_audio.done", **within),
            event("response.output_audio_transcript.done", transcript=text, **within),
            event("response.content_part.done", part={"type": "audio", "transcript": text}, **within),
            event("conversation.item.done", item=spoken),
            event("response.output_item.done", item=spoken, **at),
            event("response.done", response=_response(response_id, "completed", [spoken])),
            event(
                "rate_limits.updated",
                rate_limits=[{"name": "tokens", "limit": 1000, "remaining": 900, "reset_seconds": 0.5}],
            ),
        )

    async def _item(self, item: Json) -> None:
        await self._show(
            event("conversation.item.added", item=item, previous_item_id=self._last_item),
            event("conversation.item.done", item=item, previous_item_id=self._last_item),
        )
        self._last_item = item["id"]

    async def _show(self, *events: Json) -> None:
        await self._server.show(self._call, *events)


def _plain(item: Json) -> Json:
    return {name: value for name, value in item.items() if value is not None}


def _spoken(item_id: str | None, text: str, status: str) -> Json:
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_audio", "transcript": text}],
    }


def _response(response_id: str, status: str, output: list[Json], **more: Any) -> Json:
    response: Json = {
        "id": response_id,
        "object": "realtime.response",
        "status": status,
        "status_details": None,
        "output": output,
        "conversation_id": "conv_1",
        "output_modalities": ["audio"],
        "metadata": None,
        "usage": None,
        **more,
    }
    if status != "in_progress":
        response["usage"] = {
            "total_tokens": 180,
            "input_tokens": 120,
            "output_tokens": 60,
            "input_token_details": {
                "text_tokens": 80,
                "audio_tokens": 40,
                "cached_tokens": 64,
                "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0},
            },
            "output_token_details": {"text_tokens": 20, "audio_tokens": 40},
        }
    return response


@asynccontextmanager
async def serving() -> AsyncIterator[RealtimeServer]:
    """A running stand-in."""
    server = RealtimeServer()
    app = web.Application()
    app.router.add_get("/v1/realtime", server.handle)
    app.router.add_get("/v1/live/sessions/{session}/attach", server.attach)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield server
    finally:
        for call in server.calls.values():
            await server.hang_up(call)
        await runner.cleanup()
