"""What an OTLP server answers when it cannot say yes: google.rpc.Status, in protobuf and in JSON.

The three small messages are written by hand, so that a sidecar needs no googleapis package. Source of the fields:
google/rpc/status.proto and google/rpc/error_details.proto; which detail goes with which code: OTLP specification,
"Failures".
"""

from dataclasses import dataclass
from enum import IntEnum

import orjson

from grafter.otlp.frames import framed, varint

_TYPE_URL = "type.googleapis.com/google.rpc."
_NANOS = 1_000_000_000


class Code(IntEnum):
    """The codes of google.rpc.Code that the doors use."""

    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Status:
    """One answer. ``retry_after`` (seconds) becomes a RetryInfo, ``violation`` a BadRequest."""

    code: Code
    message: str
    retry_after: float | None = None
    violation: str = ""

    def to_bytes(self) -> bytes:
        """The serialised google.rpc.Status."""
        out = b"\x08" + varint(self.code) + framed(0x12, self.message.encode("utf-8", "replace"))
        if self.retry_after is not None:
            out += _detail("RetryInfo", self.retry_info())
        if self.violation:
            violation = framed(0x12, self.violation.encode("utf-8", "replace"))
            out += _detail("BadRequest", framed(0x0A, violation))
        return out

    def retry_info(self) -> bytes:
        """The serialised google.rpc.RetryInfo alone."""
        seconds, nanos = self._delay()
        delay = (b"\x08" + varint(seconds) if seconds else b"") + (b"\x10" + varint(nanos) if nanos else b"")
        return framed(0x0A, delay)

    def to_json(self) -> bytes:
        """The google.rpc.Status in proto3 JSON."""
        details: list[dict[str, object]] = []
        if self.retry_after is not None:
            seconds, nanos = self._delay()
            fraction = f".{nanos:09d}" if nanos else ""
            details.append({"@type": _TYPE_URL + "RetryInfo", "retryDelay": f"{seconds}{fraction}s"})
        if self.violation:
            violations = [{"description": self.violation}]
            details.append({"@type": _TYPE_URL + "BadRequest", "fieldViolations": violations})
        out: dict[str, object] = {"code": int(self.code), "message": self.message}
        if details:
            out["details"] = details
        return orjson.dumps(out)

    def _delay(self) -> tuple[int, int]:
        return divmod(round(max(self.retry_after or 0.0, 0.0) * _NANOS), _NANOS)


def _detail(name: str, message: bytes) -> bytes:
    return framed(0x1A, framed(0x0A, (_TYPE_URL + name).encode()) + framed(0x12, message))
