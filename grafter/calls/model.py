"""What is known of calls, as plain data: what a source says of one (``CallRecord``), and what is shown (``CallRow``).

Times are Unix nanoseconds, ``…_ms`` milliseconds. A figure that is not known is None, never 0. No phone number stands
here but in ``PhoneView.number`` and ``CallRecord.numbers``, and there only with ``phone: plain``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from grafter.core.calls import Phone

RUNNING = "running"
UNKNOWN = "unknown"

NO_GUEST = "nothing of OpenAI's came for this trace"
NEVER_CAME = "an OpenAI session was expected, and nothing of it came"
NO_TRACE = "no trace of this call has come"
"""What ``unjoined`` says until it does come."""


class Origin(StrEnum):
    """Which source said it."""

    RELEASE = "release"
    """A trace that left, or was sampled away."""
    WEBHOOK = "webhook"
    """OpenAI's event that a call comes in."""
    APP = "app"
    """``POST /api/calls`` or ``POST /v1/realtime/calls``."""
    LINK = "link"
    """Somebody says that two ids are of one call."""


@dataclass(frozen=True, slots=True, order=True)
class CallId:
    """An id of a call. Two that are equal are of one call."""

    kind: str
    """Whose it is: ``twilio``, ``sip``, ``openai_realtime`` (rtc_…), ``openai_live`` (live_…), ``openai_session``,
    ``openai_trace``, ``livekit_room``, ``livekit_call``, ``pipecat``, ``app``."""
    value: str
    # Of no part in what names a record, nor in which ids are one: another source may give the id alone.
    system: str = field(default="", compare=False, repr=False)
    """Of an id of kind ``app``: the system that it is of, by the word of whoever gave it; empty where nobody said."""

    @property
    def whose(self) -> str:
        return self.system or self.kind


@dataclass(frozen=True, slots=True)
class PhoneView:
    """A phone number as it may be shown."""

    last_four: str
    """Digits; empty for a short number."""
    number: str | None = None
    """The whole number, E.164 where it is known to be that; only with ``phone: plain``."""


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A time that the caller waited for an answer."""

    number: int
    """From 1; 0 is the greeting."""
    start: int
    wait_ms: float | None
    error_ms: float = 0.0
    """±: more than 0 where the wait crosses clocks."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by ``endpointing``, ``model``, ``tool``, ``relay``, ``playout``, ``unknown``; they add up to
    ``wait_ms``."""
    first_token_ms: float | None = None
    """Of the model turn that answered; without a wait, of the model turn that this is."""
    sentence: str = ""
    """"waited 2.93 s: 0.50 the voice detector, …"."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What one source says of a call. Said twice it changes nothing; what several say of one call is put together
    (``calls.merge``)."""

    name: str
    """What is said again under the same name is the same; ``release:…``, ``webhook:…``, ``app:…``, ``link:…``."""
    origin: Origin
    at: int
    """When grafter heard of it."""
    ids: tuple[CallId, ...] = ()
    traces: tuple[bytes, ...] = ()
    """Host trace ids, 16 bytes each."""
    guests: tuple[str, ...] = ()
    """OpenAI's traces, sessions and calls that it was joined with."""
    caller: Phone | None = None
    callee: Phone | None = None
    numbers: tuple[str | None, str | None] = (None, None)
    """The caller's and the callee's number; only with ``phone: plain``."""
    start: int | None = None
    end: int | None = None
    outcome: str = ""
    turns: tuple[TurnRow, ...] = ()
    app_ms: float | None = None
    openai_ms: float | None = None
    unknown_ms: float | None = None
    unanswered_ms: float | None = None
    """How long the caller had waited at least when the call ended, and no answer was heard."""
    tools: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """By tool: how many times, and milliseconds in all."""
    errors: int = 0
    """Spans with status error."""
    barge_ins: int = 0
    guest_barge_ins: int = 0
    told_barge_ins: int = 0
    """What ``barge_ins`` is the larger of: those that OpenAI's events show, and those that the app or a framework tells
    of. Records of an older version have neither: theirs count as OpenAI's."""
    spans: int = 0
    unjoined: tuple[str, ...] = ()
    """What is missing of the trace and why, in plain sentences."""
    policy: str = ""
    """What decided that it was kept or sampled away; empty where nothing decided."""
    kept: bool = True
    """False: its spans were sampled away."""
    recording: str | None = None
    number_key: str = ""
    """Of a record in the database: under which key the numbers' hashes stand (``number_keys``); empty: none."""
    addition: bool = False
    """It says something only of a call that is known by one of its traces or ids already."""


@dataclass(frozen=True, slots=True)
class CallRow:
    """A call, put together from everything that was said of it."""

    key: str
    """URL-safe, stands in the page's address; never a number. When calls turn out to be one, every key that any of
    them had goes on to find it."""
    start: int
    end: int | None
    outcome: str
    """RUNNING, UNKNOWN, or the app's own word, such as completed, failed, busy, no-answer, canceled, transferred."""
    caller: PhoneView | None
    callee: PhoneView | None
    ids: tuple[CallId, ...]
    traces: tuple[bytes, ...]
    """Host trace ids, 16 bytes each; one a leg, in order of start."""
    guests: tuple[str, ...]
    turns: tuple[TurnRow, ...]
    errors: int
    barge_ins: int
    spans: int
    unjoined: tuple[str, ...]
    """What is missing and why, plain sentences; empty: the call is joined."""
    policy: str
    kept: bool
    """False: all of its traces were sampled away."""
    recording: str | None = None
    app_ms: float | None = None
    openai_ms: float | None = None
    unknown_ms: float | None = None
    tools: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """By tool: how many times, and milliseconds in all."""
    unanswered_ms: float | None = None
    """How long the caller had waited at least when the call ended, and no answer was heard."""

    @property
    def slowest(self) -> TurnRow | None:
        """The turn in which the caller waited longest, the greeting left out."""
        waited = [turn for turn in self.turns if turn.number and turn.wait_ms is not None]
        return max(waited, key=lambda turn: turn.wait_ms or 0.0, default=None)


@dataclass(frozen=True, slots=True)
class Search:
    """Which calls are asked for; newest first. What is left out asks nothing."""

    text: str = ""
    """A phone number in any human form, any id of a call, a host's or OpenAI's trace id. Whoever takes it from a
    browser takes it from a form's body: a number has no place in an address."""
    slow: bool = False
    """A turn in which the caller waited over 1500 ms, until the call ended too, or a first token that took as long."""
    errors: bool = False
    interrupted: bool = False
    unjoined: bool = False
    live: bool = False
    since: int | None = None
    until: int | None = None
    """By start."""
    before: str | None = None
    """``Page.next`` of the page before."""
    limit: int = 50
    who: str = ""
    """Who asks: stands in the audit log of lookups by number, and each has a rate of their own."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the calls that were asked for."""

    calls: tuple[CallRow, ...]
    next: str | None
    """Where more may follow: a ``Search.before``."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    calls: int
    traces: tuple[bytes, ...]
    """Host traces that live on at the backends."""


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What came of some calls whose numbers were to be written under the current key."""

    next: str | None
    """Where to go on; None: that was all."""
    calls: int
    changed: int
    strange: int
    """Records under a key that is neither the current nor the old one: found by their ids alone."""
