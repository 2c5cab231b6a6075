"""Small helpers that run inside an app. They use the standard library, opentelemetry-api where it is installed, and
nothing else of grafter, so that no app carries a sidecar's weight for them.
"""

from grafter.propagation.realtime import RealtimeTap

__all__ = ["RealtimeTap"]
