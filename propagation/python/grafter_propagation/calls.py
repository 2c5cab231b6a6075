"""One trace for one call, whoever has a part in it.

A call's id is known to everyone: the webhook, the media socket, the status callback, a worker that was started again.
So all of them compute the same trace and the same root from it, and nothing has to be handed on:

    with continue_call(call_context(form["CallSid"]), "sip.invite", kind="server"):
        ...

The root itself is written last, by ``end_call``, when the call is known to be over, so that a crash in its middle costs
nothing.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from grafter_propagation.context import Carrier, TraceContext, names

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger("grafter_propagation")

ROOT: Final = "callsphere.call"
"""The name of a call's root span, where the app gives no other."""

_HEX_ID: Final = re.compile(r"(?:CA)?([0-9a-f]{32})", re.ASCII | re.IGNORECASE)
_ids: ContextVar[tuple[int, int] | None] = ContextVar("grafter_propagation_ids", default=None)


def call_context(call_id: str) -> TraceContext:
    """The root of a call's trace, the same wherever and whenever it is asked for.

    The trace id is the 32 hex digits of a Twilio CallSid (``CA…``) or of a UUID (Telnyx' ``call_session_id``), else of
    a hash of the id; the span id is of a hash. Raises ValueError for an empty id.
    """
    if not call_id:
        raise ValueError("a call without an id has no trace")
    found = _HEX_ID.fullmatch(call_id.replace("-", ""))
    own = found[1].lower() if found and int(found[1], 16) else None
    digest = hashlib.sha256(f"grafter.call\0{own or call_id}".encode("utf-8", "replace")).hexdigest()
    return TraceContext(own or digest[16:48], digest[:16])


@contextmanager
def continue_call(
    source: TraceContext | Carrier | None,
    name: str,
    *,
    kind: str = "consumer",
    attempt: int = 1,
    delayed: bool = False,
    attributes: Mapping[str, Any] | None = None,
    tracer: Tracer | None = None,
) -> Iterator[Span | None]:
    """A span, current in the block, that goes on with what a message, a webhook or ``call_context`` names.

    The first attempt is its child. A retry (``attempt`` above 1) and a delayed run begin a trace of their own, with a
    link to it: hours later it is no longer part of the call. Where the source names no place, the span is a child of
    the current one. ``kind``: of OpenTelemetry's, in lower case. Yields None without opentelemetry-api.
    """
    try:
        from opentelemetry import context as contexts
        from opentelemetry import trace
    except ImportError:
        yield None
        return
    found = _context(source)
    sender = trace.get_current_span(found).get_span_context() if found is not None else trace.INVALID_SPAN_CONTEXT
    if not sender.is_valid:
        parent, links = contexts.get_current(), []
    elif attempt > 1 or delayed:
        parent, links = contexts.Context(), [trace.Link(sender)]
    else:
        assert found is not None
        parent, links = found, []
    started = (tracer or trace.get_tracer("grafter_propagation")).start_as_current_span(
        name,
        context=parent,
        kind=trace.SpanKind[kind.upper()],
        attributes=dict(attributes or {}),
        links=links,
    )
    with started as span:
        yield span


def _context(source: TraceContext | Carrier | None) -> Context | None:
    """As the app's own propagators read it."""
    if source is None:
        return None
    if isinstance(source, TraceContext):
        return source.otel()
    from opentelemetry import context as contexts
    from opentelemetry import propagate

    return propagate.extract(names(source), context=contexts.Context())


class CallIds:
    """An id generator for OpenTelemetry's SDK, by which ``end_call`` can write a call's root under its own ids:

        TracerProvider(id_generator=CallIds())

    All other spans get random ids. Without code, under ``opentelemetry-instrument``:
    ``OTEL_PYTHON_ID_GENERATOR=grafter_call``.
    """

    def generate_trace_id(self) -> int:
        ids = _ids.get()
        return ids[0] if ids else random.getrandbits(128) or 1

    def generate_span_id(self) -> int:
        ids = _ids.get()
        return ids[1] if ids else random.getrandbits(64) or 1

    def is_trace_id_random(self) -> bool:
        """Of a call's own id nobody knows."""
        return _ids.get() is None


def __getattr__(name: str) -> Any:
    """``CallIdGenerator``: ``CallIds`` as the SDK's environment variable wants it, a subclass of the SDK's own, made
    when it is asked for, because importing the SDK is the app's decision."""
    if name != "CallIdGenerator":
        raise AttributeError(name)
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class CallIdGenerator(CallIds, IdGenerator):
        pass

    return CallIdGenerator


def end_call(
    call_id: str,
    *,
    start: int,
    end: int,
    name: str = ROOT,
    attributes: Mapping[str, Any] | None = None,
    error: str | None = None,
    tracer: Tracer | None = None,
) -> bool:
    """Write the root span of a call that is over, under the ids that ``call_context`` gives. ``start`` and ``end`` are
    Unix nanoseconds; ``error`` is a description where the call failed.

    A provider is needed whose ids come from ``CallIds``; False, with a warning, where there is none. Written twice (a
    callback that came again) with the same values it is one span: the ids are the same.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.context import Context
    except ImportError:
        return False
    root = call_context(call_id)
    wanted = int(root.trace_id, 16), int(root.span_id, 16)
    token = _ids.set(wanted)
    try:
        span = (tracer or trace.get_tracer("grafter_propagation")).start_span(
            name,
            context=Context(),
            kind=trace.SpanKind.SERVER,
            attributes={"call.id": call_id, **(attributes or {})},
            start_time=start,
        )
    finally:
        _ids.reset(token)
    written = span.get_span_context()
    if (written.trace_id, written.span_id) != wanted:
        # A span that never ends is never exported.
        logger.warning("the root of a call was not written: give the TracerProvider id_generator=CallIds()")
        return False
    if error is not None:
        span.set_status(trace.Status(trace.StatusCode.ERROR, error))
    span.end(end_time=max(start, end))
    return True
