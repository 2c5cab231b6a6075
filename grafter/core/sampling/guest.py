"""``guest``: OpenAI traced a part of it, or did not."""

from dataclasses import dataclass

from grafter.core.sampling.policy import Keeps, Kind, TraceView


@dataclass(frozen=True, slots=True)
class HasGuest(Keeps):
    """It has a guest, or has none; complete or not, where that is asked for."""

    present: bool = True
    complete: bool | None = None

    def matches(self, view: TraceView) -> bool:
        return (view.guests > 0) == self.present and (self.complete is None or view.complete == self.complete)


KIND = Kind("guest", HasGuest, ("present", "complete"))
