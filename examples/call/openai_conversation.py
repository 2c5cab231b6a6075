"""The model's side of one Realtime conversation, for the stand-in of OpenAI: it hears, waits, calls tools and speaks.

Anything but silence is speech, and half a second of silence ends it. What it answers stands in a script.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

Json = dict[str, Any]

SILENCE = 0xFF
"""In mu-law, which telephones speak: 8 bytes a millisecond."""
SILENCE_MS = 500
TOKENS = {"text_tokens": 20, "audio_tokens": 40}
USAGE = {
    "total_tokens": 180,
    "input_tokens": 120,
    "output_tokens": 60,
    "input_token_details": {**TOKENS, "cached_tokens": 64},
    "output_token_details": TOKENS,
}
numbers = count(1)


def event(kind: str, **fields: Any) -> Json:
    """A server event."""
    return {"type": kind, "event_id": f"event_{next(numbers)}", **fields}


class Conversation:
    """One session; ``say`` sends an event to the client. A turn of ``script`` is milliseconds of speech, or tools."""

    def __init__(
        self, say: Callable[[Json], Awaitable[None]], group: asyncio.TaskGroup, script: Iterator[int | tuple[str, ...]]
    ) -> None:
        self.say, self.group, self.script = say, group, script
        self.session: Json = {"id": f"sess_{next(numbers)}", "type": "realtime", "model": "gpt-realtime"}
        self.session["audio"] = {
            "input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": SILENCE_MS}},
            "output": {"voice": "marin"},
        }
        self.plays = False
        """The audio goes by WebRTC or SIP, and the server says when it is played."""
        self.ms = self.quiet = 0
        self.sentence = ""

    async def hear(self, said: Json) -> None:
        """One client event."""
        match said["type"]:
            case "session.update":
                asked = said["session"]
                self.session |= {"tracing": asked.get("tracing")}
                for side, settings in asked.get("audio", {}).items():
                    self.session["audio"][side] |= settings
                await self.say(event("session.updated", session=self.session))
            case "input_audio_buffer.append":
                await self.listen(base64.b64decode(said["audio"]))
            case "conversation.item.create":
                item = {"id": f"item_{next(numbers)}", "status": "completed", **said["item"]}
                await self.say(event("conversation.item.added", item=item))
            case "conversation.item.truncate":
                cut = {key: said[key] for key in ("item_id", "content_index", "audio_end_ms")}
                await self.say(event("conversation.item.truncated", **cut))
            case "response.create":
                self.group.create_task(self.respond())

    async def listen(self, audio: bytes) -> None:
        self.ms += len(audio) // 8
        if any(byte != SILENCE for byte in audio):
            self.quiet = 0
            if not self.sentence:
                self.sentence = f"item_{next(numbers)}"
                begun = {"audio_start_ms": self.ms - len(audio) // 8, "item_id": self.sentence}
                await self.say(event("input_audio_buffer.speech_started", **begun))
        elif self.sentence:
            self.quiet += len(audio) // 8
            if self.quiet >= SILENCE_MS:
                item, self.sentence = self.sentence, ""
                await self.say(event("input_audio_buffer.speech_stopped", audio_end_ms=self.ms, item_id=item))
                await self.say(event("input_audio_buffer.committed", item_id=item))
                self.group.create_task(self.respond())

    async def respond(self) -> None:
        """One response: what the script says next."""
        turn = next(self.script, 400)
        response: Json = {"id": f"resp_{next(numbers)}", "object": "realtime.response", "status": "in_progress"}
        await self.say(event("response.created", response=response))
        await asyncio.sleep(0.35)
        items = [await self.speak(response, turn)] if isinstance(turn, int) else await self.ask(response, turn)
        done = {**response, "status": "completed", "output": items, "usage": USAGE}
        if items[0]["status"] == "incomplete":
            done |= {"status": "cancelled", "status_details": {"type": "cancelled", "reason": "turn_detected"}}
        await self.say(event("response.done", response=done))
        if self.plays and isinstance(turn, int):
            await asyncio.sleep(turn / 1000)
            await self.say(event("output_audio_buffer.stopped", response_id=response["id"]))

    async def ask(self, response: Json, tools: tuple[str, ...]) -> list[Json]:
        """Call tools, several at once."""
        items = []
        for index, name in enumerate(tools):
            at = {"response_id": response["id"], "output_index": index}
            call: Json = {"id": f"item_{next(numbers)}", "type": "function_call", "name": name, "arguments": "{}"}
            call |= {"call_id": f"call_{next(numbers)}", "status": "completed"}
            await self.say(event("response.output_item.added", item={**call, "status": "in_progress"}, **at))
            named = {"item_id": call["id"], "call_id": call["call_id"], "name": name, "arguments": "{}"}
            await self.say(event("response.function_call_arguments.done", **named, **at))
            await self.say(event("response.output_item.done", item=call, **at))
            items.append(call)
        return items

    async def speak(self, response: Json, length: int) -> Json:
        """So many milliseconds of audio, ten times as fast as they are heard."""
        item: Json = {"id": f"item_{next(numbers)}", "type": "message", "role": "assistant", "content": []}
        at = {"response_id": response["id"], "output_index": 0}
        within = {**at, "item_id": item["id"], "content_index": 0}
        await self.say(event("response.output_item.added", item={**item, "status": "in_progress"}, **at))
        if self.plays:
            await self.say(event("output_audio_buffer.started", response_id=response["id"]))
        for _ in range(length // 100):
            if self.sentence:
                # The caller speaks: that ends the response.
                return {**item, "status": "incomplete"}
            delta = base64.b64encode(bytes(800)).decode()
            await self.say(event("response.output_audio.delta", delta=delta, **within))
            await asyncio.sleep(0.01)
        await self.say(event("response.output_audio.done", **within))
        item["status"] = "completed"
        await self.say(event("response.output_item.done", item=item, **at))
        return item
