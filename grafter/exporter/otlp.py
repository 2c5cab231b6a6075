"""The configs of ``otlp_grpc`` and ``otlp_http``; what sends is in the rooms of these names."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal

from grafter.config import collector
from grafter.config.model import PositiveDuration
from grafter.config.problems import Finding
from grafter.config.units import Duration, Target, Url
from grafter.exporter.config import NO_HEADERS, Headers, NetworkExporter
from grafter.exporter.tls import ClientTls

if TYPE_CHECKING:
    from grafter.exporter.answer import Attempt


class OtlpGrpcExporter(NetworkExporter):
    """OTLP over gRPC."""

    collectors_own = collector.GRPC_CLIENT
    instead = collector.GRPC_CLIENT_INSTEAD

    endpoint: Target
    """`host:port`; `https://` before it means TLS, `http://` plaintext, none what `tls` says."""
    tls: ClientTls = ClientTls()
    """TLS towards the server."""
    headers: Headers = NO_HEADERS
    """Sent with each request; they are secrets."""
    compression: Literal["gzip", "none"] | None = None
    """`gzip` or `none`. Null: none for a loopback endpoint, else gzip."""
    timeout: PositiveDuration = Duration.parse("5s")
    """For one attempt."""

    @property
    def secure(self) -> bool:
        """Whether to use TLS."""
        return self.endpoint.scheme == "https" or (not self.endpoint.scheme and not self.tls.insecure)

    @property
    def target(self) -> Target:
        return self.endpoint

    def request_headers(self) -> dict[str, str]:
        """In clear; names in lower case, as gRPC wants them."""
        return {name.lower(): value for name, value in super().request_headers().items()}

    def findings(self) -> Iterator[Finding]:
        if self.secure and self.tls.insecure_skip_verify:
            yield Finding(
                ("tls", "insecure_skip_verify"),
                "cannot be true here: gRPC in Python always checks the certificate; name its authority in ca_file, "
                "or use otlp_http",
            )

    def describe(self) -> str:
        return f"grpc {self.endpoint.address} ({'TLS' if self.secure else 'plaintext'})"

    def attempts(self, name: str) -> "AbstractAsyncContextManager[Attempt]":
        from grafter.exporter import otlp_grpc

        return otlp_grpc.opened(self.endpoint, secure=self.secure, **self.common())


_TRACES_PATH = "/v1/traces"


def base_of(endpoint: Url) -> Url:
    """The address to which ``/v1/traces`` is added, also of one that was written with it."""
    return Url(endpoint.rstrip("/").removesuffix(_TRACES_PATH).rstrip("/"))


def path_twice(endpoint: Url | None) -> Iterator[Finding]:
    """Said of an endpoint that has the path which is added to it."""
    if endpoint and endpoint.rstrip("/").endswith(_TRACES_PATH):
        yield Finding(
            ("endpoint",),
            f"ends in {_TRACES_PATH}, which is added to it: {base_of(endpoint)} is taken; "
            "an address that is to be used as it stands is a traces_endpoint",
            warning=True,
        )


class HttpExporter(NetworkExporter):
    """What all that send OTLP over HTTP share."""

    collectors_own = collector.HTTP_CLIENT
    instead = collector.HTTP_CLIENT_INSTEAD

    tls: ClientTls = ClientTls()
    """TLS towards the server."""
    headers: Headers = NO_HEADERS
    """Sent with each request; they are secrets."""
    compression: Literal["gzip", "zstd", "deflate", "none"] | None = None
    """`gzip`, `zstd`, `deflate` or `none`. Null: none for a loopback endpoint, else gzip."""
    timeout: PositiveDuration = Duration.parse("30s")
    """For one attempt."""

    @property
    @abstractmethod
    def target(self) -> Url:
        """Where requests with traces are posted."""

    def describe(self) -> str:
        return f"http {self.target}"

    def common(self) -> dict[str, Any]:
        return {**super().common(), "connections": self.sending_queue.num_consumers}


class OtlpHttpExporter(HttpExporter):
    """OTLP over HTTP."""

    endpoint: Url | None = None
    """Base address; `/v1/traces` is added to it. Required without `traces_endpoint`."""
    traces_endpoint: Url | None = None
    """Whole address for traces; null: from `endpoint`."""
    encoding: Literal["proto", "json"] = "proto"
    """Of the request body: `proto` or `json`."""

    @property
    def target(self) -> Url:
        """Where requests with traces are posted; ``findings`` has seen to it that there is such an address."""
        return self.traces_endpoint or Url(f"{base_of(self.endpoint or Url())}{_TRACES_PATH}")

    def refuses(self, signal: str) -> str:
        return "" if self.endpoint else "has an address for traces only: give it an endpoint"

    def findings(self) -> Iterator[Finding]:
        if not self.endpoint and not self.traces_endpoint:
            yield Finding((), "needs an endpoint, or a traces_endpoint")
        yield from path_twice(self.endpoint)

    def attempts(self, name: str) -> "AbstractAsyncContextManager[Attempt]":
        from grafter.exporter import otlp_http

        return otlp_http.opened(
            endpoint=base_of(self.endpoint) if self.endpoint else None,
            traces_endpoint=self.traces_endpoint,
            encoding=self.encoding,
            **self.common(),
        )
