"""Events of the Live API as its sideband shows them, each made by the ``openai`` package's own types."""

import base64
import time
from itertools import count
from typing import Any

from openai.types.live import ConnectServerEvent
from openai.types.live.session_resource import SessionResource
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

Json = dict[str, Any]

_ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ConnectServerEvent)
_ANY_INNER: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_NUMBERS = count(1)
_WITHOUT_ID = {"session.input_audio.append", "session.output_audio.delta"}
FRAME_MS = 100


def live_event(kind: str, **fields: Any) -> Json:
    """A server event of this type. Fails where the openai package would not read it, or knows a field not."""
    identity = {} if kind in _WITHOUT_ID else {"event_id": f"event_live_{next(_NUMBERS)}"}
    made = _ANY_EVENT.validate_python({"type": kind, **identity, **fields})
    assert not made.model_extra, f"{kind} has no {sorted(made.model_extra)}"
    dumped: Json = made.model_dump(mode="json", exclude_unset=True, warnings=False)
    return dumped


def live_session(session_id: str, expires_at: int | None = None) -> Json:
    """A session as ``session.started`` holds it; its work is delegated to a Responses model."""
    made = SessionResource.model_validate(
        {
            "id": session_id,
            "model": "gpt-live-1",
            "status": "active",
            "expires_at": int(time.time_ns() / 1e9) + 3600 if expires_at is None else expires_at,
            "instructions": "You answer a clinic's phone.",
            "audio": {"output": {"voice": "marin"}},
            "delegation": {
                "type": "responses",
                "responses": {
                    "model": "gpt-5.5",
                    "instructions": "Book slots.",
                    "tools": [{"type": "function", "name": "insurance.check", "parameters": {}}],
                },
            },
        }
    )
    dumped: Json = made.model_dump(mode="json", exclude_unset=True)
    return dumped


def response_event(kind: str, delegation_id: str | None = "del_1", **fields: Any) -> Json:
    """A ``response.event`` with an event of the Responses API in it, made the same way."""
    made = _ANY_INNER.validate_python({"type": kind, "sequence_number": next(_NUMBERS), **fields})
    assert not made.model_extra, f"{kind} has no {sorted(made.model_extra)}"
    inner = made.model_dump(mode="json", exclude_unset=True, warnings=False)
    return live_event("response.event", delegation_id=delegation_id, event=inner)


def snapshot(response_id: str, status: str = "in_progress", **more: Any) -> Json:
    """A delegated response as its lifecycle events hold it: without its input, instructions, tools and output."""
    found: Json = {
        "id": response_id,
        "object": "response",
        "created_at": 1_790_000_000.0,
        "model": "gpt-5.5-2026-08-01",
        "status": status,
        "output": [],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        **more,
    }
    if status == "completed":
        found["usage"] = {
            "input_tokens": 300,
            "input_tokens_details": {"cached_tokens": 128, "cache_write_tokens": 0},
            "output_tokens": 40,
            "output_tokens_details": {"reasoning_tokens": 24},
            "total_tokens": 340,
        }
    return found


def audio(start_ms: int) -> Json:
    """A tenth of a second of the model's sound, as it is reflected to a listener."""
    sound = base64.b64encode(bytes(48 * FRAME_MS)).decode()
    return live_event("session.output_audio.delta", delta=sound, start_ms=start_ms, end_ms=start_ms + FRAME_MS)


def microphone() -> Json:
    """The same of the caller's, which has no times."""
    return live_event("session.input_audio.append", audio=base64.b64encode(bytes(48 * FRAME_MS)).decode())


def said(side: str, text: str, start_ms: int, end_ms: int) -> Json:
    """A fragment of a transcript; ``side`` is ``input`` (the caller) or ``output``."""
    return live_event(f"session.{side}_transcript.delta", delta=text, start_ms=start_ms, end_ms=end_ms)


def closed(session: Json, reason: str = "remote_hangup", seconds: float = 6.5) -> Json:
    """The last event of a session."""
    return live_event("session.closed", reason=reason, session=session, usage={"seconds": seconds})


def conversation() -> list[Json]:
    """The caller asks, the work is delegated, a tool is called, the work goes on and the model says what came of it."""
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "insurance.check"}
    message = {"type": "message", "id": "msg_1", "role": "assistant"}
    text = {"type": "output_text", "text": "It is covered.", "annotations": []}
    return [
        microphone(),
        audio(0),
        said("input", "Is that ", 100, 500),
        said("input", "covered?", 500, 900),
        live_event(
            "session.delegation.created",
            delegation={"id": "del_1", "type": "delegation", "target": "responses", "response_id": "resp_1"},
            offset_ms=1000,
        ),
        said("output", "One moment.", 1200, 1700),
        response_event("response.created", response=snapshot("resp_1")),
        response_event("response.in_progress", response=snapshot("resp_1")),
        response_event(
            "response.output_item.added", item={**call, "arguments": "", "status": "in_progress"}, output_index=0
        ),
        response_event("response.function_call_arguments.delta", delta='{"plan"', item_id="fc_1", output_index=0),
        response_event(
            "response.output_item.done",
            item={**call, "arguments": '{"plan":"A"}', "status": "completed"},
            output_index=0,
        ),
        response_event("response.completed", response=snapshot("resp_1", "completed")),
        response_event("response.created", response=snapshot("resp_2", previous_response_id="resp_1")),
        response_event(
            "response.output_item.added", item={**message, "status": "in_progress", "content": []}, output_index=0
        ),
        response_event(
            "response.output_text.delta", content_index=0, delta="It is", item_id="msg_1", logprobs=[], output_index=0
        ),
        response_event(
            "response.output_item.done", item={**message, "status": "completed", "content": [text]}, output_index=0
        ),
        response_event("response.completed", response=snapshot("resp_2", "completed")),
        audio(4000),
        said("output", "It is covered.", 4100, 4800),
        live_event("session.usage.updated", usage={"seconds": 5.0}, context_window={"usage_ratio": 0.125}),
    ]
