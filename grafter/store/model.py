"""What goes in and out of a store: claims, stored parts, memories, letters, tasks, and the figures of what is held.

Plain values, made by a store for whoever drives it, or the other way round; what is promised of them stands in
``base``. Nothing here does anything to a store. How they are written is each store's own affair, and that of
``records``.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from grafter.core.model import LARGE_ENVELOPE, Envelope, Facts, GuestFacts, Key, Part, UnixNano
from grafter.core.state import TraceState
from grafter.telemetry import StoreGauges


class StoreError(OSError):
    """The store cannot be used; the message says why and what to do."""


class Outcome(StrEnum):
    """What is known of one export of one claim."""

    INTENDED = "intended"
    """Bytes may have left; nothing is known of them."""
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Refused for good, and in the dead-letter box."""
    WITHDRAWN = "withdrawn"
    """Known not to have been taken: the intent is void and the next attempt is no resend."""


# Not frozen: see consumer.py.


@dataclass(slots=True)
class StoredPart:
    """A part as it is read back. ``envelope`` is set for host parts, ``guest`` for guest parts."""

    arrival: int
    payload: bytes
    spans: int
    envelope: Envelope | None
    span_ids: bytes
    guest: GuestFacts | None
    facts: Facts = Facts.NONE


@dataclass(slots=True)
class Claim:
    """A key that this process owns until its lease ends."""

    key: Key
    token: int
    up_to: int
    state: TraceState
    """The sum of the facts of everything held under the key."""
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """By exporter name; empty unless an export of this claim's parts was begun before."""
    envelopes: Mapping[Hashable, int] = field(default_factory=dict)
    """The large envelopes of its parts, each by what the store knows it by, with its bytes. They count in
    ``state.bytes``, and those of several claims may be the same."""
    deaths: int = 0
    """How many processes ended while they were at work on it, since one did not."""
    waits_for: str = ""
    """The exporter of whose backlog it is a batch; empty: it is of a trace that is held."""


@dataclass(slots=True)
class Memory:
    """What is kept of a key after its release."""

    key: Key
    blob: bytes
    """The core's own encoding, versioned."""
    host: Key | None = None
    """For a guest's key: the host that it is linked to. By it the store files what comes of the guest."""


@dataclass(slots=True)
class Settlement:
    """The end of a claim: forget its parts, keep these memories (of the key itself and of guests that left with it)."""

    claim: Claim
    memories: tuple[Memory, ...] = ()


def large_envelopes(parts: Iterable[Part]) -> int:
    """Bytes of the large envelopes of one request's parts, each once."""
    # This is asked of every request, and parts that follow one another mostly share theirs.
    large: dict[int, int] = {}
    last = None
    for part in parts:
        envelope = part.envelope
        if envelope is not last and envelope is not None:
            last = envelope
            if envelope.size >= LARGE_ENVELOPE:
                large[id(envelope)] = envelope.size
    return sum(large.values()) if large else 0


Plain = tuple[list[bytes], list[Envelope], list[bytes], int]
"""The parts of a key in a plain batch: payloads, envelopes, span ids, and which of them begins with the root."""


class PlainLimits(NamedTuple):
    """How much a plain batch may have; one trace of any size it may have in any case."""

    traces: int
    spans: int
    size: int
    """Bytes of payloads and large envelopes, each envelope once."""


@dataclass(slots=True, eq=False)
class PlainBatch:
    """Claims of due host traces about which nothing is left to decide, owned together until the lease ends.

    Of each only host parts are held, a root among them and no anchor; it was never released before, and no export of
    it was begun.
    """

    token: int
    at: UnixNano
    """When it was handed out."""
    lease: int
    """When it is nobody's any more."""
    keys: list[Key] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    """Spans of each key."""
    spans: int = 0
    size: int = 0
    """As PlainLimits has it."""
    envelopes: set[Hashable] = field(default_factory=set)
    """The store's own: the large envelopes that count in ``size``."""
    more: bool = False
    """It was seen that more is due: what comes next did not fit, however small this is."""
    ends: list[int] = field(default_factory=list)
    """The store's own: how much of each key it covers."""
    intended: tuple[str, ...] = ()
    """The exporters that an intent stands for."""
    encoded_keys: bytes = b""
    """The store's own: its keys and how much of each, as it writes them."""
    writing: int = 0
    """The store's own: how much about it is being written."""


Claims = Sequence[Claim] | PlainBatch
"""What is owned: keys one by one, or plain ones as one."""


@dataclass(slots=True)
class PlainSettlement:
    """The end of a plain batch: forget its parts, keep a memory of each key."""

    batch: PlainBatch
    blobs: Sequence[bytes]
    digests: Sequence[bytes] = ()
    """Of the resource that was taken out of each (``core.memory_edits``), empty where none was. Left out: of none."""
    resources: Mapping[bytes, bytes] = field(default_factory=dict)
    """These, by digest."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Spans that an exporter's peer refused for good."""

    key: Key
    exporter: str
    reason: str
    at: UnixNano
    spans: int
    payload: bytes
    """A whole ExportTraceServiceRequest."""
    id: str = field(default="", compare=False)
    """The store's own: by it a letter is known while it is there."""
    retried: bool = field(default=False, compare=False)
    """The store's own: an attempt to send it again was begun, and nothing is known of what came of it."""


@dataclass(frozen=True, slots=True)
class DeadLettersAdded:
    """What became of dead letters that were brought to the box."""

    kept: int
    """The first so many of them are in it; for the others there was no room."""
    pushed_out: int = 0
    """Spans of older letters that had to go for them."""


@dataclass(frozen=True, slots=True)
class DeadLetterCounts:
    """What the dead-letter box has for one exporter."""

    letters: int
    spans: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one exporter alone."""

    batches: int
    spans: int
    bytes: int
    oldest: UnixNano | None
    """When its first batch was deferred."""


@dataclass(frozen=True, slots=True)
class Share:
    """What is held for one replica: the keys that it began."""

    traces: int
    spans: int
    bytes: int
    oldest: UnixNano | None
    """Arrival of the first part of its oldest key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(StoreGauges):
    """What is held now, beside what is shown as it is."""

    traces: int
    spans: int
    bytes: int
    """Live bytes: payloads, those of the backlogs included, and each large envelope once."""
    oldest: UnixNano | None
    """Arrival of the oldest part that is held."""
    recovering: bool
    """The index is still being rebuilt; appends are taken, claims are not handed out yet."""
    recovered_spans: int
    """Spans found at start, and those of requests that were stored though their sender got no answer."""
    own: Share | None = None
    """Where several processes share a store, what of it stands in the books of this one; None where all of it does."""
    replicas: Mapping[int, Share] = field(default_factory=dict)
    """Where several processes share a store, what is held for each, by number."""
    dead_letters: Mapping[str, DeadLetterCounts] = field(default_factory=dict)
    """What the dead-letter box has, by exporter."""
    backlogs: Mapping[str, Backlog] = field(default_factory=dict)
    """What waits for one exporter alone, by its name; of a shared store all of it."""


FORGOTTEN_BY = "time", "number", "bytes"
"""Why memories are forgotten: past ``remember``, past ``remember_limit`` of them, past what they may take."""
DISK_FULL = "disk_full"
"""The reason of an UnavailableError where there is no room on the disk: nothing was written."""
DEDUPE_KEYS_LIMIT = 1_000_000
"""Dedupe keys that a store keeps; about 100 bytes each."""
TASKS_LIMIT = 100_000
TASK_BYTES = 64 << 10
TASK_NAME_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class Task:
    """Work that is due at a time."""

    kind: str
    name: str
    due: UnixNano
    blob: bytes = b""
    """What its owner has to know again; the owner's own encoding."""
    token: int = 0
    """The store's own: by it an owner is known."""
    put_at: int = 0
    """The store's own: when it was put last. An update does not change it."""


class TaskThen(Enum):
    """What follows an update of a task."""

    KEEP = auto()
    """It stays the caller's."""
    GIVE_BACK = auto()
    """It waits for its due time."""
    END = auto()
    """It is forgotten."""
