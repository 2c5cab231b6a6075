"""Small helpers that run inside an app. They use the standard library, opentelemetry-api where it is installed, and
nothing of grafter's server, so that no app carries a sidecar's weight for them.

What belongs to one hop alone is in a module of its own: ``nats``, ``telephony``, ``playout``.
"""

from grafter_propagation.agents_sdk import AgentsProcessor, instrument
from grafter_propagation.calls import CallIds, call_context, continue_call, end_call
from grafter_propagation.context import (
    TraceContext,
    extract,
    inject,
    inject_job,
    observe_sdp_answer,
    realtime_tracing,
    trace_metadata,
)
from grafter_propagation.messages import bullmq_job, bullmq_options, first_message, read_first_message, seal, unseal
from grafter_propagation.realtime import RealtimeTap

__all__ = [
    "AgentsProcessor",
    "CallIds",
    "RealtimeTap",
    "TraceContext",
    "bullmq_job",
    "bullmq_options",
    "call_context",
    "continue_call",
    "end_call",
    "extract",
    "first_message",
    "inject",
    "inject_job",
    "instrument",
    "observe_sdp_answer",
    "read_first_message",
    "realtime_tracing",
    "seal",
    "trace_metadata",
    "unseal",
]
