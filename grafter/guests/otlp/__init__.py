"""Traces of other systems that a rule moves, as their host waits for them."""
