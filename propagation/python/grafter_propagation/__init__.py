"""Small helpers that run inside an app. They use the standard library, opentelemetry-api where it is installed, and
nothing of grafter's server, so that no app carries a sidecar's weight for them.
"""

from grafter_propagation.agents_sdk import AgentsProcessor, instrument
from grafter_propagation.context import current_span
from grafter_propagation.realtime import RealtimeTap

__all__ = ["AgentsProcessor", "RealtimeTap", "current_span", "instrument"]
