"""The doors as the config opens them, against real clients and servers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import orjson
import pytest
import trustme
import zstandard
from aiohttp import web

from grafter.components import Config, load
from grafter.consumer import Exporter, Signal, Verdict
from grafter.core.model import DedupeKey, NamedLink, Part, call_guest, guest_key
from grafter.errors import RejectedError
from grafter.otlp.from_json import trace_request_from_json
from grafter.receiver.config import Surroundings
from grafter.receiver.otlp import Forwarding
from grafter.telemetry import Metrics
from tests.exporter.doubles import TRACES_METHOD, Context, Peer, batch, grpc_peer, http_peer, spans_in, trace
from tests.rig import recorded_call, recorded_guest

SECRET = "s3cret-token"
BEARER = {"Authorization": f"Bearer {SECRET}"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}


@dataclass(frozen=True)
class Certificates:
    """PEM files of one authority, a server on this machine and a client."""

    ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]
    """Certificate and key."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pairs = []
    for name in ("localhost", "client.example.org"):
        issued = authority.issue_cert(name)
        pair = folder / f"{name}.pem", folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(pair[0])
        issued.private_key_pem.write_to_path(pair[1])
        pairs.append(pair)
    return Certificates(folder / "ca.pem", pairs[0], pairs[1])


@dataclass
class Store:
    """Keeps the parts that come in."""

    parts: list[Part] = field(default_factory=list)

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        self.parts += parts

    @property
    def spans(self) -> int:
        return sum(part.spans for part in self.parts)


def read(tmp_path: Path, **sections: Any) -> Config:
    """A config from a file, as a user writes it."""
    file = tmp_path / "config.yaml"
    file.write_bytes(orjson.dumps(sections))
    return load([str(file)], env={})


@asynccontextmanager
async def receiver(
    tmp_path: Path, name: str, settings: Mapping[str, Any], store: Store, *, metrics: Metrics | None = None
) -> AsyncIterator[dict[str, int]]:
    """One receiver of a config, open; its ports."""
    config = read(tmp_path, receivers={name: settings})
    metrics = metrics or Metrics()
    opened = config.active().receivers[name]
    forwarding = Forwarding({}, metrics)
    async with opened.open(name, Surroundings(store, forwarding, config.graft_policy(), metrics, 1.0)) as ports:
        yield ports


@asynccontextmanager
async def exporter(tmp_path: Path, name: str, settings: Mapping[str, Any]) -> AsyncIterator[Exporter]:
    """One exporter of a config, open."""
    config = read(tmp_path, exporters={name: settings})
    async with config.active().exporters[name].open(name, Metrics()) as opened:
        yield opened


def otlp(**both: Any) -> dict[str, Any]:
    """An otlp receiver on free ports, with settings of both its doors or, by ``grpc_`` and ``http_``, of one."""
    protocols: dict[str, dict[str, Any]] = {"grpc": {}, "http": {}}
    for door, settings in protocols.items():
        settings["endpoint"] = "localhost:0"
        for key, value in both.items():
            if not key.startswith(("grpc_", "http_")) or key.startswith(f"{door}_"):
                settings[key.removeprefix(f"{door}_")] = value
    return {"protocols": protocols}


async def call(
    port: int, body: bytes, *, headers: Mapping[str, str] | None = None, tls: Sequence[Path] | None = None
) -> grpc.StatusCode:
    """The status of one Export; ``tls``: the authority, and the client's certificate and key."""
    address = f"localhost:{port}"
    if tls is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        authority, *client = (path.read_bytes() for path in tls)
        certificate, key = client or (None, None)
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate))
    metadata = tuple((name.lower(), value) for name, value in (headers or {}).items())
    async with channel:
        try:
            await channel.unary_unary(TRACES_METHOD)(body, metadata=metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def post(
    url: str, body: bytes, headers: Mapping[str, str], tls: Sequence[Path] | None = None, method: str = "POST"
) -> aiohttp.ClientResponse:
    """The answer to one request, read to its end."""
    context: ssl.SSLContext | bool = True
    if tls is not None:
        context = ssl.create_default_context(cafile=str(tls[0]))
        if len(tls) > 1:
            context.load_cert_chain(*map(str, tls[1:]))
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(method, url, data=body, headers=headers, ssl=context) as answer,
    ):
        await answer.read()
        return answer


async def test_otlp_tokens_and_tls_open_both_doors(tmp_path: Path, certificates: Certificates) -> None:
    """With TLS and the token a request is stored; without the token it is refused at either door."""
    store, body = Store(), recorded_call()
    cert, key = map(str, certificates.server)
    settings = otlp(tls={"cert_file": cert, "key_file": key}, tokens=[SECRET])
    async with receiver(tmp_path, "otlp/secure", settings, store) as ports:
        assert set(ports) == {"otlp_grpc/secure", "otlp_http/secure"}
        url = f"https://localhost:{ports['otlp_http/secure']}/v1/traces"
        trusted = [certificates.ca]
        assert await call(ports["otlp_grpc/secure"], body, tls=trusted) is grpc.StatusCode.UNAUTHENTICATED
        assert (await post(url, body, PROTOBUF, trusted)).status == 401
        assert store.spans == 0
        assert await call(ports["otlp_grpc/secure"], body, headers=BEARER, tls=trusted) is grpc.StatusCode.OK
        once = store.spans
        assert once == len(spans_in(body))
        assert (await post(url, body, PROTOBUF | BEARER, trusted)).status == 200
        assert store.spans == 2 * once


async def test_otlp_asks_clients_for_certificates(tmp_path: Path, certificates: Certificates) -> None:
    """With ``client_ca_file`` only a client with a certificate of that authority gets in."""
    store, body = Store(), recorded_call()
    cert, key = map(str, certificates.server)
    settings = otlp(tls={"cert_file": cert, "key_file": key, "client_ca_file": str(certificates.ca)})
    async with receiver(tmp_path, "otlp", settings, store) as ports:
        url = f"https://localhost:{ports['otlp_http']}/v1/traces"
        assert await call(ports["otlp_grpc"], body, tls=[certificates.ca]) is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(aiohttp.ClientError):
            await post(url, body, PROTOBUF, [certificates.ca])
        assert store.spans == 0
        known = [certificates.ca, *certificates.client]
        assert await call(ports["otlp_grpc"], body, tls=known) is grpc.StatusCode.OK
        assert (await post(url, body, PROTOBUF, known)).status == 200
        assert store.spans == 2 * len(spans_in(body))


async def test_otlp_limits_and_cors_are_those_of_the_config(tmp_path: Path) -> None:
    """Sizes are refused past the configured limit, and browsers of the configured origins may send."""
    settings = otlp(
        grpc_max_recv_msg_size_mib=1,
        http_max_request_body_size="1KiB",
        http_cors={"allowed_origins": ["https://*.example.com"], "allowed_headers": ["x-tenant"], "max_age": 77},
    )
    asked = {
        "Origin": "https://app.example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-tenant",
    }
    async with receiver(tmp_path, "otlp", settings, Store()) as ports:
        url = f"http://localhost:{ports['otlp_http']}/v1/traces"
        assert await call(ports["otlp_grpc"], bytes(2 << 20)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await post(url, bytes(1025), PROTOBUF)).status == 413
        granted = (await post(url, b"", asked, method="OPTIONS")).headers
        assert granted["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert granted["Access-Control-Max-Age"] == "77"
        other = await post(url, b"", asked | {"Origin": "https://example.org"}, method="OPTIONS")
        assert "Access-Control-Allow-Origin" not in other.headers


async def test_realtime_events_have_tokens_of_their_own(tmp_path: Path) -> None:
    """The door of posted events is at the ingest's address, and each door is opened by its own tokens alone."""
    store = Store()
    event = {"at": 1_764_000_000, "from": "server", "event": {"type": "response.done", "response": {"id": "resp_1"}}}
    body = orjson.dumps({"call": "rtc_1", "events": [event]})
    items = orjson.dumps({"data": recorded_guest()[0]})
    json = {"Content-Type": "application/json"}
    settings = {"endpoint": "127.0.0.1:0", "realtime": {"tokens": [SECRET]}}
    async with asyncio.timeout(30), receiver(tmp_path, "openai", settings, store) as ports:
        base = f"http://127.0.0.1:{ports['openai']}/v1"
        assert (await post(f"{base}/realtime/events", body, json)).status == 401
        assert store.parts == []
        assert (await post(f"{base}/realtime/events", body, json | BEARER)).status == 204
        assert [part.key for part in store.parts] == [guest_key(call_guest("rtc_1"))]
        assert (await post(f"{base}/traces/ingest", items, json)).status == 204
    assert store.spans > 0


async def test_ingest_tokens_and_the_tees_key(tmp_path: Path) -> None:
    """Without the token 401; with it the items are stored, and the tee's peer gets them under its own key."""
    items = recorded_guest()[0]
    store, arrived = Store(), asyncio.Event()

    async def answer(_body: bytes) -> web.StreamResponse:
        arrived.set()
        return web.Response(status=204)

    async with asyncio.timeout(30), http_peer(answer) as openai:
        tee = {"endpoint": f"http://{openai.address}/v1/traces/ingest", "api_key": "sk-own"}
        settings = {"endpoint": "127.0.0.1:0", "ingest": {"tokens": [SECRET], "tee": tee}}
        async with receiver(tmp_path, "openai/eu", settings, store) as ports:
            url = f"http://127.0.0.1:{ports['openai/eu']}/v1/traces/ingest"
            body = orjson.dumps({"data": items})
            assert (await post(url, body, {"Content-Type": "application/json"})).status == 401
            assert store.parts == []
            assert (await post(url, body, {"Content-Type": "application/json"} | BEARER)).status == 204
            await arrived.wait()
    assert store.spans > 0
    assert openai.paths == ["/v1/traces/ingest"]
    assert openai.headers[0]["Authorization"] == "Bearer sk-own"
    assert len(orjson.loads(openai.bodies[0])["data"]) == len(items)
    assert SECRET not in str(openai.headers)


async def test_a_tee_without_a_key_passes_the_callers(tmp_path: Path) -> None:
    """The copy goes out under the Authorization that came with the items; what is queued is sent before leaving."""

    async def answer(_body: bytes) -> web.StreamResponse:
        return web.Response(status=204)

    async with asyncio.timeout(30), http_peer(answer) as openai:
        tee = {"endpoint": f"http://{openai.address}/v1/traces/ingest"}
        settings = {"endpoint": "127.0.0.1:0", "ingest": {"tee": tee}}
        async with receiver(tmp_path, "openai", settings, Store()) as ports:
            url = f"http://127.0.0.1:{ports['openai']}/traces/ingest"
            body = orjson.dumps({"data": recorded_guest()[0]})
            assert (await post(url, body, {"Authorization": "Bearer sk-caller"})).status == 204
    assert [headers["Authorization"] for headers in openai.headers] == ["Bearer sk-caller"]


async def test_a_stuck_tee_does_not_outlast_the_grace(tmp_path: Path) -> None:
    """Leaving a receiver whose tee's peer never answers takes its grace; what was not sent is counted."""
    stuck, arrived, metrics = asyncio.Event(), asyncio.Event(), Metrics()

    async def answer(_body: bytes) -> web.StreamResponse:
        arrived.set()
        await stuck.wait()
        return web.Response(status=204)

    items = recorded_guest()[0]
    async with asyncio.timeout(30), http_peer(answer) as openai:
        tee = {"endpoint": f"http://{openai.address}/", "api_key": "k"}
        settings = {"endpoint": "127.0.0.1:0", "ingest": {"tee": tee}}
        clock = asyncio.get_running_loop().time
        async with receiver(tmp_path, "openai", settings, Store(), metrics=metrics) as ports:
            url = f"http://127.0.0.1:{ports['openai']}/traces/ingest"
            assert (await post(url, orjson.dumps({"data": items}), {})).status == 204
            await arrived.wait()
            leaving = clock()
        # The grace of the receiver is one second; the tee's own default would be five.
        assert clock() - leaving < 4
        stuck.set()
    assert metrics.registry.get_sample_value("grafter_tee_items_total", {"outcome": "dropped_failed"}) == len(items)


async def grpc_ok(_body: bytes, _context: Context) -> bytes:
    return b""


async def http_ok(_body: bytes) -> web.StreamResponse:
    return web.Response(status=200)


async def sent(door: Exporter) -> list[Verdict]:
    """What became of two traces."""
    return [result.verdict for result in await door.export(batch(trace(1), trace(2)))]


ACCEPTED = [Verdict.ACCEPTED, Verdict.ACCEPTED]


def numbers(body: bytes) -> list[int]:
    """The trace numbers of a request's spans."""
    return sorted({int.from_bytes(span.trace_id, "big") for span in spans_in(body)})


async def test_otlp_grpc_over_tls_with_headers(tmp_path: Path, certificates: Certificates) -> None:
    """The peer's certificate is checked against ``ca_file``, ours is shown, and the headers reach it."""
    key, cert = certificates.server[1].read_bytes(), certificates.server[0].read_bytes()
    credentials = grpc.ssl_server_credentials([(key, cert)], certificates.ca.read_bytes(), require_client_auth=True)
    client_cert, client_key = map(str, certificates.client)
    settings: dict[str, Any] = {
        "tls": {"ca_file": str(certificates.ca), "cert_file": client_cert, "key_file": client_key},
        "headers": {"X-Tenant": "clinic", "authorization": "Bearer backend"},
        "compression": "gzip",
    }
    async with grpc_peer(grpc_ok, credentials=credentials) as peer:
        settings["endpoint"] = f"localhost:{peer.address.rpartition(':')[2]}"
        async with exporter(tmp_path, "otlp_grpc/backend", settings) as door:
            assert door.name == "otlp_grpc/backend"
            assert await sent(door) == ACCEPTED
            await door.forward(Signal.LOGS, b"")
    assert numbers(peer.bodies[0]) == [1, 2]
    assert peer.headers[0]["x-tenant"] == "clinic"
    assert peer.headers[0]["authorization"] == "Bearer backend"
    assert peer.paths == [TRACES_METHOD, "/opentelemetry.proto.collector.logs.v1.LogsService/Export"]


@pytest.mark.parametrize("insecure", [True, False])
async def test_otlp_grpc_in_plaintext(tmp_path: Path, insecure: bool) -> None:
    """Either ``tls.insecure`` or an http:// endpoint says so."""
    async with grpc_peer(grpc_ok) as peer:
        scheme = "" if insecure else "http://"
        settings = {"endpoint": f"{scheme}{peer.address}", "tls": {"insecure": insecure}}
        async with exporter(tmp_path, "otlp_grpc", settings) as door:
            assert await sent(door) == ACCEPTED
    assert numbers(peer.bodies[0]) == [1, 2]


async def test_otlp_grpc_over_https_has_a_port_of_its_own(tmp_path: Path) -> None:
    """``https://`` and a host are enough, as the reference says: port 443."""
    async with exporter(tmp_path, "otlp_grpc", {"endpoint": "https://collector.invalid"}) as door:
        assert door.retry_in() == 0.0


def unpacked(peer: Peer, at: int = 0) -> bytes:
    """A request's body without its zstd."""
    assert peer.headers[at]["Content-Encoding"] == "zstd"
    return zstandard.ZstdDecompressor().decompressobj().decompress(peer.bodies[at])


async def test_otlp_http_over_tls_with_headers(tmp_path: Path, certificates: Certificates) -> None:
    """Certificates of both sides, headers, compression and the paths of three signals are as configured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    client_cert, client_key = map(str, certificates.client)
    settings: dict[str, Any] = {
        "tls": {"ca_file": str(certificates.ca), "cert_file": client_cert, "key_file": client_key},
        "headers": {"X-Tenant": "clinic"},
        "compression": "zstd",
    }
    async with http_peer(http_ok, ssl_context=context) as peer:
        settings["endpoint"] = f"https://localhost:{peer.address.rpartition(':')[2]}/base/"
        async with exporter(tmp_path, "otlp_http/b", settings) as door:
            assert await sent(door) == ACCEPTED
            await door.forward(Signal.METRICS, b"m")
            await door.forward(Signal.LOGS, b"l")
    assert peer.paths == ["/base/v1/traces", "/base/v1/metrics", "/base/v1/logs"]
    assert peer.headers[0]["X-Tenant"] == "clinic"
    assert peer.headers[0]["Content-Type"] == "application/x-protobuf"
    assert numbers(unpacked(peer)) == [1, 2]
    assert unpacked(peer, 1) == b"m"


async def test_otlp_http_in_json_to_an_address_of_its_own(tmp_path: Path) -> None:
    """``traces_endpoint`` is used as it stands, ``encoding: json`` holds, and a loopback peer gets no compression."""
    async with http_peer(http_ok) as peer:
        settings = {"traces_endpoint": f"http://{peer.address}/in", "encoding": "json"}
        async with exporter(tmp_path, "otlp_http", settings) as door:
            assert await sent(door) == ACCEPTED
            with pytest.raises(RejectedError):
                await door.forward(Signal.METRICS, b"m")
    assert peer.paths == ["/in"]
    assert "Content-Encoding" not in peer.headers[0]
    assert peer.headers[0]["Content-Type"] == "application/json"
    assert numbers(trace_request_from_json(peer.bodies[0])) == [1, 2]


@pytest.mark.parametrize(
    ("region", "url"),
    [("us", "https://api.honeycomb.io/v1/traces"), ("eu", "https://api.eu1.honeycomb.io/v1/traces")],
)
async def test_honeycomb_needs_a_key_and_a_region(tmp_path: Path, region: str, url: str) -> None:
    """With these two it opens, at the region's address, compressed, with the key as header."""
    settings = {"api_key": "hcaik_0123", "region": region}
    config: Any = read(tmp_path, exporters={"honeycomb": settings}).active().exporters["honeycomb"]
    assert config.target == url
    assert config.effective_compression == "gzip"
    async with exporter(tmp_path, "honeycomb", settings) as door:
        assert (door.name, door.retry_in()) == ("honeycomb", 0.0)


@pytest.mark.parametrize("dataset", [None, "calls"])
async def test_honeycomb_as_its_server_sees_it(tmp_path: Path, dataset: str | None) -> None:
    """OTLP/HTTP protobuf at /v1/traces under the team's key; a dataset for Classic, and headers of one's own."""
    async with http_peer(http_ok) as peer:
        settings = {
            "api_key": "hcaik_0123",
            "endpoint": f"http://{peer.address}",
            "compression": "zstd",
            "headers": {"X-Extra": "1"},
        }
        async with exporter(tmp_path, "honeycomb/a", settings | ({"dataset": dataset} if dataset else {})) as door:
            assert await sent(door) == ACCEPTED
    (headers,) = [{name.lower(): value for name, value in each.items()} for each in peer.headers]
    assert peer.paths == ["/v1/traces"]
    assert headers["x-honeycomb-team"] == "hcaik_0123"
    assert headers.get("x-honeycomb-dataset") == dataset
    assert headers["x-extra"] == "1"
    assert headers["content-type"] == "application/x-protobuf"
    assert numbers(unpacked(peer)) == [1, 2]


async def test_honeycomb_requests_stay_below_its_limit(tmp_path: Path) -> None:
    """A trace of eight megabytes goes in requests of at most five."""
    async with http_peer(http_ok) as peer:
        settings = {"api_key": "hcaik_0123", "endpoint": f"http://{peer.address}"}
        async with exporter(tmp_path, "honeycomb", settings) as door:
            results = await door.export(batch(trace(1, 80, size=100_000)))
    assert [result.verdict for result in results] == [Verdict.ACCEPTED]
    assert len(peer.bodies) > 1
    assert max(map(len, peer.bodies)) <= 5_000_000
    assert sum(len(spans_in(body)) for body in peer.bodies) == 80


async def test_sending_limits_are_those_of_the_config(tmp_path: Path) -> None:
    """``sending_queue.batch.max_spans`` cuts a batch into requests; without retries one failure makes the peer wait."""
    failing = False

    async def answer(_body: bytes) -> web.StreamResponse:
        return web.Response(status=503 if failing else 200)

    async with http_peer(answer) as peer:
        settings = {
            "endpoint": f"http://{peer.address}",
            "sending_queue": {"batch": {"max_spans": 2}},
            "retry_on_failure": {"enabled": False, "initial_interval": "40s", "max_interval": "40s"},
        }
        async with exporter(tmp_path, "otlp_http", settings) as door:
            assert await sent(door) == ACCEPTED
            assert len(peer.bodies) == 2
            failing = True
            assert (await sent(door))[0] is Verdict.LATER
            assert len(peer.bodies) == 3
            assert 20 <= door.retry_in() <= 60


@pytest.mark.parametrize("fsync", [True, False])
async def test_file_writes_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool) -> None:
    """One OTLP JSON line a request; ``fsync`` decides whether each is brought to the disk first."""
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    path = tmp_path / "out.jsonl"
    async with exporter(tmp_path, "file", {"path": str(path), "fsync": fsync}) as door:
        assert await sent(door) == ACCEPTED
    (line,) = path.read_bytes().splitlines()
    assert numbers(trace_request_from_json(line)) == [1, 2]
    assert len(synced) == int(fsync)


async def test_debug_prints_traces_and_says_that_metrics_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a trace with ``basic``, and one for a request of another signal, on stdout."""
    async with exporter(tmp_path, "debug", {"verbosity": "basic"}) as door:
        assert await sent(door) == ACCEPTED
        await door.forward(Signal.METRICS, b"12345")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("metrics: ")
