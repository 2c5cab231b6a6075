"""The first call that ``grafter demo`` plays: a patient books a check-up by phone, and one tool fails on the way.

Two halves of one call, as two SDKs would send them. The app's half is OTLP, one request a service. OpenAI's half is
what the Agents SDK posts for one ``Runner.run``: a guardrail, two tools at once, a handoff, a tool that fails, four
turns of the model. Offsets are milliseconds from the first ring.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.commands.demo.host_call import (
    CLIENT,
    DESK,
    GATEWAY,
    INTERNAL,
    SERVER,
    VOICE,
    HostCall,
    HostSpan,
    Value,
    tool,
)

LENGTH_MS = 16_900


@dataclass(frozen=True, slots=True)
class _Guest:
    key: str
    parent: str
    start: int
    end: int
    data: dict[str, Any]
    error: dict[str, Any] | None = None


def _turn(number: int, start: int, end: int) -> HostSpan:
    """A turn of the model as the app sees it."""
    attributes: dict[str, Value] = {"gen_ai.operation.name": "chat", "gen_ai.response.id": f"resp_demo{number}"}
    return HostSpan(f"client{number}", "session", VOICE, "gen_ai.client", CLIENT, start, end, attributes)


_HOST = (
    HostSpan(
        *("call", "", GATEWAY, "callsphere.call", SERVER, 0, LENGTH_MS),
        attributes={"call.id": "CA0f3e1c77a4b84a0c9f6f2b7f6f0f3d21", "call.outcome": "callback"},
    ),
    HostSpan("invite", "call", GATEWAY, "sip.invite", SERVER, 0, 420, {"sip.status_code": 200}),
    HostSpan("publish", "call", GATEWAY, "queue.wait", Span.SPAN_KIND_PRODUCER, 60, 66, {"messaging.system": "bullmq"}),
    HostSpan("take", "publish", DESK, "queue.wait", Span.SPAN_KIND_CONSUMER, 92, 118, {"messaging.system": "bullmq"}),
    HostSpan(
        *("media", "call", GATEWAY, "webrtc.peer_connection", INTERNAL, 180, LENGTH_MS - 300),
        events=(
            (210, "ice.gathering", {"ice.state": "complete", "ice.candidates": 4}),
            (325, "ice.candidate_pair", {"ice.local": "relay", "ice.remote": "srflx"}),
            (390, "ice.connection", {"ice.state": "connected"}),
        ),
    ),
    HostSpan(
        *("session", "call", VOICE, "gen_ai.realtime.session", CLIENT, 450, LENGTH_MS - 400),
        attributes={"gen_ai.conversation.id": "conv_42"},
        events=((11_380, "gen_ai.audio.barge_in", {"audio.elapsed_ms": 740}),),
    ),
    _turn(1, 2_100, 2_630),
    *tool("insurance", "insurance", "insurance_check", 2_650, 3_310),
    *tool("records", "records", "find_patient", 2_652, 2_940),
    _turn(2, 3_340, 3_790),
    _turn(3, 8_050, 8_620),
    *tool("calendar", "calendar", "book_slot", 8_650, 10_480, "slot is taken"),
    _turn(4, 10_510, 11_020),
)


def _usage(tokens_in: int, tokens_out: int) -> dict[str, Any]:
    return {
        "requests": 1,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "input_tokens_details": {"cached_tokens": tokens_in // 2},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _response(number: int, start: int, end: int, tokens_in: int, tokens_out: int) -> _Guest:
    data = {"type": "response", "response_id": f"resp_demo{number}", "usage": _usage(tokens_in, tokens_out)}
    return _Guest(f"response{number}", f"turn{number}", start, end, data)


def _function(key: str, turn: int, name: str, start: int, end: int, failed: str = "") -> _Guest:
    error = {"message": "Error running tool (non-fatal)", "data": {"tool_name": name, "error": failed}}
    data = {"type": "function", "name": name, "input": "{}", "output": failed or "{}", "mcp_data": None}
    return _Guest(key, f"turn{turn}", start, end, data, error if failed else None)


def _agent_turn(number: int, agent: str, parent: str, start: int, end: int) -> _Guest:
    turn = {"sdk_span_type": "turn", "turn": number, "agent_name": agent}
    return _Guest(f"turn{number}", parent, start, end, {"type": "custom", "name": "turn", "data": turn})


def _agent(name: str, start: int, end: int, tools: list[str], handoffs: list[str]) -> _Guest:
    data = {"type": "agent", "name": name, "handoffs": handoffs, "tools": tools, "output_type": "str"}
    return _Guest(name, "task", start, end, data)


# In the order in which the SDK sends them: each when it ends, so children before their parents.
_GUEST = (
    _Guest("guardrail", "turn1", 2_095, 2_330, {"type": "guardrail", "name": "medical_advice", "triggered": False}),
    _response(1, 2_100, 2_630, 812, 41),
    _function("records", 1, "find_patient", 2_648, 2_945),
    _function("insurance", 1, "insurance_check", 2_648, 3_315),
    _agent_turn(1, "Reception", "Reception", 2_090, 3_320),
    _response(2, 3_340, 3_790, 968, 18),
    _Guest("handoff", "turn2", 3_795, 3_797, {"type": "handoff", "from_agent": "Reception", "to_agent": "Booking"}),
    _agent_turn(2, "Reception", "Reception", 3_330, 3_800),
    _agent("Reception", 2_085, 3_802, ["find_patient", "insurance_check"], ["Booking"]),
    _response(3, 8_050, 8_620, 1_020, 25),
    _function("calendar", 3, "book_slot", 8_645, 10_485, "slot is taken"),
    _agent_turn(3, "Booking", "Booking", 8_040, 10_490),
    _response(4, 10_510, 11_020, 1_101, 33),
    _agent_turn(4, "Booking", "Booking", 10_500, 11_025),
    _agent("Booking", 8_035, 11_027, ["book_slot"], []),
    _Guest(
        *("task", "", 2_080, 11_030),
        data={"type": "custom", "name": "task", "data": {"sdk_span_type": "task", "name": "Clinic line"}},
    ),
)

GUEST_SPANS = len(_GUEST)


class AgentsCall:
    def __init__(self, start: datetime) -> None:
        """``start``: the first ring, in UTC."""
        self.host = HostCall(start, _HOST)
        self.guest_id = f"trace_{secrets.token_hex(16)}"

    def guest(self) -> Iterator[dict[str, Any]]:
        """The bodies that the Agents SDK posts: the trace object when it begins, the spans when they have ended."""
        trace = {
            "object": "trace",
            "id": self.guest_id,
            "workflow_name": "Clinic line",
            "group_id": "conv_42",
            "metadata": self.host.metadata(),
        }
        ids = {span.key: f"span_{secrets.token_hex(12)}" for span in _GUEST}
        yield {"data": [trace]}
        yield {
            "data": [
                {
                    "object": "trace.span",
                    "id": ids[span.key],
                    "trace_id": self.guest_id,
                    "parent_id": ids.get(span.parent),
                    "started_at": self.host.at(span.start).isoformat(),
                    "ended_at": self.host.at(span.end).isoformat(),
                    "span_data": span.data,
                    "error": span.error,
                }
                for span in _GUEST
            ]
        }
