"""What a peer can answer to one request, whatever the protocol, and how the small messages in its answers are read.

The messages are read by hand and forgivingly: what a peer says beside its status code is advice, and advice that
cannot be read must never change what became of the spans. Source of the fields: trace_service.proto,
google/rpc/status.proto, google/rpc/error_details.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import orjson

from grafter.consumer import Signal

TRACES: Literal["traces"] = "traces"
Kind = Literal["traces"] | Signal

# What a peer says is shown in logs and kept with dead letters; past a few lines it is its own log, or our payload.
_MAX_WORDS = 300


@dataclass(frozen=True, slots=True)
class Accepted:
    """The peer has taken the request; of its spans it threw ``rejected`` away (partial success)."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer will refuse the same request again."""

    reason: str
    too_large: bool = False
    """It is the size that was refused, so that the same spans in smaller requests may pass."""


@dataclass(frozen=True, slots=True)
class Later:
    """Not now."""

    reason: str
    retry_after: float | None = None
    """Seconds that the peer asked for."""
    unknown: bool = False
    """The peer may have taken the request: no answer came, or one that does not say."""
    fault: bool = False
    """Nothing in the request is wrong, but somebody must act: a wrong key, a wrong address."""


Answer = Accepted | Refused | Later


class Attempt(Protocol):
    """One request to one peer."""

    async def send(self, kind: Kind, body: bytes) -> Answer:
        """Send one serialised Export…ServiceRequest; ends within the attempt's own timeout.

        Never raises for what a peer or the network does.
        """
        ...


def words(text: object) -> str:
    """A peer's message as one printable line of bounded length."""
    line = " ".join(str(text)[: 2 * _MAX_WORDS].split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= _MAX_WORDS else line[:_MAX_WORDS] + "…"


def accepted(response: bytes) -> Accepted:
    """What a serialised Export…ServiceResponse says."""
    # The usual answer is empty; a message of one unset field is not worth a reader.
    if not response:
        return Accepted()
    try:
        for number, value in fields(response):
            if number == 1 and isinstance(value, bytes):
                return _partial_success(value)
    except ValueError:
        pass
    return Accepted()


def accepted_json(response: bytes) -> Accepted:
    """The same for a response in OTLP JSON."""
    partial = _object(_json(response).get("partialSuccess"))
    rejected = next((partial[key] for key in partial if key.startswith("rejected")), 0)
    return Accepted(_count(rejected), words(partial.get("errorMessage") or ""))


def status_message(status: bytes) -> str:
    """The message of a serialised google.rpc.Status, or an empty string."""
    try:
        for number, value in fields(status):
            if number == 2 and isinstance(value, bytes):
                return words(value.decode())
    except ValueError:
        pass
    return ""


def status_message_json(status: bytes) -> str:
    """The message of a google.rpc.Status in JSON, or an empty string."""
    return words(_json(status).get("message") or "")


def retry_info(status: bytes) -> float | None:
    """The seconds of the RetryInfo in a serialised google.rpc.Status; None when it has none."""
    try:
        for number, detail in fields(status):
            if number != 3 or not isinstance(detail, bytes):
                continue
            parts = dict(fields(detail))
            url, value = parts.get(1), parts.get(2, b"")
            if isinstance(url, bytes) and url.endswith(b"google.rpc.RetryInfo") and isinstance(value, bytes):
                delay = dict(fields(value)).get(1, b"")
                return _seconds(delay) if isinstance(delay, bytes) else 0.0
    except ValueError:
        pass
    return None


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: numbers as unsigned integers, length-delimited ones as bytes.

    Raises ValueError where the message is cut short or not one.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("not a field type that is in use")
        raw = message[at : at + length]
        if len(raw) != length:
            raise ValueError("message is cut short")
        at += length
        yield number, raw if wire == 2 else int.from_bytes(raw, "little")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("message is cut short")


def _partial_success(message: bytes) -> Accepted:
    parts = dict(fields(message))
    said = parts.get(2, b"")
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else ""
    return Accepted(_count(parts.get(1, 0)), words(text))


def _seconds(duration: bytes) -> float:
    parts = dict(fields(duration))
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if not isinstance(seconds, int) or not isinstance(nanos, int) or seconds >= 1 << 63:
        return 0.0
    return seconds + nanos / 1e9


def _count(value: object) -> int:
    """An int64 that should not be negative, in any form that JSON allows."""
    try:
        count = int(value) if isinstance(value, int | str) else 0
    except ValueError:
        return 0
    return count if 0 <= count < 1 << 63 else 0


def _json(body: bytes) -> dict[str, object]:
    try:
        return _object(orjson.loads(body))
    except orjson.JSONDecodeError:
        return {}


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
