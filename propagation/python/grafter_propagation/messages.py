"""Carriers for messages that have no headers: an opaque text in a Redis list, the first message of a WebSocket, a
job of BullMQ.

Where a message is a mapping (a stream entry's fields, a job's metadata or data), ``inject``, ``inject_job`` and
``continue_call`` do without these.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from grafter_propagation.calls import continue_call
from grafter_propagation.context import TraceContext, extract, inject

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

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


def bullmq_options(opts: Mapping[str, Any] | None = None, context: TraceContext | None = None) -> dict[str, Any]:
    """Options for ``queue.add(name, data, opts)`` of BullMQ for Python, which carries nothing by itself: a worker in
    Node with ``bullmq-otel`` takes them up, on Redis and on Postgres, and so does ``bullmq_job``."""
    carrier = inject(None, context)
    written = dict(opts or {})
    if carrier:
        written["telemetry"] = {**(written.get("telemetry") or {}), "metadata": json.dumps(carrier)}
    return written


def bullmq_job(job: Any, *, tracer: Tracer | None = None) -> AbstractContextManager[Span | None]:
    """A span, current in the block, for a job that a BullMQ worker in Python does: a child of whoever added it, in
    Python or in Node. A further attempt and a delayed job begin a trace of their own, with a link."""
    opts = job.opts if isinstance(job.opts, Mapping) else {}
    queue = str(getattr(getattr(job, "queue", None), "name", ""))
    # Counted when an attempt fails, and when one starts: a job of a worker that died was started only.
    attempt = max(int(getattr(job, "attemptsMade", 0) or 0) + 1, int(getattr(job, "attemptsStarted", 0) or 0))
    attributes = {"messaging.system": "bullmq", "messaging.destination.name": queue, "bullmq.job.id": str(job.id)}
    return continue_call(
        _bullmq_carrier(opts),
        f"process {queue}",
        attempt=attempt,
        delayed=bool(opts.get("delay")),
        attributes={**attributes, "messaging.operation.name": "process"},
        tracer=tracer,
    )


def _bullmq_carrier(opts: Mapping[str, Any]) -> dict[str, Any]:
    """Node writes ``tm`` where the store is Redis and ``telemetry`` where it is Postgres, a JSON text in both."""
    telemetry = opts.get("telemetry")
    text = opts.get("tm") or (telemetry.get("metadata") if isinstance(telemetry, Mapping) else None)
    try:
        read = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}
