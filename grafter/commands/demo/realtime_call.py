"""The second call that ``grafter demo`` plays: a Realtime session, of which OpenAI itself keeps no trace to fetch.

The app's half is OTLP as in the first. The other half is what an app's tap posts: the session's events, each with the
moment at which it was seen. The caller asks for a slot, the answer has to wait for a slow calendar, and the caller
interrupts it. Offsets are milliseconds from the first ring.
"""

import secrets
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from grafter.commands.demo.host_call import CLIENT, GATEWAY, INTERNAL, SERVER, VOICE, HostCall, HostSpan, tool

LENGTH_MS = 14_800

Event = dict[str, Any]

_HOST = (
    HostSpan(
        *("call", "", GATEWAY, "callsphere.call", SERVER, 0, LENGTH_MS),
        attributes={"call.id": "CA5c1d9b7f3e2a4c6d8b0f1e3a5c7d9b2f", "call.outcome": "booked"},
    ),
    HostSpan("invite", "call", GATEWAY, "sip.invite", SERVER, 0, 380, {"sip.status_code": 200}),
    HostSpan(
        *("media", "call", GATEWAY, "webrtc.peer_connection", INTERNAL, 170, LENGTH_MS - 150),
        events=((360, "ice.connection", {"ice.state": "connected"}),),
    ),
    HostSpan("session", "call", VOICE, "gen_ai.realtime.session", CLIENT, 400, LENGTH_MS - 200),
    *tool("calendar", "calendar", "book_slot", 4_930, 6_590),
)

SPANS = 15
"""The session, five answers, what was heard of four of them, four times that the caller spoke, and a tool."""


class RealtimeStory:
    """One playing of the call, with ids of its own."""

    def __init__(self, start: datetime) -> None:
        """``start``: the first ring, in UTC."""
        self.host = HostCall(start, _HOST)
        self.call = f"rtc_{secrets.token_hex(8)}"
        self._numbers = 0

    def posts(self) -> Iterator[dict[str, Any]]:
        """The bodies of ``POST /v1/realtime/events``, as a tap sends them during the call; the last one ends it."""
        events = sorted(_events(self.host.metadata()), key=lambda event: event[0])
        for first in range(0, len(events), 20):
            yield {
                "call": self.call,
                "events": [
                    {
                        "at": self.host.at(offset).timestamp(),
                        "from": side,
                        "event": {"event_id": self._event_id(side), **event},
                    }
                    for offset, side, event in events[first : first + 20]
                ],
            }
        yield {"call": self.call, "ended": True}

    def _event_id(self, side: str) -> str:
        self._numbers += 1
        return f"event_{side}_{self._numbers}"


def _events(metadata: dict[str, str]) -> Iterator[tuple[int, str, Event]]:
    """What went over the socket: offset, side, event."""
    session = {
        "id": "sess_demo",
        "object": "realtime.session",
        "type": "realtime",
        "model": "gpt-realtime",
        "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 500}}},
        "tracing": {"workflow_name": "Clinic line", "group_id": "conv_43", "metadata": metadata},
    }
    yield 440, "server", {"type": "session.created", "session": session}

    yield 470, "client", {"type": "response.create"}
    yield from _response("greeting", 490, first=840, done=1_150, usage=(212, 48))

    yield from _speech("hours", 2_050, 3_110)
    yield from _response("hours", 3_130, first=3_520, done=3_700, usage=(301, 22), cancelled=True)
    # "One moment": the caller goes on speaking over it.
    yield from _speech("slot", 3_610, 4_600)

    yield from _response("ask", 4_620, first=None, done=4_920, usage=(334, 19), calls="book_slot")
    output = {"type": "function_call_output", "call_id": "call_calendar", "output": '{"booked": "Thursday 9:30"}'}
    yield 6_595, "client", {"type": "conversation.item.create", "item": output}
    yield 6_598, "client", {"type": "response.create"}
    yield from _response("booked", 6_620, first=7_030, done=7_650, usage=(390, 96))

    yield from _speech("thanks", 8_490, 9_720)
    cut = {"item_id": "item_booked", "content_index": 0, "audio_end_ms": 1_440}
    yield 8_494, "client", {"type": "conversation.item.truncate", **cut}
    yield 8_525, "server", {"type": "conversation.item.truncated", **cut}
    yield from _response("bye", 9_740, first=10_110, done=10_500, usage=(432, 31))

    yield from _speech("bye", 12_620, 13_660)


def _speech(name: str, start: int, stop: int) -> Iterator[tuple[int, str, Event]]:
    """The caller speaks; the detector says so when it has heard half a second of silence."""
    item = f"item_said_{name}"
    yield start, "server", {"type": "input_audio_buffer.speech_started", "item_id": item, "audio_start_ms": start - 400}
    yield stop, "server", {"type": "input_audio_buffer.speech_stopped", "item_id": item, "audio_end_ms": stop - 400}
    yield stop + 3, "server", {"type": "input_audio_buffer.committed", "item_id": item, "previous_item_id": None}


def _response(
    name: str,
    start: int,
    *,
    first: int | None,
    done: int,
    usage: tuple[int, int],
    calls: str = "",
    cancelled: bool = False,
) -> Iterator[tuple[int, str, Event]]:
    """An answer: audio from ``first`` on, or a call of a tool."""
    response, item = f"resp_{name}", f"item_{name}"
    yield start, "server", {"type": "response.created", "response": {"id": response, "status": "in_progress"}}
    output: Event = {"id": item, "type": "message", "role": "assistant", "status": "completed", "content": []}
    if calls:
        output = {
            "id": item,
            "type": "function_call",
            "name": calls,
            "call_id": "call_calendar",
            "arguments": '{"day": "Thursday"}',
            "status": "completed",
        }
        yield done - 30, "server", {"type": "response.output_item.added", "response_id": response, "item": output}
        arguments = {"item_id": item, "call_id": "call_calendar", "name": calls, "arguments": output["arguments"]}
        yield (
            done - 5,
            "server",
            {"type": "response.function_call_arguments.done", "response_id": response, **arguments},
        )
    elif first is not None:
        yield first - 20, "server", {"type": "response.output_item.added", "response_id": response, "item": output}
        for at in range(first, done, 40):
            # The audio itself is left out: nobody needs it to know when it was heard.
            delta = {"response_id": response, "item_id": item, "output_index": 0, "delta_bytes": 4_800}
            yield at, "server", {"type": "response.output_audio.delta", **delta}
    tokens_in, tokens_out = usage
    ended: Event = {
        "id": response,
        "status": "cancelled" if cancelled else "completed",
        "output": [output],
        "usage": {
            "total_tokens": tokens_in + tokens_out,
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "input_token_details": {"text_tokens": tokens_in - 80, "audio_tokens": 80, "cached_tokens": 64},
            "output_token_details": {"text_tokens": tokens_out // 4, "audio_tokens": tokens_out - tokens_out // 4},
        },
    }
    if cancelled:
        ended["status_details"] = {"type": "cancelled", "reason": "turn_detected"}
    yield done, "server", {"type": "response.done", "response": ended}
