"""``grafter send`` against a small server that takes, delays and refuses."""

import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from grafter.commands.send import Speed, send

ITEMS = [
    {"object": "trace", "id": "trace_1", "workflow_name": "w", "group_id": None, "metadata": None},
    {"object": "trace.span", "id": "span_1", "trace_id": "trace_1", "ended_at": "2026-11-22T21:00:02+00:00"},
    {"object": "trace.span", "id": "span_2", "trace_id": "trace_1", "ended_at": "2026-11-22T21:00:09.500Z"},
]


@dataclass
class Server:
    """Remembers what came and answers from a list; 204 and an empty OTLP response when that is used up."""

    url: str = ""
    got: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    """path, Content-Type, Authorization, body"""
    answers: list[web.Response] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        headers = request.headers
        body = await request.read()
        self.got.append((request.path, headers["Content-Type"], headers.get("Authorization", ""), body))
        return self.answers.pop(0) if self.answers else web.Response(status=200)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server for both doors."""
    made = Server()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def run(server: Server, *files: Path, **options: Any) -> tuple[int, str, list[float]]:
    """Exit code, what was printed, and the pauses that were made."""
    out, pauses = io.StringIO(), []

    async def sleep(seconds: float) -> None:
        pauses.append(round(seconds, 3))

    code = await send(
        files, otlp_endpoint=server.url, openai_endpoint=server.url, out=out, err=io.StringIO(), sleep=sleep, **options
    )
    return code, out.getvalue(), pauses


def otlp(*ends: int) -> ExportTraceServiceRequest:
    """A request with spans that end at these seconds."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for end in ends:
        spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, name="s", end_time_unix_nano=end * 1_000_000_000)
    return request


def otlp_json(*ends: int) -> dict[str, Any]:
    spans = [{"traceId": "aa" * 16, "spanId": "bb" * 8, "endTimeUnixNano": str(end * 10**9)} for end in ends]
    return {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}


def written(path: Path, content: bytes | str | object) -> Path:
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return path


async def test_otlp_files_go_out_as_they_stand(server: Server, tmp_path: Path) -> None:
    """A protobuf request and a JSON document are posted byte for byte, each with its content type."""
    binary = written(tmp_path / "a", otlp(1, 2).SerializeToString())
    pretty = written(tmp_path / "b", orjson.dumps(otlp_json(3), option=orjson.OPT_INDENT_2))
    code, said, _ = await run(server, binary, pretty, token="t0ken")
    assert code == 0
    assert server.got == [
        ("/v1/traces", "application/x-protobuf", "Bearer t0ken", binary.read_bytes()),
        ("/v1/traces", "application/json", "Bearer t0ken", pretty.read_bytes()),
    ]
    assert said == "sent 2 of 2 requests: 3 spans, 0 items\n"


async def test_a_protobuf_request_that_begins_like_json_is_protobuf(server: Server, tmp_path: Path) -> None:
    """A request whose first message is 123 bytes long begins with a newline and a brace."""
    request = otlp(1)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    while len(request.SerializeToString()) < 125:
        span.name += "x"
    assert request.SerializeToString()[:2] == b"\n{"
    code, _, _ = await run(server, written(tmp_path / "a", request.SerializeToString()))
    assert code == 0
    assert server.got[0][1] == "application/x-protobuf"


TRACE_WITH_SPANS = {**ITEMS[0], "spans": ITEMS[1:]}


@pytest.mark.parametrize(
    "content",
    [
        {"data": ITEMS},
        {"object": "list", "data": ITEMS},
        ITEMS,
        "\n".join(orjson.dumps(item).decode() for item in ITEMS) + "\n",
        {"note": "recorded", "requests": [{"t": 1.0, "body": {"data": ITEMS}}]},
        {"object": "event", "id": "evt_1", "type": "trace.exported", "data": TRACE_WITH_SPANS},
        {"object": "event", "id": "evt_1", "type": "trace.exported", "data": ITEMS},
        {"object": "event", "id": "evt_1", "type": "trace.exported", "data": {"data": ITEMS}},
        TRACE_WITH_SPANS,
        [TRACE_WITH_SPANS],
    ],
    ids=[
        *("envelope", "api list", "list", "lines", "capture"),
        *("event with a trace", "event with a list", "event with an envelope", "trace with spans", "list of traces"),
    ],
)
async def test_every_form_of_openai_items_is_posted_as_the_sdk_does(
    server: Server, tmp_path: Path, content: object
) -> None:
    """Whatever form the file has, the receiver gets one ``{"data": [...]}`` with the same items."""
    code, said, _ = await run(server, written(tmp_path / "items", content))
    ((path, content_type, _, body),) = server.got
    assert (code, path, content_type) == (0, "/v1/traces/ingest", "application/json")
    assert orjson.loads(body) == {"data": ITEMS}
    assert said == "sent 1 of 1 requests: 0 spans, 3 items\n"


async def test_each_line_may_be_an_event(server: Server, tmp_path: Path) -> None:
    """Lines may be events of any form; a span inside its trace need not say whose it is."""
    bare = [{key: value for key, value in span.items() if key != "trace_id"} for span in ITEMS[1:]]
    events = [{"object": "event", "data": {"id": "trace_1", "spans": bare}}, {"object": "event", "data": ITEMS[0]}]
    code, _, _ = await run(server, written(tmp_path / "events", b"\n".join(map(orjson.dumps, events))))
    assert code == 0
    posted = [orjson.loads(body)["data"] for *_, body in server.got]
    assert posted == [[{"object": "trace", "id": "trace_1"}, *ITEMS[1:]], ITEMS[:1]]


EVENTS = [
    {"at": 1_764_000_000 + n, "from": "server", "event": {"type": "response.done", "event_id": f"event_{n}"}}
    for n in range(3)
]
POST = {"call": "rtc_1", "metadata": {"trace_id": "ab" * 16}, "ended": True, "events": EVENTS}
LINES = [{"call": "rtc_1", **event} for event in EVENTS]


@pytest.mark.parametrize(
    ("content", "posts"),
    [
        (POST, [POST]),
        ([POST, POST], [POST, POST]),
        (b"\n".join(map(orjson.dumps, [POST, POST])), [POST, POST]),
        (b"\n".join(map(orjson.dumps, LINES)), LINES),
    ],
    ids=["envelope", "list", "lines of envelopes", "lines of events"],
)
async def test_posted_events_go_to_their_own_door(
    server: Server, tmp_path: Path, content: object, posts: list[Any]
) -> None:
    """Told by their key ``call``, in every form that the receiver takes."""
    code, said, _ = await run(server, written(tmp_path / "events", content))
    ((path, content_type, _, body),) = server.got
    assert (code, path, content_type) == (0, "/v1/realtime/events", "application/json")
    assert orjson.loads(body) == posts
    events = sum(len(post.get("events", [post])) for post in posts)
    assert said == f"sent 1 of 1 requests: 0 spans, {events} items\n"


async def test_events_and_traces_may_stand_in_one_file(server: Server, tmp_path: Path) -> None:
    """Each goes to its receiver, in the order of the file, and a long run of events in several posts."""
    lines = [otlp_json(1), ITEMS[0], *[LINES[0]] * 130, ITEMS[1]]
    await run(server, written(tmp_path / "mixed", b"\n".join(map(orjson.dumps, lines))))
    assert [path.rpartition("/")[2] for path, *_ in server.got] == ["traces", "ingest", "events", "events", "ingest"]


async def test_an_endpoint_that_names_the_ingest_has_the_events_door_beside_it(server: Server, tmp_path: Path) -> None:
    """Whoever gave the whole address of one receiver meant the grafter behind it."""
    out = io.StringIO()
    endpoint = server.url + "/v1/traces/ingest"
    code = await send([written(tmp_path / "e", POST)], openai_endpoint=endpoint, out=out, err=io.StringIO())
    assert (code, server.got[0][0]) == (0, "/v1/realtime/events")


async def test_recorded_speed_knows_the_times_of_events(server: Server, tmp_path: Path) -> None:
    """A post goes out at the time of its last event."""
    files = [
        written(tmp_path / "late", {"call": "b", "events": [EVENTS[2]]}),
        written(tmp_path / "early", {"call": "a", "events": EVENTS[:1]}),
    ]
    _, _, pauses = await run(server, *files, speed=Speed.RECORDED)
    assert [orjson.loads(body)[0]["call"] for *_, body in server.got] == ["a", "b"]
    assert pauses == [2.0]


async def test_json_lines_of_both_kinds_keep_their_order(server: Server, tmp_path: Path) -> None:
    """Lines of OTLP documents and of items may stand in one file; items between two documents share a request."""
    lines = [otlp_json(1), ITEMS[0], ITEMS[1], otlp_json(2, 3)]
    code, said, _ = await run(server, written(tmp_path / "mixed", b"\n".join(orjson.dumps(line) for line in lines)))
    assert code == 0
    assert [path for path, *_ in server.got] == ["/v1/traces", "/v1/traces/ingest", "/v1/traces"]
    assert said == "sent 3 of 3 requests: 3 spans, 2 items\n"


async def test_a_long_list_is_cut_as_the_sdk_cuts_it(server: Server, tmp_path: Path) -> None:
    """At most 128 items a request."""
    await run(server, written(tmp_path / "long", [ITEMS[1]] * 300))
    assert [len(orjson.loads(body)["data"]) for *_, body in server.got] == [128, 128, 44]


async def test_recorded_speed_keeps_the_pauses(server: Server, tmp_path: Path) -> None:
    """Requests of several files go out in the order of their times, with the time between them."""
    capture = {"requests": [{"t": 107.0, "body": {"data": ITEMS[:1]}}, {"t": 104.5, "body": {"data": ITEMS[1:]}}]}
    files = [written(tmp_path / "c", capture), written(tmp_path / "o", otlp(100).SerializeToString())]
    code, _, pauses = await run(server, *files, speed=Speed.RECORDED)
    assert code == 0
    assert [path for path, *_ in server.got] == ["/v1/traces", "/v1/traces/ingest", "/v1/traces/ingest"]
    assert pauses == [4.5, 2.5]


async def test_a_busy_door_is_asked_again_when_it_says(server: Server, tmp_path: Path) -> None:
    """503 is waited out for as long as Retry-After says, and the same bytes go again."""
    server.answers = [web.Response(status=503, headers={"Retry-After": "7"}), web.Response(status=503)]
    code, said, pauses = await run(server, written(tmp_path / "i", ITEMS), as_json=True)
    assert code == 0
    assert pauses == [7.0, 1.0]
    assert len({body for *_, body in server.got}) == 1
    summary = orjson.loads(said)
    assert summary == {"requests": 1, "spans": 0, "items": 3, "refused": 0, "retries": 2, "problems": []}


async def test_a_door_that_stays_busy_is_given_up(server: Server, tmp_path: Path) -> None:
    """After a minute of 503 the request counts as refused."""
    server.answers = [web.Response(status=503, headers={"Retry-After": "20"}) for _ in range(9)]
    code, _, pauses = await run(server, written(tmp_path / "i", ITEMS))
    assert code == 1
    assert pauses == [20.0] * 3


async def test_what_is_refused_is_said_and_the_rest_goes_on(server: Server, tmp_path: Path) -> None:
    """A 400 is not retried; its message is printed, later requests are still sent, and the exit code is 1."""
    server.answers = [web.Response(status=400, text="data must be a list")]
    files = [written(tmp_path / "a.json", ITEMS), written(tmp_path / "b.json", ITEMS)]
    code, said, pauses = await run(server, *files)
    assert (code, pauses) == (1, [])
    first, last = said.splitlines()
    assert first == f"a.json: {server.url}/v1/traces/ingest answered 400: data must be a list"
    assert last == "sent 1 of 2 requests: 0 spans, 3 items"


@pytest.mark.parametrize("form", ["protobuf", "json"])
async def test_a_partial_success_counts_as_refused(server: Server, tmp_path: Path, form: str) -> None:
    """Spans that the receiver rejected are said and make the exit code 1."""
    if form == "protobuf":
        partial = ExportTracePartialSuccess(rejected_spans=1, error_message="bad id")
        body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
        file = written(tmp_path / "a", otlp(1, 2).SerializeToString())
    else:
        body = orjson.dumps({"partialSuccess": {"rejectedSpans": "1", "errorMessage": "bad id"}})
        file = written(tmp_path / "a", otlp_json(1, 2))
    server.answers = [web.Response(status=200, body=body)]
    code, said, _ = await run(server, file)
    assert code == 1
    assert said == "a: 1 of 2 spans were rejected: bad id\nsent 1 of 1 requests: 1 spans, 0 items\n"


async def test_a_redirect_is_a_refusal(server: Server, tmp_path: Path) -> None:
    """Followed, it would turn the POST into a GET that looks like success."""
    server.answers = [web.Response(status=302, headers={"Location": "/"})]
    code, _, _ = await run(server, written(tmp_path / "i", ITEMS))
    assert code == 1
    assert len(server.got) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff not otlp",
        b'{"resourceSpans": 1}',
        b"[]",
        b'{"requests": [{"body": 3}]}',
        b"17",
        b"\n\n",
        b'{"data": {}}',
    ],
)
async def test_a_file_of_another_kind_stops_before_anything_is_sent(
    server: Server, tmp_path: Path, content: bytes
) -> None:
    """A file that cannot be read names itself; no file of the same command goes out by halves."""
    good, bad = written(tmp_path / "good.json", ITEMS), written(tmp_path / "bad.bin", content)
    code, said, _ = await run(server, good, bad)
    assert code == 1
    assert server.got == []
    assert said.startswith(f"{bad}: ")


async def test_a_missing_file_and_a_silent_address_are_said(server: Server, tmp_path: Path) -> None:
    """Neither is a traceback."""
    code, said, _ = await run(server, tmp_path / "none")
    assert (code, said.splitlines()[0]) == (1, f"{tmp_path / 'none'}: No such file or directory")

    out = io.StringIO()
    file = written(tmp_path / "i", ITEMS)
    code = await send([file], openai_endpoint="127.0.0.1:1", out=out, err=io.StringIO())
    assert code == 1
    assert out.getvalue().startswith("i: no answer from http://127.0.0.1:1/v1/traces/ingest: ")
