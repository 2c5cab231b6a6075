"""OTLP over gRPC against a real server: what each answer means, and what goes over the wire."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme
from aiohttp import web
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from grafter.config.units import Target
from grafter.consumer import Signal, Verdict
from grafter.exporter import otlp_grpc
from grafter.exporter.answer import Later, Refused
from grafter.exporter.gate import FAULT_SECONDS
from grafter.exporter.otlp_grpc import answer_to
from grafter.exporter.sending import Sending
from grafter.exporter.tls import ClientTls
from grafter.otlp.build import request
from grafter.telemetry import Metrics
from tests.exporter.doubles import (
    TRACES_METHOD,
    Clock,
    Context,
    Peer,
    batch,
    black_hole,
    count,
    grpc_peer,
    http_peer,
    last_error,
    spans_in,
    trace,
    traces_in,
)
from tests.exporter.test_sending import sending
from tests.ports import free_port

Code = grpc.StatusCode
LATER = {
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.ABORTED,
    Code.OUT_OF_RANGE,
    Code.UNAVAILABLE,
    Code.DATA_LOSS,
}
FAULTS = {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED}


async def taken(body: bytes, context: Context) -> bytes:
    """The usual answer: an empty response."""
    return b""


@asynccontextmanager
async def exporter_to(address: str, **settings: object) -> AsyncIterator[tuple[Sending, Metrics, Clock]]:
    """An exporter to an address, without patience and with a clock that stands still."""
    given: dict[str, object] = {"endpoint": Target(address), "secure": False}
    limits = {"num_consumers": settings.pop("num_consumers")} if "num_consumers" in settings else {}
    async with otlp_grpc.opened(**(given | settings)) as attempt:  # type: ignore[arg-type]
        metrics, clock = Metrics(), Clock()
        yield sending(attempt, clock, metrics, **limits), metrics, clock  # type: ignore[arg-type]


def rich_status(code: grpc.StatusCode, *, delay: float | None) -> bytes:
    """A google.rpc.Status as a server sends it, with another detail before the RetryInfo."""
    status = Status(code=code.value[0], message="busy")
    status.details.add().Pack(BadRequest())
    if delay is not None:
        retry_delay = Duration(seconds=int(delay), nanos=int(delay % 1 * 1e9))
        status.details.add().Pack(RetryInfo(retry_delay=retry_delay))
    return bytes(status.SerializeToString())


async def test_a_batch_arrives_byte_for_byte_with_its_headers() -> None:
    """The request on the wire is the one that was built; headers are metadata in lower case; the peer knows grafter."""
    async with (
        grpc_peer(taken) as peer,
        exporter_to(peer.address, headers={"X-Team": "blue"}) as (exporter, metrics, _),
    ):
        out = batch(trace(1, 3), trace(2, 4))
        results = await exporter.export(out)
    assert {r.verdict for r in results} == {Verdict.ACCEPTED}
    assert peer.bodies == [request(out.traces)]
    assert peer.paths == [TRACES_METHOD]
    assert peer.headers[0]["x-team"] == "blue"
    assert peer.headers[0]["user-agent"].startswith("grafter/")
    assert count(metrics, "exporter_sent_spans") == 7


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK], ids=lambda code: code.name)
async def test_each_code_means_what_otlp_says(code: grpc.StatusCode) -> None:
    """Retryable codes hold the traces, faults of the set-up hold them for long, all others refuse them for good."""

    async def answer(body: bytes, context: Context) -> bytes:
        await context.abort(code, "not this one")
        return b""

    async with grpc_peer(answer) as peer, exporter_to(peer.address) as (exporter, metrics, _):
        result = (await exporter.export(batch(trace(1), letters=True)))[0]
    assert result.reason == f"{code.name}: not this one"
    if code in FAULTS:
        assert (result.verdict, result.retry_after, result.unknown) == (Verdict.LATER, FAULT_SECONDS, False)
    elif code in LATER:
        gave_up = code in (Code.CANCELLED, Code.DEADLINE_EXCEEDED)
        assert (result.verdict, result.unknown) == (Verdict.LATER, gave_up)
        assert count(metrics, "exporter_failed_spans") == (2 if gave_up else 6)
    else:
        assert result.verdict is Verdict.REFUSED
        # The trace, then each of its two spans alone, unless it is small and too large; nothing is sent again.
        assert len(peer.bodies) == len(set(peer.bodies)) == (1 if code is Code.RESOURCE_EXHAUSTED else 3)


@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.ABORTED])
async def test_retry_info_is_honoured(code: grpc.StatusCode) -> None:
    """RetryInfo makes RESOURCE_EXHAUSTED retryable, and its delay is the wait when it is longer than the backoff."""

    async def answer(body: bytes, context: Context) -> bytes:
        await context.abort(code, "busy", (("grpc-status-details-bin", rich_status(code, delay=12.5)),))
        return b""

    async with grpc_peer(answer) as peer, exporter_to(peer.address) as (exporter, _, _clock):
        result = (await exporter.export(batch(trace(1))))[0]
    assert (result.verdict, result.retry_after, result.unknown) == (Verdict.LATER, 12.5, False)
    assert len(peer.bodies) == 1


@pytest.mark.parametrize(
    "status",
    [
        b"",
        b"\xff\xff",
        b"\x1a\x80",
        b"\x1a\x02\x0a\x40",
        b"\x1a\x0a\x0a\x01x\x12\xff",
        rich_status(Code.ABORTED, delay=None),
    ],
)
def test_details_that_cannot_be_read_are_no_hint(status: bytes) -> None:
    """Broken or other details change nothing: RESOURCE_EXHAUSTED is then about size."""
    assert answer_to(Code.RESOURCE_EXHAUSTED, "no", status) == Refused("RESOURCE_EXHAUSTED: no", too_large=True)


def test_retry_info_without_a_delay_means_soon() -> None:
    """The presence of RetryInfo says that a retry makes sense; the backoff then decides when."""
    assert answer_to(Code.RESOURCE_EXHAUSTED, "no", rich_status(Code.ABORTED, delay=0)) == Later(
        "RESOURCE_EXHAUSTED: no", 0.0
    )


@pytest.mark.parametrize(
    ("details", "unknown"),
    [
        ("failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", False),
        ("errors resolving peer.invalid:4317: Domain name not found", False),
        ("DNS resolution failed for peer.invalid:4317", False),
        ("Stream removed (RST_STREAM (Received RST_STREAM with error code 7))", False),
        ("Stream removed (Socket closed)", True),
        ("recvmsg:Connection reset by peer (104)", True),
        ("Connection reset by peer", True),
        ("GOAWAY received; Error code: 0; Debug Text: max_age", True),
        ("keepalive watchdog timeout", True),
        ("Cancelling all calls", True),
        ("the storage is full, try again", False),
        ("", False),
    ],
)
def test_unavailable_is_the_peers_word_or_the_lines(details: str, unknown: bool) -> None:
    """One code stands for a refusal, a connection that never was and one that broke; only the last is unknown."""
    answer = answer_to(Code.UNAVAILABLE, details, b"")
    assert isinstance(answer, Later)
    assert answer.unknown is unknown


async def test_partial_success_is_read() -> None:
    """A partial success is an acceptance whose rejected spans are counted."""
    response = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=3, error_message="too old")
    )

    async def answer(body: bytes, context: Context) -> bytes:
        return response.SerializeToString()

    async with grpc_peer(answer) as peer, exporter_to(peer.address) as (exporter, metrics, _):
        results = await exporter.export(batch(trace(1, 8)))
    assert results[0].verdict is Verdict.ACCEPTED
    assert count(metrics, "exporter_rejected_spans") == 3


async def test_halving_over_the_wire_delivers_all_but_the_bad_trace_once() -> None:
    """64 traces, one of them bad: 63 arrive exactly once, and that one is refused with the peer's words."""
    arrived: list[int] = []

    async def answer(body: bytes, context: Context) -> bytes:
        if 17 in traces_in(body):
            await context.abort(Code.INVALID_ARGUMENT, "attribute 3 is odd")
        arrived.extend(traces_in(body))
        return b""

    async with grpc_peer(answer) as peer, exporter_to(peer.address) as (exporter, _, _clock):
        results = await exporter.export(batch(*(trace(n) for n in range(1, 65))))
    assert sorted(arrived) == [n for n in range(1, 65) if n != 17]
    assert [(n, r.reason) for n, r in enumerate(results, 1) if r.verdict is Verdict.REFUSED] == [
        (17, "INVALID_ARGUMENT: attribute 3 is odd")
    ]


async def test_a_trace_over_the_servers_own_limit_arrives_in_parts() -> None:
    """A server of 4 MiB a message (gRPC's default) gets a trace of 9 MB, each span once."""
    async with grpc_peer(taken) as peer, exporter_to(peer.address) as (exporter, _, _clock):
        results = await exporter.export(batch(trace(1, 90, size=100_000)))
    assert [r.verdict for r in results] == [Verdict.ACCEPTED]
    ids = [s.span_id for body in peer.bodies for s in spans_in(body)]
    assert len(ids) == len(set(ids)) == 90


async def test_a_timeout_is_an_unknown_outcome() -> None:
    """A server that has the request and says nothing in time may have taken it."""
    done = asyncio.Event()

    async def answer(body: bytes, context: Context) -> bytes:
        await done.wait()
        return b""

    async with grpc_peer(answer) as peer, exporter_to(peer.address, timeout_seconds=0.3) as (exporter, _, _clock):
        result = (await exporter.export(batch(trace(1))))[0]
        done.set()
    assert len(peer.bodies) == 1
    assert (result.verdict, result.unknown) == (Verdict.LATER, True)


async def test_a_connection_that_breaks_after_the_request_is_an_unknown_outcome() -> None:
    """A server that reads the request and dies may have stored it before it died."""

    async def read_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")
        seen = b""
        while b"x" * 500 not in seen:
            seen += await reader.read(65536)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(read_and_die, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with exporter_to(f"127.0.0.1:{port}") as (exporter, _, _clock):
            result = (await exporter.export(batch(trace(1, 1, size=1000))))[0]
    assert (result.verdict, result.unknown) == (Verdict.LATER, True)


async def test_a_dead_peer_is_known_not_to_have_taken_and_is_found_again() -> None:
    """Nothing listens: not taken, no marks. When a server stands there again, the next probe goes through."""
    port = free_port()
    async with exporter_to(f"127.0.0.1:{port}", timeout_seconds=20.0) as (exporter, _, clock):
        result = (await exporter.export(batch(trace(1))))[0]
        assert (result.verdict, result.unknown) == (Verdict.LATER, False)
        assert "failed to connect" in result.reason
        async with grpc_peer(taken, port=port) as peer:
            verdict = Verdict.LATER
            while verdict is Verdict.LATER:
                clock.now += exporter.retry_in()
                verdict = (await exporter.export(batch(trace(1))))[0].verdict
            assert len(peer.bodies) == 1
    assert exporter.outages() == {}


async def test_a_connection_that_never_comes_is_known_not_to_have_taken() -> None:
    """A host that swallows connections is found out before the attempt's time is up, so that nothing is unknown."""
    with black_hole() as address:
        async with exporter_to(address, timeout_seconds=1.0) as (exporter, _, _clock):
            result = (await exporter.export(batch(trace(1))))[0]
    assert (result.verdict, result.unknown) == (Verdict.LATER, False)


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
async def test_compressed_requests_arrive_as_they_were(compression: str) -> None:
    """The server sees the same bytes whatever the compression."""
    async with grpc_peer(taken) as peer, exporter_to(peer.address, compression=compression) as (exporter, _, _clock):
        out = batch(trace(1, 50, size=100))
        await exporter.export(out)
    assert peer.bodies == [request(out.traces)]


async def test_metrics_and_logs_go_to_their_own_services() -> None:
    """A request of another signal is sent on unread to that signal's method."""
    async with grpc_peer(taken) as peer, exporter_to(peer.address) as (exporter, _, _clock):
        await exporter.forward(Signal.METRICS, b"m")
        await exporter.forward(Signal.LOGS, b"l")
    assert peer.bodies == [b"m", b"l"]
    assert [path.split("/")[1].rsplit(".")[-1] for path in peer.paths] == ["MetricsService", "LogsService"]


async def reason_of(endpoint: str, **settings: object) -> str:
    """What an exporter says of a peer that takes nothing; a fault is said as an error."""
    async with exporter_to(endpoint, **settings) as (exporter, _, _clock):
        (result,) = await exporter.export(batch(trace(1)))
        assert (result.verdict, result.unknown) == (Verdict.LATER, False)
        assert last_error(exporter) == result.reason
    return result.reason


async def test_tls_towards_a_peer_that_speaks_none_is_named_with_the_key_to_set() -> None:
    """The default meets a Collector or a Jaeger in plaintext: the reason says what to write."""
    async with grpc_peer(taken) as peer:
        reason = await reason_of(peer.address, secure=True)
    assert reason.startswith("the peer speaks no TLS there; for plaintext set tls: {insecure: true} (UNAVAILABLE: ")


async def test_plaintext_towards_a_peer_that_speaks_tls_is_named_with_the_key_to_set(tmp_path: Path) -> None:
    """The other way round a server only hangs up, so that the reason says what to look at."""
    async with tls_peer(tmp_path, "localhost") as (peer, _tls):
        reason = await reason_of(peer.address)
    assert reason.startswith("where the peer speaks TLS, set tls: {insecure: false}, or write https:// in the endpoint")


async def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    async with tls_peer(tmp_path, "localhost") as (peer, _tls):
        reason = await reason_of(peer.address, secure=True)
    assert reason.startswith("the peer's certificate is not trusted: tls.ca_file, tls.server_name_override (")


async def test_an_http_port_is_named() -> None:
    """gRPC at the port of OTLP over HTTP."""

    async def answer(_body: bytes) -> web.Response:
        return web.Response()

    async with http_peer(answer) as peer:
        reason = await reason_of(peer.address)
    assert reason.startswith("the peer speaks HTTP/1 there, which is otlp_http's to send (")


@asynccontextmanager
async def tls_peer(directory: Path, name: str) -> AsyncIterator[tuple[Peer, ClientTls]]:
    """A server that asks for a client certificate, and the client's side of it."""
    authority = trustme.CA()
    server, client = authority.issue_cert(name), authority.issue_cert("client")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    client.private_key_pem.write_to_path(directory / "key.pem")
    client.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    async with grpc_peer(taken, credentials=credentials) as peer:
        yield (
            peer,
            ClientTls(
                ca_file=str(directory / "ca.pem"),
                cert_file=str(directory / "cert.pem"),
                key_file=str(directory / "key.pem"),
                server_name_override=name,
            ),
        )


async def test_tls_with_a_client_certificate_and_another_name(tmp_path: Path) -> None:
    """Both sides are checked; the server's certificate may have a name that is not the endpoint's."""
    async with tls_peer(tmp_path, "collector.example") as (peer, tls):
        async with exporter_to(peer.address, secure=True, tls=tls) as (exporter, _, _clock):
            assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED
        stranger = ClientTls(ca_file=tls.ca_file, server_name_override="other.example")
        async with exporter_to(peer.address, secure=True, tls=stranger) as (exporter, _, _clock):
            result = (await exporter.export(batch(trace(1))))[0]
    assert (result.verdict, result.unknown) == (Verdict.LATER, False)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"compression": "zstd"}, "no 'zstd'"),
        ({"headers": {"a b": "c"}}, "'a b'"),
        ({"headers": {"a": "line\nbreak"}}, "value of 'a'"),
        ({"secure": True, "tls": ClientTls(insecure_skip_verify=True)}, "insecure_skip_verify"),
        ({"secure": True, "tls": ClientTls(ca_file="/nowhere/ca.pem")}, "tls.ca_file: cannot read"),
        ({"secure": True, "tls": ClientTls(cert_file="/nowhere/c.pem")}, "cert_file and key_file"),
    ],
)
async def test_settings_that_cannot_be_kept_are_said_at_once(settings: Mapping[str, object], says: str) -> None:
    """A setting that gRPC cannot honour fails the start, with the key's name and without a secret."""
    with pytest.raises(ValueError, match=says) as raised:
        async with exporter_to("127.0.0.1:1", **settings):
            pass
    assert "line\nbreak" not in str(raised.value)


async def test_many_batches_at_once_share_one_channel() -> None:
    """Concurrent exports within the bound all arrive, each exactly once."""
    async with (
        grpc_peer(taken) as peer,
        exporter_to(peer.address, num_consumers=8) as (exporter, metrics, _),
    ):
        results = await asyncio.gather(*(exporter.export(batch(trace(n, 5))) for n in range(200)))
    assert {r[0].verdict for r in results} == {Verdict.ACCEPTED}
    assert sorted(n for body in peer.bodies for n in traces_in(body)) == list(range(200))
    assert count(metrics, "exporter_sent_spans") == 1000


def test_the_hand_written_reader_agrees_with_the_schema() -> None:
    """Delays of seconds, of nanoseconds and of both are read as the published messages write them."""
    for delay in (0.25, 3.0, 61.5):
        answer = answer_to(Code.UNAVAILABLE, "busy", rich_status(Code.UNAVAILABLE, delay=delay))
        assert isinstance(answer, Later)
        assert answer.retry_after == delay
    negative = Status()
    negative.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=-5)))
    assert answer_to(Code.UNAVAILABLE, "", negative.SerializeToString()) == Later("UNAVAILABLE", 0.0)
