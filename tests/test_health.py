"""/healthz, /readyz and /metrics over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from grafter.health import Health, Phase, health_app, metrics_app
from grafter.receiver.http_server import serving
from grafter.telemetry import Held, HeldFor, Metrics


@asynccontextmanager
async def client(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody who asks."""
    async with (
        serving(app, "127.0.0.1:0", None, 1.0) as (host, port),
        aiohttp.ClientSession(f"http://{host}:{port}") as session,
    ):
        yield session


async def ask(session: aiohttp.ClientSession, path: str) -> tuple[int, object]:
    """Status and JSON body."""
    async with session.get(path) as answer:
        return answer.status, await answer.json()


async def test_readyz_is_200_while_running_only() -> None:
    """Starting and stopping are 503 with the phase as status; /healthz is 200 throughout."""
    health = Health()
    async with client(health_app(health)) as session:
        for phase, expected in (
            (Phase.STARTING, (503, "starting")),
            (Phase.RUNNING, (200, "ready")),
            (Phase.STOPPING, (503, "stopping")),
        ):
            health.phase = phase
            assert await ask(session, "/readyz") == (expected[0], {"status": expected[1], "troubles": {}})
            assert await ask(session, "/healthz") == (200, {"status": "ok"})


async def test_troubles_stand_in_the_body_and_take_nobody_away() -> None:
    """A store and a backend in trouble are named as they are at each request, and the answer stays 200."""
    troubles: dict[str, str] = {}
    health = Health(Phase.RUNNING, lambda: troubles, lambda: False)
    async with client(health_app(health)) as session:
        assert await ask(session, "/readyz") == (200, {"status": "ready", "troubles": {}})
        troubles.update(store="not taking parts", otlp_http="HTTP 503")
        assert await ask(session, "/readyz") == (200, {"status": "ready", "troubles": troubles})


async def test_readiness_may_depend_on_the_store() -> None:
    """With ``readiness_on_store`` /readyz is 503 while the store takes no parts, and only the store counts."""
    up = True
    health = Health(Phase.RUNNING, lambda: {"otlp_grpc": "UNAVAILABLE"}, lambda: up, readiness_on_store=True)
    async with client(health_app(health)) as session:
        assert (await ask(session, "/readyz"))[0] == 200
        up = False
        status, body = await ask(session, "/readyz")
        assert (status, body) == (503, {"status": "store_down", "troubles": {"otlp_grpc": "UNAVAILABLE"}})
        assert (await ask(session, "/healthz"))[0] == 200
        up = True
        assert (await ask(session, "/readyz"))[0] == 200
        up, health.phase = False, Phase.STOPPING
        assert (await ask(session, "/readyz"))[1] == {"status": "stopping", "troubles": {"otlp_grpc": "UNAVAILABLE"}}


COUNTERS = {
    "grafter_receiver_accepted_spans_total": {"receiver", "transport"},
    "grafter_receiver_refused_spans_total": {"receiver", "transport", "reason"},
    "grafter_receiver_requests_total": {"receiver", "transport", "outcome"},
    "grafter_guest_items_total": {"source", "kind"},
    "grafter_released_traces_total": {"reason"},
    "grafter_grafted_spans_total": {"source", "match"},
    "grafter_unlinked_guests_total": {"reason"},
    "grafter_exporter_sent_spans_total": {"exporter"},
    "grafter_exporter_failed_spans_total": {"exporter"},
    "grafter_exporter_rejected_spans_total": {"exporter"},
    "grafter_dead_spans_total": {"exporter", "reason"},
    "grafter_dropped_spans_total": {"reason"},
    "grafter_expected_guests_total": {"source", "outcome"},
    "grafter_resent_spans_total": {"exporter"},
    "grafter_recovered_spans_total": set(),
    "grafter_synthetic_spans_total": set(),
    "grafter_merged_spans_total": {"reason"},
    "grafter_passed_requests_total": {"signal", "outcome"},
    "grafter_sampled_traces_total": {"policy", "decision"},
    "grafter_sampled_out_spans_total": {"policy"},
    "grafter_late_keep_after_drop_total": set(),
    "grafter_odd_weights_total": {"reason"},
}
HISTOGRAMS = {
    "grafter_join_delay_seconds": set(),
    "grafter_receiver_request_seconds": {"receiver"},
    "grafter_exporter_request_seconds": {"exporter"},
}
GAUGES = {
    "grafter_held_traces": 3.0,
    "grafter_held_spans": 40.0,
    "grafter_held_bytes": 500.0,
    "grafter_oldest_held_seconds": 7.5,
    "grafter_remembered_traces": 8.0,
    "grafter_remembered_bytes": 9600.0,
    "grafter_store_up": 1.0,
    "grafter_store_bytes": 700.0,
    "grafter_store_limit_bytes": 600.0,
    "grafter_unreadable_traces": 5.0,
}
SHARED = {
    "grafter_replica_held_traces": 1.0,
    "grafter_replica_held_spans": 20.0,
    "grafter_replica_held_bytes": 100.0,
    "grafter_replica_oldest_held_seconds": 3.5,
}
PROCESS = ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds")


@pytest.fixture
async def page() -> str:
    """/metrics of a process in which every counter was touched once."""
    metrics = Metrics()
    metrics.watch(
        lambda: Held(
            traces=3,
            spans=40,
            bytes=500,
            limit_bytes=600,
            disk_bytes=700,
            oldest_seconds=7.5,
            remembered=8,
            remembered_bytes=9600,
            store_up=True,
            unreadable=5,
            taken_over_spans=9,
            handed_over_spans=11,
            replicas=[HeldFor(2, 1, 20, 100, 3.5)],
        )
    )
    for one in vars(metrics).values():
        names = getattr(one, "_labelnames", ())
        touched = one.labels(*("x" for _ in names)) if names else one
        if hasattr(touched, "inc"):
            touched.inc()
        elif hasattr(touched, "observe"):
            touched.observe(0.5)
    async with client(metrics_app(metrics)) as session, session.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        return await answer.text()


def samples(page: str) -> dict[str, tuple[set[str], float]]:
    """Name to labels and value of the last sample of that name."""
    return {
        sample.name: (set(sample.labels), sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.mark.parametrize(("name", "labels"), COUNTERS.items())
async def test_each_counter_is_exposed(page: str, name: str, labels: set[str]) -> None:
    """Dashboards rely on the name, with ``_total``, and on the labels."""
    assert samples(page)[name] == (labels, 1.0)


@pytest.mark.parametrize(("name", "labels"), HISTOGRAMS.items())
async def test_each_histogram_is_exposed(page: str, name: str, labels: set[str]) -> None:
    """Count, sum and buckets."""
    found = samples(page)
    assert found[f"{name}_count"] == (labels, 1.0)
    assert found[f"{name}_sum"] == (labels, 0.5)
    assert found[f"{name}_bucket"][0] == labels | {"le"}


@pytest.mark.parametrize(("name", "value"), GAUGES.items())
async def test_each_gauge_shows_what_is_held_now(page: str, name: str, value: float) -> None:
    """Gauges have no labels and the value that the store says at the scrape."""
    assert samples(page)[name] == (set(), value)


@pytest.mark.parametrize(("name", "value"), SHARED.items())
async def test_a_shared_store_is_shown_by_replica(page: str, name: str, value: float) -> None:
    """The one label is a small number."""
    assert samples(page)[name] == ({"replica"}, value)


async def test_what_went_to_and_from_others_is_counted(page: str) -> None:
    """The terms of the books that only a store with several processes has."""
    found = samples(page)
    assert found["grafter_taken_over_spans_total"] == (set(), 9.0)
    assert found["grafter_handed_over_spans_total"] == (set(), 11.0)


@pytest.mark.parametrize("name", PROCESS)
async def test_the_process_is_measured(page: str, name: str) -> None:
    """What the client library knows of the process stands there too."""
    assert samples(page)[name][0] == set()
