"""What was sent and acknowledged, and a backend that counts what came: neither knows anything of grafter's insides.

An acknowledged span comes once, or each further copy says ``grafter.resend``. What was answered otherwise, or not at
all, may have been stored and may not: it comes by the same rule, or never.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SpanKey = bytes
"""Trace id and span id."""

MODES = ("slow", "hanging", "refusing 503", "refusing 500", "refusing 400", "cutting off")
"""What a backend does when it is not well: answers after seconds, takes it and never answers, refuses all, or takes it
and closes the connection."""
_SLOW_SECONDS, _HANGING_SECONDS = 3.0, 40.0


@dataclass
class Oracle:
    """Both sides' truth."""

    acknowledged: set[SpanKey] = field(default_factory=set)
    awaited: set[SpanKey] = field(default_factory=set)
    """Of those, what had not come at the last look."""
    unknown: set[SpanKey] = field(default_factory=set)
    """Sent, and not acknowledged."""
    copies: Counter[SpanKey] = field(default_factory=Counter)
    marked: Counter[SpanKey] = field(default_factory=Counter)
    _came: int = 0
    _read: int = 0
    _reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def taken(self, keys: set[SpanKey]) -> None:
        """The sender has the acknowledgement of these, which were unknown."""
        self.acknowledged |= keys
        self.awaited |= keys
        self.unknown -= keys

    def came(self, body: bytes) -> None:
        """The backend has taken a request."""
        self._came += 1
        self._reader.submit(self._count, body).add_done_callback(lambda counted: counted.result())

    @property
    def unread(self) -> int:
        """Requests that came and are not counted yet. Nobody waits for that: a backend that counts first answers after
        seconds, where the machine is busy."""
        return self._came - self._read

    def _count(self, body: bytes) -> None:
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    key = span.trace_id + span.span_id
                    self.copies[key] += 1
                    if any(one.key == "grafter.resend" for one in span.attributes):
                        self.marked[key] += 1
        self._read += 1

    def missing(self) -> int:
        """Acknowledged, and not come yet."""
        self.awaited = {key for key in self.awaited if key not in self.copies}
        return len(self.awaited)

    def faults(self) -> list[str]:
        """What is wrong now that all must have come; empty when nothing is."""
        sent = self.acknowledged | self.unknown
        unmarked = sum(1 for key, count in self.copies.items() if count - self.marked[key] > 1)
        invented = sum(1 for key in self.copies if key not in sent)
        found = {"acknowledged and lost": self.missing(), "came again unmarked": unmarked, "never sent": invented}
        return [f"{count} spans {what}" for what, count in found.items() if count]

    def repeated(self) -> int:
        """Copies beyond the first."""
        return sum(self.copies.values()) - len(self.copies)


@dataclass
class Backend:
    """Takes OTLP over HTTP, as long as ``mode`` is empty."""

    oracle: Oracle
    address: str = ""
    mode: str = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        mode = self.mode
        if mode.startswith("refusing"):
            return web.Response(status=int(mode.split()[1]), text="not now")
        self.oracle.came(body)
        if mode == "cutting off":
            assert request.transport is not None
            request.transport.abort()
        elif mode in ("slow", "hanging"):
            await asyncio.sleep(_SLOW_SECONDS if mode == "slow" else _HANGING_SECONDS)
        return web.Response()


@asynccontextmanager
async def backend(oracle: Oracle) -> AsyncIterator[Backend]:
    """A backend for the duration of the block."""
    one = Backend(oracle)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/traces", one.take)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        one.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield one
    finally:
        await runner.cleanup()
