"""What the index keeps of a key, of a guest, and of a request on its way.

Memory is the reason for the shapes: a part is 50 packed bytes (records.CHUNK), a key one object without a dictionary.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from grafter.core.model import Facts, Key, Part, UnixNano
from grafter.core.policy import Waits
from grafter.core.state import GuestState
from grafter.store.base import Outcome
from grafter.store.records import CHUNK, FACTS, GUEST, LOCATION, Move

CHUNK_BYTES = CHUNK.size
ARRIVAL = slice(LOCATION.size, LOCATION.size + 8)
"""Where in a chunk its arrival number stands."""


class LookAt(Protocol):
    """The earliest moment at which a key could be released, by the table of waits; never later when ``now`` is not.

    ``guest_only``: no host part is held. ``remembered``: the key was released before, or nothing is held back.
    ``apart``: the key is a guest's own.
    """

    def __call__(
        self,
        facts: Facts,
        first: UnixNano,
        now: UnixNano,
        waits: Waits,
        *,
        guest_only: bool,
        remembered: bool,
        apart: bool,
    ) -> UnixNano: ...


class Remembers(Protocol):
    """The ledger, as far as filing needs it."""

    def host(self, key: Key, now: UnixNano) -> tuple[bool, Key | None]:
        """Whether the key is remembered, and the host that its memory names."""
        ...


class Pin:
    """Exports that were begun, and of which parts."""

    __slots__ = ("outcomes", "up_to")

    def __init__(self, up_to: int) -> None:
        self.up_to = up_to
        self.outcomes: dict[str, Outcome] = {}

    @property
    def stands(self) -> bool:
        return any(outcome is not Outcome.WITHDRAWN for outcome in self.outcomes.values())


class Held:
    """One key."""

    __slots__ = (
        "bytes",
        "chunks",
        "due",
        "facts",
        "first",
        "fresh",
        "guest_spans",
        "guests",
        "host_spans",
        "last",
        "lease",
        "objects",
        "pin",
        "queued",
        "remembered",
        "seen",
        "sums",
        "token",
    )

    def __init__(self, now: int, remembered: bool) -> None:
        self.chunks = bytearray()
        """records.CHUNK after records.CHUNK, by arrival."""
        self.objects: list[Any] | None = None
        """Without a log: payload, envelope and head of each chunk."""
        self.first = now
        self.last = now
        self.seen = now
        """``now`` of the latest append."""
        self.host_spans = 0
        self.guest_spans = 0
        self.bytes = 0
        self.facts = 0
        self.remembered = remembered
        self.guests: dict[int, tuple[Key, bytes]] | None = None
        """Guest's key and encoded facts, by arrival."""
        self.sums: dict[str, GuestState] | None = None
        self.pin: Pin | None = None
        self.due: int | None = None
        """A time that was given and holds until the next claim; None: by the table, from what is known now."""
        self.lease: int | None = None
        self.token = 0
        self.fresh = False
        """A part came during the lease."""
        self.queued: int | None = None
        """Its entry in the heap; any other entry is an old one."""

    @property
    def arrival(self) -> int:
        """Of its latest part."""
        return int.from_bytes(self.chunks[-CHUNK_BYTES:][ARRIVAL], "little")

    def count(self, spans: int, flags: int, size: int) -> None:
        """Add a part to the sums."""
        if flags & GUEST:
            self.guest_spans += spans
        else:
            self.host_spans += spans
            self.facts |= flags & FACTS
        self.bytes += size


class Guest:
    """A guest with a part held or about to be."""

    __slots__ = ("host", "parts", "said", "strays", "told")

    def __init__(self) -> None:
        self.parts = 0
        self.host: Key | None = None
        self.said: int | None = None
        """Arrival of the part that says so; None while it is not yet stored."""
        self.strays: list[int] = []
        """Arrivals of parts that are being written under the guest's own key."""
        self.told: tuple[Key, bytes] | None = None
        """What is kept of its latest part."""

    def kept(self, own: Key, facts: bytes) -> tuple[Key, bytes]:
        """What is kept of a part: its guest's key and facts. The parts of a call mostly say the same."""
        if self.told is None or self.told[1] != facts:
            self.told = (own, facts)
        return self.told


class Filed:
    """The parts of one append: where each is filed, and its row."""

    __slots__ = (
        "blobs",
        "bytes",
        "facts",
        "guests",
        "keys",
        "learned",
        "length",
        "moves",
        "now",
        "parts",
        "rows",
        "sizes",
        "spans",
    )

    def __init__(self, now: int) -> None:
        self.now = now
        self.keys: list[Key] = []
        self.rows: list[bytes] = []
        self.facts: list[int] = []
        """-1 for a guest's part."""
        self.spans: list[int] = []
        self.sizes: list[int] = []
        self.bytes = 0
        self.guests: dict[int, tuple[Key, bytes, int]] = {}
        """By position: the guest's key, its encoded facts, and the arrival."""
        self.blobs: list[bytes] = []
        """With a log: what the record holds after its table."""
        self.parts: Sequence[Part] = ()
        """Without one: the parts themselves."""
        self.length = 0
        self.moves: list[Move] = []
        self.learned: list[Key] = []
        """The guests of whose parts and links the index took note."""


def position(chunks: bytearray, arrival: int) -> int:
    """Offset of the first chunk whose arrival is not below ``arrival``."""
    low, high = 0, len(chunks) // CHUNK_BYTES
    while low < high:
        middle = (low + high) // 2
        at = middle * CHUNK_BYTES + LOCATION.size
        if int.from_bytes(chunks[at : at + 8], "little") < arrival:
            low = middle + 1
        else:
            high = middle
    return low * CHUNK_BYTES
