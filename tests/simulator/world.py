"""What there is in a simulated call: how it is set up, what stood on its socket, and who did what and why.

All times are milliseconds on the app's clock, which is the observer's. A moment is one event with the time at which its
sender sent it; when the observer saw it is decided later (see the observer). What happened is kept beside the events,
as records that name the moments by which it can be known: the truth of a figure is a difference of two moments.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

T0 = 1_795_000_000
"""Second of the Unix epoch at which every call begins."""

SILENCE = 500
PREFIX = 300
"""Documented defaults of ``silence_duration_ms`` and ``prefix_padding_ms``."""

Event = dict[str, Any]
Interval = tuple[float, float]
Side = Literal["server", "client"]


Transport = Literal["websocket", "webrtc", "sip"]
Detector = Literal["server_vad", "semantic_vad", "none"]
Announced = Literal["whole", "no_silence", "nothing"]
TRANSPORTS: tuple[Transport, ...] = ("websocket", "websocket", "websocket", "webrtc", "sip")
DETECTORS: tuple[Detector, ...] = (*("server_vad",) * 6, "semantic_vad", "none", "none")
ANNOUNCED: tuple[Announced, ...] = (*("whole",) * 12, "no_silence", "nothing")


@dataclass(slots=True)
class Setup:
    """What one call's parties are like. Drawn once a call, never changed but by an accepted ``session.update``."""

    transport: Transport
    detector: Detector
    silence: int
    prefix: int
    create: bool
    """``create_response``: OpenAI begins a response by itself when the detector stops."""
    interrupt: bool
    """``interrupt_response``: OpenAI cancels the running response when the detector starts."""
    announced: Announced
    """How much of the detector's setting the session's own object says."""
    up: float
    down: float
    jitter: float
    react: float
    """How long the app takes to stop its player."""
    buffer: float
    """How long the app's player waits with the first audio; never less than ``react`` and ``jitter`` together."""
    bytes_per_ms: int
    deltas: bool
    """Audio deltas stand on the socket: always on a WebSocket, on WebRTC and SIP only for some."""
    beta: bool
    left_out: frozenset[str]
    """Optional event types that this server does not send."""
    client_ids: bool
    """The app numbers its own events, from 1 in every session."""
    echoes: bool = False
    """This server sends the last of some things twice, as events of their own."""

    @property
    def mediated(self) -> bool:
        """Media runs beside the socket, and the server tells of its playing."""
        return self.transport != "websocket"

    @classmethod
    def drawn(cls, rng: random.Random) -> "Setup":
        transport = rng.choice(TRANSPORTS)
        detector = rng.choice(DETECTORS)
        create, interrupt = rng.choice(((True, True),) * 6 + ((False, False),) * 2 + ((True, False),))
        announced = rng.choice(ANNOUNCED)
        jitter = rng.choice((0.0, 2.0, 8.0, 8.0, 30.0))
        react = rng.uniform(1, 15)
        compatible = rng.random() < 0.15
        return cls(
            transport=transport,
            detector=detector,
            silence=SILENCE if announced != "whole" else rng.choice((200, 350, 500, 500, 500, 800)),
            prefix=PREFIX if announced != "whole" else rng.choice((300, 300, 100, 500)),
            create=create or announced == "nothing",
            interrupt=interrupt or announced == "nothing",
            announced=announced,
            up=rng.uniform(8, 60),
            down=rng.uniform(8, 60),
            jitter=jitter,
            react=react,
            buffer=react + jitter + rng.uniform(10, 80),
            bytes_per_ms=48 if announced == "nothing" else rng.choice((48, 48, 8)),
            deltas=transport == "websocket" or rng.random() < 0.5,
            beta=rng.random() < 0.1,
            left_out=frozenset(t for t in OPTIONAL if rng.random() < 0.4) if compatible else frozenset(),
            client_ids=rng.random() < 0.4,
            echoes=compatible and rng.random() < 0.5,
        )


OPTIONAL = (
    "conversation.item.added",
    "conversation.item.done",
    "input_audio_buffer.committed",
    "rate_limits.updated",
    "response.output_item.added",
    "response.content_part.added",
    "response.content_part.done",
    "response.output_audio.done",
    "response.output_audio_transcript.delta",
    "response.function_call_arguments.delta",
)
ECHOED = (
    "input_audio_buffer.committed",
    "conversation.item.input_audio_transcription.completed",
    "response.done",
)
"""What servers that follow the API loosely were seen to leave out; all that a figure needs is in other events."""


@dataclass(slots=True, eq=False)
class Moment:
    """One event on the socket."""

    time: float
    order: int
    side: Side
    event: Event
    at: float = 0.0
    """When the observer saw it, as its clock writes it."""
    seen: bool = False
    """The observer saw it and posted it."""
    dated: bool = True
    """The post says when."""


def known(*moments: Moment | None) -> bool:
    """All of these stand in the posts, with their times."""
    return all(m is not None and m.seen and m.dated for m in moments)


@dataclass(slots=True, eq=False)
class Speech:
    """The caller's speech, from the first word to the last."""

    item: str
    start: float
    end: float
    session: int
    silence: int | None
    """The silence after which the detector stopped; None where it does not wait for a fixed one."""
    silence_known: bool
    button: bool = False
    started: Moment | None = None
    stopped: Moment | None = None
    stopped_before: Moment | None = None
    """A stop that was not the last one of this speech."""
    committed: Moment | None = None
    first_append: Moment | None = None
    commit: Moment | None = None
    next_start: Moment | None = None
    kind: str = "speech"


@dataclass(slots=True, eq=False)
class Noise:
    """A sound that the detector took for speech and that was thrown away: nobody spoke."""

    item: str
    start: float
    end: float
    started: Moment
    over: tuple[Moment, ...]
    """What says that it was over: its stop, or that the buffer was cleared. The last one decides."""


@dataclass(slots=True, eq=False)
class Tool:
    """A tool that the model asked for."""

    call_id: str
    name: str
    item: str
    mcp: bool = False
    whole: list[Moment] = field(default_factory=list)
    """The events with which the item is whole, first to last."""
    running: Moment | None = None
    """MCP: the server began to run it."""
    output: Moment | None = None
    """The client's own event that was accepted; MCP: completed."""
    refused: tuple[Moment, Moment] | None = None
    """An output that was given before, and the error that it got."""
    output_seen: Moment | None = None
    """The server's item of it."""
    until: Moment | None = None
    """The next response or session: with no output that was seen, nothing shows the tool at work past it."""
    kind: str = "tool"


@dataclass(slots=True, eq=False)
class BargeIn:
    """The caller cut an answer that was being heard."""

    began: float
    """When the caller began."""
    noticed: Moment
    """The event that says so: the detector's start, or the button's first request."""
    heard: float
    """Milliseconds of audio that left the player."""
    cut: Moment | None = None
    """WebRTC and SIP: ``output_audio_buffer.cleared``."""
    truncate: Moment | None = None
    truncated: Moment | None = None
    shown: bool = True
    """Some event on the socket shows that the answer was cut."""
    by_app: bool = False
    """The app cancelled, as its answer to the caller's speech."""


@dataclass(slots=True, eq=False)
class Response:
    """One response of the model."""

    id: str
    session: int
    kind: str
    cause: Moment | None = None
    word: str = ""
    created: Moment | None = None
    first_delta: Moment | None = None
    first_audio: Moment | None = None
    started: Moment | None = None
    ended: Moment | None = None
    """``output_audio_buffer.stopped`` or ``cleared``."""
    done: Moment | None = None
    answers: Speech | None = None
    answers_unsure: bool = False
    """Whether it answers that speech can be read in two ways, and so is not judged."""
    opens: bool = False
    """The first response of the caller's turn whose audio the caller hears."""
    earlier: list["Response"] = field(default_factory=list)
    """The responses of the same turn before it, which called tools."""
    after: list[Tool] = field(default_factory=list)
    """The tools whose output its ``response.create`` followed."""
    tools: list[Tool] = field(default_factory=list)
    item: str = ""
    audio_ms: float = 0.0
    """Audio that was generated."""
    sounding: float = 0.0
    """When the player begins with it: at the app on a WebSocket, at the server with media beside the socket."""
    silent_at: float = 0.0
    """When the last of it was played, or the player was stopped."""
    barge_in: BargeIn | None = None
    mcp: bool = False
    out_of_band: bool = False
    text: bool = False
    """It is asked for as text."""
    voice: Interval | None = None
    """The app's own voice reads it out: from when to when."""
    moments: list[Moment] = field(default_factory=list)

    @property
    def hearable(self) -> Interval | None:
        """From when to when its sound is at the caller's ear, whoever makes it."""
        if self.voice is None and self.audio_ms:
            return self.sounding, self.silent_at
        return self.voice

    @property
    def heard_from(self) -> Moment | None:
        """The first audio that the caller can hear."""
        return self.started if self.started is not None else self.first_audio


@dataclass(slots=True)
class Record:
    """All that happened in one call."""

    seed: int
    setup: Setup
    moments: list[Moment] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    speeches: list[Speech] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    never: set[str] = field(default_factory=set)
    """Ids that no span may have: history, refused and incomplete calls, silence that was committed."""
    halves: list[tuple[str, list[Moment]]] = field(default_factory=list)
    """Calls that stayed incomplete: their id, and the events of the half of them, the last of which says so."""
    openings: list[Moment] = field(default_factory=list)
    """``session.created`` of each session under the call's key."""
    kinds: list[str] = field(default_factory=list)
    noises: list[Noise] = field(default_factory=list)
    hung_up: float | None = None
    """When the caller hung up; None: the call is played until all is quiet."""
    listens_only: bool = False
    """The app never asks for an answer, and OpenAI does not answer by itself."""
