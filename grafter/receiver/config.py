"""What the configs of receivers have in common: how they are opened, and what they are opened with."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from time import time_ns
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from grafter.config import collector
from grafter.config.model import Component, Model, Word

if TYPE_CHECKING:
    from grafter.calls.base import CallMap
    from grafter.calls.call_link import CallLinks
    from grafter.consumer import Consumer
    from grafter.core.policy import GraftPolicy
    from grafter.receiver.in_flight import InFlight
    from grafter.receiver.otlp import Forwarding
    from grafter.store.base import Store
    from grafter.telemetry import Metrics


class AdminCommands(Protocol):
    """What answers ``grafter dead``, or ``grafter backlog``."""

    async def answer(self, what: str, body: Mapping[str, object]) -> dict[str, object]:
        """A JSON object in, a JSON object out. Raises RejectedError and UnavailableError."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a receiver finds when it is opened."""

    consumer: "Consumer"
    """Takes what comes in."""
    forwarding: "Forwarding"
    """Takes metrics and logs, unread."""
    policy: "GraftPolicy"
    metrics: "Metrics"
    grace_seconds: float
    """Leaving closes the receivers one after the other, which takes up to this long in all."""
    storing: "Consumer | None" = None
    """Takes what recorders heard, also when ``consumer`` refuses because a stop has begun; None: ``consumer``."""
    store: "Store | None" = None
    """Knows which webhooks came before, and keeps what is to be fetched from OpenAI. Without it there is no endpoint
    for webhooks, nothing is fetched, and there is no ``/admin/…``."""
    clock: Callable[[], int] = time_ns
    """What the store's waits run on, in Unix nanoseconds; never behind what the store has seen."""
    lease_seconds: float = 10.0
    """How long each piece of work in the store has one owner."""
    admin_tokens: Sequence[str] = ()
    """What opens ``/admin/…`` to other machines."""
    dead_letters: AdminCommands | None = None
    """What is in the dead-letter box, for commands."""
    backlogs: AdminCommands | None = None
    """What waits for one exporter alone, for commands."""
    calls: "CallMap | None" = None
    """Takes what receivers learn of calls, and answers for them; None: nobody keeps calls."""
    calls_id_keys: Sequence[str] = ()
    """Keys under which a span gives an id of its call; of a post, any other key names the system that an id is of."""
    calls_tokens: Sequence[str] = ()
    """What opens ``POST /api/calls``; none opens it to everybody."""
    links: "CallLinks | None" = None
    """Makes links to the pages of calls; None: there is no page."""
    in_flight: "InFlight | None" = None
    """What the requests of all receivers may hold at once; None: each server has a budget of its own."""
    share_ports: bool = False
    """The other workers listen at the same ports, which their parent holds."""


class ReceiverConfig(Component):
    """A receiver's keys; what it needs beyond them is imported when it is opened."""

    @abstractmethod
    def open(self, name: str, around: Surroundings) -> AbstractAsyncContextManager[dict[str, int]]:
        """Run it until left; its ports by receiver. Raises OSError or ValueError when it cannot be opened."""


class ServerTls(Model):
    """TLS for a receiver."""

    collectors_own = collector.SERVER_TLS
    instead = collector.SERVER_TLS_INSTEAD

    cert_file: Word
    """The server's certificate chain, PEM."""
    key_file: Word
    """The private key to it, PEM."""
    client_ca_file: Word | None = None
    """Clients must show a certificate that one of these authorities signed (mTLS); null: none is asked for."""

    def __str__(self) -> str:
        return "mTLS" if self.client_ca_file else "TLS"


class Cors(Model):
    """Which web pages may send from a browser."""

    collectors_own = collector.CORS

    allowed_origins: tuple[Word, ...] = ()
    """Origins such as `https://app.example.com`; `*` stands for any run of characters. Empty: no browser may send."""
    allowed_headers: tuple[Word, ...] = ()
    """Request headers that are allowed beside the usual ones; `*` allows all."""
    max_age: Annotated[int, Field(ge=0, strict=True)] = 0
    """Seconds for which a browser may remember the answer; 0 leaves it to the browser."""
