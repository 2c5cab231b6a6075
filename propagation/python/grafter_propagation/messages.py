"""Carriers for messages that have no headers: an opaque text in a Redis list, the first message of a WebSocket.

Where a message is a mapping (a stream entry's fields, a job's metadata or data), ``inject``, ``inject_job`` and
``continue_call`` do without these.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from grafter_propagation.context import TraceContext, extract, inject

ENVELOPE: Final = "grafter.envelope"
"""The first member of an envelope, which no message of an app's own begins with."""
FIRST_MESSAGE: Final = "trace_context"


def seal(body: str | bytes, context: TraceContext | None = None) -> str:
    """A message with the carrier round it, for a queue that takes one text: ``rpush("jobs", seal(body))``."""
    binary = isinstance(body, (bytes, bytearray))
    text = base64.b64encode(body).decode() if isinstance(body, (bytes, bytearray)) else body
    return json.dumps({ENVELOPE: 1, "carrier": inject(None, context), "base64" if binary else "text": text})


def unseal(message: str | bytes) -> tuple[str | bytes, dict[str, Any]]:
    """The body as it was sealed, and its carrier for ``continue_call``. A message that is no envelope is its own body,
    so that readers may be changed before writers."""
    head = message[:64] if isinstance(message, str) else bytes(message[:64]).decode("utf-8", "replace")
    if ENVELOPE not in head:
        return message, {}
    try:
        read = json.loads(message)
        carrier = read["carrier"] if isinstance(read["carrier"], dict) else {}
        return (base64.b64decode(read["base64"]) if "base64" in read else read["text"]), carrier
    except (ValueError, KeyError, TypeError):
        return message, {}


def first_message(context: TraceContext | None = None) -> str:
    """What a client sends first on a WebSocket, where it can set no headers: ``{"type": "trace_context", …}``."""
    return json.dumps({"type": FIRST_MESSAGE, **inject(None, context)})


def read_first_message(message: object) -> TraceContext | None:
    """The place that a first message names; None for any other message, which is then the app's own to read."""
    try:
        read = json.loads(message) if isinstance(message, (str, bytes, bytearray)) else message
    except ValueError:
        return None
    return extract(read) if isinstance(read, dict) and read.get("type") == FIRST_MESSAGE else None
