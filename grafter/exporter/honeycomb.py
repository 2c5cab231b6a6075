"""Honeycomb: OTLP over HTTP with its addresses, its headers and its limit."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from grafter.config.model import FilledSecret, Word
from grafter.config.problems import Finding
from grafter.config.units import Url
from grafter.exporter.otlp import HttpExporter, base_of, path_twice

if TYPE_CHECKING:
    from grafter.exporter.answer import Attempt
    from grafter.exporter.cut import Limits

_ENDPOINTS = {"us": Url("https://api.honeycomb.io"), "eu": Url("https://api.eu1.honeycomb.io")}
# Honeycomb names no limit for a request; 5 MB is the batch limit of its own proxy, Refinery.
_REQUEST_BYTES = 5_000_000


class HoneycombExporter(HttpExporter):
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

    @property
    def target(self) -> Url:
        """Where requests with traces are posted."""
        return Url(f"{self._base}/v1/traces")

    @property
    def _base(self) -> Url:
        return base_of(self.endpoint or _ENDPOINTS[self.region])

    def request_headers(self) -> dict[str, str]:
        """In clear, the key among them."""
        own = {"x-honeycomb-team": self.api_key.get_secret_value()}
        if self.dataset:
            own["x-honeycomb-dataset"] = self.dataset
        return super().request_headers() | own

    def findings(self) -> Iterator[Finding]:
        if self.classic and not self.dataset:
            yield Finding(("dataset",), "is required: this api_key is one of Honeycomb Classic")
        yield from path_twice(self.endpoint)

    def limits(self) -> "Limits":
        own = super().limits()
        return replace(own, batch_bytes=min(own.batch_bytes, _REQUEST_BYTES), request_bytes=_REQUEST_BYTES)

    def attempts(self, name: str) -> "AbstractAsyncContextManager[Attempt]":
        from grafter.exporter import otlp_http

        return otlp_http.opened(endpoint=self._base, **self.common())
