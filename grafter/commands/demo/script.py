"""A call told as a script: what the caller says, how long the model, the tools and the line take.

The app's half becomes OTLP, OpenAI's half the events of a Realtime session, as an app's tap posts them. Times are
milliseconds from the first ring.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from grafter.commands.demo.host_call import (
    CLIENT,
    CONSUMER,
    DESK,
    GATEWAY,
    INTERNAL,
    PRODUCER,
    SERVER,
    VOICE,
    HostCall,
    HostSpan,
    Value,
)

Event = dict[str, Any]

CLINIC = "+15550100100"


@dataclass(slots=True)
class Script:
    """A call as it goes on; ``now`` moves with everything that happens."""

    caller: str
    silence_ms: int = 500
    """What the voice detector waits for."""
    hosted: bool = True
    """The app's half is sent."""
    linked: bool = True
    """The app puts its trace id into OpenAI's metadata."""
    guest: bool = True
    """OpenAI's half is sent."""
    ended: bool = True
    """The session is said to have ended."""
    outcome: str = "completed"
    now: int = 400
    host: list[HostSpan] = field(default_factory=list)
    events: list[tuple[int, str, Event]] = field(default_factory=list)
    _names: int = 0

    def __post_init__(self) -> None:
        self.host.append(HostSpan("invite", "call", GATEWAY, "sip.invite", SERVER, 0, 380, {"sip.status_code": 200}))

    def media(self, connected: int = 360, *, relay: bool = False, failed: bool = False) -> None:
        """The way that the audio takes; ``connected``: when it was there."""
        pair: dict[str, Value] = {
            "ice.local": "relay" if relay else "srflx",
            "ice.remote": "host",
            "ice.nominated": True,
        }
        events: list[tuple[int, str, dict[str, Value]]] = [
            (175, "ice.gathering", {"ice.state": "gathering", "ice.candidates": 2}),
            (connected // 2, "stun.check", {"stun.checks": 6, "stun.responses": 0 if relay else 5}),
        ]
        if relay:
            events.append((connected - 400, "turn.allocation", {"turn.server": "turn-eu-2", "turn.transport": "tcp"}))
        if failed:
            events.append((connected, "ice.connection", {"ice.state": "failed"}))
        else:
            events += [
                (connected - 20, "ice.candidate_pair", pair),
                (connected, "ice.connection", {"ice.state": "connected"}),
            ]
        self.host.append(
            HostSpan("media", "call", GATEWAY, "webrtc.peer_connection", INTERNAL, 170, 0, {}, tuple(events))
        )
        self.now = max(self.now, connected + 40)

    def queue(self, wait: int) -> None:
        """The call waits in a queue until somebody can take it."""
        start = self.now
        attributes: dict[str, Value] = {"messaging.system": "bullmq", "messaging.destination.name": "after-hours"}
        self.host.append(
            HostSpan("queued", "call", GATEWAY, "queue.add after-hours", PRODUCER, start, start + 6, attributes)
        )
        self.host.append(
            HostSpan(
                "queue", "queued", DESK, "queue.wait after-hours", CONSUMER, start + 6, start + 6 + wait, attributes
            )
        )
        self.now = start + 20 + wait

    def greet(self, model: int = 370, audio: int = 1_100) -> None:
        """The app asks for a greeting."""
        self._client(self.now, {"type": "response.create"})
        self.now += 20
        self._answer(model, audio)

    def say(self, ms: int = 1_100) -> None:
        """The caller speaks; what is last heard of them is ``ms`` from now, and the detector says so later."""
        item, start = self._name("item_said"), self.now
        self._server(
            start, {"type": "input_audio_buffer.speech_started", "item_id": item, "audio_start_ms": start - 400}
        )
        self.now = start + ms + self.silence_ms
        stop = {"type": "input_audio_buffer.speech_stopped", "item_id": item, "audio_end_ms": self.now - 400}
        self._server(self.now, stop)
        self._server(self.now + 3, {"type": "input_audio_buffer.committed", "item_id": item, "previous_item_id": None})
        self.now += 20

    def answer(self, model: int = 390, audio: int = 1_400, pause: int = 600) -> None:
        """The model answers: first audio after ``model``, all of it received faster than it is heard."""
        self._answer(model, audio)
        self.now += pause

    def turns(self, *models: int) -> None:
        """The caller speaks and the model answers, as often as there are times for the model."""
        for model in models:
            self.say()
            self.answer(model)

    def interrupted(self, model: int = 390, audio: int = 3_000, heard: int = 740, say: int = 900) -> None:
        """The model answers, and the caller speaks into it after having heard ``heard`` of it."""
        item, first = self._answer(model, audio)
        self.now = first + heard
        cut = {"item_id": item, "content_index": 0, "audio_end_ms": heard}
        start = self.now
        self.say(say)
        self._client(start + 4, {"type": "conversation.item.truncate", **cut})
        self._server(start + 35, {"type": "conversation.item.truncated", **cut})

    def tool(
        self,
        name: str,
        takes: int,
        *,
        model: int = 300,
        served: int | None = None,
        database: int = 0,
        error: int = 0,
        service: str = "",
        traced: bool = True,
    ) -> None:
        """The model asks for a tool. ``served``: of ``takes``, what its service took; ``error``: an HTTP status;
        ``traced``: the app has a span of it."""
        call, response, item = self._name("call"), self._name("resp"), self._name("item")
        start = self.now
        output: Event = {
            "id": item,
            "type": "function_call",
            "name": name,
            "call_id": call,
            "arguments": '{"day": "Thursday"}',
            "status": "completed",
        }
        self._server(start, {"type": "response.created", "response": {"id": response, "status": "in_progress"}})
        done = start + model
        self._server(done - 30, {"type": "response.output_item.added", "response_id": response, "item": output})
        arguments = {"item_id": item, "call_id": call, "name": name, "arguments": output["arguments"]}
        self._server(done - 5, {"type": "response.function_call_arguments.done", "response_id": response, **arguments})
        self._server(done, {"type": "response.done", "response": self._ended(response, output, 19)})
        begins, ends = done + 8, done + 8 + takes
        if traced:
            attributes: dict[str, Value] = {"gen_ai.tool.name": name, "gen_ai.tool.call.id": call}
            failed = f"HTTP {error}" if error else ""
            self.host.append(
                HostSpan(call, "session", VOICE, "gen_ai.tool.execute", CLIENT, begins, ends, attributes, error=failed)
            )
            own = takes - 24 if served is None else served
            inside: dict[str, Value] = {"http.request.method": "POST", "http.response.status_code": error or 200}
            at = begins + (takes - own) // 2
            where = service or name.partition("_")[0]
            self.host.append(
                HostSpan(f"{call}.s", call, where, f"POST /{name}", SERVER, at, at + own, inside, error=failed)
            )
            if database:
                query: dict[str, Value] = {"db.system.name": "postgresql", "db.operation.name": "SELECT"}
                self.host.append(
                    HostSpan(
                        f"{call}.d",
                        f"{call}.s",
                        where,
                        "SELECT appointments",
                        CLIENT,
                        at + 12,
                        at + 12 + database,
                        query,
                    )
                )
        result = {"type": "function_call_output", "call_id": call, "output": '{"ok": true}'}
        self._client(ends + 5, {"type": "conversation.item.create", "item": result})
        self._client(ends + 8, {"type": "response.create"})
        self.now = ends + 30

    def step(self, key: str, parent: str, service: str, name: str, start: int, end: int, **more: Any) -> None:
        """Any other span of the app."""
        self.host.append(HostSpan(key, parent, service, name, INTERNAL, start, end, **more))

    def _answer(self, model: int, audio: int) -> tuple[str, int]:
        response, item = self._name("resp"), self._name("item")
        start = self.now
        self._server(start, {"type": "response.created", "response": {"id": response, "status": "in_progress"}})
        output: Event = {"id": item, "type": "message", "role": "assistant", "status": "completed", "content": []}
        first = start + model
        self._server(first - 20, {"type": "response.output_item.added", "response_id": response, "item": output})
        for at in range(0, audio, 200):
            delta = {
                "response_id": response,
                "item_id": item,
                "output_index": 0,
                "delta_bytes": min(200, audio - at) * 8,
            }
            self._server(first + at // 2, {"type": "response.output_audio.delta", **delta})
        done = first + audio // 2 + 10
        self._server(done, {"type": "response.done", "response": self._ended(response, output, audio // 40)})
        self.now = first + audio
        return item, first

    def _ended(self, response: str, output: Event, tokens: int) -> Event:
        input_tokens = 200 + 3 * self._names
        return {
            "id": response,
            "status": "completed",
            "output": [output],
            "usage": {
                "total_tokens": input_tokens + tokens,
                "input_tokens": input_tokens,
                "output_tokens": tokens,
                "input_token_details": {"text_tokens": input_tokens - 80, "audio_tokens": 80, "cached_tokens": 64},
                "output_token_details": {"text_tokens": tokens // 4, "audio_tokens": tokens - tokens // 4},
            },
        }

    def _server(self, at: int, event: Event) -> None:
        self.events.append((at, "server", event))

    def _client(self, at: int, event: Event) -> None:
        self.events.append((at, "client", event))

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}_{self._names:04}"


class PlayedCall:
    """A script as it was played at a time, with ids of its own."""

    def __init__(self, name: str, script: Script, start: datetime) -> None:
        """``start``: the first ring, in UTC."""
        self.name = name
        self.script = script
        self.start = start
        self.length_ms = script.now + 300
        self.sid = f"CA{secrets.token_hex(16)}"
        self.call = f"rtc_{secrets.token_hex(8)}"
        root: dict[str, Value] = {
            "call.id": self.sid,
            "call.from": script.caller,
            "call.to": CLINIC,
            "call.outcome": script.outcome,
        }
        spans = [
            HostSpan("call", "", GATEWAY, "callsphere.call", SERVER, 0, self.length_ms, root),
            *(replace(span, end=self.length_ms - 150) if not span.end else span for span in script.host),
        ]
        if script.events or script.guest:
            spans.append(
                HostSpan("session", "call", VOICE, "gen_ai.realtime.session", CLIENT, 390, self.length_ms - 100)
            )
        self.host = HostCall(start, spans)

    def posts(self) -> Iterator[dict[str, Any]]:
        """The bodies of ``POST /v1/realtime/events``; the last one ends the call, where it ended."""
        script = self.script
        if not script.guest:
            return
        created: Event = {
            "id": f"sess_{self.call[4:]}",
            "object": "realtime.session",
            "type": "realtime",
            "model": "gpt-realtime",
            "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": script.silence_ms}}},
            "tracing": {"workflow_name": "Clinic line", "metadata": self.host.metadata() if script.linked else {}},
        }
        events = [(400, "server", {"type": "session.created", "session": created}), *script.events]
        events.sort(key=lambda event: event[0])
        for first in range(0, len(events), 200):
            yield {
                "call": self.call,
                "events": [
                    {
                        "at": self.host.at(offset).timestamp(),
                        "from": side,
                        "event": {"event_id": f"event_{first + at}", **event},
                    }
                    for at, (offset, side, event) in enumerate(events[first : first + 200])
                ],
            }
        if script.ended:
            yield {"call": self.call, "ended": True}
