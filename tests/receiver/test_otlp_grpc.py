"""The OTLP gRPC door, seen by a plain gRPC client and by the OpenTelemetry SDK's own exporter."""

import asyncio
import gc
import gzip
import logging
import threading
import tracemalloc
import zlib
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from grafter.consumer import Signal
from grafter.errors import RejectedError, UnavailableError
from grafter.otlp.split import Splitter
from grafter.receiver import otlp_grpc
from grafter.receiver.config import ServerTls
from grafter.receiver.in_flight import InFlight
from grafter.receiver.otlp import Intake

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
TRACE_ID = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")


def request_of(*spans: Span) -> bytes:
    scope = ScopeSpans(spans=spans)
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


def span(number: int = 1, **fields) -> Span:
    return Span(**{"trace_id": TRACE_ID, "span_id": number.to_bytes(8, "big"), "name": f"span {number}"} | fields)


@pytest.fixture
def door(consumer, metrics):
    """Opens the door with the consumer of the test; the defaults can be replaced."""

    @asynccontextmanager
    async def opened(**settings):
        settings = {"endpoint": "localhost:0", "grace_seconds": 1.0, "splitter": Splitter([])} | settings
        passing = settings.pop("pass_through", None), settings.pop("signals", frozenset())
        intake = Intake(consumer, settings.pop("splitter"), metrics, "grpc", *passing)
        async with otlp_grpc.listening(intake, **settings) as port:
            yield f"localhost:{port}"

    return opened


async def call(address: str, request: bytes, method: str = TRACES, *, credentials=None, **options) -> bytes:
    """One unary call with bytes in and out."""
    channel = (
        grpc.aio.insecure_channel(address) if credentials is None else grpc.aio.secure_channel(address, credentials)
    )
    async with channel:
        return await channel.unary_unary(method)(request, timeout=60, **options)


async def failure(address: str, request: bytes, method: str = TRACES, **options) -> tuple[grpc.StatusCode, Status]:
    """The code and the google.rpc.Status of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(address, request, method, **options)
    details = dict(caught.value.trailing_metadata()).get("grpc-status-details-bin", b"")
    status = Status.FromString(details)
    if details:
        assert (status.code, status.message) == (caught.value.code().value[0], caught.value.details())
    return caught.value.code(), status


def detail(status: Status, kind):
    """The status's only detail, which must be of this kind."""
    assert len(status.details) == 1
    message = kind()
    assert status.details[0].Unpack(message)
    return message


def count(metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"{name}_total", labels) or 0.0


async def test_success_is_an_empty_response_after_the_spans_were_stored(door, consumer, metrics):
    """The answer is the empty message, and by then the consumer has the spans, which are counted."""
    async with door() as address:
        assert await call(address, request_of(span(1), span(2))) == b""
        assert consumer.spans == 2
        assert {part.key for part in consumer.parts} == {TRACE_ID}
    labels = {"receiver": "otlp", "transport": "grpc"}
    assert count(metrics, "grafter_receiver_accepted_spans", **labels) == 2
    assert count(metrics, "grafter_receiver_requests", **labels, outcome="accepted") == 1
    assert metrics.registry.get_sample_value("grafter_receiver_request_seconds_count", {"receiver": "otlp"}) == 1


async def test_an_empty_request_is_a_success(door, consumer):
    """A request without spans is answered like any other and stores nothing."""
    async with door() as address:
        assert await call(address, b"") == b""
    assert consumer.requests == []


async def test_a_span_with_a_bad_id_is_rejected_alone(door, consumer, metrics):
    """Spans with wrong ids come back as a partial success; the others are stored."""
    async with door() as address:
        request = request_of(span(1), span(2, trace_id=b"short"), span(3, span_id=bytes(8)), span(4))
        answer = ExportTraceServiceResponse.FromString(await call(address, request))
    assert answer.partial_success.rejected_spans == 2
    assert "invalid id" in answer.partial_success.error_message
    assert consumer.spans == 2
    labels = {"receiver": "otlp", "transport": "grpc"}
    assert count(metrics, "grafter_receiver_refused_spans", **labels, reason="invalid_id") == 2
    assert count(metrics, "grafter_receiver_accepted_spans", **labels) == 2


@pytest.mark.parametrize(
    "name", ["otlp_call_from_sdk", "otlp_call_from_collector", "otlp_telemetrygen_through_collector"]
)
async def test_recorded_requests_arrive_whole(door, consumer, otlp_data, name):
    """What an SDK and a Go Collector really sent arrives with every span."""
    body = (otlp_data / f"{name}.pb").read_bytes()
    sent = [
        s for r in ExportTraceServiceRequest.FromString(body).resource_spans for c in r.scope_spans for s in c.spans
    ]
    async with door() as address:
        assert await call(address, body) == b""
    ids = b"".join(part.span_ids for part in consumer.parts)
    assert sorted(ids[at : at + 8] for at in range(0, len(ids), 8)) == sorted(s.span_id for s in sent)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests(door, consumer, compression):
    """gzip and deflate messages are taken."""
    async with door() as address:
        await call(address, request_of(span(name="x" * 5000)), compression=compression)
    assert consumer.spans == 1


@pytest.mark.parametrize("window", [9, 12, 15])
async def test_zlib_of_any_window(door, consumer, window):
    """As core unpacked it: what a writer of deflate takes for small needs a small window."""
    packer = zlib.compressobj(wbits=window)
    async with door() as address:
        await call(address, packer.compress(request_of(span(name="x" * 100))) + packer.flush())
    assert consumer.spans == 1


@pytest.mark.parametrize(
    "broken", [b"\x1f\x8b no gzip", gzip.compress(request_of(span()))[:-9]], ids=["odd", "cut off"]
)
async def test_what_is_no_gzip_is_an_invalid_argument(door, consumer, metrics, broken):
    """A message that begins as gzip does and is none is refused for good; the door stays open."""
    async with door() as address:
        code, _ = await failure(address, broken)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        await call(address, request_of(span()))
    assert consumer.spans == 1
    labels = {"receiver": "otlp", "transport": "grpc", "outcome": "rejected"}
    assert count(metrics, "grafter_receiver_requests", **labels) == 1


async def test_a_long_request_is_split_beside_the_loop(door, consumer):
    """In another thread than a short one, however small it came."""
    threads = []

    class Watching(Splitter):
        def split(self, request, *, aside=False):
            threads.append((threading.current_thread() is threading.main_thread(), aside))
            return super().split(request, aside=aside)

    async with door(splitter=Watching([])) as address:
        await call(address, request_of(span(name="x" * 5_000)), compression=grpc.Compression.Gzip)
        await call(address, request_of(span(name="x" * (9 << 20))), compression=grpc.Compression.Gzip)
    assert threads == [(True, False), (False, True)]
    assert consumer.spans == 2


async def given_back(budget: InFlight, left: int) -> None:
    """Wait until no more is held: an answer may be with its caller before the call that gave it has ended."""
    async with asyncio.timeout(10):
        while budget.bytes != left:  # noqa: ASYNC110  # a budget wakes nobody
            await asyncio.sleep(0)


@pytest.mark.parametrize("in_turn", [False, True], ids=["at once", "in turn"])
async def test_what_unpacks_to_more_than_there_is_room_for_may_come_again(door, consumer, monkeypatch, in_turn):
    """A budget that is spent while a message is unpacked is UNAVAILABLE with a RetryInfo; all of it is given back."""
    monkeypatch.setattr(otlp_grpc, "memory_may_be_refused", lambda: in_turn)
    budget = InFlight(16 << 20)
    message = gzip.compress(request_of(span(name="x" * (9 << 20))))
    async with door(in_flight=budget) as address:
        with budget.request() as other:
            other.take(8 << 20)
            code, status = await failure(address, message)
            await given_back(budget, 8 << 20)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert detail(status, RetryInfo).retry_delay.ToNanoseconds() > 0
        await call(address, message)
        await given_back(budget, 0)
    assert consumer.spans == 1


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_too_large_is_not_retryable(door, consumer, compression):
    """Over the limit, as sent or after decompression, is RESOURCE_EXHAUSTED without RetryInfo; the door stays open."""
    async with door(max_bytes=1 << 20) as address:
        code, status = await failure(address, request_of(span(name="x" * (1 << 20))), compression=compression)
        assert (code, list(status.details)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [])
        assert await call(address, request_of(span(name="x" * ((1 << 20) - 100))), compression=compression) == b""
    assert consumer.spans == 1


async def test_the_default_limit_is_64_mib(door, consumer):
    """A request of almost 64 MiB, far above gRPC's own default of 4, is taken."""
    async with door() as address:
        await call(address, request_of(span(name="x" * ((64 << 20) - 100))))
    assert consumer.spans == 1


@pytest.mark.parametrize(
    "body", [b"garbage", b"\x0a\xff\xff\xff\xff\x0f", request_of(span())[:-3], b"\x0a\x02\x12\x05", b"\xff" * 100]
)
async def test_what_is_no_request_is_an_invalid_argument(door, consumer, metrics, body):
    """Garbage and truncated protobuf are INVALID_ARGUMENT with a BadRequest; the door stays open."""
    async with door() as address:
        code, status = await failure(address, body)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "ExportTraceServiceRequest" in detail(status, BadRequest).field_violations[0].description
        await call(address, request_of(span()))
    assert consumer.spans == 1
    labels = {"receiver": "otlp", "transport": "grpc", "outcome": "rejected"}
    assert count(metrics, "grafter_receiver_requests", **labels) == 1


async def test_unavailable_says_when_to_come_again(door, consumer, metrics):
    """A store that cannot take the spans is UNAVAILABLE with the delay in a RetryInfo; nothing counts as accepted."""
    consumer.errors.append(UnavailableError("store is full", retry_after=2.5, reason="full"))
    async with door() as address:
        code, status = await failure(address, request_of(span(1), span(2)))
    assert (code, status.message) == (grpc.StatusCode.UNAVAILABLE, "store is full")
    assert detail(status, RetryInfo).retry_delay.ToNanoseconds() == 2_500_000_000
    labels = {"receiver": "otlp", "transport": "grpc"}
    assert count(metrics, "grafter_receiver_refused_spans", **labels, reason="full") == 2
    assert count(metrics, "grafter_receiver_requests", **labels, outcome="unavailable") == 1
    assert count(metrics, "grafter_receiver_accepted_spans", **labels) == 0


@pytest.mark.parametrize("in_turn", [False, True], ids=["at once", "in turn"])
@pytest.mark.parametrize("answer", ["taken", "full", "ExportTraceServiceRequest", "encoding"])
async def test_a_request_is_kept_no_longer_than_its_answer_takes(door, consumer, monkeypatch, in_turn, answer):
    """Also while the connection stays open, and before garbage is collected: a small container has no room for it."""
    monkeypatch.setattr(otlp_grpc, "memory_may_be_refused", lambda: in_turn)
    beginning = {"ExportTraceServiceRequest": b"\xff", "encoding": b"\x1f\x8b"}.get(answer, b"")
    body = beginning + request_of(span(name="x" * (4 << 20)))
    async with door() as address, grpc.aio.insecure_channel(address) as channel:
        export = channel.unary_unary(TRACES)

        async def sent() -> None:
            if answer == "taken":
                await export(body, timeout=10)
            else:
                consumer.errors[:] = [UnavailableError("full")]
                with pytest.raises(grpc.aio.AioRpcError, match=answer):
                    await export(body, timeout=10)
            consumer.requests.clear()

        await sent()
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(8):
                await sent()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept < 2.5 * len(body)


async def test_a_consumer_that_rejects_is_an_invalid_argument(door, consumer):
    """A refusal for good from further inside is not retryable."""
    consumer.errors.append(RejectedError("no"))
    async with door() as address:
        code, status = await failure(address, request_of(span()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(status, BadRequest).field_violations[0].description == "no"


async def test_a_bug_is_internal_logged_once_and_ends_nothing(door, consumer, caplog):
    """An unexpected exception is INTERNAL without its text, one log line with the traceback, and the door goes on."""
    consumer.errors.append(KeyError("secret prompt"))
    async with door() as address:
        with caplog.at_level(logging.ERROR):
            code, status = await failure(address, request_of(span()))
        assert (code, status.message) == (grpc.StatusCode.INTERNAL, "internal error")
        assert await call(address, request_of(span())) == b""
    assert len([r for r in caplog.records if r.exc_info]) == 1


async def test_tokens(door, consumer, metrics):
    """With tokens, only a call that carries one of them is taken."""
    async with door(tokens=["one", "two"]) as address:
        for authorization in (None, "Bearer three", "Basic one"):
            metadata = [("authorization", authorization)] if authorization else None
            code, _ = await failure(address, request_of(span()), metadata=metadata)
            assert code is grpc.StatusCode.UNAUTHENTICATED
        assert consumer.requests == []
        await call(address, request_of(span()), metadata=[("authorization", "Bearer two")])
    assert consumer.spans == 1
    labels = {"receiver": "otlp", "transport": "grpc", "outcome": "unauthenticated"}
    assert count(metrics, "grafter_receiver_requests", **labels) == 3


async def test_metrics_and_logs_pass_through_unread(door, pass_through):
    """Metrics and logs go on byte for byte, and their failures come back."""
    async with door(pass_through=pass_through, signals=frozenset(Signal)) as address:
        assert await call(address, b"metrics, unread", METRICS) == b""
        assert await call(address, b"logs, unread", LOGS) == b""
        pass_through.errors.append(UnavailableError("backend is down"))
        code, status = await failure(address, b"", LOGS)
    assert pass_through.forwarded == [(Signal.METRICS, b"metrics, unread"), (Signal.LOGS, b"logs, unread")]
    assert code is grpc.StatusCode.UNAVAILABLE
    assert detail(status, RetryInfo).retry_delay.seconds == 1


@pytest.mark.parametrize("in_turn", [False, True], ids=["at once", "in turn"])
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_what_passes_through_is_unpacked(door, pass_through, monkeypatch, in_turn, compression):
    """What sends it on packs it anew, or not at all, and says so."""
    monkeypatch.setattr(otlp_grpc, "memory_may_be_refused", lambda: in_turn)
    async with door(pass_through=pass_through, signals=frozenset(Signal)) as address:
        await call(address, b"metrics " * 1000, METRICS, compression=compression)
    assert pass_through.forwarded == [(Signal.METRICS, b"metrics " * 1000)]


async def test_signals_without_a_pipeline_are_unimplemented(door, pass_through):
    """A signal that no pipeline has is UNIMPLEMENTED, which exporters do not retry."""
    requests = {
        METRICS: ExportMetricsServiceRequest().SerializeToString(),
        LOGS: ExportLogsServiceRequest().SerializeToString(),
    }
    async with door() as address:
        for method, request in requests.items():
            assert (await failure(address, request, method))[0] is grpc.StatusCode.UNIMPLEMENTED
    async with door(pass_through=pass_through, signals=frozenset({Signal.LOGS})) as address:
        assert await call(address, requests[LOGS], LOGS) == b""
        assert (await failure(address, requests[METRICS], METRICS))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_tls_and_client_certificates(door, consumer, certificates):
    """TLS is answered to a client that trusts the CA; with a client CA, only to one that shows a certificate."""
    authority = certificates.ca.read_bytes()
    key, cert = certificates.client_key.read_bytes(), certificates.client_cert.read_bytes()
    anonymous = grpc.ssl_channel_credentials(authority)
    known = grpc.ssl_channel_credentials(authority, key, cert)
    async with door(tls=certificates.server) as address:
        await call(address, request_of(span()), credentials=anonymous)
    async with door(tls=certificates.server_mutual) as address:
        await call(address, request_of(span()), credentials=known)
        code, _ = await failure(address, request_of(span()), credentials=anonymous)
        assert code is grpc.StatusCode.UNAVAILABLE
    assert consumer.spans == 2


async def test_a_wrong_tls_file_is_named(door, certificates):
    """A TLS file that is wrong stops the start with its name."""
    wrong = ServerTls(cert_file=certificates.server.cert_file, key_file=str(certificates.client_key))
    with pytest.raises(ValueError, match=r"client\.key"):
        async with door(tls=wrong):
            pass


async def test_a_port_in_use_is_said(door):
    """A second door at the same endpoint fails at once instead of sharing the port."""
    async with door() as address:
        with pytest.raises(OSError, match=f"endpoint {address}: address already in use"):
            async with door(endpoint=address):
                pass


async def test_stopping_finishes_what_is_in_flight(door, consumer):
    """A call that is being stored when the door closes still gets its answer; a later one gets UNAVAILABLE."""
    consumer.gate = asyncio.Event()
    leaving = asyncio.Event()
    addresses = asyncio.Queue()

    async def serve() -> None:
        async with door(grace_seconds=20.0) as address:
            addresses.put_nowait(address)
            await leaving.wait()

    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve())
        address = await addresses.get()
        first = tasks.create_task(call(address, request_of(span())))
        await consumer.entered.wait()
        leaving.set()
        code = None
        while code is not grpc.StatusCode.UNAVAILABLE:
            try:
                await asyncio.wait_for(call(address, b""), 5)
            except grpc.aio.AioRpcError as error:
                code = error.code()
        assert not server.done()
        consumer.gate.set()
        assert await first == b""
    assert consumer.spans == 1


async def test_a_sender_that_gives_up_harms_nobody(door, consumer, caplog):
    """A deadline that passes while the store works ends that call only, without a line in the log."""
    consumer.gate = asyncio.Event()
    async with door() as address:
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(TRACES)(request_of(span()), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        consumer.gate.set()
        assert await call(address, request_of(span(2))) == b""
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("step", ["unpacked", "split"])
async def test_a_sender_that_gives_up_meanwhile_leaves_nothing_of_the_budget(door, consumer, caplog, step):
    """While its message is unpacked or split in a thread: what it holds is held as long as the thread uses it, and all
    of it is given back then."""
    loop, calls = asyncio.get_running_loop(), []
    began, go = asyncio.Event(), threading.Event()

    def stop(now: str) -> None:
        if now == step and threading.current_thread() is not threading.main_thread():
            loop.call_soon_threadsafe(began.set)
            go.wait()

    class Budget(InFlight):
        def request(self, connection=None):
            calls.append(asyncio.current_task())
            return super().request(connection)

        def move(self, size, held=0):
            stop("unpacked")
            super().move(size, held)

    class Stopped(Splitter):
        def split(self, request, *, aside=False):
            stop("split")
            return super().split(request, aside=aside)

    budget = Budget()
    message = gzip.compress(request_of(span(name="x" * (9 << 20))))
    async with door(in_flight=budget, splitter=Stopped([])) as address, asyncio.timeout(60):
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                export = channel.unary_unary(TRACES)(message)
                await began.wait()
                export.cancel()
                while not calls[0].cancelling():  # noqa: ASYNC110  # grpc cancels it, and tells nobody
                    await asyncio.sleep(0)
                for _ in range(10):
                    await asyncio.sleep(0)
                assert budget.bytes > 1 << 20
        finally:
            go.set()
        await asyncio.wait(calls)
        # Until no thread is left that could take more.
        await loop.shutdown_default_executor()
        assert budget.bytes == 0
    assert consumer.requests == []
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_the_sdk_exporter_delivers(door, consumer):
    """Spans of the OpenTelemetry SDK, sent by its own gRPC exporter with gzip, arrive."""

    def run(address: str) -> set[bytes]:
        provider = TracerProvider(resource=Resource({"service.name": "app"}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(address, insecure=True, compression=grpc.Compression.Gzip)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span("root") as root, tracer.start_as_current_span("child") as child:
            ids = {one.get_span_context().span_id.to_bytes(8, "big") for one in (root, child)}
        provider.shutdown()
        return ids

    async with door() as address:
        ids = await asyncio.to_thread(run, address)
    assert {part.span_ids for part in consumer.parts} == ids
    assert all(part.envelope is not None and b"app" in part.envelope.resource for part in consumer.parts)


async def test_the_sdk_exporter_tries_again_when_told(door, consumer, caplog):
    """The SDK's exporter reads the RetryInfo: after UNAVAILABLE it sends the same spans again, as soon as was said.

    What it waits is what it writes into its log; left to its own backoff that would be about a second and more.
    """
    consumer.errors += [UnavailableError("starting", retry_after=0.02), UnavailableError("starting", retry_after=0.02)]

    def run(address: str) -> None:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(address, insecure=True)))
        provider.get_tracer("test").start_span("only").end()
        provider.shutdown()

    async with door() as address:
        await asyncio.to_thread(run, address)
    assert consumer.errors == []
    assert consumer.spans == 1
    # The exporter's log leaves out what it has said already: another wait would be another line.
    waits = [record.getMessage().partition("retrying in ")[2] for record in caplog.records]
    assert [wait.partition(" ")[0] for wait in waits if wait] == ["0.02s."]


async def test_a_client_that_pings_while_it_sends_nothing_keeps_its_connection(door):
    """Pings no more often than the door allows are no attack: each is answered, where core's own rule ends the
    connection at the third."""
    ping, ack = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]), bytes([0, 0, 8, 6, 1, 0, 0, 0, 0])
    async with door(min_ping_seconds=0.0) as address, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*address.split(":"))
        # RFC 9113: the preface, empty SETTINGS, and frames of 9 bytes and their payload.
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        for number in range(10):
            sent = number.to_bytes(8, "big")
            writer.write(ping + sent)
            kind = payload = b""
            while (kind, payload) != (ack, sent):
                kind = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(kind[:3], "big"))
                assert kind[3] != 7, f"GOAWAY: {payload[8:]!r}"
        writer.close()
        await writer.wait_closed()


async def test_zstd_is_refused_as_the_docs_say(door):
    """gRPC core knows no zstd and answers INTERNAL before a handler runs (docs/collector.md)."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": TRACES,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-encoding": "zstd",
    }
    # RFC 7541, 6.2.2: literal fields that are not indexed, without Huffman coding.
    fields = b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in header) for header in headers.items()
    )
    async with door() as address, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*address.split(":"))
        # RFC 9113: the preface, empty SETTINGS, then HEADERS that end the stream's header block.
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        writer.write(len(fields).to_bytes(3, "big") + bytes([1, 4, 0, 0, 0, 1]) + fields)
        kind = payload = b""
        while kind[3:4] != b"\1":
            kind = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(kind[:3], "big"))
        assert b"grpc-status\x0213" in payload
        writer.close()
        await writer.wait_closed()
