"""The whole service: in this process from a config, and as a process of its own where signals are meant."""

import asyncio
import contextlib
import copy
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import orjson
import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter import service
from grafter.components import Config, load
from grafter.health import Health, Phase
from grafter.service import running
from tests.exporter.doubles import TRACES_METHOD, http_peer, spans_in
from tests.ports import free_port, free_ports
from tests.rig import CALL, Peer, recorded_call, recorded_guest
from tests.store.contract import START, host_part
from tests.store.redis.servers import server
from tests.store.test_boot import opened

QUICK = {"after_root": "50ms", "guest_quiet": "50ms", "for_guest": "5s"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
PATIENCE = 60.0
"""Seconds; for a machine that is busy with other tests."""


def settings(tmp_path: Path, exporters: Mapping[str, Any], ports: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Everything that the service can run, on these ports or free ones, with short waits."""
    at = {
        door: f"127.0.0.1:{(ports or {}).get(door, 0)}"
        for door in ("otlp_grpc", "otlp_http", "openai", "health", "metrics")
    }
    return {
        "receivers": {
            "otlp": {"protocols": {"grpc": {"endpoint": at["otlp_grpc"]}, "http": {"endpoint": at["otlp_http"]}}},
            "openai": {"endpoint": at["openai"]},
        },
        "processors": {"graft": {"wait": dict(QUICK)}},
        "exporters": dict(exporters),
        "extensions": {
            "store": {"embedded": {"directory": str(tmp_path / "store")}},
            "health_check": {"endpoint": at["health"]},
        },
        "service": {"telemetry": {"metrics": {"endpoint": at["metrics"]}}},
    }


def read(tmp_path: Path, sections: Mapping[str, Any]) -> Config:
    """A config from a file, as a user writes it."""
    file = tmp_path / "config.yaml"
    file.write_bytes(orjson.dumps(sections))
    return load([str(file)], env={})


class Backend:
    """An OTLP/HTTP backend that keeps traces as a Peer does, and wakes who waits for them."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}"
        self.peer = Peer()
        self.other: dict[str, list[bytes]] = {}
        self._news = asyncio.Condition()

    async def keep(self, path: str, body: bytes) -> None:
        async with self._news:
            if path == "/v1/traces":
                self.peer.requests.append(body)
            else:
                self.other.setdefault(path, []).append(body)
            self._news.notify_all()

    async def spans(self, count: int) -> None:
        """Wait for that many."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(self.peer.spans) >= count)


@asynccontextmanager
async def backend() -> AsyncIterator[Backend]:
    """A backend on a free port."""
    kept: Backend

    async def answer(request: web.Request) -> web.Response:
        await kept.keep(request.path, await request.read())
        return web.Response()

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    kept = Backend(f"{host}:{port}")
    try:
        yield kept
    finally:
        await runner.cleanup()


async def export(port: int, body: bytes) -> bytes:
    """One Export over gRPC."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = await channel.unary_unary(TRACES_METHOD)(body, timeout=PATIENCE)
    return answer


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and text."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def post(port: int, path: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}{path}", data=body, headers=headers) as answer,
    ):
        await answer.read()
        return answer.status


async def test_a_call_from_every_door_to_the_backend(tmp_path: Path) -> None:
    """Host over gRPC and HTTP, guest over ingest: one tree comes out, metrics pass through, and /metrics counts it."""
    request = ExportTraceServiceRequest.FromString(recorded_call())
    both = [ExportTraceServiceRequest.FromString(recorded_call()) for _ in range(2)]
    for turn, half in enumerate(both):
        for resource_spans in half.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                del scope_spans.spans[turn::2]
    measured = ExportMetricsServiceRequest()
    measured.resource_metrics.add().scope_metrics.add().metrics.add(name="calls")
    host = spans_in(request.SerializeToString())
    guests = [item for items in recorded_guest() for item in items]
    spans = len(host) + sum(item["object"] == "trace.span" for item in guests)  # type: ignore[index,call-overload]
    async with backend() as out:
        sections = settings(tmp_path, {"otlp_http": {"endpoint": out.url}})
        sections["service"]["pipelines"] = {"metrics": {}}
        async with running(read(tmp_path, sections)) as served:
            ports = served.ports
            assert set(ports) == {"otlp_grpc", "otlp_http", "openai", "health", "metrics"}
            assert (await get(ports["health"], "/readyz"))[0] == 200
            for items in recorded_guest():
                body = orjson.dumps({"data": items})
                assert await post(ports["openai"], "/v1/traces/ingest", body, {}) == 204
            assert await post(ports["otlp_http"], "/v1/metrics", measured.SerializeToString(), PROTOBUF) == 200
            assert await post(ports["otlp_http"], "/v1/traces", both[0].SerializeToString(), PROTOBUF) == 200
            assert await export(ports["otlp_grpc"], both[1].SerializeToString()) == b""
            await out.spans(spans)
            _, page = await get(ports["metrics"], "/metrics")
    assert len(out.peer.ids) == len(set(out.peer.ids)) == spans
    assert {trace_id for trace_id, _ in out.peer.ids} == {CALL}
    tree = out.peer.tree(CALL).splitlines()
    assert len(tree) == spans
    assert tree[0].startswith("callsphere.call ")
    assert sum(not line.startswith(" ") for line in tree) == 1
    assert out.other == {"/v1/metrics": [measured.SerializeToString()]}
    assert 'grafter_passed_requests_total{outcome="forwarded",signal="metrics"} 1.0' in page
    assert "grafter_store_up 1.0" in page


async def test_a_receiver_with_a_name_says_its_ports_by_it(tmp_path: Path) -> None:
    """Two receivers of a type run side by side."""
    sections = settings(tmp_path, {"file": {"path": str(tmp_path / "out")}})
    free = {"protocols": {"grpc": {"endpoint": "127.0.0.1:0"}, "http": {"endpoint": "127.0.0.1:0"}}}
    sections["receivers"] = {"otlp": free, "otlp/edge": free, "openai": None}
    sections["extensions"]["health_check"] = None
    async with running(read(tmp_path, sections)) as served:
        doors = ("otlp_grpc", "otlp_http", "otlp_grpc/edge", "otlp_http/edge")
        assert set(served.ports) == {*doors, "metrics"}
        assert len({served.ports[door] for door in doors}) == 4


async def test_troubles_name_a_backend_that_is_down_and_readiness_stays(tmp_path: Path) -> None:
    """A trace for a peer that answers 503 is held; /readyz names the exporter and answers 200."""
    tried = asyncio.Event()

    async def busy(_body: bytes) -> web.StreamResponse:
        tried.set()
        return web.Response(status=503)

    async with asyncio.timeout(PATIENCE), http_peer(busy) as peer:
        sections = settings(tmp_path, {"otlp_http/b": {"endpoint": f"http://{peer.address}"}})
        sections["processors"]["graft"]["wait"]["for_guest"] = "0s"
        async with running(read(tmp_path, sections)) as served:
            await export(served.ports["otlp_grpc"], recorded_call())
            await tried.wait()
            troubles: dict[str, str] = {}
            while not troubles:
                status, body = await get(served.ports["health"], "/readyz")
                troubles = orjson.loads(body)["troubles"]
            assert status == 200
            assert list(troubles) == ["otlp_http/b"]
            assert "503" in troubles["otlp_http/b"]


async def test_a_store_that_has_come_is_waited_for_no_longer(tmp_path: Path) -> None:
    """What /readyz says while a start waits for Redis does not stand there while the rest of it is opened."""
    port = free_port()
    sections = settings(tmp_path, {"file": {"path": str(tmp_path / "out")}}, {"health": port})
    with server() as redis:
        redis.kill()
        sections["extensions"]["store"] = {"redis": {"url": redis.url}}
        health = Health()

        async def begin() -> None:
            async with running(read(tmp_path, sections), health=health):
                """Everything is open."""

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(begin())
            troubles: dict[str, str] = {}
            while not troubles:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    troubles = orjson.loads((await get(port, "/readyz"))[1])["troubles"]
            assert troubles["store"].startswith("waiting for it: ")
            said = health.errors
            await asyncio.to_thread(redis.start)
            await starting
            assert said() == {}


@pytest.mark.parametrize("asked", [True, False])
async def test_readiness_on_store_is_wired(tmp_path: Path, asked: bool) -> None:
    """The key of the config decides whether /readyz looks at the store; a store that works is ready either way."""
    sections = settings(tmp_path, {"file": {"path": str(tmp_path / "out")}})
    sections["extensions"]["health_check"]["readiness_on_store"] = asked
    async with running(read(tmp_path, sections)) as served:
        assert served.health.readiness_on_store is asked
        assert served.health.takes_parts()
        assert (await get(served.ports["health"], "/readyz"))[0] == 200
        served.health.takes_parts = lambda: False
        assert (await get(served.ports["health"], "/readyz"))[0] == (503 if asked else 200)
    assert served.health.phase is Phase.STOPPING


async def test_what_requests_may_hold_follows_the_memory_limit(tmp_path: Path) -> None:
    """It is a quarter of the limit, however much memory the machine has: a document that takes more is 413."""
    sections = settings(tmp_path, {"file": {"path": str(tmp_path / "out")}})
    document = b'{"resourceSpans":[%b]}' % b",".join([b'{"schemaUrl":1}'] * 25_000)
    for limit, answer in (("40MiB", 413), ("4000MiB", 200)):
        sections["service"]["memory_limit"] = limit
        async with running(read(tmp_path, sections)) as served:
            headers = {"Content-Type": "application/json"}
            assert await post(served.ports["otlp_http"], "/v1/traces", document, headers) == answer


async def test_a_backlog_that_was_given_up_goes_from_the_metrics(tmp_path: Path) -> None:
    """Of an exporter that gets no traces any more; that of one that does stays, with nothing in it."""
    sections = settings(tmp_path, {"file": {"path": str(tmp_path / "out")}})
    async with opened(tmp_path / "store", START) as store:
        await store.defer("gone", [host_part("late")], START)
    async with running(read(tmp_path, sections)) as served:
        await until_text(served, 'grafter_exporter_backlog_spans{exporter="gone"} 1.0')
        headers = {"Content-Type": "application/json"}
        assert await post(served.ports["openai"], "/admin/backlog/drop", b'{"exporter":"gone"}', headers) == 200
        page = await until_text(served, 'grafter_exporter_backlog_spans{exporter="file"} 0.0')
        assert 'exporter="gone"' not in page


async def until_text(served: service.Running, text: str) -> str:
    """The page of metrics when it has this."""
    async with asyncio.timeout(PATIENCE):
        while True:
            _, page = await get(served.ports["metrics"], "/metrics")
            if text in page:
                return page


async def test_the_first_scrape_balances_the_books(tmp_path: Path) -> None:
    """What the store held at the start is counted as recovered in the very scrape that shows it as held."""
    sections = settings(tmp_path, {"file": {"path": str(tmp_path / "out")}})
    sections["processors"]["graft"]["wait"] = {"after_root": "10m", "idle": "20m"}
    spans = len(spans_in(recorded_call()))
    for recovered in (0, spans):
        async with running(read(tmp_path, sections)) as served:
            if not recovered:
                await export(served.ports["otlp_grpc"], recorded_call())
            held = False
            async with asyncio.timeout(PATIENCE):
                while not held:
                    _, page = await get(served.ports["metrics"], "/metrics")
                    held = f"grafter_held_spans {spans}.0" in page
            assert f"grafter_recovered_spans_total {recovered}.0" in page


async def test_a_stop_fits_into_its_timeout(tmp_path: Path) -> None:
    """With a tee, a backend and a sender that all hang, leaving takes no longer than ``shutdown_timeout``."""
    stuck, exporting, copying = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hang(body: bytes) -> web.StreamResponse:
        (copying if body.startswith(b'{"data"') else exporting).set()
        await stuck.wait()
        return web.Response()

    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(2 * PATIENCE), http_peer(hang) as peer:
        sections = settings(tmp_path, {"otlp_http": {"endpoint": f"http://{peer.address}"}})
        sections["receivers"]["openai"]["ingest"] = {"tee": {"endpoint": f"http://{peer.address}", "api_key": "k"}}
        sections["service"]["shutdown_timeout"] = "1s"
        async with running(read(tmp_path, sections)) as served:
            await export(served.ports["otlp_grpc"], recorded_call())
            body = orjson.dumps({"data": recorded_guest("py_simple")[0]})
            assert await post(served.ports["openai"], "/v1/traces/ingest", body, {}) == 204
            _, half = await asyncio.open_connection("127.0.0.1", served.ports["otlp_http"])
            half.write(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            await half.drain()
            await asyncio.gather(exporting.wait(), copying.wait())
            leaving = clock()
        # Each of the three would take longer alone if it had its default: 5 s the tee, 30 s the export.
        assert clock() - leaving < 4
        half.close()
        stuck.set()
    async with backend() as out:
        sections["exporters"]["otlp_http"]["endpoint"] = out.url
        del sections["receivers"]["openai"]["ingest"]
        async with running(read(tmp_path, sections)) as again:
            await out.spans(1)
            assert again.health.phase is Phase.RUNNING


# A start that fails.


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """``run`` configures the process's logging; here it is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def start(config: Config) -> int:
    """``run``, which must fail: one that starts is stopped, so that the test ends with the wrong exit code."""
    timer = threading.Timer(PATIENCE, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        return service.run(config)
    finally:
        timer.cancel()


def assert_free(ports: Mapping[str, int], but: str = "") -> None:
    """Nobody listens on any of these."""
    for door, port in ports.items():
        if door != but:
            with contextlib.closing(socket.socket()) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))


DOORS = ("otlp_grpc", "otlp_http", "openai", "health", "metrics")
KEYS = {
    "otlp_grpc": "receivers.otlp.protocols.grpc.endpoint",
    "otlp_http": "receivers.otlp.protocols.http.endpoint",
    "openai": "receivers.openai.endpoint",
    "health": "extensions.health_check.endpoint",
    "metrics": "service.telemetry.metrics.endpoint",
}


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("door", DOORS)
def test_a_port_in_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], door: str) -> None:
    """Whichever door it is: the line names the endpoint, the exit code is 1, and no other port stays open."""
    ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
    config = read(tmp_path, settings(tmp_path, {"file": {"path": str(tmp_path / "out")}}, ports))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[door]))
        taken.listen()
        assert start(config) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"grafter: {KEYS[door]}: 127.0.0.1:{ports[door]}: address already in use"
    assert_free(ports)


@pytest.mark.usefixtures("logging_restored")
def test_all_ports_in_use_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second grafter, or a Collector beside it, has several: one line names them all, each by its key."""
    ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
    config = read(tmp_path, settings(tmp_path, {"file": {"path": str(tmp_path / "out")}}, ports))
    with contextlib.ExitStack() as stack:
        for port in ports.values():
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", port))
            taken.listen()
        assert start(config) == 1
    (line,) = capsys.readouterr().err.splitlines()
    named = [f"{KEYS[door]}: 127.0.0.1:{ports[door]}: address already in use" for door in DOORS]
    assert sorted(line.removeprefix("grafter: ").split("; ")) == sorted(named)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("path", ["missing/traces.jsonl", "file/traces.jsonl", "."])
def test_a_file_that_cannot_be_written_is_said_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """Held traces would say so only when the first is whole, minutes later."""
    (tmp_path / "file").touch()
    config = read(tmp_path, settings(tmp_path, {"file/a": {"path": str(tmp_path / path)}}))
    assert start(config) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"grafter: exporters.file/a.path: cannot write {tmp_path / path}: ")


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s, at: s["extensions"]["store"]["embedded"].update(directory=f"{at}/file/store"), "{at}/file/store"),
        (lambda s, at: s["extensions"]["store"]["embedded"].update(directory=f"{at}/file"), "{at}/file"),
        (lambda s, at: tls(s, f"{at}/none.pem", f"{at}/none.key"), "{at}/none.pem: no such file or directory"),
        (lambda s, at: tls(s, f"{at}/file", f"{at}/file"), "{at}/file: no PEM certificate found"),
        (
            lambda s, at: s["exporters"]["otlp_grpc"].update(tls={"ca_file": f"{at}/none.pem"}),
            "tls.ca_file: cannot read {at}/none.pem",
        ),
        (
            lambda s, at: s["exporters"]["otlp_http"].update(
                endpoint="https://localhost:1", tls={"ca_file": f"{at}/file"}
            ),
            "tls.ca_file: cannot load {at}/file",
        ),
    ],
    ids=["store under a file", "store is a file", "no certificate", "no PEM", "no authority (grpc)", "no PEM (http)"],
)
def test_a_wrong_path_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, said: str) -> None:
    """The line names the path, the exit code is 1, and no port stays open."""
    (tmp_path / "file").write_text("not what it should be\n")
    ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
    exporters: dict[str, Any] = {
        "otlp_grpc": {"endpoint": "localhost:1"},
        "otlp_http": {"endpoint": "http://localhost:1"},
    }
    sections = settings(tmp_path, exporters, ports)
    change(sections, tmp_path)
    assert start(read(tmp_path, sections)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("grafter: ")
    assert said.format(at=tmp_path) in line
    assert "Traceback" not in line
    assert_free(ports)


def tls(sections: dict[str, Any], cert: str, key: str) -> None:
    """TLS for the HTTP door."""
    sections["receivers"]["otlp"]["protocols"]["http"]["tls"] = {"cert_file": cert, "key_file": key}


async def test_a_start_that_fails_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    """The error is the one of the door, not a group, and a start without the mistake finds store and ports free."""
    ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
    sections = settings(tmp_path, {"file": {"path": str(tmp_path / "out")}}, ports)
    wrong = copy.deepcopy(sections)
    tls(wrong, str(tmp_path / "missing.pem"), str(tmp_path / "missing.pem"))
    with pytest.raises(ValueError, match=r"missing\.pem: no such file"):
        async with running(read(tmp_path, wrong)):
            pass
    assert_free(ports)
    async with running(read(tmp_path, sections)) as served:
        assert served.ports == ports


# Signals, to a process of its own.


class Process:
    """``grafter run`` on fixed ports; traces go into a file after ten minutes, metrics to a peer at once."""

    def __init__(self, home: Path, peer: str) -> None:
        self.home = home
        self.ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
        exporters = {"file": {"path": str(home / "out.jsonl")}, "otlp_http": {"endpoint": peer}}
        self.sections = settings(home, exporters, self.ports)
        self.sections["processors"]["graft"]["wait"] = {"after_root": "10m", "idle": "20m"}
        pipelines = {"traces": {"exporters": ["file"]}, "metrics": {"exporters": ["otlp_http"]}}
        # Long enough that a stop which waits for what hangs is told from one that does not.
        self.sections["service"] |= {"pipelines": pipelines, "shutdown_timeout": "120s"}
        self.running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return when /readyz answers 200."""
        (self.home / "config.json").write_bytes(orjson.dumps(self.sections))
        with (self.home / "log").open("ab") as log:
            command = (sys.executable, "-m", "grafter", "run", "--config", str(self.home / "config.json"))
            self.running = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        async with asyncio.timeout(PATIENCE):
            while True:
                assert self.running.returncode is None, self.log()
                with contextlib.suppress(aiohttp.ClientError):
                    if (await get(self.ports["health"], "/readyz"))[0] == 200:
                        return
                await asyncio.sleep(0.02)

    def terminate(self) -> None:
        """Send SIGTERM."""
        assert self.running is not None
        self.running.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """The exit code, when it has ended."""
        assert self.running is not None
        async with asyncio.timeout(PATIENCE):
            return await self.running.wait()

    def log(self) -> str:
        """What it printed."""
        return (self.home / "log").read_text()

    async def held(self) -> tuple[float, float]:
        """Spans that are held, and those of them that were there at the start."""
        _, page = await get(self.ports["metrics"], "/metrics")
        found = dict(line.split(" ") for line in page.splitlines() if line[0] != "#" and "{" not in line)
        return float(found["grafter_held_spans"]), float(found["grafter_recovered_spans_total"])


@dataclass
class HangingPeer:
    """A metrics backend that answers when it is told to."""

    url: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, _body: bytes) -> web.StreamResponse:
        self.asked.set()
        await self.answers.wait()
        return web.Response()


@pytest.fixture
async def hanging() -> AsyncIterator[HangingPeer]:
    """On a free port."""
    made = HangingPeer()
    async with http_peer(made.answer) as peer:
        made.url = f"http://{peer.address}"
        yield made
        made.answers.set()


@pytest.fixture
async def grafter(tmp_path: Path, hanging: HangingPeer) -> AsyncIterator[Process]:
    """A process that is ready."""
    process = Process(tmp_path, hanging.url)
    try:
        await process.start()
        yield process
    finally:
        if process.running is not None and process.running.returncode is None:
            process.running.kill()
            await process.ended()


async def refuses(port: int) -> None:
    """Return when nobody takes connections there any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


METRICS = ExportMetricsServiceRequest().SerializeToString() + b"\x0a\x00"


async def test_sigterm_refuses_finishes_and_keeps(grafter: Process, hanging: HangingPeer) -> None:
    """What was begun is answered, what is new is refused at every door, and the next start holds what was held."""
    body = recorded_call()
    spans = len(spans_in(body))
    port = grafter.ports["otlp_http"]
    assert await post(port, "/v1/traces", body, PROTOBUF) == 200
    begun = asyncio.ensure_future(post(port, "/v1/metrics", METRICS, PROTOBUF))
    await hanging.asked.wait()
    grafter.terminate()
    await refuses(port)
    await refuses(grafter.ports["openai"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await export(grafter.ports["otlp_grpc"], body)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    status, said = await get(grafter.ports["health"], "/readyz")
    assert (status, orjson.loads(said)["status"]) == (503, "stopping")
    assert not begun.done()
    hanging.answers.set()
    assert await begun == 200
    assert await grafter.ended() == 0
    assert "Traceback" not in grafter.log()
    assert "SIGTERM: stopping" in grafter.log()
    await grafter.start()
    assert await grafter.held() == (spans, spans)
    assert (grafter.home / "out.jsonl").stat().st_size == 0


async def test_a_second_signal_ends_at_once(grafter: Process, hanging: HangingPeer) -> None:
    """While a request hangs, a second SIGTERM ends the process with exit code 1; what was acknowledged is kept."""
    body = recorded_call()
    port = grafter.ports["otlp_http"]
    assert await post(port, "/v1/traces", body, PROTOBUF) == 200
    begun = asyncio.ensure_future(post(port, "/v1/metrics", METRICS, PROTOBUF))
    await hanging.asked.wait()
    grafter.terminate()
    await refuses(port)
    clock = asyncio.get_running_loop().time
    again = clock()
    grafter.terminate()
    assert await grafter.ended() == 1
    # The hanging request alone would have had nine seconds.
    assert clock() - again < 5
    with pytest.raises(aiohttp.ClientError):
        await begun
    assert "SIGTERM again: ending at once" in grafter.log()
    await grafter.start()
    assert (await grafter.held())[0] == len(spans_in(body))


async def test_a_directory_of_another_process_is_one_line(grafter: Process, tmp_path: Path) -> None:
    """A second grafter on the same directory says whose it is and ends with 1; the first goes on."""
    assert grafter.running is not None
    ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
    sections = settings(tmp_path, {"file": {"path": str(tmp_path / "out")}}, ports)
    (tmp_path / "second.json").write_bytes(orjson.dumps(sections))
    command = (sys.executable, "-m", "grafter", "run", "--config", str(tmp_path / "second.json"))
    second = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(PATIENCE):
        _, said = await second.communicate()
    assert second.returncode == 1
    (line,) = said.decode().splitlines()
    assert line.startswith("grafter: ")
    assert str(tmp_path / "store") in line
    assert str(grafter.running.pid) in line
    assert_free(ports)
    assert (await get(grafter.ports["health"], "/readyz"))[0] == 200
