"""What the configs of exporters have in common: how they are opened, and the keys of every exporter over a network."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from grafter.config import collector
from grafter.config.model import Component, Count, Flag, Model, PositiveDuration, PositiveSize, Ratio, Secret
from grafter.config.problems import Finding
from grafter.config.units import Duration, Size, Target, Url, is_loopback
from grafter.core.retry import RetryPolicy
from grafter.exporter.tls import ClientTls

if TYPE_CHECKING:
    from grafter.consumer import OpenedExporter
    from grafter.exporter.answer import Attempt
    from grafter.exporter.cut import Limits
    from grafter.telemetry import Metrics


class ExporterConfig(Component):
    """An exporter's keys; what it needs beyond them is imported when it is opened."""

    @abstractmethod
    def attempts(self, name: str) -> "AbstractAsyncContextManager[Attempt]":
        """What makes one attempt, until left; its peer need not be up. ``name``: what the config calls it.

        Raises OSError or ValueError when it cannot be opened.
        """

    @asynccontextmanager
    async def open(self, name: str, metrics: "Metrics") -> "AsyncIterator[OpenedExporter]":
        """Run it until left. Raises OSError or ValueError when it cannot be opened."""
        from grafter.exporter.sending import Sending

        async with self.attempts(name) as attempt:
            yield Sending(name, attempt, metrics=metrics, retry=self.retry_policy(), limits=self.limits())

    def retry_policy(self) -> RetryPolicy:
        """On this machine what failed waits for its trace's next turn."""
        return RetryPolicy(enabled=False)

    def limits(self) -> "Limits":
        """How much goes out at a time; on this machine one request."""
        from grafter.exporter.cut import Limits

        return Limits(num_consumers=1)


Headers = dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")], Secret]
"""Names are HTTP tokens. Source: RFC 9110, section 5.6.2."""

NO_HEADERS: Headers = {}


class Retry(Model):
    """When a failed attempt is made again; a trace stays in the store until it is taken or refused for good."""

    collectors_own = collector.RETRY

    enabled: Flag = True
    """False: one attempt, then the trace waits for its next turn."""
    initial_interval: PositiveDuration = Duration.parse("5s")
    """Wait after the first failure."""
    max_interval: PositiveDuration = Duration.parse("30s")
    """Longest wait; a server that asks for longer gets it."""
    multiplier: Annotated[Ratio, Field(ge=1)] = 1.5
    """Each wait is this many times the one before."""
    randomization_factor: Annotated[Ratio, Field(ge=0, le=1)] = 0.5
    """Share by which a wait is longer or shorter by chance."""

    def findings(self) -> Iterator[Finding]:
        """The longest wait is no shorter than the first."""
        if self.max_interval < self.initial_interval:
            shorter = f"{self.max_interval} is shorter than initial_interval, {self.initial_interval}"
            yield Finding(("max_interval",), shorter, also=(("initial_interval",),))

    def policy(self) -> RetryPolicy:
        return RetryPolicy(
            initial_interval=self.initial_interval.seconds,
            max_interval=self.max_interval.seconds,
            multiplier=self.multiplier,
            randomization_factor=self.randomization_factor,
            enabled=self.enabled,
        )


class SendingBatch(Model):
    """What goes out in one request."""

    collectors_own = collector.BATCH

    max_spans: Count = 4000
    """Spans at most."""
    max_bytes: PositiveSize = Size.parse("3MiB")
    """Bytes at most, before compression; one trace that is larger goes alone. A gRPC server takes 4 MiB by default."""


class SendingQueue(Model):
    """How much is on its way at a time."""

    collectors_own = collector.QUEUE

    num_consumers: Count = 4
    """Requests at a time."""
    batch: SendingBatch = SendingBatch()
    """What goes out in one request."""


class NetworkExporter(ExporterConfig):
    """What all exporters over a network have; ``tls``, ``headers``, ``compression`` and ``timeout`` by its protocol."""

    retry_on_failure: Retry = Retry()
    """When a failed attempt is made again."""
    sending_queue: SendingQueue = SendingQueue()
    """How much is on its way at a time."""

    if TYPE_CHECKING:
        # Each protocol has these keys itself, with its own defaults.
        @property
        def tls(self) -> ClientTls: ...
        @property
        def headers(self) -> Headers: ...
        @property
        def compression(self) -> str | None: ...
        @property
        def timeout(self) -> Duration: ...

    @property
    @abstractmethod
    def target(self) -> Url | Target:
        """Where traces are sent to."""

    def retry_policy(self) -> RetryPolicy:
        return self.retry_on_failure.policy()

    def limits(self) -> "Limits":
        from grafter.exporter.cut import Limits

        queue = self.sending_queue
        return Limits(queue.num_consumers, queue.batch.max_spans, queue.batch.max_bytes)

    def common(self) -> dict[str, Any]:
        """What attempts take by the same words, whatever the protocol."""
        return {
            "tls": self.tls,
            "headers": self.request_headers(),
            "compression": self.effective_compression,
            "timeout_seconds": self.timeout.seconds,
        }

    @property
    def effective_compression(self) -> str:
        """Compressing costs more than all else that happens to a span, and buys nothing on one machine."""
        return self.compression or ("none" if is_loopback(self.target.host) else "gzip")

    def request_headers(self) -> dict[str, str]:
        """In clear."""
        return {name: value.get_secret_value() for name, value in self.headers.items()}
