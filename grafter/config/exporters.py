"""``exporters``: the doors out."""

from typing import Annotated, Literal

from pydantic import Field

from grafter.config.model import (
    Components,
    Count,
    FilledSecret,
    Flag,
    Model,
    PositiveDuration,
    PositiveSize,
    Ratio,
    Secret,
    Word,
)
from grafter.config.units import Duration, Size, Target, Url, is_loopback

Headers = dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")], Secret]
"""Names are HTTP tokens. Source: RFC 9110, section 5.6.2."""

_HONEYCOMB = {"us": Url("https://api.honeycomb.io"), "eu": Url("https://api.eu1.honeycomb.io")}
_NO_HEADERS: Headers = {}


class ClientTls(Model):
    """TLS towards a server."""

    insecure: Flag = False
    """Plaintext, for gRPC; over HTTP the scheme decides."""
    insecure_skip_verify: Flag = False
    """Take any certificate; over HTTP only."""
    ca_file: Word | None = None
    """Authorities to trust, PEM; null: the system's."""
    cert_file: Word | None = None
    """Client certificate, PEM."""
    key_file: Word | None = None
    """The private key to it, PEM."""
    server_name_override: Word | None = None
    """Name that the server's certificate must have; null: the endpoint's host."""


class Retry(Model):
    """When a failed attempt is made again; a trace stays in the store until it is taken or refused for good."""

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


class SendingBatch(Model):
    """What goes out in one request."""

    max_spans: Count = 4000
    """Spans at most."""
    max_bytes: PositiveSize = Size.parse("3MiB")
    """Bytes at most, before compression; one trace that is larger goes alone. A gRPC server takes 4 MiB by default."""


class SendingQueue(Model):
    """How much is on its way at a time."""

    num_consumers: Count = 4
    """Requests at a time."""
    batch: SendingBatch = SendingBatch()
    """What goes out in one request."""


class _Sending(Model):
    """What every door over the network has."""

    retry_on_failure: Retry = Retry()
    """When a failed attempt is made again."""
    sending_queue: SendingQueue = SendingQueue()
    """How much is on its way at a time."""


class OtlpGrpcExporter(_Sending):
    """OTLP over gRPC."""

    endpoint: Target
    """`host:port`; `https://` before it means TLS, `http://` plaintext, none what `tls` says."""
    tls: ClientTls = ClientTls()
    """TLS towards the server."""
    headers: Headers = _NO_HEADERS
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
    def effective_compression(self) -> str:
        return self.compression or _compression(self.endpoint.host)

    def request_headers(self) -> dict[str, str]:
        """In clear; names in lower case, as gRPC wants them."""
        return {name.lower(): value.get_secret_value() for name, value in self.headers.items()}

    def describe(self) -> str:
        return f"grpc {self.endpoint.address} ({'TLS' if self.secure else 'plaintext'})"


class _HttpExporter(_Sending):
    """What OTLP over HTTP and Honeycomb share."""

    tls: ClientTls = ClientTls()
    """TLS towards the server."""
    headers: Headers = _NO_HEADERS
    """Sent with each request; they are secrets."""
    compression: Literal["gzip", "zstd", "deflate", "none"] | None = None
    """`gzip`, `zstd`, `deflate` or `none`. Null: none for a loopback endpoint, else gzip."""
    timeout: PositiveDuration = Duration.parse("30s")
    """For one attempt."""

    def url(self, signal: Literal["traces", "metrics", "logs"]) -> Url:
        """Where requests of a signal are posted."""
        raise TypeError("each exporter knows its own address")

    @property
    def effective_compression(self) -> str:
        return self.compression or _compression(self.url("traces").host)

    def request_headers(self) -> dict[str, str]:
        """In clear."""
        return {name: value.get_secret_value() for name, value in self.headers.items()}

    def describe(self) -> str:
        return f"http {self.url('traces')}"


class OtlpHttpExporter(_HttpExporter):
    """OTLP over HTTP."""

    endpoint: Url | None = None
    """Base address; `/v1/traces` is added to it. Required without `traces_endpoint`."""
    traces_endpoint: Url | None = None
    """Whole address for traces; null: from `endpoint`."""
    encoding: Literal["proto", "json"] = "proto"
    """Of the request body: `proto` or `json`."""

    def url(self, signal: Literal["traces", "metrics", "logs"]) -> Url:
        """Where requests of a signal are posted; the config's check has seen to it that there is such an address."""
        if signal == "traces" and self.traces_endpoint:
            return self.traces_endpoint
        assert self.endpoint is not None
        return Url(f"{self.endpoint.rstrip('/')}/v1/{signal}")


class HoneycombExporter(_HttpExporter):
    """Honeycomb, by OTLP over HTTP."""

    api_key: FilledSecret
    """Ingest key."""
    region: Literal["us", "eu"] = "us"
    """Where the team's data lives: `us` or `eu`."""
    dataset: Word | None = None
    """For Classic keys only (32 hex digits), which need it; elsewhere `service.name` is the dataset."""
    endpoint: Url | None = None
    """Null: by `region`."""

    @property
    def classic(self) -> bool:
        """Whether the key is one of Honeycomb Classic, whose datasets are named in a header."""
        key = self.api_key.get_secret_value()
        return len(key) == 32 and all(digit in "0123456789abcdef" for digit in key)

    def url(self, signal: Literal["traces", "metrics", "logs"]) -> Url:
        """Where requests of a signal are posted."""
        return Url(f"{(self.endpoint or _HONEYCOMB[self.region]).rstrip('/')}/v1/{signal}")

    def request_headers(self) -> dict[str, str]:
        """In clear, the key among them."""
        own = {"x-honeycomb-team": self.api_key.get_secret_value()}
        if self.dataset:
            own["x-honeycomb-dataset"] = self.dataset
        return own | super().request_headers()


class DebugExporter(Model):
    """Prints what leaves, for people."""

    verbosity: Literal["basic", "normal", "detailed"] = "normal"
    """`basic`: a line a trace; `normal`: the tree; `detailed`: the tree with attributes."""

    def describe(self) -> str:
        return f"stdout, {self.verbosity}"


class FileExporter(Model):
    """Writes OTLP JSON, one request a line."""

    path: Word
    """The file; it is appended to."""
    fsync: Flag = False
    """True: a line is brought to the disk before its spans count as sent. False: that is left to the system, and a
    power cut may cost the last lines."""

    def describe(self) -> str:
        return self.path


Exporter = OtlpGrpcExporter | OtlpHttpExporter | HoneycombExporter | DebugExporter | FileExporter
EXPORTERS = Components(
    {
        "debug": DebugExporter,
        "honeycomb": HoneycombExporter,
        "otlp_grpc": OtlpGrpcExporter,
        "otlp_http": OtlpHttpExporter,
        "file": FileExporter,
    }
)
OLD_EXPORTER_TYPES = {"otlp": "otlp_grpc", "otlphttp": "otlp_http"}
"""The Collector's names before it renamed them; still understood."""


def _compression(host: str) -> str:
    # Compressing costs more than all else that happens to a span, and buys nothing on one machine.
    return "none" if is_loopback(host) else "gzip"
