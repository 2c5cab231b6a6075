"""``barge_in``: the caller did not let an answer end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from grafter.core.sampling.policy import Keeps, Kind, TraceView

_CALLER_SOURCES = ("audio_activity", "user_turn")


def is_told_by_framework(attributes: Mapping[str, object]) -> bool:
    """LiveKit's turn that a caller interrupted, not the program; Pipecat's, where it was not the end of the
    conversation that interrupted it. A flag may be written as text."""
    if _true(attributes.get("lk.interrupted")):
        return attributes.get("lk.interruption.source", _CALLER_SOURCES[0]) in _CALLER_SOURCES
    return _true(attributes.get("turn.was_interrupted")) and not _true(attributes.get("turn.ended_by_conversation_end"))


def _true(value: object) -> bool:
    return value is True or value == "true"


@dataclass(frozen=True, slots=True)
class BargeIn(Keeps):
    """The caller broke in on an answer."""

    by_a_part: ClassVar[bool] = True

    def matches(self, view: TraceView) -> bool:
        return view.has_barge_in()


KIND = Kind("barge_in", BargeIn)
