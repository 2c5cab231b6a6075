"""What operators and orchestrators ask: /healthz, /readyz, /metrics.

A store or a backend in trouble stands in the body of /readyz and in the metrics, and is answered request by request:
an orchestrator that took every replica away at once would turn a slow backend into an outage.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from grafter.telemetry import Metrics


class Phase(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(slots=True)
class Health:
    """The state of the process; what is a function is asked at each request."""

    phase: Phase = Phase.STARTING
    errors: Callable[[], dict[str, str]] = field(default=dict)
    """What is wrong now, by the name of what is affected."""
    takes_parts: Callable[[], bool] = lambda: True
    """Whether the store takes parts now."""
    readiness_on_store: bool = False
    """Not ready while the store takes none."""

    @property
    def status(self) -> str:
        """``ready``, or why not: ``starting``, ``stopping`` or ``store_down``."""
        if self.phase is not Phase.RUNNING:
            return self.phase.value
        return "store_down" if self.readiness_on_store and not self.takes_parts() else "ready"


async def _nothing() -> None:
    """Where the state is this process's own, it is up to date."""


def health_app(health: Health, before: Callable[[], Awaitable[None]] = _nothing) -> web.Application:
    """/healthz answers while the process lives; /readyz answers 503 while starting and stopping, and by choice while
    the store takes no parts. Both are JSON; the body of /readyz has ``status`` and ``troubles``.
    ``before`` brings ``health`` up to date for each question."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        await before()
        status = health.status
        body = {"status": status, "troubles": health.errors()}
        return web.json_response(body, status=200 if status == "ready" else 503)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/", healthz)])
    return app


def metrics_app(metrics: Metrics, before: Callable[[], None] = lambda: None) -> web.Application:
    """/metrics in Prometheus' text format; ``before`` brings what is counted elsewhere up to date for each scrape."""

    async def scrape(_request: web.Request) -> web.Response:
        # Nothing else runs between the two, so that the books balance in what a scrape shows.
        before()
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape)])
    return app
