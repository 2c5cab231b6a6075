"""The call that ``grafter demo`` plays: a patient books a check-up by phone, and one tool fails on the way.

Two halves of one call, as two SDKs would send them. The app's half is OTLP, one request a service. OpenAI's half is
what the Agents SDK posts for one ``Runner.run``: a guardrail, two tools at once, a handoff, a tool that fails, four
turns of the model. Offsets are milliseconds from the first ring.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

LENGTH_MS = 16_900

# trace.proto, SpanFlags: the W3C trace flags, then whether the parent is in another process.
_SAMPLED, _HAS_IS_REMOTE, _IS_REMOTE = 0x001, 0x100, 0x200

Value = str | bool | int | float


@dataclass(frozen=True, slots=True)
class _Host:
    """A span of the app."""

    key: str
    parent: str
    service: str
    name: str
    kind: "Span.SpanKind.ValueType"
    start: int
    end: int
    attributes: dict[str, Value] = field(default_factory=dict)
    events: tuple[tuple[int, str, dict[str, Value]], ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Guest:
    """A span of the Agents SDK."""

    key: str
    parent: str
    start: int
    end: int
    data: dict[str, Any]
    error: dict[str, Any] | None = None


_GATEWAY, _DESK, _VOICE = "callsphere-gateway", "callsphere-desk", "callsphere-voice"
_SERVER, _CLIENT, _INTERNAL = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_INTERNAL


def _tool(key: str, service: str, name: str, start: int, end: int, error: str = "") -> tuple[_Host, _Host]:
    """A tool as the app sees it: the caller's span, and the one of the tool's own service under it."""
    said: dict[str, Value] = {"gen_ai.tool.name": name, "gen_ai.tool.call.id": f"call_{key}"}
    served: dict[str, Value] = {"http.request.method": "POST", "http.response.status_code": 409 if error else 200}
    return (
        _Host(key, "session", _VOICE, "gen_ai.tool.execute", _CLIENT, start, end, said, error=error),
        _Host(f"{key}.served", key, service, f"POST /{name}", _SERVER, start + 8, end - 6, served, error=error),
    )


def _turn(number: int, start: int, end: int) -> _Host:
    """A turn of the model as the app sees it."""
    said: dict[str, Value] = {"gen_ai.operation.name": "chat", "gen_ai.response.id": f"resp_demo{number}"}
    return _Host(f"client{number}", "session", _VOICE, "gen_ai.client", _CLIENT, start, end, said)


_HOST = (
    _Host(
        *("call", "", _GATEWAY, "callsphere.call", _SERVER, 0, LENGTH_MS),
        attributes={"call.id": "CA0f3e1c77a4b84a0c9f6f2b7f6f0f3d21", "call.outcome": "callback"},
    ),
    _Host("invite", "call", _GATEWAY, "sip.invite", _SERVER, 0, 420, {"sip.status_code": 200}),
    _Host("publish", "call", _GATEWAY, "queue.wait", Span.SPAN_KIND_PRODUCER, 60, 66, {"messaging.system": "bullmq"}),
    _Host("take", "publish", _DESK, "queue.wait", Span.SPAN_KIND_CONSUMER, 92, 118, {"messaging.system": "bullmq"}),
    _Host(
        *("media", "call", _GATEWAY, "webrtc.peer_connection", _INTERNAL, 180, LENGTH_MS - 300),
        events=(
            (210, "ice.gathering", {"ice.state": "complete", "ice.candidates": 4}),
            (325, "ice.candidate_pair", {"ice.local": "relay", "ice.remote": "srflx"}),
            (390, "ice.connection", {"ice.state": "connected"}),
        ),
    ),
    _Host(
        *("session", "call", _VOICE, "gen_ai.realtime.session", _CLIENT, 450, LENGTH_MS - 400),
        attributes={"gen_ai.conversation.id": "conv_42"},
        events=((11_380, "gen_ai.audio.barge_in", {"audio.elapsed_ms": 740}),),
    ),
    _turn(1, 2_100, 2_630),
    *_tool("insurance", "insurance", "insurance_check", 2_650, 3_310),
    *_tool("records", "records", "find_patient", 2_652, 2_940),
    _turn(2, 3_340, 3_790),
    _turn(3, 8_050, 8_620),
    *_tool("calendar", "calendar", "book_slot", 8_650, 10_480, "slot is taken"),
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

HOST_SPANS, GUEST_SPANS = len(_HOST), len(_GUEST)


@dataclass(frozen=True, slots=True)
class Story:
    """One playing of the call, with ids of its own."""

    start: datetime
    """The first ring, in UTC."""
    trace_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    guest_id: str = field(default_factory=lambda: f"trace_{secrets.token_hex(16)}")
    _ids: dict[str, bytes] = field(default_factory=lambda: {span.key: secrets.token_bytes(8) for span in _HOST})

    def host(self) -> Iterator[tuple[str, bytes]]:
        """Each service's name and its ExportTraceServiceRequest."""
        for service in dict.fromkeys(span.service for span in _HOST):
            request = ExportTraceServiceRequest()
            resource_spans = request.resource_spans.add()
            resource_spans.resource.attributes.extend(_attributes({"service.name": service}))
            scope_spans = resource_spans.scope_spans.add()
            scope_spans.scope.name = "callsphere"
            scope_spans.spans.extend(self._span(span) for span in _HOST if span.service == service)
            yield service, request.SerializeToString()

    def guest(self) -> Iterator[dict[str, Any]]:
        """The bodies that the Agents SDK posts: the trace object when it begins, the spans when they have ended."""
        metadata = {"trace_id": self.trace_id.hex(), "span_id": self._ids["session"].hex()}
        trace = {
            "object": "trace",
            "id": self.guest_id,
            "workflow_name": "Clinic line",
            "group_id": "conv_42",
            "metadata": metadata,
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
                    "started_at": self._at(span.start).isoformat(),
                    "ended_at": self._at(span.end).isoformat(),
                    "span_data": span.data,
                    "error": span.error,
                }
                for span in _GUEST
            ]
        }

    def _at(self, offset: int) -> datetime:
        return self.start + timedelta(milliseconds=offset)

    def _nanoseconds(self, offset: int) -> int:
        return (self._at(offset) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000

    def _span(self, span: _Host) -> Span:
        services = {each.key: each.service for each in _HOST}
        remote = _HAS_IS_REMOTE | (_IS_REMOTE if services.get(span.parent, span.service) != span.service else 0)
        built = Span(
            trace_id=self.trace_id,
            span_id=self._ids[span.key],
            parent_span_id=self._ids.get(span.parent, b""),
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=self._nanoseconds(span.start),
            end_time_unix_nano=self._nanoseconds(span.end),
            attributes=_attributes(span.attributes),
            flags=_SAMPLED | remote,
        )
        for offset, name, attributes in span.events:
            built.events.add(name=name, time_unix_nano=self._nanoseconds(offset), attributes=_attributes(attributes))
        if span.error:
            built.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=span.error))
        return built


def _attributes(values: dict[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in values.items()]


def _any_value(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
