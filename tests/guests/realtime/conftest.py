"""Realtime calls written down as they happen, and a call's spans as text that can be compared whole."""

from collections.abc import Callable, Sequence

import pytest

from grafter.core.model import GuestSpan, UnixNano
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.realtime.content import kept
from grafter.guests.realtime.spans import map_realtime
from grafter.guests.realtime.stored_event import Side, StoredEvent, encode

BEGIN = 1_790_000_000_000_000_000
MS = 1_000_000
KINDS = {1: "", 3: " CLIENT"}
UNPRINTED = {
    "gen_ai.conversation.id", "gen_ai.realtime_session.id", "grafter.guest.trace_id", "grafter.guest.span_id",
    "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.response.id", "gen_ai.request.model",
}  # fmt: skip
"""On every span of a kind; they have a test of their own."""


class Script:
    """The events of a call, each with its milliseconds since the call began."""

    def __init__(self, content: Content = Content.NONE) -> None:
        self.content = content
        self.stored_events: list[StoredEvent] = []

    def server(self, ms: float, kind: str, **event: object) -> "Script":
        return self.add(ms, Side.SERVER, {"type": kind, "event_id": f"event_{len(self.stored_events)}", **event})

    def client(self, ms: float, kind: str, **event: object) -> "Script":
        return self.add(ms, Side.CLIENT, {"type": kind, **event})

    def own(self, ms: float, kind: str, **event: object) -> "Script":
        return self.add(ms, Side.GRAFTER, {"type": kind, **event})

    def add(self, ms: float, side: Side, event: dict[str, object]) -> "Script":
        stored = kept(event, side, self.content)
        if stored is not None:
            self.stored_events.append(StoredEvent(UnixNano(BEGIN + int(ms * MS)), side, stored))
        return self

    def spans(self, **options: object) -> dict[str, GuestSpan]:
        """The spans of the one session by the ids that the guest gave them."""
        options = {"final": True, "policy": GraftPolicy(content=self.content), **options}
        policy = options.pop("policy")
        (mapped,) = map_realtime("call_key", [encode(self.stored_events)], policy, **options)
        return {str(dict(span.attributes)["grafter.guest.span_id"]): span for span in mapped.guest.spans}


@pytest.fixture
def script() -> Callable[..., Script]:
    """An empty call to write events into."""
    return Script


@pytest.fixture
def tree() -> Callable[[Sequence[GuestSpan]], str]:
    """Spans as an indented text: name, kind, start and length in ms, error, events, attributes."""
    return tree_of


def tree_of(spans: Sequence[GuestSpan]) -> str:
    lines: list[str] = []

    def add(parent: bytes | None, depth: int) -> None:
        for span in sorted(spans, key=lambda one: (one.start, one.span_id)):
            if span.parent == parent:
                lines.extend("  " * depth + line for line in described(span))
                add(span.span_id, depth + 1)

    add(None, 0)
    return "\n".join(lines) + "\n"


def described(span: GuestSpan) -> list[str]:
    lines = [f"{span.name}{KINDS[span.kind]} {since(span.start)} +{(span.end - span.start) / MS:g}"]
    if span.status_code:
        lines.append(f"    ! {span.status_message}")
    for event in span.events:
        told = " ".join(f"{key}={value}" for key, value in event.attributes)
        lines.append(f"    @ {event.name} {since(event.time)} {told}")
    for key, value in span.attributes:
        if key not in UNPRINTED:
            shown = since(value) if key.endswith("_unix_nano") else value
            lines.append(f"    {key} = {shown}")
    return lines


def since(at: object) -> str:
    return f"{(int(str(at)) - BEGIN) / MS:g}"
