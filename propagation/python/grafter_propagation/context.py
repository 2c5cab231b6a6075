"""A place in a trace, and how it is written into what travels: headers, messages, OpenAI's metadata.

A carrier is any mapping of names to texts. It is read in any case, from text or bytes, and as each hop writes it: NATS
headers, Redis stream fields, job data with the key ``_otel``, SIP headers as Twilio and OpenAI hand them on. Nothing
here raises for what a peer has written: a carrier that names no place is one that carries none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Union

if TYPE_CHECKING:
    from opentelemetry.context import Context

JOB_KEY: Final = "_otel"
"""The member of a job's data that holds its carrier, as the instrumentation of classic Bull writes it."""

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_MOST_NAMES: Final = 256
"""Members of a carrier that are read: a job's data may be anything."""
_RTC: Final = re.compile(r"/((?:rtc|live)_[A-Za-z0-9_\-]{1,250})(?:[/?#]|$)")


@dataclass(frozen=True)
class TraceContext:
    """A span of some trace, perhaps in another process. Source: W3C Trace Context."""

    trace_id: str
    """32 lower-case hex digits, not all zero."""
    span_id: str
    """16 of them."""
    flags: int = 1
    """Bit 0: the trace is recorded."""
    tracestate: str = ""

    @property
    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    @classmethod
    def parse(cls, traceparent: object, tracestate: str = "") -> TraceContext | None:
        """None for what is no traceparent."""
        found = _TRACEPARENT.fullmatch(traceparent.strip().lower()) if isinstance(traceparent, str) else None
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
            return None
        return cls(trace_id, span_id, int(flags, 16), tracestate)

    @classmethod
    def current(cls) -> TraceContext | None:
        """The current OpenTelemetry span; None without one, and without opentelemetry-api."""
        try:
            from opentelemetry import trace
        except ImportError:
            return None
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        return cls(*ids, int(context.trace_flags), context.trace_state.to_header())

    def otel(self) -> Context:
        """As a context of OpenTelemetry, with this as its remote span and nothing else in it."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        state = trace.TraceState.from_header([self.tracestate] if self.tracestate else [])
        flags = trace.TraceFlags(self.flags)
        span = trace.SpanContext(int(self.trace_id, 16), int(self.span_id, 16), True, flags, state)
        return trace.set_span_in_context(trace.NonRecordingSpan(span), Context())


Carrier = Union[Mapping[Any, Any], Iterable[Mapping[str, Any]], Iterable[tuple[Any, Any]], str]
"""What ``extract`` reads: a mapping; a list of ``{"name", "value"}``, as in OpenAI's webhooks, or of pairs, as the
headers of a record in Kafka; a traceparent itself."""


def inject(carrier: Mapping[str, Any] | None = None, context: TraceContext | None = None) -> dict[str, Any]:
    """A copy of the carrier that names ``context``, or the current span as the app's own propagators write it.

    For NATS headers, the fields of a Redis stream entry, a job's metadata. Without a span it is the copy alone.
    """
    copy = dict(carrier or {})
    if context is not None:
        copy["traceparent"] = context.traceparent
        if context.tracestate:
            copy["tracestate"] = context.tracestate
        return copy
    try:
        from opentelemetry import propagate
    except ImportError:
        return copy
    propagate.inject(copy)
    return copy


def inject_job(data: Mapping[str, Any], context: TraceContext | None = None) -> dict[str, Any]:
    """A copy of a job's data whose member ``_otel`` is the carrier: for a queue that takes nothing beside data."""
    carrier = inject(None, context)
    return {**data, JOB_KEY: carrier} if carrier else dict(data)


def extract(carrier: Carrier | None) -> TraceContext | None:
    """The place that a carrier names by ``traceparent``; None where it names none."""
    found = names(carrier)
    return TraceContext.parse(found.get("traceparent"), found.get("tracestate", ""))


def names(carrier: Carrier | None) -> dict[str, str]:
    """A carrier's texts by their names in lower case, those of SIP headers also without what carriers put before
    them (``SipHeader_X-Traceparent``, ``X-Traceparent``), and those of ``_otel``, which win."""
    found: dict[str, str] = {}
    try:
        for name, value in _members(carrier):
            key = _text(name).lower()
            if key == JOB_KEY:
                found.update(names(value))
            elif isinstance(value, (str, bytes)):
                found.setdefault(key, _text(value))
                found.setdefault(re.sub(r"^(sipheader_)?(x-)?", "", key), _text(value))
    except Exception:  # noqa: BLE001  # whoever sent the message may have written anything
        return {}
    return found


def _members(carrier: Carrier | None) -> list[tuple[object, Any]]:
    if isinstance(carrier, str):
        return [("traceparent", carrier)]
    if isinstance(carrier, Mapping):
        return list(carrier.items())[:_MOST_NAMES]
    members: list[tuple[object, Any]] = []
    for row in islice(carrier or (), _MOST_NAMES):
        if isinstance(row, Mapping):
            members += [(row["name"], row["value"])] if "name" in row and "value" in row else []
        elif isinstance(row, (tuple, list)) and len(row) == 2:
            members.append((row[0], row[1]))
    return members


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def trace_metadata(context: TraceContext | None = None, **more: str) -> dict[str, str]:
    """What to put into the metadata of an Agents SDK trace, so that it hangs under ``context`` or the current span.

    ``more`` stands beside it (``call_id=…``). OpenAI takes texts alone, of up to 512 characters.
    """
    context = context or TraceContext.current()
    if context is None:
        return dict(more)
    return {"trace_id": context.trace_id, "span_id": context.span_id, "traceparent": context.traceparent, **more}


def realtime_tracing(
    workflow_name: str = "Realtime call", *, call: str | None = None, context: TraceContext | None = None, **more: str
) -> dict[str, Any]:
    """The ``tracing`` of a Realtime session, to be set where the session is created: OpenAI lets nobody change it
    afterwards. ``call`` names the call, as group and in the metadata."""
    tracing: dict[str, Any] = {"workflow_name": workflow_name}
    if call:
        tracing["group_id"] = call
        more = {"call_id": call, **more}
    tracing["metadata"] = trace_metadata(context, **more)
    return tracing


def observe_sdp_answer(answer: Mapping[str, Any] | str) -> str | None:
    """The ``rtc_…`` id of a WebRTC call whose offer the app passed on to OpenAI, from the answer's headers or their
    ``Location``; None where there is none.

    It becomes the attribute ``openai.realtime.call_id`` of the current span. With the id and ``trace_metadata()``,
    ``POST /v1/realtime/calls`` starts grafter's recorder of the call.
    """
    location = answer if isinstance(answer, str) else names(answer).get("location", "")
    found = _RTC.search(location)
    if found is None:
        return None
    try:
        from opentelemetry import trace

        trace.get_current_span().set_attribute("openai.realtime.call_id", found[1])
    except ImportError:
        pass
    return found[1]
