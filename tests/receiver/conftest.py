"""Small doubles that the doors in are tested with: a consumer and a pass-through that remember, and certificates."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from grafter.consumer import Signal
from grafter.core.model import DedupeKey, NamedLink, Part
from grafter.receiver.config import ServerTls
from grafter.telemetry import Metrics


@dataclass
class CollectingConsumer:
    """Keeps what it is given, one list a request; raises the next of ``errors`` instead, while there is one."""

    requests: list[list[Part]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """When set, a request is stored only after the event; ``entered`` says that one waits."""
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.requests.append(list(parts))

    @property
    def parts(self) -> list[Part]:
        return [part for parts in self.requests for part in parts]

    @property
    def spans(self) -> int:
        return sum(part.spans for part in self.parts)


@dataclass
class CollectingPassThrough:
    """Keeps what it is told to forward; raises the next of ``errors`` instead, while there is one."""

    forwarded: list[tuple[Signal, bytes]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    async def forward(self, signal: Signal, request: bytes) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.forwarded.append((signal, request))


@dataclass(frozen=True)
class Certificates:
    """A CA of its own, a server certificate for localhost, and a client certificate."""

    ca: Path
    server: ServerTls
    server_mutual: ServerTls
    client_cert: Path
    client_key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """PEM files for TLS on localhost, made once."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    server = ca.issue_cert("localhost", "127.0.0.1")
    server.cert_chain_pems[0].write_to_path(folder / "server.pem")
    server.private_key_pem.write_to_path(folder / "server.key")
    client = ca.issue_cert("client@example.org")
    client.cert_chain_pems[0].write_to_path(folder / "client.pem")
    client.private_key_pem.write_to_path(folder / "client.key")
    cert, key, authority = (str(folder / name) for name in ("server.pem", "server.key", "ca.pem"))
    return Certificates(
        ca=folder / "ca.pem",
        server=ServerTls(cert_file=cert, key_file=key),
        server_mutual=ServerTls(cert_file=cert, key_file=key, client_ca_file=authority),
        client_cert=folder / "client.pem",
        client_key=folder / "client.key",
    )


@pytest.fixture
def consumer() -> CollectingConsumer:
    """A consumer that remembers."""
    return CollectingConsumer()


@pytest.fixture
def pass_through() -> CollectingPassThrough:
    """A pass-through that remembers."""
    return CollectingPassThrough()


@pytest.fixture
def metrics() -> Metrics:
    """Counters of one's own."""
    return Metrics()


@pytest.fixture
def otlp_data() -> Path:
    """The folder of recorded OTLP requests."""
    return Path(__file__).parent.parent / "data" / "otlp"


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorders, SDKs and the tee reach the tests' own addresses directly."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
