"""``attribute``: a span or its resource says something."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from grafter.core.sampling.policy import Keeps, Kind, TraceView


@dataclass(frozen=True, slots=True)
class Attribute(Keeps):
    """A span or its resource has the attribute, with one of these values where there are any."""

    by_a_part: ClassVar[bool] = True

    key: str = ""
    values: frozenset[str] = frozenset()

    def matches(self, view: TraceView) -> bool:
        return any(not self.values or value in self.values for value in view.values(self.key))


def _made(name: str, key: str, values: Iterable[str] = ()) -> Attribute:
    return Attribute(name, key, frozenset(values))


KIND = Kind("attribute", _made, ("key", "values"), needs=("key",))
