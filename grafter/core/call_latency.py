"""Whose milliseconds these were: what a caller waited for in each turn of a call, and who spent it.

A *caller turn* runs from the end of the caller's speech to the first audio that the caller can hear: it may hold a
first answer of the model that only calls a tool, the tool, and the answer that speaks. A *model turn* is one answer of
the model. All times are Unix nanoseconds, all durations whole nanoseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

Scalar = str | bool | int | float
"""What an attribute is read as here; what is none of these says nothing about time."""


class Side(StrEnum):
    """Whose time a part of a wait was."""

    APP = "app"
    OPENAI = "openai"
    """The network between the app and OpenAI included."""
    CARRIER = "carrier"
    UNKNOWN = "unknown"

    # That of a member of an enumeration is a call; these are looked up for each part of each wait.
    __hash__ = str.__hash__


class Step(NamedTuple):
    span_id: bytes
    parent: bytes
    name: str
    service: str
    """``service.name`` of its resource; empty where it has none."""
    kind: int
    """OTLP's number: 2 SERVER, 3 CLIENT, 4 PRODUCER, 5 CONSUMER."""
    start: int
    end: int
    error: bool
    attributes: Mapping[str, Scalar]
    events: tuple[tuple[int, str, Mapping[str, Scalar]], ...] = ()
    """Time, name and attributes of each."""


class Part(NamedTuple):
    name: str
    """endpointing, model, tool, relay, playout, unknown; of a greeting dispatch, connect, accept, greeting; inside a
    tool queue, network, service."""
    ns: int
    side: Side
    what: str = ""
    """The tool's name, or the service's."""
    span_id: bytes = b""
    within: tuple["Part", ...] = ()
    """What it was made of, as far as the spans under it say: no more than it together."""


class CallerTurn(NamedTuple):
    """What a caller waited once."""

    number: int
    """From 1; of a greeting 0."""
    start: int
    end: int
    start_word: str
    """What it begins at: speech_end, commit, and its like."""
    end_word: str
    """What it ends at: output_audio_buffer, delta, and its like."""
    error_ns: int
    """By how much the caller may have waited longer."""
    parts: tuple[Part, ...]
    """In the order of time; they add up to ``end - start`` exactly."""
    answer: bytes
    """The span of the answer that speaks."""
    answer_audio_ns: int | None
    """From ``start`` to the first audio after the last tool; it is longer than the wait where the caller was told to
    wait for that tool. None where the turn ran no tool, or the answer after it was not heard."""
    sentence: str
    last_answer: bytes = b""
    """The span of the answer that speaks after the last tool."""


class ModelTurn(NamedTuple):
    """One answer of the model."""

    number: int
    """From 1, in the order of their beginning."""
    span_id: bytes
    start: int
    first_token_ns: int | None
    error_ns: int
    """By how much ``first_token_ns`` may be too long."""


@dataclass(frozen=True, slots=True)
class CallLatency:
    """Who spent the time of a call; a figure that cannot be known is absent, never 0."""

    caller_turns: tuple[CallerTurn, ...]
    model_turns: tuple[ModelTurn, ...]
    greetings: tuple[CallerTurn, ...]
    """One of each call in which the app spoke first, in the order of their ends."""
    app_ns: int | None
    openai_ns: int | None
    unknown_ns: int | None
