"""Live calls are written down, and their spans compared, as Realtime calls are."""

from tests.guests.realtime.conftest import script, tree

__all__ = ["script", "tree"]
