"""Recorded batches, and a guest as text that can be read and compared whole."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grafter.core.model import GuestSpan, Source
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.agents.intake import read_items
from grafter.guests.agents.spans import map_guest
from grafter.guests.source import Mapped

DATA = Path(__file__).parents[1] / "data" / "openai"

KINDS = {1: "", 3: " CLIENT"}
# On every span, or a repetition of it; their values have tests of their own.
UNPRINTED = {"openai.agents.trace.id", "openai.agents.span.parent_id", "openai.agents.trace.url"}
LONGEST = 160


@pytest.fixture
def captured() -> Callable[[str], list[list[object]]]:
    """The items of each recorded request of one capture, by its name."""
    return read_capture


@pytest.fixture
def mapped() -> Callable[..., dict[str, Mapped]]:
    """Read requests and map every guest in them, by its trace id."""
    return map_requests


@pytest.fixture
def tree() -> Callable[[Mapped], str]:
    """A mapped guest as an indented text, every attribute included."""
    return tree_of


def read_capture(name: str) -> list[list[object]]:
    return [request["body"]["data"] for request in json.loads((DATA / f"{name}.json").read_bytes())["requests"]]


def map_requests(requests: list[list[object]], content: Content = Content.NONE, **policy: object) -> dict[str, Mapped]:
    rules = GraftPolicy(content=content, **policy)
    payloads: dict[str, list[bytes]] = {}
    for items in requests:
        for part in read_items(items, Source.SDK, rules).parts:
            payloads.setdefault(part.guest.guest, []).append(part.payload)
    return {guest: map_guest(guest, Source.SDK, parts, rules) for guest, parts in payloads.items()}


def tree_of(mapped: Mapped) -> str:
    guest = mapped.guest
    named = guest.link and (guest.link.host.hex(), guest.link.span_id and guest.link.span_id.hex(), guest.link.how)
    lines = [f"{guest.trace_id} link={named} head={json.dumps(mapped.head, default=str)[:LONGEST]}"]
    known = {span.span_id for span in guest.spans}

    def add(parent: bytes | None, depth: int) -> None:
        for span in guest.spans:
            if (span.parent if span.parent in known else None) == parent:
                lines.extend("  " * depth + line for line in described(span, known))
                add(span.span_id, depth + 1)

    add(None, 1)
    return "\n".join(lines) + "\n"


def described(span: GuestSpan, known: set[bytes]) -> list[str]:
    at = datetime.fromtimestamp(span.start // 10**9, UTC).strftime("%H:%M:%S") + f".{span.start % 10**9:09}"
    lines = [f"{span.name}{KINDS[span.kind]} {at} +{span.end - span.start}ns"]
    if span.status_code:
        lines.append(f"    ! {span.status_message}")
    if span.parent is not None and span.parent not in known:
        lines.append(f"    ^ {span.parent_name}")
    lines += [f"    > {link.span_id.hex()} {dict(link.attributes)}" for link in span.links]
    for key, value in span.attributes:
        if key not in UNPRINTED:
            text = value if isinstance(value, str) else repr(value)
            lines.append(f"    {key} = {text}" if len(text) <= LONGEST else f"    {key} = {text[:60]}… {len(text)}")
    return lines
