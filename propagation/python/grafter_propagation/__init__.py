"""Small helpers that run inside an app. They use the standard library, opentelemetry-api where it is installed, and
nothing of grafter's server, so that no app carries a sidecar's weight for them.
"""

from grafter_propagation.realtime import RealtimeTap

__all__ = ["RealtimeTap"]
