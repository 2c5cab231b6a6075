"""A worker with a Durable Object in the runtime that runs them (workerd): the trace goes on over it, asleep or not."""

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, web
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.service import running
from tests.e2e.apps import JS, why_no_javascript
from tests.e2e.process import REPO
from tests.ports import free_port
from tests.test_service import Backend, backend, read, settings

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HERE = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SECONDS = 60.0

CONFIG = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "edge", worker = .edge),
    (name = "internet", network = (allow = ["private", "public"])),
    (name = "disk", disk = (path = "{disk}", writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "edge")],
);
const edge :Workerd.Worker = (
  modules = [
    (name = "worker.mjs", esModule = embed "worker.mjs"),
    (name = "grafter-propagation/context.mjs", esModule = embed "context.mjs"),
    (name = "grafter-propagation/edge.mjs", esModule = embed "edge.mjs"),
  ],
  compatibilityDate = "2026-01-01",
  bindings = [
    (name = "GRAFTER", text = "{grafter}"),
    (name = "TOOL", text = "{tool}"),
    (name = "CALLS", durableObjectNamespace = "Call"),
  ],
  durableObjectNamespaces = [(className = "Call", uniqueKey = "calls")],
  durableObjectStorage = (localDisk = "disk"),
);
"""


class Tool:
    """A tool over HTTP that keeps where its requests came from."""

    def __init__(self) -> None:
        self.callers: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.callers.append(request.headers.get("traceparent", ""))
        return web.Response(text="booked")


@asynccontextmanager
async def serving(tool: Tool) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", tool.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def workerd(home: Path, grafter: str, tool: str, worker: str = "") -> AsyncIterator[str]:
    """The runtime, with edge_worker.mjs or the worker that is given, and the helpers as they are; the same home has the
    same storage."""
    program = JS / "node_modules/workerd/bin/workerd"
    if not program.exists():
        pytest.skip(why_no_javascript() or "workerd is not installed for this machine")
    port = free_port()
    (home / "disk").mkdir(parents=True, exist_ok=True)
    text = worker or (REPO / "tests/propagation/edge_worker.mjs").read_text("utf-8")
    (home / "worker.mjs").write_text(text, "utf-8")
    for name in ("context.mjs", "edge.mjs"):
        shutil.copy(REPO / "propagation/js" / name, home)
    config = CONFIG.replace("{disk}", str(home / "disk")).replace("{port}", str(port))
    (home / "config.capnp").write_text(config.replace("{grafter}", grafter).replace("{tool}", tool))
    log = (home / "log").open("ab")
    process = await asyncio.create_subprocess_exec(
        str(program), "serve", str(home / "config.capnp"), stdout=log, stderr=log, start_new_session=True
    )
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                assert process.returncode is None, (home / "log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        log.close()
        # The program is a script that starts the runtime: both are ended.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def collecting(tmp_path: Path) -> AsyncIterator[tuple[str, Backend]]:
    """grafter in front of a backend; the address of its OTLP door."""
    async with backend() as out:
        sections = settings(tmp_path, {"otlp_http": {"endpoint": out.url}})
        waits = {"local_root": "50ms", "idle": "50ms"}
        sections["processors"]["graft"]["wait"].update(waits)
        async with running(read(tmp_path, sections)) as served:
            yield f"http://127.0.0.1:{served.ports['otlp_http']}", out


async def say(socket: ClientWebSocketResponse, word: str) -> str:
    await socket.send_str(word)
    return str(await asyncio.wait_for(socket.receive_str(), SECONDS))


async def test_a_call_goes_on_in_the_trace_that_it_came_with(tmp_path: Path) -> None:
    """Over the upgrade, into the object, to the tool that it asks; one tree, each span once, with its own facts."""
    tool = Tool()
    async with collecting(tmp_path) as (grafter, out), serving(tool) as address, ClientSession() as http:
        async with workerd(tmp_path / "edge", grafter, address) as edge:
            async with http.ws_connect(edge, headers=HERE) as socket:
                assert await say(socket, "ask") == "booked"
                assert await say(socket, "end") == "true"
            async with http.get(edge) as answer:
                assert await answer.text() == "true"
        await out.spans(5)
    spans = {span.name: span for span, _ in out.peer.spans if span.name != "edge"}
    edges = [span for span, _ in out.peer.spans if span.name == "edge"]
    upgrade = next(span for span in edges if span.parent_span_id.hex() == PARENT)
    assert {span.trace_id.hex() for span in (*spans.values(), upgrade)} == {TRACE}
    assert spans["call"].parent_span_id == upgrade.span_id
    assert spans["media"].parent_span_id == spans["call"].span_id
    assert spans["tool"].parent_span_id == spans["media"].span_id
    assert tool.callers == [f"00-{TRACE}-{spans['tool'].span_id.hex()}-01"]
    assert (spans["media"].status.code, spans["media"].status.message) == (2, "too long")
    assert spans["tool"].start_time_unix_nano >= spans["media"].start_time_unix_nano
    facts = {one.key: one.value for one in spans["tool"].attributes}
    assert facts["http.response.status_code"].int_value == 200


async def test_the_workers_of_the_page_give_their_trees(tmp_path: Path) -> None:
    """docs/hops/edge.md: the form that fails sends the tool no place, and the one with the lines gives the tree."""
    page = (REPO / "docs/hops/edge.md").read_text("utf-8")
    without, line = re.findall(r"^```js\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    _, tree = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    tool = Tool()
    async with collecting(tmp_path) as (grafter, out), serving(tool) as address, ClientSession() as http:
        for worker, sent in ((without, 0), (line, 3)):
            async with workerd(tmp_path / f"edge{sent}", grafter, address, worker) as edge:
                async with http.ws_connect(edge, headers=HERE) as socket:
                    assert await say(socket, "book") == "booked"
                await out.spans(sent)
    spans = {span.name: span for span, _ in out.peer.spans}
    assert tool.callers == ["", f"00-{TRACE}-{spans['tool'].span_id.hex()}-01"]
    shown, above = [], bytes.fromhex(PARENT)
    for depth, name in enumerate(("edge", "media", "tool"), 1):
        assert (spans[name].trace_id.hex(), spans[name].parent_span_id) == (TRACE, above)
        above = spans[name].span_id
        shown.append(f"{'  ' * depth}{name} [{Span.SpanKind.Name(spans[name].kind)[10:].lower()}]")
    assert tree.splitlines() == ["callsphere.call", *shown, "        GET / [tool]"]


async def test_a_socket_that_slept_knows_its_place(tmp_path: Path) -> None:
    """The object was put away between two messages, and its memory with it: what it asks afterwards is in the trace."""
    tool = Tool()
    async with (
        collecting(tmp_path) as (grafter, _),
        serving(tool) as address,
        workerd(tmp_path / "edge", grafter, address) as edge,
        ClientSession() as http,
        http.ws_connect(edge, headers=HERE) as socket,
    ):
        awake = await say(socket, "who")
        async with asyncio.timeout(SECONDS):
            # The runtime puts away an object that was idle for ten seconds.
            while await say(socket, "who") == awake:  # noqa: ASYNC110
                await asyncio.sleep(11)
        assert await say(socket, "ask") == "booked"
    assert [caller.split("-")[1] for caller in tool.callers] == [TRACE]


async def test_a_span_ends_in_another_process_than_it_began_in(tmp_path: Path) -> None:
    """The runtime was killed in the middle of the call; the next one ends the span that the storage has."""
    tool = Tool()
    async with collecting(tmp_path) as (grafter, out), serving(tool) as address, ClientSession() as http:
        async with workerd(tmp_path / "edge", grafter, address) as edge, http.ws_connect(edge, headers=HERE) as socket:
            await say(socket, "who")
        async with workerd(tmp_path / "edge", grafter, address) as edge, http.get(edge) as answer:
            assert await answer.text() == "true"
        await out.spans(2)
    (call,) = [span for span, _ in out.peer.spans if span.name == "call"]
    assert call.trace_id.hex() == TRACE


async def test_a_grafter_that_is_away_costs_the_worker_nothing(tmp_path: Path) -> None:
    """The call is served; what could not be sent is said by the answer, and nothing is thrown."""
    nobody = free_port()
    async with (
        workerd(tmp_path / "edge", f"http://127.0.0.1:{nobody}", "http://127.0.0.1:1/") as edge,
        ClientSession() as http,
        http.ws_connect(edge, headers=HERE) as socket,
    ):
        assert await say(socket, "end") == "false"


def test_it_is_small() -> None:
    """The worker's bundle can afford it."""
    assert len(json.dumps((REPO / "propagation/js/edge.mjs").read_text())) < 5000
