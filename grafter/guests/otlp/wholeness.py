"""When a trace that a rule moves is whole: its root has come, and it is as quiet as its host has to be."""

from grafter.core.lifecycle import Wholeness

WHOLENESS = Wholeness(by_root=True)
