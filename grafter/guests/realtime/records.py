"""What is known of a session while it is open: records of plain JSON values, which is also how they are remembered.

Times are Unix nanoseconds of the reader of the socket. ``None`` is what is not known. They are evidence: what an
event said and when; what follows from it is worked out in ``figures``, once a record is whole.
"""

from dataclasses import MISSING, dataclass, field, fields
from types import UnionType
from typing import TypeVar, get_args, get_origin

from grafter.guests.json_values import list_of, mapping_of

SESSION = "session"
"""The guest span id of a session."""

MOST_OPEN = 64
"""Responses, speeches or tool calls of one session that are open together; the oldest ends when one more begins."""
MOST_SPANS = 10_000
"""Of one session, which lasts an hour or two at most. What comes after is counted, so that ids stay unique for ever
with a memory that has an end."""
MOST_ITEMS = 1_024
MOST_EVENTS = 64
"""Span events on one span, each of which is billed as a row."""

LIVE = "live"
"""``Config.kind`` of a session of the Live API."""
TRANSCRIPTION = "transcription"
"""The same of a session that only writes down what is said: it answers nobody."""
LIVE_IDS = "live_"
"""What the ids of its sessions begin with."""


@dataclass(slots=True)
class Response:
    id: str = ""
    kind: str = "spoken"
    """``spoken`` (of the Realtime API), ``delegated`` (of the Responses API, by a Live session) or ``decision``."""
    first_at: int = 0
    last_at: int = 0
    created_at: int | None = None
    done_at: int | None = None
    status: str | None = None
    reason: str | None = None
    error: dict[str, object] = field(default_factory=dict)
    model: str | None = None
    conversation: str | None = None
    aside: bool = False
    """Out of band: in no conversation, so it answers neither speech nor tool."""
    metadata: dict[str, object] = field(default_factory=dict)
    usage: dict[str, object] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    output: list[object] = field(default_factory=list)
    """Its items, as far as they may be kept, and only where content may."""
    limits: list[object] = field(default_factory=list)
    errors: list[object] = field(default_factory=list)

    first_delta_at: int | None = None
    first_audio_at: int | None = None
    last_audio_at: int | None = None
    audio: dict[str, int] = field(default_factory=dict)
    """Bytes of audio by item, in the order in which they are heard."""
    audio_beside: dict[str, int] = field(default_factory=dict)
    """The same by a recorder's count: two who hear one call fold its audio differently, so each counts for itself."""
    audio_format: str | None = None
    audio_rate: int | None = None
    """Both as the session had them when its first audio came: an app may change them later."""
    speaks: bool = False
    """It has audio, whether or not the audio itself passes here."""
    has_words: bool = False
    """Which an app may speak itself where they are no audio."""
    in_text: bool = False
    """It was asked for without audio."""
    playing_at: int | None = None
    played_at: int | None = None
    cleared_at: int | None = None
    truncations: list[object] = field(default_factory=list)
    """``[time, item, audio_end_ms]`` of each that the server made."""
    marks: list[object] = field(default_factory=list)
    """``[time, item, bytes]``: so much of the item the caller's side had played by then, as its player said."""
    odd: bool = False
    """One of its times only stands for one that nobody gave."""

    cause: str | None = None
    """Of a response that works for a Live session: what it was measured from, and when that was."""
    cause_at: int | None = None
    after_tool: str | None = None
    delegation: str | None = None
    """The Live delegation that it works for."""
    previous: str | None = None
    """The response that it goes on from, as it says itself."""

    @property
    def backwards(self) -> bool:
        """It ended before it began, as its sender dates it."""
        return _backwards(self.created_at, self.done_at)

    @property
    def unreliable(self) -> bool:
        return self.odd or self.backwards


@dataclass(slots=True)
class Speech:
    """The caller speaks."""

    id: str = ""
    first_at: int = 0
    last_at: int = 0
    started_at: int | None = None
    stopped_at: int | None = None
    committed_at: int | None = None
    dropped_at: int | None = None
    """The buffer was cleared before the speech ended."""
    start_ms: int | None = None
    end_ms: int | None = None
    silence_ms: int | None = None
    transcription: str | None = None
    transcript: str | None = None
    usage: dict[str, object] = field(default_factory=dict)
    error: dict[str, object] = field(default_factory=dict)
    automatic: bool | None = None
    """OpenAI answers it by itself; None where the session's settings are not known."""
    appended_at: int | None = None
    """When the first of its audio was sent, where the client says which audio is speech (push to talk)."""
    commit_at: int | None = None
    """When the client said that it was over, where the client decides."""
    odd: bool = False
    odd_start: bool = False
    """Its beginning came without its time."""
    odd_stop: bool = False
    """The stop that stands now came without its time."""
    late: int = 0
    """How much longer its stop was on its way than the quickest of the call, in ns, as far as that is known."""

    @property
    def untimed(self) -> bool:
        """One of the times that count only stands for one that nobody gave."""
        return self.odd or self.odd_stop

    @property
    def backwards(self) -> bool:
        return _backwards(self.started_at, self.stopped_at)

    @property
    def unreliable(self) -> bool:
        return self.untimed or self.backwards


@dataclass(slots=True)
class Call:
    """Work that a response asked for: a function of the app's, an MCP server's tool, its list, an approval."""

    id: str = ""
    kind: str = "function"
    """``function``, ``mcp``, ``hosted`` (a tool that OpenAI runs itself), ``list`` or ``approval``."""
    first_at: int = 0
    last_at: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    response: str | None = None
    name: str | None = None
    server: str | None = None
    digest: str | None = None
    arguments: str | None = None
    result: str | None = None
    failed: bool = False
    error: dict[str, object] = field(default_factory=dict)
    approved: bool | None = None
    tools: list[str] = field(default_factory=list)
    complete: bool = False
    """Its item has come whole, so nothing more will come of it."""
    delegation: str | None = None
    """The Live delegation that asked for it."""
    unseen: bool = False
    """That it has ended is known by what went on from it; its output was not seen."""
    whole: bool | None = None
    """Of a function: the model has finished asking for it. False where it was cut off before."""
    odd: bool = False

    @property
    def backwards(self) -> bool:
        return _backwards(self.started_at, self.ended_at)

    @property
    def unreliable(self) -> bool:
        return self.odd or self.backwards


@dataclass(slots=True)
class Utterance:
    """A run of transcript fragments of a Live session, whose wire has no turns: somebody speaks, without a pause."""

    id: str = ""
    user: bool = False
    """The caller; else the model."""
    first_at: int = 0
    last_at: int = 0
    start_ms: int = 0
    end_ms: int = 0
    """Both of the session's own time."""
    begun_at: int | None = None
    """When that time began, of one before a pause."""
    text: str = ""


@dataclass(slots=True)
class Delegation:
    """Work that the Live model gave away."""

    id: str = ""
    at: int | None = None
    target: str | None = None
    response: str | None = None
    """The newest response that works for it."""
    tool: str | None = None
    tool_at: int | None = None
    """The call whose output was handed back last since then, and when."""


@dataclass(slots=True)
class Live:
    """What only a session of the Live API has."""

    begun_at: int | None = None
    """When its own time began, at the latest: no event comes before what it is about."""
    seconds: float | None = None
    """Of audio, as they are billed, so far."""
    active_seconds: float | None = None
    paused_seconds: float | None = None
    idle_timeout_s: float | None = None
    pauses: list[object] = field(default_factory=list)
    """``[paused, resumed]`` of the last ones; ``resumed`` is None while it lasts."""
    usage_ratio: float | None = None
    closed_at: int | None = None
    """When ``session.closed`` came."""
    closed_by: str | None = None
    """The reason that ``session.closed`` gives."""
    target: str | None = None
    """Who does delegated work, and by which model."""
    backend: str | None = None
    heard: list[object] = field(default_factory=list)
    """``[id, start_ms, end_ms]`` of what the caller said last."""
    spoken: list[object] = field(default_factory=list)
    """``start_ms`` of what the model said last."""


@dataclass(slots=True)
class Config:
    """The session's configuration, as far as it is stated or decides something."""

    model: str | None = None
    expires_at: int | None = None
    kind: str | None = None
    voice: str | None = None
    input_format: str | None = None
    output_format: str | None = None
    output_rate: int | None = None
    """Samples a second of it, where that is said: compatible servers let an app choose."""
    modalities: list[str] = field(default_factory=list)
    detection: str | None = None
    """Type of turn detection; ``none`` when the client decides."""
    creates: bool | None = None
    """Whether OpenAI answers by itself when it has detected the end of a speech."""
    silence_ms: int | None = None
    transcription: str | None = None
    """Its model; empty when it is known that nothing is transcribed."""
    max_output_tokens: int | None = None
    instructions: str | None = None
    tools: list[str] = field(default_factory=list)
    agent: str | None = None
    workflow: str | None = None
    group: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)
    """Of ``session.tracing``: the app's own, and by it the link to the host."""


@dataclass(slots=True)
class Request:
    """Something that the client asked for. It counts when the server's own events say so."""

    kind: str = ""
    """``create``, ``cancel``, ``truncate``, ``commit``, ``item``, ``update``."""
    at: int = 0
    event_id: str | None = None
    about: str | None = None
    """The response, item or call that it names."""
    item: str | None = None
    """Of an item, its type: a call and its output name the same call."""
    metadata: dict[str, object] = field(default_factory=dict)
    aside: bool = False
    """A response out of band was asked for."""
    amount: int | None = None
    """Of a truncation, the milliseconds that were heard."""
    begun_at: int | None = None
    """Of audio that is committed, when the first of it was sent; of an error, when what it undid was asked for."""
    answered: bool = False
    refused: bool = False
    doubtful: bool = False
    """An error may have been about it, or about another."""
    odd: bool = False


@dataclass(slots=True)
class Input:
    """What the client has put into the audio buffer since it was last committed or cleared."""

    appended_at: int | None = None
    """The first of it that came with its time."""
    odd: bool = False
    """The first of all came without its time."""
    clock_at: int | None = None
    """When the session's audio began, by the detector's word that was on its way for the shortest time."""
    cleared_at: int | None = None
    """When it was emptied last, which an app does whose button has been pressed."""
    clears: int = 0
    """How often the client has emptied it of which the server has not spoken yet."""

    @property
    def begun_at(self) -> int | None:
        """When the first of it was put there, where that is known."""
        return None if self.odd else self.appended_at


Record = Response | Speech | Call | Utterance
"""What becomes a span of its own."""

R = TypeVar("R", Response, Speech, Call, Config, Input, Request, Utterance, Delegation, Live)


def written(record: R) -> dict[str, object]:
    """The members that are not what they were at first."""
    found: dict[str, object] = {}
    for member in fields(record):
        value = getattr(record, member.name)
        first = member.default if member.default_factory is MISSING else member.default_factory()
        if value != first:
            found[member.name] = value
    return found


def read_into(record: R, value: object) -> R:
    """The record with what ``written`` wrote of another; a member of another type than its own is left out."""
    found = mapping_of(value)
    for member in fields(record):
        came = found.get(member.name)
        if came is not None and _fits(came, member.type):
            setattr(record, member.name, came)
    return record


def _backwards(start: int | None, end: int | None) -> bool:
    return start is not None and end is not None and end < start


def _fits(value: object, kind: object) -> bool:
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    origin = get_origin(kind)
    if origin is list:
        return isinstance(value, list) and (get_args(kind) != (str,) or all(isinstance(one, str) for one in value))
    if origin is dict:
        return isinstance(value, dict)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(kind, type) and isinstance(value, kind)


def read_list(make: type[R], rows: object) -> list[R]:
    """Records without ids, from a list of what ``written`` wrote."""
    return [read_into(make(), row) for row in list_of(rows)]


def read_all(make: type[R], rows: object) -> dict[str, R]:
    """Records by their ids, from a list of what ``written`` wrote, in its order."""
    found: dict[str, R] = {}
    for row in list_of(rows):
        record = read_into(make(), row)
        identity = getattr(record, "id", "")
        if identity:
            found[identity] = record
    return found
