"""What a peer can answer to one request, whatever the protocol and the encoding.

The rooms of exporters' configs import this, and `grafter validate` starts without protobuf: what reads it is imported
where it is used.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import orjson

from grafter.consumer import Signal
from grafter.exporter.tls import Advice

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
    own: bool = False
    """Nobody was asked: these spans cannot be sent."""


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


ExportAnswer = Accepted | Refused | Later


class Attempt(Protocol):
    """One request to one peer."""

    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        """Send one serialised Export…ServiceRequest; ends within the attempt's own timeout.

        Never raises for what a peer or the network does.
        """
        ...


def advised(answer: ExportAnswer, advice: Advice | None) -> ExportAnswer:
    """The answer that a peer or a library gave, with what somebody could do about it before it.

    Where it is certain that somebody must, the fault is not the request's, whatever was said of that.
    """
    if advice is None or isinstance(answer, Accepted):
        return answer
    reason = f"{advice.text} ({answer.reason})"
    if isinstance(answer, Refused):
        return Later(reason, fault=True) if advice.certain else answer
    return replace(answer, reason=reason, fault=answer.fault or advice.certain)


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
    from grafter.otlp.status import read_partial_success

    rejected, message = read_partial_success(response)
    return Accepted(rejected, words(message))


def accepted_json(response: bytes) -> Accepted:
    """The same for a response in OTLP JSON."""
    partial = _object(_json(response).get("partialSuccess"))
    rejected = next((partial[key] for key in partial if key.startswith("rejected")), 0)
    return Accepted(_count(rejected), words(partial.get("errorMessage") or ""))


def status_message(status: bytes) -> str:
    """The message of a serialised google.rpc.Status, or an empty string."""
    from grafter.otlp.status import read_failure

    return words(read_failure(status)[0])


def status_message_json(status: bytes) -> str:
    """The message of a google.rpc.Status in JSON, or an empty string."""
    return words(_json(status).get("message") or "")


def retry_info(status: bytes) -> float | None:
    """The seconds of the RetryInfo in a serialised google.rpc.Status; None when it has none."""
    from grafter.otlp.status import read_failure

    return read_failure(status)[1]


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
