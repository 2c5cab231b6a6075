"""What a policy is: it looks at a trace and decides about it, or leaves it to the next.

Each has a room of its own in this folder: its class, and a ``Kind`` that says under which type and keys it stands in a
config. A line in ``kinds.py`` makes it one that can be chosen. Pure: the time is an argument.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol


class TraceView(Protocol):
    """What policies see of a trace: all that leaves of it. Each answer is worked out when it is asked for."""

    @property
    def spans(self) -> int:
        """How many spans leave."""
        ...

    @property
    def guests(self) -> int:
        """How many guests were hung into it."""
        ...

    @property
    def complete(self) -> bool:
        """Its root has ended and its guests are whole."""
        ...

    def has_error(self) -> bool:
        """A span has the status ERROR."""
        ...

    def has_barge_in(self) -> bool:
        """The caller broke in on an answer."""
        ...

    def first_token_ms(self) -> float | None:
        """The longest wait for a first token: a caller turn's where it is known, else a model turn's; of an answer that
        was cancelled before its first token, how long it lasted."""
        ...

    def duration_ms(self) -> float:
        """From the earliest start to the latest end; spans that end before they start are left out."""
        ...

    def values(self, key: str) -> Iterable[str]:
        """What the attribute says, as text, on spans and their resources."""
        ...

    def randomness(self) -> int:
        """R, see ``weights``."""
        ...


class SamplingDecision(NamedTuple):
    """What became of a trace, and by which policy: kept for every span of it that will ever come."""

    policy: str
    """The policy's name."""
    kept: bool
    one_of: int = 1
    """It was kept as one of so many."""
    upstream: int = 0
    """The rate of the app's own spans, for those that grafter makes; 0 where there was none."""


class Policy(Protocol):
    """One policy, by its name in the file."""

    by_chance: ClassVar[bool]
    """It may drop a trace."""
    by_a_part: ClassVar[bool]
    """What one span says holds for the trace, whatever else there is of it."""

    @property
    def name(self) -> str: ...

    def decide(self, view: TraceView, now: int) -> SamplingDecision | None:
        """None: it says nothing of this trace. ``now``: arrival clock, nanoseconds."""
        ...


@dataclass(frozen=True, slots=True)
class Keeps(ABC):
    """Keeps every trace that matches, whatever weight it came with."""

    by_chance: ClassVar[bool] = False
    by_a_part: ClassVar[bool] = False

    name: str

    @abstractmethod
    def matches(self, view: TraceView) -> bool:
        """Whether this is a trace of the kind."""
        ...

    def decide(self, view: TraceView, now: int) -> SamplingDecision | None:
        return SamplingDecision(self.name, True) if self.matches(view) else None


class Problem(NamedTuple):
    """What is wrong with the keys of a policy."""

    text: str
    key: str | None = None
    """Of this one; None: of the policy."""
    warning: bool = False


def no_problem(keys: Mapping[str, object]) -> Iterable[Problem]:
    """Its keys are right whatever they are, as long as those are there that it needs."""
    return ()


@dataclass(frozen=True, slots=True)
class Kind:
    """How a policy stands in a config, and how it is made of that."""

    type: str
    """What the config calls it."""
    made: Callable[..., Policy]
    """By its name, and by those of its keys that are set, under their names."""
    keys: tuple[str, ...] = ()
    """Beside its type and its name; what values they take stands in ``processor/tail_sampling.py``."""
    needs: tuple[str, ...] = ()
    """Those of them that it cannot do without."""
    last: bool = False
    """It decides about every trace that reaches it."""
    problems: Callable[[Mapping[str, object]], Iterable[Problem]] = no_problem
    """What is wrong with keys that are set, one by one right as they are."""
