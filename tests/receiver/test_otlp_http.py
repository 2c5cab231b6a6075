"""The OTLP HTTP door, seen by a plain HTTP client and by the OpenTelemetry SDK's own exporter."""

import asyncio
import gzip
import io
import logging
import ssl
import zlib
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pytest
import zstandard
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from grafter.consumer import Signal
from grafter.errors import UnavailableError
from grafter.otlp.split import Splitter
from grafter.otlp.to_json import trace_request_to_json
from grafter.receiver import otlp_http
from grafter.receiver.config import Cors
from grafter.receiver.in_flight import InFlight
from grafter.receiver.otlp import Intake

PROTOBUF, JSON = "application/x-protobuf", "application/json"
TRACE_ID = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")


def request_of(*spans: Span) -> bytes:
    scope = ScopeSpans(spans=spans)
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


def span(number: int = 1, **fields) -> Span:
    return Span(**{"trace_id": TRACE_ID, "span_id": number.to_bytes(8, "big"), "name": f"span {number}"} | fields)


ONE = request_of(span())


class Client:
    """Sends requests to one door."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def send(self, body: bytes = b"", *, method="POST", path="/v1/traces", content_type=PROTOBUF, **options):
        """The answer, read: status, headers, body."""
        headers = ({"Content-Type": content_type} if content_type else {}) | options.pop("headers", {})
        data = io.BytesIO(body) if body else None
        async with self.session.request(method, self.url + path, data=data, headers=headers, **options) as answer:
            return answer.status, answer.headers, await answer.read()


@pytest.fixture
def door(consumer, metrics):
    """Opens the door with the consumer of the test; the defaults can be replaced."""

    @asynccontextmanager
    async def opened(**settings):
        settings = {"endpoint": "localhost:0", "grace_seconds": 1.0} | settings
        scheme = "https" if settings.get("tls") else "http"
        passing = settings.pop("pass_through", None), settings.pop("signals", frozenset())
        intake = Intake(consumer, Splitter([]), metrics, "http", *passing)
        async with (
            otlp_http.listening(intake, **settings) as port,
            aiohttp.ClientSession(auto_decompress=False) as session,
        ):
            yield Client(session, f"{scheme}://localhost:{port}")

    return opened


def status_of(content_type: str, body: bytes) -> dict:
    """A google.rpc.Status, read in the encoding of its content type, in one shape for both."""
    if content_type == JSON:
        read = orjson.loads(body)
        return {"details": []} | read
    status = Status.FromString(body)
    details = []
    for one in status.details:
        retry, bad = RetryInfo(), BadRequest()
        if one.Unpack(retry):
            details.append({"@type": one.type_url, "retryDelay": retry.retry_delay.ToJsonString()})
        elif one.Unpack(bad):
            violations = [{"description": v.description} for v in bad.field_violations]
            details.append({"@type": one.type_url, "fieldViolations": violations})
    return {"code": status.code, "message": status.message, "details": details}


def count(metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"{name}_total", labels) or 0.0


@pytest.mark.parametrize("content_type", [PROTOBUF, f"{PROTOBUF}; charset=utf-8", "Application/X-Protobuf"])
async def test_protobuf_is_stored_and_answered_in_protobuf(door, consumer, metrics, content_type):
    """A protobuf request is answered 200 with an empty protobuf message once the spans are stored."""
    async with door() as client:
        status, headers, body = await client.send(request_of(span(1), span(2)), content_type=content_type)
        assert (status, headers["Content-Type"], body) == (200, PROTOBUF, b"")
        assert consumer.spans == 2
    labels = {"receiver": "otlp", "transport": "http"}
    assert count(metrics, "grafter_receiver_accepted_spans", **labels) == 2
    assert count(metrics, "grafter_receiver_requests", **labels, outcome="accepted") == 1


@pytest.mark.parametrize("content_type", [JSON, f"{JSON}; charset=utf-8", f"{JSON};charset=UTF-8"])
@pytest.mark.parametrize("spans", [1, 1000])
async def test_json_is_stored_and_answered_in_json(door, consumer, content_type, spans):
    """A JSON request, small or large, is answered 200 with an empty JSON object once the spans are stored."""
    async with door() as client:
        body = trace_request_to_json(request_of(*map(span, range(1, spans + 1))))
        status, headers, body = await client.send(body, content_type=content_type)
    assert (status, headers["Content-Type"].partition(";")[0], body) == (200, JSON, b"{}")
    assert consumer.spans == spans
    assert consumer.parts[0].key == TRACE_ID


async def test_empty_requests_are_a_success(door, consumer):
    """Nothing to store is no error, in either encoding."""
    async with door() as client:
        assert (await client.send(b""))[::2] == (200, b"")
        assert (await client.send(b"{}", content_type=JSON))[::2] == (200, b"{}")
    assert consumer.requests == []


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_a_span_with_a_bad_id_is_rejected_alone(door, consumer, content_type):
    """Spans with wrong ids come back as a partial success in the request's encoding; the others are stored."""
    request = request_of(span(1), span(2, trace_id=b"short"), span(3))
    async with door() as client:
        body = request if content_type == PROTOBUF else trace_request_to_json(request)
        status, _, answer = await client.send(body, content_type=content_type)
    assert status == 200
    if content_type == PROTOBUF:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
        rejected, message = str(partial.rejected_spans), partial.error_message
    else:
        partial = orjson.loads(answer)["partialSuccess"]
        rejected, message = partial["rejectedSpans"], partial["errorMessage"]
    assert rejected == "1"
    assert "invalid id" in message
    assert consumer.spans == 2


async def test_an_id_that_is_not_hex_loses_only_its_span(door, consumer):
    """JSON whose ids are no hex strings is rejected span by span."""
    document = orjson.loads(trace_request_to_json(request_of(span(1), span(2), span(3))))
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans[0]["traceId"] = "S/kvNXezTaajzpKdDg5HNg=="
    spans[1]["spanId"] = "not hex at all.."
    async with door() as client:
        _, _, answer = await client.send(orjson.dumps(document), content_type=JSON)
    assert orjson.loads(answer)["partialSuccess"]["rejectedSpans"] == "2"
    assert consumer.spans == 1


@pytest.mark.parametrize(
    "name", ["otlp_call_from_sdk", "otlp_call_from_collector", "otlp_telemetrygen_through_collector"]
)
async def test_recorded_requests_arrive_whole(door, consumer, otlp_data, name):
    """What an SDK and a Go Collector really sent arrives with every span, as protobuf and as JSON."""
    body = (otlp_data / f"{name}.pb").read_bytes()
    sent = sum(len(c.spans) for r in ExportTraceServiceRequest.FromString(body).resource_spans for c in r.scope_spans)
    async with door() as client:
        await client.send(body)
        assert consumer.spans == sent
        await client.send(trace_request_to_json(body), content_type=JSON)
        assert consumer.spans == 2 * sent


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("identity", bytes),
    ],
)
async def test_compressed_requests(door, consumer, encoding, compress):
    """gzip, deflate and zstd are taken, for both encodings."""
    async with door() as client:
        for content_type, body in ((PROTOBUF, ONE), (JSON, trace_request_to_json(ONE))):
            answer = await client.send(
                compress(body), content_type=content_type, headers={"Content-Encoding": encoding}
            )
            assert answer[0] == 200
    assert consumer.spans == 2


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_refusals_carry_a_status_in_the_requests_encoding(door, consumer, metrics, content_type):
    """Every 4xx is a google.rpc.Status in the encoding of the request, and the door stays open."""
    cases = [
        (400, 3, b"\xff garbage", {}),
        (400, 3, b"garbage", {"Content-Encoding": "gzip"}),
        (400, 3, gzip.compress(ONE)[:-5], {"Content-Encoding": "gzip"}),
        (415, 3, ONE, {"Content-Encoding": "br"}),
        (415, 3, ONE, {"Content-Encoding": "gzip, zstd"}),
        (413, 8, bytes((1 << 20) + 1), {}),
        (413, 8, gzip.compress(bytes(1 << 28)), {"Content-Encoding": "gzip"}),
        (413, 8, zstandard.ZstdCompressor().compress(bytes(1 << 28)), {"Content-Encoding": "zstd"}),
    ]
    async with door(max_bytes=1 << 20) as client:
        for code, rpc_code, body, headers in cases:
            status, answered, answer = await client.send(body, content_type=content_type, headers=headers)
            assert (status, answered["Content-Type"].partition(";")[0]) == (code, content_type)
            read = status_of(content_type, answer)
            assert read["code"] == rpc_code
            assert read["message"]
            kinds = [one["@type"] for one in read["details"]]
            assert kinds == (["type.googleapis.com/google.rpc.BadRequest"] if rpc_code == 3 else [])
        good = ONE if content_type == PROTOBUF else trace_request_to_json(ONE)
        assert (await client.send(good, content_type=content_type))[0] == 200
    assert consumer.spans == 1
    labels = {"receiver": "otlp", "transport": "http"}
    assert count(metrics, "grafter_receiver_requests", **labels, outcome="too_large") == 3
    assert count(metrics, "grafter_receiver_requests", **labels, outcome="rejected") == 5


async def test_json_that_would_take_more_than_all_requests_may_is_refused_before_it_is_read(door, consumer):
    """A document alone keeps to the budget too: 413 with how many values it has and how many may come at a time, since
    to come again would not help; one that fits is taken."""
    values = b",".join([b'{"intValue":"1"}'] * 2_000)
    document = b'{"resourceSpans":[],"other":[%b]}'
    budget = InFlight(240 * 3_000)
    async with door(in_flight=budget) as client:
        status, headers, answer = await client.send(document % values, content_type=JSON)
        assert status == 413
        assert "Retry-After" not in headers
        assert "has 4,004 JSON values" in orjson.loads(answer)["message"]
        assert orjson.loads(answer)["message"].endswith("send less at a time, the most is 3,000")
        assert budget.bytes == 0
        assert (await client.send(document % values[: len(values) // 2], content_type=JSON))[0] == 200


async def test_a_wrong_value_in_json_is_named_without_itself(door, consumer, caplog):
    """A JSON value of the wrong shape costs itself; answer and log say where, and repeat nothing of it."""
    document = orjson.loads(trace_request_to_json(ONE))
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["startTimeUnixNano"] = "my secret"
    async with door() as client:
        status, _, answer = await client.send(orjson.dumps(document), content_type=JSON)
    assert status == 200
    assert "Span.startTimeUnixNano: expected an integer" in orjson.loads(answer)["partialSuccess"]["errorMessage"]
    assert b"secret" not in answer
    assert len(consumer.requests) == 1
    assert [r.reason.startswith("OTLP JSON: Span.start") for r in caplog.records] == [True]


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "application/grpc", ""])
async def test_other_content_types_are_415(door, content_type):
    """A content type that OTLP does not have is 415, said in JSON."""
    async with door() as client:
        status, headers, answer = await client.send(ONE, content_type=content_type)
    assert (status, headers["Content-Type"].partition(";")[0]) == (415, JSON)
    assert "application/x-protobuf" in status_of(JSON, answer)["message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_other_methods_are_405(door, method):
    """Only POST is taken, and the answer says so."""
    async with door() as client:
        status, headers, _ = await client.send(method=method, content_type=None)
    assert (status, headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/v1/trace", "/v1/traces/", "/v1/metrics", "/v1/logs", "/v1/%74races%00"])
async def test_other_paths_are_404(door, path):
    """Nothing else is served; metrics and logs are 404 where no pipeline has them."""
    async with door() as client:
        status, _, answer = await client.send(ONE, path=path)
    assert status == 404
    assert status_of(PROTOBUF, answer)["code"] == 12


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize(("delay", "seconds", "said"), [(0.2, "1", "0.200s"), (3.0, "3", "3s"), (2.5, "3", "2.500s")])
async def test_unavailable_says_when_to_come_again(door, consumer, metrics, content_type, delay, seconds, said):
    """A store that cannot take the spans is 503 with Retry-After in whole seconds and a RetryInfo."""
    consumer.errors.append(UnavailableError("store is full", retry_after=delay, reason="full"))
    async with door() as client:
        body = ONE if content_type == PROTOBUF else trace_request_to_json(ONE)
        status, headers, answer = await client.send(body, content_type=content_type)
    assert (status, headers["Retry-After"]) == (503, seconds)
    read = status_of(content_type, answer)
    assert (read["code"], read["message"]) == (14, "store is full")
    assert float(read["details"][0]["retryDelay"].rstrip("s")) == float(said.rstrip("s"))
    labels = {"receiver": "otlp", "transport": "http"}
    assert count(metrics, "grafter_receiver_refused_spans", **labels, reason="full") == 1


async def test_a_bug_is_500_logged_once_and_ends_nothing(door, consumer, caplog):
    """An unexpected exception is 500 without its text, one log line with the traceback, and the door goes on."""
    consumer.errors.append(KeyError("secret prompt"))
    async with door() as client:
        with caplog.at_level(logging.ERROR):
            status, _, answer = await client.send(ONE)
        assert (status, status_of(PROTOBUF, answer)["message"]) == (500, "internal error")
        assert (await client.send(ONE))[0] == 200
    assert len([r for r in caplog.records if r.exc_info]) == 1


async def test_tokens(door, consumer, metrics):
    """With tokens, only a request that carries one of them is taken."""
    async with door(tokens=["one", "two"]) as client:
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
            status, answered, answer = await client.send(ONE, headers=headers)
            assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
            assert status_of(PROTOBUF, answer)["code"] == 16
        assert consumer.requests == []
        assert (await client.send(ONE, headers={"Authorization": "bearer two"}))[0] == 200
    labels = {"receiver": "otlp", "transport": "http", "outcome": "unauthenticated"}
    assert count(metrics, "grafter_receiver_requests", **labels) == 3


async def test_metrics_and_logs_pass_through(door, pass_through):
    """Protobuf goes on byte for byte, JSON as the same request in protobuf, and failures come back."""
    document = b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"calls"}]}]}]}'
    async with door(pass_through=pass_through, signals=frozenset(Signal)) as client:
        assert (await client.send(b"logs, unread", path="/v1/logs"))[::2] == (200, b"")
        assert (await client.send(document, path="/v1/metrics", content_type=JSON))[::2] == (200, b"{}")
        pass_through.errors.append(UnavailableError("backend is down"))
        status, headers, _ = await client.send(b"", path="/v1/logs")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert pass_through.forwarded[0] == (Signal.LOGS, b"logs, unread")
    signal, request = pass_through.forwarded[1]
    assert signal is Signal.METRICS
    read = ExportMetricsServiceRequest.FromString(request)
    assert read.resource_metrics[0].scope_metrics[0].metrics[0].name == "calls"


async def test_keep_alive(door, consumer):
    """One connection carries many requests, refused ones among them."""
    async with door() as client:
        port = int(client.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("localhost", port)
        for body, code in ((ONE, b"200"), (b"\xff", b"400"), (ONE, b"200")):
            head = f"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PROTOBUF}\r\n"
            head += f"Content-Length: {len(body)}"
            writer.write(head.encode() + b"\r\n\r\n" + body)
            assert (await reader.readline()).split()[1] == code
            length = 0
            while line := (await reader.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            await reader.readexactly(length)
        writer.close()
    assert consumer.spans == 2


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


@pytest.mark.parametrize(
    ("allowed", "origin", "answered"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://app.example.com", "https://APP.example.com", True),
        ("https://app.example.com", "http://app.example.com", False),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://a.example.com.evil.org", False),
        ("https://app.example.com", "https://appXexample.com", False),
        ("*", "null", True),
        ("http://localhost:*", "http://localhost:8080", True),
    ],
)
async def test_cors_origins(door, consumer, allowed, origin, answered):
    """Pages of allowed origins may send and read the answers; ``*`` stands for any text."""
    async with door(cors=Cors(allowed_origins=(allowed,), max_age=600)) as client:
        status, headers, _ = await client.send(
            method="OPTIONS", content_type=None, headers=PREFLIGHT | {"Origin": origin}
        )
        assert status == 204
        assert headers.get("Access-Control-Allow-Origin") == (origin if answered else None)
        assert headers.get("Access-Control-Max-Age") == ("600" if answered else None)
        assert headers.get("Access-Control-Allow-Methods") == ("POST" if answered else None)
        assert "Origin" in headers["Vary"]
        status, headers, _ = await client.send(ONE, headers={"Origin": origin})
        assert status == (200 if answered else 403)
        assert headers.get("Access-Control-Allow-Origin") == (origin if answered else None)
        consumer.errors.append(UnavailableError("later"))
        status, headers, _ = await client.send(ONE, headers={"Origin": origin})
        expected = (503, "Retry-After") if answered else (403, None)
        assert (status, headers.get("Access-Control-Expose-Headers")) == expected


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Host": "rebound.example:4318"}, 403),
        ({"Host": "127.0.0.1:4318"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "grafter.example", "X-Forwarded-For": "192.0.2.1"}, 200),
    ],
    ids=str,
)
@pytest.mark.parametrize("tokens", [(), ("t",)])
async def test_without_tokens_no_page_may_send(door, consumer, headers, status, tokens):
    """What a browser sends for a page, by its Origin or a name that was rebound, is 403; a token opens the door."""
    async with door(tokens=tokens) as client:
        more = {"Authorization": "Bearer t"} if tokens else {}
        found, _, _ = await client.send(ONE, headers=headers | more)
    assert found == (200 if tokens else status)


@pytest.mark.parametrize(
    ("headers", "asked", "tokens", "answered"),
    [
        ((), "content-type", [], True),
        ((), "content-type,content-encoding", [], True),
        ((), "x-tenant", [], False),
        (("X-Tenant",), "content-type, x-tenant", [], True),
        (("*",), "anything", [], True),
        ((), "authorization", [], False),
        ((), "authorization", ["token"], True),
        ((), "", [], True),
    ],
)
async def test_cors_headers(door, headers, asked, tokens, answered):
    """Pages may set the headers that OTLP needs, the token's where there are tokens, and those configured."""
    async with door(cors=Cors(allowed_origins=("*",), allowed_headers=headers), tokens=tokens) as client:
        sent = PREFLIGHT | {"Origin": "https://a", "Access-Control-Request-Headers": asked}
        _, got, _ = await client.send(method="OPTIONS", content_type=None, headers=sent)
    assert ("Access-Control-Allow-Origin" in got) == answered
    if answered and asked:
        assert {h.strip() for h in got["Access-Control-Allow-Headers"].split(",")} == {
            h.strip() for h in asked.split(",")
        }


async def test_a_preflight_needs_no_token_and_other_methods_are_not_allowed(door):
    """Browsers ask without credentials; what they ask for beyond POST is not granted."""
    async with door(cors=Cors(allowed_origins=("*",)), tokens=["token"]) as client:
        sent = PREFLIGHT | {"Origin": "https://a"}
        status, got, _ = await client.send(method="OPTIONS", content_type=None, headers=sent)
        assert (status, got["Access-Control-Allow-Origin"]) == (204, "https://a")
        sent |= {"Access-Control-Request-Method": "DELETE"}
        _, got, _ = await client.send(method="OPTIONS", content_type=None, headers=sent)
        assert "Access-Control-Allow-Origin" not in got
        status, got, _ = await client.send(ONE, headers={"Origin": "https://a"})
        assert (status, got["Access-Control-Allow-Origin"]) == (401, "https://a")
        status, got, _ = await client.send(method="OPTIONS", content_type=None)
        assert (status, got["Allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize("cors", [None, Cors()])
async def test_without_cors_nothing_is_granted(door, cors):
    """A door without allowed origins says nothing to browsers."""
    async with door(cors=cors) as client:
        _, got, _ = await client.send(ONE, headers={"Origin": "https://a"})
        asked = PREFLIGHT | {"Origin": "https://a"}
        status, _, _ = await client.send(method="OPTIONS", content_type=None, headers=asked)
    assert status == 405
    assert not [name for name in got if name.lower().startswith("access-control")]


async def test_tls_and_client_certificates(door, consumer, certificates):
    """TLS is answered to a client that trusts the CA; with a client CA, only to one that shows a certificate."""
    trusting = ssl.create_default_context(cafile=str(certificates.ca))
    known = ssl.create_default_context(cafile=str(certificates.ca))
    known.load_cert_chain(certificates.client_cert, certificates.client_key)
    async with door(tls=certificates.server) as client:
        assert (await client.send(ONE, ssl=trusting))[0] == 200
    async with door(tls=certificates.server_mutual) as client:
        assert (await client.send(ONE, ssl=known))[0] == 200
        with pytest.raises(aiohttp.ClientError):
            await client.send(ONE, ssl=trusting)
    assert consumer.spans == 2


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip, Compression.Deflate])
async def test_the_sdk_exporter_delivers(door, consumer, compression):
    """Spans of the OpenTelemetry SDK, sent by its own HTTP exporter, arrive."""

    def run(url: str) -> bytes:
        provider = TracerProvider(shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{url}/v1/traces", compression=compression)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        one = provider.get_tracer("test").start_span("only")
        one.end()
        provider.shutdown()
        return one.get_span_context().span_id.to_bytes(8, "big")

    async with door() as client:
        sent = await asyncio.to_thread(run, client.url)
    assert [part.span_ids for part in consumer.parts] == [sent]


async def test_the_sdk_exporter_tries_again_after_503(door, consumer):
    """After 503 the SDK's HTTP exporter sends the same spans again, and loses none."""
    consumer.errors.append(UnavailableError("starting", retry_after=0.1))

    def run(url: str) -> None:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
        provider.get_tracer("test").start_span("only").end()
        provider.shutdown()

    async with door() as client:
        await asyncio.to_thread(run, client.url)
    assert consumer.errors == []
    assert consumer.spans == 1
