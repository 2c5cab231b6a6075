"""The settings that the core obeys, already read and in the core's own units (nanoseconds, bytes).

``processor/config.py`` builds these from ``processors.graft``; the core knows no file and no default of its own beyond
what stands here, so that tests and ``grafter graft`` say what they mean.
"""

from dataclasses import dataclass, field
from enum import StrEnum

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

REMEMBER_LEAST_BYTES = 16 << 20


GUEST_ID_KEYS = (
    "gen_ai.conversation.id",
    "session.id",
    "gen_ai.realtime.session.id",
    "gen_ai.realtime_session.id",
    "openai.session.id",
    "openai.call_id",
    "openai.trace_id",
    "agent_trace_id",
    "gen_ai.response.id",
    "response.id",
)
"""Attributes in which host spans hold OpenAI's ids: the GenAI conventions' own (``gen_ai.*``; of realtime sessions two
spellings), OpenInference's ``session.id``, Logfire's ``agent_trace_id``, Pipecat's ``response.id``, and short names for
apps."""


class Mode(StrEnum):
    HOLD = "hold"
    STREAM = "stream"


class Content(StrEnum):
    NONE = "none"
    TEXT = "text"
    FULL = "full"


class Unlinked(StrEnum):
    FORWARD = "forward"
    DROP = "drop"
    KEEP = "keep"


class HostMissing(StrEnum):
    FOLLOW_FLAGS = "follow_flags"
    FORWARD = "forward"
    DROP = "drop"


class Tools(StrEnum):
    UNDER_TURN = "under_turn"
    SIBLINGS = "siblings"
    OFF = "off"

    @classmethod
    def _missing_(cls, value: object) -> "Tools | None":
        """A bare ``off`` in YAML is a boolean; as a word among words it can only be this one."""
        return cls.OFF if value is False else None


class RedactAction(StrEnum):
    HMAC = "hmac"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Waits:
    """How long grafter waits for what, on its own arrival clock; nanoseconds."""

    after_root: int = 10 * SECOND
    for_guest: int = 30 * SECOND
    guest_quiet: int = 6 * SECOND
    local_root: int = 10 * MINUTE
    idle: int = 10 * MINUTE
    max: int = 2 * HOUR
    remember: int = 24 * HOUR
    remember_limit: int = 1_000_000

    @property
    def remember_bytes(self) -> int:
        """What may be remembered at most: 1 KiB for each trace of the limit, which is six times what a plain one takes,
        and what the largest few take in any case."""
        return max(self.remember_limit << 10, REMEMBER_LEAST_BYTES)


@dataclass(frozen=True, slots=True)
class Selector:
    """Picks anchor spans: name and attributes must all match; an empty name matches every name."""

    name: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Moves traces that have a value under one attribute to the host trace that has it under another."""

    match: str
    host: str = ""
    """Empty: the same attribute."""

    @property
    def host_key(self) -> str:
        """The attribute of the host's spans."""
        return self.host or self.match


@dataclass(frozen=True, slots=True)
class Redact:
    """Attribute keys to rewrite on every span, host spans included."""

    keys: frozenset[str] = frozenset()
    action: RedactAction = RedactAction.HMAC
    secret: bytes = b""
    """The HMAC key; made once per store, so that equal values stay comparable."""


@dataclass(frozen=True, slots=True)
class GraftPolicy:
    """Everything under ``processors.graft``."""

    mode: Mode = Mode.HOLD
    trace_id_keys: tuple[str, ...] = ("trace_id",)
    guest_id_keys: tuple[str, ...] = GUEST_ID_KEYS
    anchors: tuple[Selector, ...] = (Selector(name="gen_ai.realtime.session"),)
    waits: Waits = field(default_factory=Waits)
    unlinked: Unlinked = Unlinked.FORWARD
    host_missing: HostMissing = HostMissing.FOLLOW_FLAGS
    openai_service_name: str = "openai"
    content: Content = Content.NONE
    metadata_keys: tuple[str, ...] = ()
    tools: Tools = Tools.UNDER_TURN
    redact: Redact = field(default_factory=Redact)
    rules: tuple[Rule, ...] = ()
    max_trace_bytes: int = 64 << 20
    """Past this a held trace is released early; from extensions.store."""
