"""The truth of a call as its observer could know it: each figure with the values that are right, or that none is.

A figure's value is an interval on the observer's clock, or several where the documentation leaves two readings; no
interval means that the figure does not exist and must not be stated. ``knowable`` says whether the posts are enough to
state it: a figure that is not need not be stated, yet if it is, it must be right. What is not listed is not judged.
"""

from dataclasses import dataclass, field

from tests.simulator.observer import Posts, View
from tests.simulator.world import Interval, Moment, Record, Speech, known

PARTS = ("endpointing", "model", "tool", "relay", "playout", "unknown")
"""What a caller's wait is the sum of."""


@dataclass(slots=True)
class Figure:
    """A number on a span, in milliseconds; moments are milliseconds since the call's T0."""

    owner: str
    name: str
    kind: str
    right: list[Interval]
    knowable: bool


@dataclass(slots=True)
class Word:
    """A word on a span; no word in ``right``: it must not be there."""

    owner: str
    name: str
    kind: str
    right: frozenset[str]
    knowable: bool


@dataclass(slots=True)
class Expected:
    """A span: when it may start and end, None where that is not judged."""

    owner: str
    kind: str
    start: Interval | None = None
    end: Interval | None = None
    open: bool | None = None
    """It says ``grafter.end=unknown``: it must, must not, or may (None)."""
    must: bool = True
    """False: a span that may be there or not."""


@dataclass(slots=True)
class Cut:
    """A barge-in: when, and how much was heard; ``must`` None: it may be stated or not; False: there was none."""

    owner: str
    kind: str
    must: bool | None
    when: Interval | None = None
    heard: Interval | None = None
    really: float = 0.0
    bound: bool = False
    """Nothing says what was heard: a number above ``really`` must be marked as a bound."""
    by: frozenset[str] = frozenset()
    heard_by: frozenset[str] = frozenset()
    knowable: bool = True


@dataclass(slots=True)
class Mark:
    """Events of one name on a span: each of these moments, and no other."""

    owner: str
    name: str
    kind: str
    at: tuple[float, ...]


@dataclass(slots=True)
class Truth:
    """All that is judged of one call."""

    seed: int
    ending: str = "end of the call"
    """The kind of its end."""
    figures: list[Figure] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    spans: list[Expected] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


@dataclass(slots=True)
class Facts:
    """An observed call, and what is asked of it by more than one rule."""

    record: Record
    view: View
    posts: Posts

    @property
    def last(self) -> float:
        """Nothing was seen after this."""
        return self.posts.seen[-1].at

    def until(self, next_: Moment | None) -> float:
        """Nothing is drawn past this: what comes next, where that was seen."""
        return next_.at if next_ is not None and next_.seen else self.last

    @property
    def app_seen(self) -> bool:
        """The posts show that the observer sees what the app sends."""
        return any(m.side == "client" for m in self.posts.seen)

    @property
    def net(self) -> float:
        """Both legs of the network, at most, and the rounding of two clocks."""
        return self.record.setup.up + self.record.setup.down + self.record.setup.jitter + 6

    def speech_end(self, speech: Speech) -> tuple[Interval, bool]:
        """When the caller fell silent, and whether the posts say so.

        ``audio_end_ms`` of the detector's stop includes its silence: the end is the stop less the silence. It cannot be
        known with a semantic detector, which waits as long as it likes, nor with a silence that no session event names.
        With a button it is the client's commit, once the server says that it committed.
        """
        if speech.button:
            at = speech.commit.at if speech.commit else speech.end
            accepted = speech.committed is not None and speech.committed.seen
            return (at, at if speech.commit and speech.commit.seen else at + self.net), accepted and known(
                speech.commit
            )
        if speech.silence is not None and known(speech.stopped) and speech.stopped:
            return (speech.end, speech.stopped.at - speech.silence), speech.silence_known
        return (speech.end, speech.end + self.net), False


def undated(*moments: Moment | None) -> bool:
    """Some of these were posted without their time."""
    return any(m is not None and m.seen and not m.dated for m in moments)
