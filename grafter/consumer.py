"""The two contracts between rooms: parts go in by a consumer, finished traces go out by an exporter.

Return means "mine now": when ``consume`` returns, the store has the parts and the sender may get its answer. When
``export`` returns a result for a trace, that result is true for this exporter and this trace alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from grafter.core.model import DedupeKey, Envelope, Key, NamedLink, Part

# What leaves is not frozen: a frozen class takes three times as long to make, which is felt at one a part or trace.


class Consumer(Protocol):
    """What a receiver hands its parts to."""

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        """Store all parts of one request, or none as far as the sender can tell; then ``dedupe_keys``, never
        before them.

        ``links`` are stored before the parts: of two that name one guest the first stands for good.

        Raises UnavailableError (the sender should try again; a repeat does no harm) or RejectedError.
        """
        ...


class Signal(StrEnum):
    """A signal that is passed through unread."""

    METRICS = "metrics"
    LOGS = "logs"


class PassThrough(Protocol):
    """What a receiver hands metrics and logs to."""

    async def forward(self, signal: Signal, request: bytes) -> None:
        """Send one Export…ServiceRequest (protobuf bytes) on, unread.

        Returns when every exporter of that pipeline has taken it. Raises UnavailableError or RejectedError.
        """
        ...


@dataclass(slots=True)
class Piece:
    """A run of framed spans under one envelope (field 2 of ScopeSpans each, ready to be concatenated)."""

    envelope: Envelope
    payload: bytes
    spans: int


@dataclass(slots=True)
class OutTrace:
    """What leaves of one trace in one release."""

    key: Key
    pieces: tuple[Piece, ...]
    spans: int
    resend: bool = False
    """An earlier attempt has an unknown outcome: every span is marked grafter.resend=true."""


@dataclass(slots=True)
class Batch:
    """What goes out in one request, unless a backend's refusal makes the exporter halve it."""

    traces: Sequence[OutTrace]
    spans: int
    size: int
    """Bytes, about."""
    runs: Sequence[tuple[Envelope, Sequence[bytes]]] | None = None
    """The payloads of all traces by envelope, where whoever made the batch had them like that."""
    letters: bool = False
    """Dead letters, sent again: a refusal of them is nothing new, and says nothing about the peer."""


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """For good: it goes to the dead-letter box."""
    LATER = "later"


@dataclass(slots=True)
class Result:
    verdict: Verdict
    reason: str = ""
    """REFUSED, LATER: what the peer said, without payload."""
    retry_after: float = 0.0
    """LATER: seconds after which a new attempt makes sense."""
    part: OutTrace | None = None
    """REFUSED: what of the trace it is about, where the peer took the rest; None: all of it."""
    unknown: bool = False
    """LATER: the peer may have taken it (timeout, connection lost), so the next attempt is a resend."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A peer that takes nothing."""

    seconds: float
    """Since its first failure after the last success."""
    reason: str
    """What the last failure said."""


class Exporter(Protocol):
    """An exporter. Retries, timeouts, compression and halving are inside; the store's view of it is ``export``."""

    name: str
    """The component id from the config, such as ``otlp_grpc/jaeger``."""

    async def export(self, batch: Batch) -> Sequence[Result]:
        """Send a batch; one result a trace, in the batch's order. Never raises for what a peer does.

        While the peer is known to be down, answers LATER at once instead of queueing without bound.
        """
        ...

    def retry_in(self) -> float:
        """Seconds until this peer is worth another try; 0 while it is up. Nothing is read for a peer that is down."""
        ...

    async def forward(self, signal: Signal, request: bytes) -> None:
        """Send one metrics or logs request on. Raises UnavailableError or RejectedError."""
        ...


class OpenedExporter(Exporter, Protocol):
    """An exporter as the config opens it: it knows how its peer is."""

    def outages(self) -> Mapping[str, Outage]:
        """From a peer's first failure until its next success, by the exporter's name, with the signal where that is not
        traces."""
        ...
