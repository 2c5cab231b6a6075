"""The ids that tie one thing to another: a place in a trace, in the forms that OpenTelemetry, OpenAI's metadata and
headers know.
"""

from __future__ import annotations


def current_span() -> dict[str, object]:
    """The ids of the current OpenTelemetry span, as grafter reads them in a trace's or session's metadata:
    ``trace_id``, ``span_id`` and ``traceparent``. Empty without a span, and without opentelemetry-api."""
    try:
        from opentelemetry import trace
    except ImportError:
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    traceparent = f"00-{trace_id}-{span_id}-{int(context.trace_flags):02x}"
    return {"trace_id": trace_id, "span_id": span_id, "traceparent": traceparent}
