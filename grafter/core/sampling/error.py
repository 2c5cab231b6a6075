"""``error``: something went wrong in it."""

from dataclasses import dataclass
from typing import ClassVar

from grafter.core.sampling.policy import Keeps, Kind, TraceView


@dataclass(frozen=True, slots=True)
class Error(Keeps):
    """A span with the status ERROR."""

    by_a_part: ClassVar[bool] = True

    def matches(self, view: TraceView) -> bool:
        return view.has_error()


KIND = Kind("error", Error)
