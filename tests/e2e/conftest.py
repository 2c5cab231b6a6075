"""The rigs: backends, a grafter process, a stand-in of the model API."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import model_api, realtime_server
from tests.e2e.process import Grafter
from tests.e2e.realtime_server import RealtimeServer
from tests.e2e.sink import Sink, listening

Start = Callable[..., Awaitable[Grafter]]


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    """A backend."""
    async with listening() as backend:
        yield backend


@pytest.fixture
async def model() -> AsyncIterator[str]:
    """The base URL of a stand-in of the Responses API."""
    async with model_api.serving() as url:
        yield url


@pytest.fixture
async def realtime() -> AsyncIterator[RealtimeServer]:
    """A stand-in of the Realtime API."""
    async with realtime_server.serving() as server:
        yield server


@pytest.fixture
async def start(sink: Sink, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a grafter process; without ``exporters`` it sends to ``sink`` over gRPC."""
    async with AsyncExitStack() as stack:

        async def started(
            exporters: Mapping[str, Any] | None = None,
            wait: Mapping[str, str] | None = None,
            openai: Mapping[str, Any] | None = None,
        ) -> Grafter:
            grafter = Grafter(tmp_path, exporters or {"otlp_grpc/sink": to_grpc(sink)}, wait, openai)
            stack.push_async_callback(grafter.close)
            await grafter.start()
            return grafter

        yield started


def to_grpc(sink: Sink) -> dict[str, Any]:
    """The settings of an exporter over gRPC to a sink."""
    return {"endpoint": sink.grpc_endpoint, "tls": {"insecure": True}}


def to_http(sink: Sink) -> dict[str, Any]:
    """The settings of an exporter over HTTP to a sink."""
    return {"endpoint": sink.http_endpoint}
