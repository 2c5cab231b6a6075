"""A posted call, written down by hand in milliseconds, and what ``grafter graft`` makes of it.

The call goes the whole way, posts, store, join and export, as a user's file would, so that a figure is compared as
it leaves.
"""

import asyncio
import json
import random
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from grafter.commands.graft import graft
from grafter.core.policy import GraftPolicy
from grafter.telemetry import Metrics

T0 = 1_795_000_000
MS = 1_000_000
TRACE = "d0" * 16
PCM_BYTES_A_MS = 48
VAD: dict[str, object] = {"type": "server_vad", "silence_duration_ms": 500}

TOKEN = "grafter.turn.first_token_ms"
TOKEN_FROM = "grafter.turn.first_token_from"
TOKEN_AT = "grafter.turn.first_token_from_unix_nano"
AUDIO = "grafter.turn.first_audio_ms"
SPEECH = "grafter.turn.speech_item"
SPEECH_END = "grafter.turn.speech_end_unix_nano"
ENDPOINTING = "grafter.turn.endpointing_ms"
WAIT = "grafter.caller_wait_ms"
WAIT_PARTS = "grafter.caller_wait."
END = "grafter.end"
CHUNK = "gen_ai.response.time_to_first_chunk"
SUMMED = ("endpointing_ms", "model_ms", "tool_ms", "relay_ms", "playout_ms", "unknown_ms")
FIGURES = frozenset([TOKEN, AUDIO, ENDPOINTING, WAIT, CHUNK, "audio.elapsed_ms", *(WAIT_PARTS + p for p in SUMMED)])


def nano(ms: float) -> int:
    """The moment ``ms`` milliseconds after the call began."""
    return T0 * 10**9 + round(ms * MS)


class Call:
    """The posts of one call, and what was worked out of it."""

    def __init__(self, key: str = "rtc_hand") -> None:
        self.key = key
        self.rows: list[dict[str, object]] = [{"call": key, "at": T0 - 0.01, "metadata": {"trace_id": TRACE}}]
        self.count = 0

    # -- events

    def raw(self, at: object, side: str, event: dict[str, object]) -> "Call":
        row: dict[str, object] = {"call": self.key, "at": at, "from": side, "event": event}
        if at is None:
            del row["at"]
        self.rows.append(row)
        return self

    def server(self, ms: float, kind: str, **event: object) -> "Call":
        self.count += 1
        return self.raw(T0 + ms / 1000, "server", {"type": kind, "event_id": f"event_{self.count}", **event})

    def client(self, ms: float, kind: str, **event: object) -> "Call":
        return self.raw(T0 + ms / 1000, "client", {"type": kind, **event})

    def ended(self, ms: float) -> "Call":
        self.rows.append({"call": self.key, "at": T0 + ms / 1000, "ended": True})
        return self

    def session(self, ms: float = 0, detection: object = VAD, **more: object) -> "Call":
        audio = {"input": {"turn_detection": detection}, "output": {"format": {"type": "audio/pcm", "rate": 24000}}}
        session = {"id": "sess_1", "type": "realtime", "model": "gpt-realtime", "audio": audio, **more}
        return self.server(ms, "session.created", session=session)

    def starts(self, ms: float, item: str) -> "Call":
        return self.server(ms, "input_audio_buffer.speech_started", item_id=item, audio_start_ms=int(ms) - 300)

    def stops(self, ms: float, item: str) -> "Call":
        return self.server(ms, "input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=int(ms))

    def spoke(self, start: float, stop: float, item: str, commit: bool = True) -> "Call":
        self.starts(start, item).stops(stop, item)
        return self.committed(stop + 2, item) if commit else self

    def committed(self, ms: float, item: str) -> "Call":
        return self.server(ms, "input_audio_buffer.committed", item_id=item, previous_item_id=None)

    def created(self, ms: float, response: str, **more: object) -> "Call":
        one = {"id": response, "status": "in_progress", "conversation_id": "conv_1", **more}
        return self.server(ms, "response.created", response=one)

    def sound(self, ms: float, response: str, lasts: int = 100, item: str | None = None, index: int = 0) -> "Call":
        return self.server(
            ms, "response.output_audio.delta", response_id=response, item_id=item or f"item_{response}",
            output_index=index, content_index=0, delta_bytes=lasts * PCM_BYTES_A_MS,
        )  # fmt: skip

    def asked_tool(self, ms: float, response: str, call: str, name: str = "find") -> "Call":
        item = self.tool_item(call, name)
        self.server(
            ms, "response.function_call_arguments.done", response_id=response, item_id=item["id"], call_id=call,
            name=name, arguments="{}",
        )  # fmt: skip
        return self.server(ms, "response.output_item.done", response_id=response, output_index=0, item=item)

    @staticmethod
    def tool_item(call: str, name: str = "find", status: str = "completed") -> dict[str, object]:
        return {
            "id": f"fc_{call}", "type": "function_call", "status": status, "name": name, "call_id": call,
            "arguments": "{}",
        }  # fmt: skip

    def done(
        self, ms: float, response: str, status: str = "completed", reason: str | None = None,
        output: Iterable[dict[str, object]] = (), tokens: tuple[int, int] = (10, 2), **more: object,
    ) -> "Call":  # fmt: skip
        usage = {"total_tokens": sum(tokens), "input_tokens": tokens[0], "output_tokens": tokens[1]}
        details = {"type": status, "reason": reason} if reason else None
        one = {
            "id": response, "status": status, "status_details": details, "conversation_id": "conv_1",
            "output": list(output), "usage": usage, **more,
        }  # fmt: skip
        return self.server(ms, "response.done", response=one)

    def ask(self, ms: float, **more: object) -> "Call":
        return self.client(ms, "response.create", **more)

    def hand_back(self, ms: float, call: str) -> "Call":
        item = {"type": "function_call_output", "call_id": call, "output": "{}"}
        return self.client(ms, "conversation.item.create", item=item)

    def added(self, ms: float, **item: object) -> "Call":
        self.server(ms, "conversation.item.added", item=item)
        return self.server(ms, "conversation.item.done", item=item)

    def handed_back(self, ms: float, call: str, took: float = 40) -> "Call":
        """The output as the client sends it and as the server takes it."""
        self.hand_back(ms, call)
        item = {"id": f"out_{call}", "type": "function_call_output", "call_id": call, "output": "{}"}
        return self.added(ms + took, **item)

    def refuses(self, ms: float, code: str, event: str | None = None, param: str | None = None) -> "Call":
        error = {"type": "invalid_request_error", "code": code, "message": "x", "param": param, "event_id": event}
        return self.server(ms, "error", error=error)

    def truncates(self, ms: float, item: str, heard: int) -> "Call":
        return self.client(ms, "conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=heard)

    def truncated(self, ms: float, item: str, heard: int) -> "Call":
        return self.server(ms, "conversation.item.truncated", item_id=item, content_index=0, audio_end_ms=heard)

    def body(self) -> str:
        return "".join(json.dumps(row) + "\n" for row in self.rows)

    def copy(self) -> "Call":
        other = Call(self.key)
        other.rows, other.count = self.rows[:], self.count
        return other

    def shuffled(self, chance: random.Random) -> "Call":
        """The same call, its lines in another order, as posts overtake one another."""
        other = Call(self.key)
        other.rows = self.rows[:]
        chance.shuffle(other.rows)
        return other


class Joined:
    """What left, by the ids that the guest gave its spans."""

    def __init__(self, document: bytes) -> None:
        self.document = json.loads(document)
        self.spans: list[dict[str, object]] = []
        for resource in self.document["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    span["a"] = attributes(span)
                    span["scope"] = scope
                    self.spans.append(span)

    def named(self, name: str) -> list[dict]:
        return [span for span in self.spans if str(span["name"]).startswith(name)]

    def guests(self) -> list[dict]:
        """The Realtime guest's own."""
        return [span for span in self.spans if "grafter.guest.span_id" in span["a"]]

    def span(self, identity: str) -> dict | None:
        found = [
            s
            for s in self.spans
            if identity in (s["a"].get("grafter.guest.span_id"), s["a"].get("openai.agents.span.id"))
        ]
        assert len(found) < 2, f"{identity} stands {len(found)} times"
        return found[0] if found else None

    def of(self, identity: str) -> dict[str, object]:
        span = self.span(identity)
        return {} if span is None else span["a"]

    def times(self, identity: str) -> tuple[float, float] | None:
        span = self.span(identity)
        if span is None:
            return None
        return since(span["startTimeUnixNano"]), since(span["endTimeUnixNano"])

    def barge_ins(self) -> list[tuple[str, float, object]]:
        """(response, when, heard) of each interruption."""
        return sorted(
            (one["a"]["grafter.guest.span_id"], since(event["timeUnixNano"]), attributes(event).get("audio.elapsed_ms"))
            for one in self.spans for event in one.get("events", []) if "barge_in" in event["name"]
        )  # fmt: skip

    def barge_in(self, identity: str) -> dict[str, object]:
        (one,) = [e for e in (self.span(identity) or {}).get("events", []) if "barge_in" in e["name"]]
        return attributes(one)

    def tools(self) -> dict[str, tuple[float, float]]:
        return {
            s["a"]["gen_ai.tool.call.id"]: (since(s["startTimeUnixNano"]), since(s["endTimeUnixNano"]))
            for s in self.spans if s["a"].get("gen_ai.operation.name") == "execute_tool"
        }  # fmt: skip

    def wait(self, identity: str) -> dict[str, object]:
        """The caller's wait and its parts, by their short names."""
        have = self.of(identity)
        parts = {p.removesuffix("_ms"): have[WAIT_PARTS + p] for p in SUMMED if WAIT_PARTS + p in have}
        return {"ms": have[WAIT], **parts} if WAIT in have else parts

    def total(self, key: str) -> int:
        return sum(s["a"].get(key) or 0 for s in self.spans)


def since(unix_nano: object) -> float:
    return round((int(str(unix_nano)) - T0 * 10**9) / MS, 3)


def attributes(of: dict) -> dict[str, object]:
    return {one["key"]: value(one["value"]) for one in of.get("attributes", [])}


def value(of: dict) -> object:
    ((kind, found),) = of.items()
    if kind == "intValue":
        return int(found)
    return [value(one) for one in found.get("values", [])] if kind == "arrayValue" else found


HOST = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "gateway"}}]},
            "scopeSpans": [
                {
                    "scope": {"name": "app"},
                    "spans": [
                        {
                            "traceId": TRACE, "spanId": f"{n:016x}", "parentSpanId": f"{n - 1:016x}" if n > 1 else "",
                            "name": name, "kind": 1, "startTimeUnixNano": str(nano(-1000)),
                            "endTimeUnixNano": str(nano(10_000_000)),
                        }
                        for n, name in ((1, "call"), (2, "gen_ai.realtime.session"))
                    ],
                }
            ],
        }
    ]
}  # fmt: skip


def joined(guest: "Call | str", policy: GraftPolicy | None = None) -> Joined:
    """What ``grafter graft --host H --guest G`` writes."""
    return Joined(document(guest, policy))


def document(guest: "Call | str", policy: GraftPolicy | None = None, more: Iterable[dict[str, object]] = ()) -> bytes:
    """The same as it is written. ``more``: resource spans of the host beside those that every call has."""
    with TemporaryDirectory() as name:
        host, file = Path(name, "host.json"), Path(name, "guest.ndjson" if isinstance(guest, Call) else "guest.json")
        host.write_text(json.dumps({"resourceSpans": [*HOST["resourceSpans"], *more]}))
        file.write_text(guest.body() if isinstance(guest, Call) else guest)
        return asyncio.run(graft([host], [file], policy or GraftPolicy(), Metrics()))
