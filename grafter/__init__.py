"""grafter: one trace for one AI phone call."""

__version__ = "0.1.0"
