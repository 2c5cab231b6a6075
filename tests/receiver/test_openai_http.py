"""The door of the Agents SDKs: stored before 204, plain about everything else, and nothing lost to one odd item."""

import asyncio
import gzip
import json
import logging
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
import zstandard
from agents import custom_span, function_span, set_trace_processors, trace
from agents.tracing.processors import BackendSpanExporter, BatchTraceProcessor
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from grafter.core.model import Source
from grafter.core.policy import Content, GraftPolicy
from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.agents.intake import read_payload
from grafter.otlp.split import Splitter
from grafter.receiver import otlp_grpc
from grafter.receiver.http_server import serving
from grafter.receiver.openai_http import application, ingest_routes
from grafter.receiver.otlp import Intake
from grafter.receiver.tee import Tee, teeing
from grafter.telemetry import Metrics
from tests.propagation.apps import HELPERS, with_packages

DATA = Path(__file__).parents[1] / "data" / "openai"
CAPTURES = sorted(path.name for path in DATA.glob("*.json") if "requests" in json.loads(path.read_bytes()))
EXAMPLES = Path(__file__).parents[2] / "examples"
NODE_MODULES = Path(__file__).parents[1] / "e2e" / "js" / "node_modules"
PATH = "/v1/traces/ingest"
GOOD = {"object": "trace", "id": "trace_" + "a" * 32, "workflow_name": "w", "group_id": None, "metadata": None}


def span(n: int, **data: object) -> dict:
    return {
        "object": "trace.span",
        "id": f"span_{n}",
        "trace_id": GOOD["id"],
        "parent_id": None,
        "started_at": "2026-11-22T21:26:31.675400+00:00",
        "ended_at": "2026-11-22T21:26:32+00:00",
        "span_data": {"type": "custom", "name": "step", "data": {}, **data},
        "error": None,
    }


class Door:
    """A client of a running door, and what stands behind it."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base
        self.url = base + PATH

    async def post(self, body: bytes | list[object], path: str = PATH, **headers: str) -> SimpleNamespace:
        """Post a body, or items in the SDKs' envelope."""
        data = body if isinstance(body, bytes) else json.dumps({"data": body}).encode()
        return await self.request("POST", path, BytesIO(data), headers)

    async def request(self, method: str, path: str, data: BytesIO, headers: dict[str, str]) -> SimpleNamespace:
        url = URL(self.base + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            return SimpleNamespace(status=response.status, headers=response.headers, body=await response.read())


@asynccontextmanager
async def opened(
    consumer: object,
    metrics: Metrics,
    policy: GraftPolicy = GraftPolicy(),  # noqa: B008  # frozen
    *,
    tokens: tuple[str, ...] = (),
    tee: Tee | None = None,
    max_bytes: int = 64 << 20,
) -> AsyncIterator[Door]:
    routes = ingest_routes(consumer, metrics, policy, tokens=tokens, tee=tee, max_bytes=max_bytes)
    door = serving(application(routes), "127.0.0.1:0", None, 1.0)
    async with door as (_, port), aiohttp.ClientSession(skip_auto_headers=("Content-Type",)) as session:
        yield Door(session, f"http://127.0.0.1:{port}")


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"grafter_{name}_total", labels) or 0


def accepted(metrics: Metrics) -> float:
    return count(metrics, "receiver_accepted_spans", receiver="openai", transport="ingest")


def requests(metrics: Metrics, outcome: str) -> float:
    return count(metrics, "receiver_requests", receiver="openai", transport="ingest", outcome=outcome)


def kinds(metrics: Metrics) -> dict[str, float]:
    found = {}
    for kind in ("trace", "span", "unknown_type", "null", "odd"):
        if number := count(metrics, "guest_items", source="sdk", kind=kind):
            found[kind] = number
    return found


def stored(consumer: object) -> list[dict]:
    return [item for part in consumer.parts for item in read_payload(part.payload)]


def assert_error(answer: SimpleNamespace, status: int) -> str:
    """The answer is an OpenAI-shaped error; its message."""
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("application/json")
    error = json.loads(answer.body)["error"]
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert error["code"]
    return error["message"]


@pytest.mark.parametrize("name", CAPTURES)
async def test_captures(name: str, consumer, metrics: Metrics) -> None:
    """Every recorded request of the Python and JS SDKs is stored whole and answered with an empty 204."""
    items = []
    async with opened(consumer, metrics, GraftPolicy(content=Content.FULL)) as door:
        for request in json.loads((DATA / name).read_bytes())["requests"]:
            headers = {key: value for key, value in request["headers"] if key.lower() not in ("host", "content-length")}
            answer = await door.post(json.dumps(request["body"]).encode(), request.get("path", PATH), **headers)
            assert (answer.status, answer.body) == (204, b"")
            items += request["body"]["data"]
    assert Counter(item["id"] for item in stored(consumer)) == Counter(item["id"] for item in items)
    spans = sum(item["object"] == "trace.span" for item in items)
    assert accepted(metrics) == consumer.spans == spans
    assert kinds(metrics) == Counter({"span": spans, "trace": len(items) - spans}) - Counter()
    assert {part.guest.source for part in consumer.parts} == {Source.SDK}


@pytest.fixture
def sdk() -> Iterator[Callable[[str], BatchTraceProcessor]]:
    """Points the SDK's own global tracing at a URL, as an app would, and to nothing afterwards."""
    exporter = BackendSpanExporter(api_key="sk-caller", base_delay=0.05)
    processor = BatchTraceProcessor(exporter, schedule_delay=60)

    def wire(url: str) -> BatchTraceProcessor:
        exporter.endpoint = url
        set_trace_processors([processor])
        return processor

    yield wire
    set_trace_processors([])
    processor.shutdown(timeout=5)
    exporter.close()


def run_workflow() -> None:
    host = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "bad": float("nan"), "s": "\ud800"}
    with trace("Support call", group_id="conv_42", metadata=host):
        with custom_span("outer", {"a": 1}), function_span("lookup", input="{}", output="x" * 150_000):
            pass
        with custom_span("second"):
            pass


async def test_the_real_sdk(sdk: Callable[[str], BatchTraceProcessor], consumer, metrics: Metrics) -> None:
    """A traced workflow of openai-agents arrives whole, with its link, its parents and its long values."""
    async with opened(consumer, metrics, GraftPolicy(content=Content.FULL)) as door:
        processor = sdk(door.url)
        await asyncio.to_thread(run_workflow)
        await asyncio.to_thread(processor.force_flush)
    (part,) = consumer.parts
    assert part.guest.host == bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
    assert (part.guest.head, part.guest.top_level, part.spans) == (True, True, 3)
    assert set(part.guest.parents) < set(part.guest.ids)
    by_name = {item["span_data"]["name"]: item for item in stored(consumer) if item["object"] == "trace.span"}
    assert by_name["lookup"]["parent_id"] == by_name["outer"]["id"]
    assert len(by_name["lookup"]["span_data"]["output"]) == 150_000
    assert kinds(metrics) == {"trace": 1, "span": 3}


async def test_the_real_sdk_repeats_what_was_not_stored(
    sdk: Callable[[str], BatchTraceProcessor], consumer, metrics: Metrics
) -> None:
    """A store that is down for two attempts costs nothing: the SDK comes again, and the batch is there once."""
    consumer.errors = [UnavailableError("store is full", reason="full"), UnavailableError("store is full")]
    async with opened(consumer, metrics) as door:
        processor = sdk(door.url)
        await asyncio.to_thread(run_workflow)
        await asyncio.to_thread(processor.force_flush)
    assert len(consumer.requests) == 1
    assert accepted(metrics) == consumer.spans == 3
    assert requests(metrics, "unavailable") == 2
    assert requests(metrics, "accepted") == 1
    assert kinds(metrics) == {"trace": 1, "span": 3}
    refused = {"receiver": "openai", "transport": "ingest", "reason": "full"}
    assert count(metrics, "receiver_refused_spans", **refused) == 3


async def test_the_real_sdk_with_a_key_per_trace(
    sdk: Callable[[str], BatchTraceProcessor], consumer, metrics: Metrics
) -> None:
    """Traces with keys of their own reach the tee's peer under those keys."""
    async with openai_stand_in() as openai, teeing(openai.url, None, metrics) as tee:
        async with opened(consumer, metrics, tee=tee) as door:
            processor = sdk(door.url)

            def work() -> None:
                with trace("one", tracing={"api_key": "sk-one"}), custom_span("a"):
                    pass
                with trace("two"), custom_span("b"):
                    pass

            await asyncio.to_thread(work)
            await asyncio.to_thread(processor.force_flush)
        await openai.got(4)
    assert {key: len(items) for key, items in openai.by_key.items()} == {"Bearer sk-one": 2, "Bearer sk-caller": 2}


async def run_example(*command: str, **environment: str) -> str:
    """The hex trace id that an example says it sent."""
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "PYTHONPATH": str(HELPERS), **environment}, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode().split()[-1]


async def test_the_python_example(consumer, metrics: Metrics) -> None:
    """The example for Python sends both halves of a call, and the second names the first."""
    hosts = type(consumer)()
    intake = Intake(hosts, Splitter(()), metrics, "grpc")
    otlp = otlp_grpc.listening(intake, endpoint="127.0.0.1:0", grace_seconds=1.0)
    async with opened(consumer, metrics) as door, otlp as port:
        example = str(EXAMPLES / "agents_python.py")
        host = await run_example(sys.executable, example, GRAFTER_INGEST=door.url, GRAFTER_OTLP=f"127.0.0.1:{port}")
    assert [part.key.hex() for part in hosts.parts] == [host]
    (part,) = consumer.parts
    assert (part.guest.host.hex(), part.spans, hosts.spans) == (host, 2, 2)


@pytest.mark.skipif(
    shutil.which("node") is None or not NODE_MODULES.is_dir(), reason="node or its packages are not installed"
)
async def test_the_js_example(consumer, metrics: Metrics, tmp_path: Path) -> None:
    """The example for JavaScript names the trace that it is given, under NODE_ENV=test as well."""
    with_packages(tmp_path)
    example = shutil.copy(EXAMPLES / "agents_js.mjs", tmp_path)
    async with opened(consumer, metrics) as door:
        host = await run_example("node", example, "ab" * 16, GRAFTER_INGEST=door.url, NODE_ENV="test")
    (part,) = consumer.parts
    assert (part.guest.host.hex(), part.spans) == (host, 2)
    assert host == "ab" * 16


@pytest.mark.parametrize(
    "path",
    [
        "/v1/traces/ingest",
        "/traces/ingest",
        "/v1/traces/ingest/",
        "//v1//traces//ingest//",
        "/a/prefix/of/ones/own/traces/ingest",
        "/v1/traces/ingest?source=app",
    ],
)
async def test_paths(path: str, consumer, metrics: Metrics) -> None:
    """Any path that ends in /traces/ingest is answered itself, however its slashes came about."""
    async with opened(consumer, metrics) as door:
        assert (await door.post([GOOD], path)).status == 204
    assert stored(consumer) == [GOOD]


@pytest.mark.parametrize("path", ["/", "/v1/traces", "/v1/traces/ingested", "/v1/traces/ingest/x", "/mytraces/ingest"])
async def test_other_paths_are_not_found(path: str, consumer, metrics: Metrics) -> None:
    """Every other path is 404 with a JSON error, never a redirect."""
    async with opened(consumer, metrics) as door:
        assert_error(await door.post([GOOD], path), 404)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_told_the_right_one(method: str, consumer, metrics: Metrics) -> None:
    """Only POST: 405 with Allow."""
    async with opened(consumer, metrics) as door:
        answer = await door.request(method, PATH, BytesIO(), {})
    assert "POST" in assert_error(answer, 405)
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer second", 204),
        ("bearer  first", 204),
        ("Bearer third", 401),
        ("Bearer ", 401),
        ("Basic Zmlyc3Q6", 401),
        ("first", 401),
        (None, 401),
    ],
)
async def test_tokens(authorization: str | None, status: int, consumer, metrics: Metrics) -> None:
    """With tokens, only a bearer of one of them gets in; the refusal says how to knock."""
    headers = {} if authorization is None else {"Authorization": authorization}
    async with opened(consumer, metrics, tokens=("first", "second")) as door:
        answer = await door.post([GOOD], **headers)
    assert answer.status == status
    assert len(consumer.requests) == (status == 204)
    if status == 401:
        assert_error(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert requests(metrics, "unauthenticated") == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"not json", "JSON"),
        (b'{"data": [', "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b"[]", "a JSON list"),
        (b"null", "a JSON null"),
        (b'"data"', "a JSON string"),
        (b"12", "a JSON number"),
        (b"true", "a JSON boolean"),
        (b"{}", "no data"),
        (b'{"data": null}', "a JSON null under data"),
        (b'{"data": {"object": "trace"}}', "a JSON object under data"),
        (b'{"traces": [], "exported_at": "2026-11-22T21:26:31Z"}', "no data, but traces"),
        (b"[" * 200_000, ""),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
async def test_odd_bodies(body: bytes, words: str, consumer, metrics: Metrics) -> None:
    """What is no object with a list under data gets a 400 that says what was found and what was expected."""
    async with opened(consumer, metrics) as door:
        message = assert_error(await door.post(body), 400)
        assert words in message
        assert "expected" in message
        assert (await door.post([GOOD])).status == 204
    assert requests(metrics, "rejected") == 1


async def test_an_odd_item_never_loses_its_batch(consumer, metrics: Metrics) -> None:
    """Nulls, other kinds of values, NaN, lone surrogates and deep nesting: the rest is stored, each one counted."""
    deep = b"[" * 900 + b"]" * 900
    body = (
        b'{"data": [null, 3, "x", [], {}, {"object": "other", "id": "1"}, {"object": "trace.span", "id": "no trace"}, '
        b'{"object": "trace.span", "id": "span_u", "trace_id": "trace_1", "span_data": {"type": "new_type"}}, '
        b'{"object": "trace", "id": "trace_1", "metadata": {"bad": NaN, "far": 1e999, "s": "\\ud800"}}, '
        b'{"object": "trace.span", "id": "span_d", "trace_id": "trace_1", "span_data": '
        b'{"type": "custom", "name": "n", "data": {"deep": ' + deep + b"}}}, " + json.dumps(span(1)).encode() + b"]}"
    )
    async with opened(consumer, metrics) as door:
        answer = await door.post(body)
    assert answer.status == 204
    assert {item["id"] for item in stored(consumer)} == {"span_u", "trace_1", "span_d", "span_1"}
    assert kinds(metrics) == {"null": 1, "odd": 6, "unknown_type": 1, "trace": 1, "span": 2}
    assert accepted(metrics) == consumer.spans == 3


async def test_an_empty_batch_is_fine(consumer, metrics: Metrics) -> None:
    """No items, or none that can be read: 204, and the store is not asked."""
    async with opened(consumer, metrics) as door:
        assert (await door.post([])).status == 204
        assert (await door.post([None])).status == 204
    assert consumer.requests == []
    assert requests(metrics, "accepted") == 2


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", lambda data: zstandard.ZstdCompressor().compress(data)),
        ("identity", bytes),
    ],
)
async def test_compressed_bodies(encoding: str, compress, consumer, metrics: Metrics) -> None:
    """A sender, or a proxy before it, may compress."""
    async with opened(consumer, metrics) as door:
        body = compress(json.dumps({"data": [GOOD]}).encode())
        assert (await door.post(body, **{"Content-Encoding": encoding})).status == 204
        assert_error(await door.post(b"\x00no", **{"Content-Encoding": "gzip"}), 400)
        assert_error(await door.post(body, **{"Content-Encoding": "br"}), 415)
    assert stored(consumer) == [GOOD]


@pytest.mark.parametrize("bomb", [False, True])
async def test_too_large(bomb: bool, consumer, metrics: Metrics) -> None:
    """Over the limit, before or after decompression: 413, and the next request is taken."""
    body = json.dumps({"data": ["x" * 200_000]}).encode()
    headers = {"Content-Encoding": "gzip"} if bomb else {}
    async with opened(consumer, metrics, max_bytes=100_000) as door:
        assert_error(await door.post(gzip.compress(body) if bomb else body, **headers), 413)
        assert (await door.post([GOOD])).status == 204
    assert requests(metrics, "too_large") == 1


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (UnavailableError("store is full", retry_after=0.2), 503, "1"),
        (UnavailableError("store is down", retry_after=4.2), 503, "5"),
        (RejectedError("no"), 400, None),
        (RuntimeError("a prompt of a user"), 500, None),
    ],
)
async def test_not_stored_is_never_204(
    error: Exception, status: int, retry_after: str | None, consumer, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """What the store refuses is answered as such, with a hint where a repeat may help, and nothing counts as read."""
    consumer.errors = [error]
    async with opened(consumer, metrics) as door:
        answer = await door.post([GOOD, span(1)])
        assert_error(answer, status)
        assert answer.headers.get("Retry-After") == retry_after
        assert (accepted(metrics), kinds(metrics)) == (0, {})
        assert (await door.post([GOOD])).status == 204
    assert b"a prompt" not in answer.body
    assert "a prompt" not in "".join(repr(record.__dict__) for record in caplog.records)


async def test_204_only_after_the_store(consumer, metrics: Metrics) -> None:
    """While the store has not answered, neither has the door."""
    consumer.gate = asyncio.Event()
    async with opened(consumer, metrics) as door, asyncio.TaskGroup() as tasks:
        posting = tasks.create_task(door.post([GOOD]))
        await consumer.entered.wait()
        assert consumer.requests == []
        assert not posting.done()
        consumer.gate.set()
        assert (await posting).status == 204
    assert stored(consumer) == [GOOD]


class OpenAi:
    """Stands for OpenAI's ingest and keeps what each key brought."""

    def __init__(self) -> None:
        self.url = ""
        self.by_key: dict[str, list[dict]] = {}
        self._arrived = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.Response:
        items = (await request.json())["data"]
        async with self._arrived:
            self.by_key.setdefault(request.headers["Authorization"], []).extend(items)
            self._arrived.notify_all()
        return web.Response(status=204)

    async def got(self, items: int) -> None:
        async with asyncio.timeout(60), self._arrived:
            await self._arrived.wait_for(lambda: sum(map(len, self.by_key.values())) >= items)


@asynccontextmanager
async def openai_stand_in() -> AsyncIterator[OpenAi]:
    openai = OpenAi()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post(PATH, openai.handle)
    async with serving(app, "127.0.0.1:0", None, 0.0) as (_, port):
        openai.url = f"http://127.0.0.1:{port}{PATH}"
        yield openai


async def test_the_tee_gets_what_was_stored_and_that_once(consumer, metrics: Metrics) -> None:
    """A batch that was refused and comes again is copied once; content that is not kept here still reaches OpenAI."""
    batch = [GOOD, span(1, type="function", input="what was said", output="what was answered"), None]
    consumer.errors = [UnavailableError("store is full")]
    async with openai_stand_in() as openai:
        async with (
            teeing(openai.url, None, metrics) as tee,
            opened(consumer, metrics, GraftPolicy(content=Content.NONE), tee=tee) as door,
        ):
            assert (await door.post(batch, Authorization="Bearer sk-caller")).status == 503
            assert (await door.post(batch, Authorization="Bearer sk-caller")).status == 204
            assert (await door.post(b"{}", Authorization="Bearer sk-caller")).status == 400
        assert openai.by_key == {"Bearer sk-caller": batch[:2]}
    assert "what was" not in json.dumps(stored(consumer))


async def test_a_dead_tee_is_not_noticed(consumer, metrics: Metrics) -> None:
    """With nobody at the tee's address, and its queue full, every post is answered and stored."""
    async with (
        teeing(
            "http://127.0.0.1:1/",
            None,
            metrics,
            max_queued_items=5,
            grace_seconds=0.0,
            retry=RetryPolicy(initial_interval=30.0),
        ) as tee,
        opened(consumer, metrics, tee=tee) as door,
    ):
        async with asyncio.timeout(60):
            for n in range(20):
                assert (await door.post([span(n)], Authorization="Bearer sk-caller")).status == 204
    assert consumer.spans == 20
    dropped = {outcome: count(metrics, "tee_items", outcome=f"dropped_{outcome}") for outcome in ("full", "failed")}
    assert dropped == {"full": 15, "failed": 5}


async def test_keys_are_not_shown(consumer, metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    """No key or token is in any log line, stored byte, error or metric, whatever the answer was."""
    caplog.set_level(logging.DEBUG)
    consumer.errors = [UnavailableError("store is full"), RuntimeError("bug")]
    bodies = []
    async with opened(consumer, metrics, tokens=("sk-very-secret",)) as door:
        for key, body in [
            *[("sk-very-secret", [GOOD])] * 3,
            ("sk-very-secret-wrong", [GOOD]),
            ("sk-very-secret", b"{"),
        ]:
            bodies += [(await door.post(body, Authorization=f"Bearer {key}")).body]
    shown = repr(bodies) + repr(consumer.requests) + "".join(str(metric) for metric in metrics.registry.collect())
    shown += "".join(repr(record.__dict__) for record in caplog.records)
    assert "very-secret" not in shown


async def test_a_large_post_leaves_the_loop_free(consumer, metrics: Metrics) -> None:
    """50,000 items in one body are stored, and other requests are answered meanwhile."""
    body = json.dumps({"data": [GOOD, *(span(n) for n in range(50_000))]}).encode()
    async with opened(consumer, metrics) as door, asyncio.TaskGroup() as tasks:
        posting = tasks.create_task(door.post(body))
        clock = asyncio.get_running_loop().time
        start, longest = clock(), 0.0
        while not posting.done():
            began = clock()
            assert (await door.post([])).status == 204
            longest = max(longest, clock() - began)
        assert (await posting).status == 204
    assert consumer.spans == accepted(metrics) == 50_000
    # Read on the loop itself, all of it would be one wait.
    assert longest < (clock() - start) / 2


async def test_a_stop_answers_what_is_under_way(consumer, metrics: Metrics) -> None:
    """A request that came before the stop gets its answer, and the port is free afterwards."""
    consumer.gate = asyncio.Event()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        routes = ingest_routes(consumer, metrics, GraftPolicy())
        async with serving(application(routes), "127.0.0.1:0", None, 5.0) as (_, port):
            posting = tasks.create_task(Door(session, f"http://127.0.0.1:{port}").post([GOOD]))
            await consumer.entered.wait()
            asyncio.get_running_loop().call_soon(consumer.gate.set)
        assert (await posting).status == 204
        with pytest.raises(aiohttp.ClientConnectionError):
            await Door(session, f"http://127.0.0.1:{port}").post([GOOD])


async def test_other_doors_can_share_the_address(consumer, metrics: Metrics) -> None:
    """Routes of several doors make one application, and each answers its own path."""

    async def other(request: web.Request) -> web.Response:
        return web.Response(text="other")

    app = application([*ingest_routes(consumer, metrics, GraftPolicy()), web.post("/v1/other", other)])
    async with serving(app, "127.0.0.1:0", None, 0.0) as (_, port), aiohttp.ClientSession() as session:
        door = Door(session, f"http://127.0.0.1:{port}")
        assert (await door.post([GOOD])).status == 204
        assert (await door.post([GOOD], "/v1/other")).body == b"other"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
items = values | st.fixed_dictionaries(
    {"object": st.sampled_from(["trace", "trace.span", "x"])},
    optional={
        name: values | st.sampled_from(["trace_1", "span_1"])
        for name in ("id", "trace_id", "parent_id", "metadata", "span_data", "started_at", "ended_at", "error")
    },
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(items, max_size=5), max_size=5))
def test_any_item_is_read_or_counted(batches: list[list[object]]) -> None:
    """Whatever JSON the items are, each is counted once; the answer is 400 only where nothing could be read."""

    class Sink:
        async def consume(self, parts: object) -> None:
            pass

    async def run() -> None:
        metrics = Metrics()
        async with opened(Sink(), metrics) as door:
            for batch in batches:
                answer = await door.post(batch)
                assert answer.status == 204 or (answer.status == 400 and any(item is not None for item in batch))
        assert sum(kinds(metrics).values()) == sum(map(len, batches))

    asyncio.run(run())


async def test_something_else_entirely_is_refused_with_what_was_expected(
    consumer: object, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """OTLP spans in the place of items: 204 would say that they are stored. One odd item among others costs itself."""
    async with opened(consumer, metrics) as door:
        for _ in range(3):
            answer = await door.post([{"traceId": "0af7", "spanId": "b7ad", "name": "a"}])
            message = assert_error(answer, 400)
            assert message.startswith('nothing under data can be read; expected objects with "object": "trace"')
        refused = [one for one in caplog.records if one.message == "requests were refused"]
        assert [(one.transport, one.reason) for one in refused] == [("ingest", message)]
        for _ in range(3):
            assert (await door.post([{"object": "trace", "id": "trace_1"}, {"name": "a"}])).status == 204
    (skipped,) = [one for one in caplog.records if one.message == "odd items were skipped"]
    assert (skipped.transport, skipped.items, "expected" not in skipped.reason) == ("ingest", 1, True)
    assert kinds(metrics) == {"odd": 6, "trace": 3}
