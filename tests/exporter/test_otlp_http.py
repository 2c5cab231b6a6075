"""OTLP over HTTP against a real server: what each answer means, and what goes over the wire."""

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import orjson
import pytest
import trustme
import zstandard
from aiohttp import web
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from grafter.consumer import Signal, Verdict
from grafter.errors import RejectedError
from grafter.exporter import otlp_http
from grafter.exporter.gate import FAULT_SECONDS
from grafter.exporter.honeycomb import HoneycombExporter
from grafter.exporter.otlp_http import retry_after
from grafter.exporter.sending import Sending
from grafter.exporter.tls import ClientTls
from grafter.otlp.build import request
from grafter.otlp.from_json import trace_request_from_json
from grafter.telemetry import Metrics
from tests.exporter.doubles import (
    Clock,
    Peer,
    batch,
    black_hole,
    count,
    http_peer,
    last_error,
    spans_in,
    trace,
    traces_in,
)
from tests.exporter.test_sending import sending
from tests.ports import free_port

PROTOBUF = "application/x-protobuf"


async def taken(body: bytes) -> web.Response:
    """The usual answer: an empty response."""
    return web.Response(body=b"", content_type=PROTOBUF)


@asynccontextmanager
async def exporter_to(address: str, **settings: object) -> AsyncIterator[tuple[Sending, Metrics, Clock]]:
    """An exporter to an address, without patience and with a clock that stands still."""
    given: dict[str, object] = {"endpoint": f"http://{address}"}
    async with otlp_http.opened(**(given | settings)) as attempt:  # type: ignore[arg-type]
        metrics, clock = Metrics(), Clock()
        yield sending(attempt, clock, metrics), metrics, clock


async def test_a_batch_arrives_with_its_path_and_headers() -> None:
    """The request is the one that was built, posted to /v1/traces as protobuf, with the user's headers."""
    async with (
        http_peer(taken) as peer,
        exporter_to(peer.address, headers={"X-Team": "blue"}) as (exporter, metrics, _),
    ):
        out = batch(trace(1, 3), trace(2, 4))
        results = await exporter.export(out)
    assert {r.verdict for r in results} == {Verdict.ACCEPTED}
    assert peer.bodies == [request(out.traces)]
    assert peer.paths == ["/v1/traces"]
    sent = peer.headers[0]
    assert (sent["X-Team"], sent["Content-Type"]) == ("blue", PROTOBUF)
    assert sent["User-Agent"].startswith("grafter/")
    assert "Content-Encoding" not in sent
    assert count(metrics, "exporter_sent_spans") == 7


REFUSED = (400, 402, 408, 409, 410, 411, 414, 417, 422, 426, 428, 431, 451, 500, 501, 505, 507, 511)
FAULTS = (301, 302, 303, 307, 308, 401, 403, 404, 405, 406, 407, 415)


@pytest.mark.parametrize("status", [200, 202, 204, 413, 429, 502, 503, 504, *REFUSED, *FAULTS])
async def test_each_status_means_what_otlp_says(status: int) -> None:
    """2xx is taken, four codes are retryable, faults of the set-up hold the traces for long, the rest is for good."""

    async def answer(body: bytes) -> web.Response:
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status < 400 else {})

    async with http_peer(answer) as peer, exporter_to(peer.address) as (exporter, _, _clock):
        result = (await exporter.export(batch(trace(1), letters=True)))[0]
    assert set(peer.paths) == {"/v1/traces"}
    if status < 300:
        assert result.verdict is Verdict.ACCEPTED
    elif status in (429, 502, 503, 504):
        assert (result.verdict, result.unknown) == (Verdict.LATER, status in (502, 504))
    elif status in FAULTS:
        assert (result.verdict, result.retry_after, result.unknown) == (Verdict.LATER, FAULT_SECONDS, False)
    else:
        assert (result.verdict, result.reason) == (Verdict.REFUSED, f"HTTP {status}")
        # The trace, then each of its two spans alone, unless it is small and too large; nothing is sent again.
        assert len(peer.bodies) == len(set(peer.bodies)) == (1 if status == 413 else 3)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(status: int) -> None:
    """The peer's seconds are the wait when they are more than the backoff's."""

    async def answer(body: bytes) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": "17"})

    async with http_peer(answer) as peer, exporter_to(peer.address) as (exporter, _, _clock):
        result = (await exporter.export(batch(trace(1))))[0]
    assert (result.verdict, result.retry_after) == (Verdict.LATER, 17.0)
    assert len(peer.bodies) == 1


def test_retry_after_reads_both_forms_and_shrugs_at_others() -> None:
    """Seconds, or a date that counts from the peer's own clock; anything else is no hint."""
    base = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
    date = format_datetime(base, usegmt=True)
    later = format_datetime(base + timedelta(seconds=40), usegmt=True)
    assert retry_after({"Retry-After": "0"}) == 0.0
    assert retry_after({"Retry-After": " 120 "}) == 120.0
    assert retry_after({"Retry-After": "9" * 5000}) == 1e9
    assert retry_after({"Retry-After": later, "Date": date}) == 40.0
    assert retry_after({"Retry-After": date, "Date": later}) == 0.0
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert retry_after({"Retry-After": soon}) == pytest.approx(100, abs=5)
    for odd in ("", "soon", "-5", "1.5", "١٢", "Mon, 99 Foo 2026", "Fri, 31 Dec 9999 23:59:59 +99999"):
        assert retry_after({"Retry-After": odd, "Date": date}) in (None, 0.0)


@pytest.mark.parametrize("json", [False, True])
async def test_partial_success_is_read(json: bool) -> None:
    """Rejected spans are counted, in whichever encoding the peer answers."""
    partial = ExportTracePartialSuccess(rejected_spans=3, error_message="too old")
    response = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    if json:
        response = b'{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}'

    async def answer(body: bytes) -> web.Response:
        return web.Response(body=response, content_type="application/json" if json else PROTOBUF)

    async with http_peer(answer) as peer, exporter_to(peer.address) as (exporter, metrics, _):
        assert (await exporter.export(batch(trace(1, 8))))[0].verdict is Verdict.ACCEPTED
    assert count(metrics, "exporter_rejected_spans") == 3


@pytest.mark.parametrize(
    ("content_type", "said", "reason"),
    [
        (PROTOBUF, Status(code=3, message="name is empty").SerializeToString(), "HTTP 400: name is empty"),
        ("application/json", b'{"code": 3, "message": "name is empty"}', "HTTP 400: name is empty"),
        ("text/plain", b"name\nis empty\x1b[31m", "HTTP 400: name is empty?[31m"),
        ("text/html", b"<html>", "HTTP 400"),
        (PROTOBUF, b"\xff\xff\xff", "HTTP 400"),
        ("application/json", b"[1", "HTTP 400"),
        ("application/json", b"[]", "HTTP 400"),
    ],
)
async def test_a_refusal_has_the_peers_words(content_type: str, said: bytes, reason: str) -> None:
    """The message of the Status in the answer is the reason, as one printable line; nonsense is left out."""

    async def answer(body: bytes) -> web.Response:
        return web.Response(status=400, body=said, content_type=content_type)

    async with http_peer(answer) as peer, exporter_to(peer.address) as (exporter, _, _clock):
        assert (await exporter.export(batch(trace(1), letters=True)))[0].reason == reason


async def test_halving_and_cutting_over_the_wire() -> None:
    """A server with a limit and one bad trace gets every span of the other traces exactly once."""
    arrived: list[bytes] = []

    async def answer(body: bytes) -> web.Response:
        if len(body) > 200_000:
            return web.Response(status=413)
        if 5 in traces_in(body):
            return web.Response(status=400)
        arrived.extend(s.span_id for s in spans_in(body))
        return await taken(body)

    traces = [trace(1, 30, size=50_000), *(trace(n) for n in range(2, 10))]
    async with http_peer(answer) as peer, exporter_to(peer.address) as (exporter, _, _clock):
        results = await exporter.export(batch(*traces))
    assert [n for n, r in enumerate(results, 1) if r.verdict is Verdict.REFUSED] == [5]
    assert len(arrived) == len(set(arrived)) == 30 + 7 * 2


@pytest.mark.parametrize("compression", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("size", [10, 5000])
async def test_compressed_bodies_decode_to_the_same_bytes(compression: str, size: int) -> None:
    """The body on the wire is smaller, says how it is compressed, and decodes to the request that was built."""
    decoders: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
    }
    async with http_peer(taken) as peer, exporter_to(peer.address, compression=compression) as (exporter, _, _clock):
        out = batch(trace(1, 50, size=size))
        assert (await exporter.export(out))[0].verdict is Verdict.ACCEPTED
    assert peer.headers[0]["Content-Encoding"] == compression
    assert decoders[compression](peer.bodies[0]) == request(out.traces)
    assert len(peer.bodies[0]) < len(request(out.traces))


async def test_json_bodies_hold_the_same_spans() -> None:
    """With encoding json the body is OTLP JSON that reads back to the same spans."""
    async with http_peer(taken) as peer, exporter_to(peer.address, encoding="json") as (exporter, _, _clock):
        out = batch(trace(1, 5), trace(2, 3, resend=True))
        await exporter.export(out)
    assert peer.headers[0]["Content-Type"] == "application/json"
    assert orjson.loads(peer.bodies[0])["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] == "0" * 31 + "1"
    assert spans_in(trace_request_from_json(peer.bodies[0])) == spans_in(request(out.traces))


async def test_metrics_and_logs_go_to_their_own_paths_as_they_came() -> None:
    """A request of another signal is posted as protobuf, whatever the encoding of traces."""
    async with http_peer(taken) as peer, exporter_to(peer.address, encoding="json") as (exporter, _, _clock):
        await exporter.forward(Signal.METRICS, b"m")
        await exporter.forward(Signal.LOGS, b"l")
    assert (peer.bodies, peer.paths) == ([b"m", b"l"], ["/v1/metrics", "/v1/logs"])
    assert {h["Content-Type"] for h in peer.headers} == {PROTOBUF}


async def test_traces_endpoint_is_used_as_it_stands() -> None:
    """A whole address gets traces only; other signals have none and are refused."""
    async with http_peer(taken) as peer:
        address = f"http://{peer.address}/ingest?x=1"
        async with exporter_to(peer.address, endpoint=None, traces_endpoint=address) as (exporter, _, _clock):
            await exporter.export(batch(trace(1)))
            with pytest.raises(RejectedError, match="no endpoint for logs"):
                await exporter.forward(Signal.LOGS, b"l")
    assert peer.paths == ["/ingest"]


async def test_a_timeout_is_an_unknown_outcome() -> None:
    """A server that has the request and says nothing in time may have taken it."""
    done = asyncio.Event()

    async def answer(body: bytes) -> web.Response:
        await done.wait()
        return web.Response()

    async with http_peer(answer) as peer, exporter_to(peer.address, timeout_seconds=0.3) as (exporter, _, _clock):
        result = (await exporter.export(batch(trace(1))))[0]
        done.set()
    assert len(peer.bodies) == 1
    assert (result.verdict, result.unknown, result.reason) == (Verdict.LATER, True, "no answer in time")


async def raw_server(say: bytes) -> asyncio.Server:
    """A server that reads one whole request, writes some bytes, and hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
        writer.write(say)
        writer.close()
        await writer.wait_closed()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


@pytest.mark.parametrize("say", [b"", b"HTTP/1.1 20", b"hello?\r\n\r\n"])
async def test_a_connection_that_breaks_after_the_request_is_an_unknown_outcome(say: bytes) -> None:
    """A server that reads the request and hangs up, or talks nonsense, may have taken it."""
    server = await raw_server(say)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with exporter_to(f"127.0.0.1:{port}") as (exporter, _, _clock):
            result = (await exporter.export(batch(trace(1))))[0]
    assert (result.verdict, result.unknown) == (Verdict.LATER, True)


async def test_a_yes_whose_body_breaks_off_is_a_yes() -> None:
    """The status line decides; what was to follow it is advice."""
    server = await raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc")
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with exporter_to(f"127.0.0.1:{port}") as (exporter, _, _clock):
            assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED


async def test_a_refused_connection_is_known_not_to_have_taken() -> None:
    """Nothing listens, or no such host: not taken, so that the next attempt is no resend."""
    for address in (f"127.0.0.1:{free_port()}", "peer.invalid:4318"):
        async with exporter_to(address, compression="none") as (exporter, _, _clock):
            result = (await exporter.export(batch(trace(1))))[0]
        assert (result.verdict, result.unknown) == (Verdict.LATER, False)
        assert result.reason.startswith("cannot connect: ")


async def test_a_connection_that_never_comes_is_known_not_to_have_taken() -> None:
    """A host that swallows connections is found out before the attempt's time is up, so that nothing is unknown."""
    with black_hole() as address:
        async with exporter_to(address, timeout_seconds=1.0) as (exporter, _, _clock):
            result = (await exporter.export(batch(trace(1))))[0]
    assert (result.verdict, result.unknown) == (Verdict.LATER, False)


@asynccontextmanager
async def tls_peer(directory: Path, name: str) -> AsyncIterator[tuple[Peer, ClientTls]]:
    """A server that asks for a client certificate, and the client's side of it."""
    authority = trustme.CA()
    client = authority.issue_cert("client")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    client.private_key_pem.write_to_path(directory / "key.pem")
    client.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with http_peer(taken, ssl_context=context) as peer:
        yield (
            peer,
            ClientTls(
                ca_file=str(directory / "ca.pem"),
                cert_file=str(directory / "cert.pem"),
                key_file=str(directory / "key.pem"),
                server_name_override=name,
            ),
        )


async def reason_of(endpoint: str, **settings: object) -> tuple[str, bool]:
    """What an exporter says of a peer that takes nothing, and whether the outcome is unknown."""
    async with exporter_to("", endpoint=endpoint, **settings) as (exporter, _, _clock):
        (result,) = await exporter.export(batch(trace(1)))
        assert result.verdict is Verdict.LATER
        assert last_error(exporter) == result.reason
    return result.reason, result.unknown


async def test_tls_that_one_side_speaks_is_named_with_what_to_write(tmp_path: Path) -> None:
    """https:// to a server in plaintext, http:// to one with TLS, and a certificate of somebody unknown."""
    async with http_peer(taken) as peer:
        reason, unknown = await reason_of(f"https://{peer.address}")
        assert reason.startswith("the peer speaks no TLS there; for plaintext write http:// in the endpoint (")
        assert not unknown
    async with tls_peer(tmp_path, "localhost") as (peer, _tls):
        reason, unknown = await reason_of(f"http://{peer.address}")
        assert reason.startswith("where the peer speaks TLS, write https:// in the endpoint (")
        reason, unknown = await reason_of(f"https://{peer.address}")
        assert reason.startswith("the peer's certificate is not trusted: tls.ca_file, tls.server_name_override (")
        assert not unknown


@pytest.mark.parametrize(
    "body",
    ["Client sent an HTTP request to an HTTPS server.\n", "The plain HTTP request was sent to HTTPS port"],
)
async def test_a_tls_server_that_answers_in_plaintext_buries_no_trace(body: str) -> None:
    """A server in Go, and nginx, answer 400 there: about the address, and no word about the spans."""

    async def answer(_body: bytes) -> web.Response:
        return web.Response(status=400, text=body)

    async with http_peer(answer) as peer:
        reason, _ = await reason_of(f"http://{peer.address}")
    assert reason.startswith("the peer speaks TLS there: write https:// in the endpoint (HTTP 400")


async def test_a_peer_that_goes_after_it_answered_gets_no_advice_about_tls() -> None:
    """A restart behind a proxy looks like a TLS server that hangs up; who was met in plaintext speaks it."""
    answers = [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b""]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server, exporter_to(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as (exporter, _, _clock):
        assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED
        (result,) = await exporter.export(batch(trace(1)))
    assert result.reason == "connection lost: Server disconnected"


async def test_a_grpc_port_is_named_without_what_it_said() -> None:
    """OTLP over HTTP at a port of gRPC, which answers with frames of HTTP/2."""
    server = await raw_server(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00secret\r\n\r\n")
    async with server:
        reason, unknown = await reason_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (reason, unknown) == ("the peer speaks no HTTP/1 there; for gRPC use otlp_grpc", True)


async def test_tls_with_a_client_certificate_and_another_name(tmp_path: Path) -> None:
    """Both sides are checked; the name may be overridden; skipping the check is possible here."""
    async with tls_peer(tmp_path, "collector.example") as (peer, tls):
        own = f"https://{peer.address}"
        async with exporter_to(peer.address, endpoint=own, tls=tls) as (exporter, _, _clock):
            assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED
        stranger = ClientTls(ca_file=tls.ca_file, server_name_override="other.example")
        async with exporter_to(peer.address, endpoint=own, tls=stranger) as (exporter, _, _clock):
            result = (await exporter.export(batch(trace(1))))[0]
            assert (result.verdict, result.unknown) == (Verdict.LATER, False)
        careless = ClientTls(cert_file=tls.cert_file, key_file=tls.key_file, insecure_skip_verify=True)
        async with exporter_to(peer.address, endpoint=own, tls=careless) as (exporter, _, _clock):
            assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED


async def test_honeycomb_is_a_preset() -> None:
    """A key is enough: protobuf, the team's header, a dataset only when given, requests within 5 MB."""
    async with http_peer(taken) as peer:
        for dataset in (None, "calls"):
            settings = {"api_key": "hcaik_test", "dataset": dataset, "endpoint": f"http://{peer.address}"}
            preset = HoneycombExporter.model_validate({**settings, "compression": "zstd"})
            async with preset.open("honeycomb", Metrics()) as exporter:
                results = await exporter.export(batch(trace(1, 60, size=100_000), trace(2)))
                assert {r.verdict for r in results} == {Verdict.ACCEPTED}
    bodies = [zstandard.ZstdDecompressor().decompress(body) for body in peer.bodies]
    assert max(map(len, bodies)) <= 5_000_000
    assert {h["x-honeycomb-team"] for h in peer.headers} == {"hcaik_test"}
    assert [h.get("x-honeycomb-dataset") for h in peer.headers] == [None] * 3 + ["calls"] * 3
    assert len([s for body in bodies for s in spans_in(body)]) == 2 * 62


@pytest.mark.parametrize(("given", "says"), [({"region": "mars"}, "region"), ({"api_key": ""}, "api_key")])
def test_honeycomb_settings_are_checked(given: Mapping[str, str], says: str) -> None:
    """An unknown region or an empty key fails the start."""
    with pytest.raises(ValueError, match=says):
        HoneycombExporter.model_validate({"api_key": "k"} | dict(given))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"endpoint": None}, "is required"),
        ({"endpoint": "collector:4318"}, "expected http"),
        ({"compression": "snappy"}, "found 'snappy'"),
        ({"headers": {"a": "line\nbreak"}}, "line break"),
        ({"endpoint": "https://c", "tls": ClientTls(ca_file="/nowhere/ca.pem")}, "tls.ca_file: cannot load"),
        ({"endpoint": "https://c", "tls": ClientTls(key_file="/nowhere/k.pem")}, "cert_file and key_file"),
    ],
)
async def test_settings_that_cannot_be_kept_are_said_at_once(settings: Mapping[str, object], says: str) -> None:
    """A setting that cannot be honoured fails the start, with the key's name and without a secret."""
    with pytest.raises(ValueError, match=says) as raised:
        async with exporter_to("127.0.0.1:1", **settings):
            pass
    assert "line\nbreak" not in str(raised.value)


async def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY carries requests to other hosts; a loopback address is always reached directly."""
    async with http_peer(taken) as proxy, http_peer(taken) as peer:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with exporter_to("collector.invalid:4318") as (exporter, _, _clock):
            assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED
        async with exporter_to(peer.address) as (exporter, _, _clock):
            assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED
    assert (len(proxy.bodies), len(peer.bodies)) == (1, 1)
