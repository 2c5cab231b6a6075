"""``grafter graft`` as a user calls it, beside the server's own processor."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import Result
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from typer.testing import CliRunner

from grafter.cli import app
from grafter.commands.graft import graft
from grafter.core.model import unlinked_trace_id
from grafter.core.policy import GraftPolicy
from grafter.otlp.from_json import trace_request_from_json
from grafter.otlp.to_json import trace_request_to_json
from grafter.telemetry import Metrics
from tests.rig import CALL, DATA, SESSION, Peer, recorded_call, recorded_guest, rig

Spans = list[tuple[bytes, str]]
"""Each span's bytes and its service's name."""

HOST = DATA / "otlp" / "otlp_call_from_sdk.pb"
GUEST = DATA / "openai" / "py_runner_responses.json"
ITEMS: list[dict[str, Any]] = [item for request in recorded_guest() for item in request]  # type: ignore[misc]


def spans_of(document: bytes | str) -> Spans:
    """What an OTLP JSON document holds, in no order."""
    peer = Peer()
    peer.requests.append(trace_request_from_json(document.encode() if isinstance(document, str) else document))
    return sorted((span.SerializeToString(deterministic=True), service) for span, service in peer.spans)


def run(*arguments: object) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(app, ["graft", *map(str, arguments)])


@pytest.fixture(scope="module")
def joined() -> Spans:
    """The recorded call and the recorded run, joined by the command."""
    result = run("--host", HOST, "--guest", GUEST)
    assert result.exit_code == 0, result.stderr
    return spans_of(result.stdout)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Writes bytes, a JSON value, or one JSON line for each member of a tuple."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, tuple):
            content = b"\n".join(map(orjson.dumps, content)) + b"\n"
        path.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
        return path

    return write


Written = Callable[[str, Any], Path]

RECORDED = (
    *("py_all_span_types", "py_concurrent", "py_error", "py_runner_chat_completions", "py_runner_responses"),
    *("py_runstate_resume", "py_span_without_trace_object", "js_all_span_types", "js_runner_responses"),
)


@pytest.mark.parametrize("name", RECORDED)
async def test_a_file_joins_as_it_would_have_in_the_server(name: str) -> None:
    """Every span that the processor sends for these requests is what the command writes, byte for byte."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(recorded_call())
        for items in recorded_guest(name):
            await served.guest(items)
        await served.pass_time(60)
        while served.store.stats().traces:
            await served.pass_time(3600, step=60)
    expected = sorted((span.SerializeToString(deterministic=True), service) for span, service in peer.spans)
    document = await graft([HOST], [DATA / "openai" / f"{name}.json"], GraftPolicy(), Metrics())
    assert spans_of(document) == expected
    assert len(expected) > len(spans_of(trace_request_to_json(recorded_call())))


def test_the_guest_hangs_under_the_session(joined: Spans) -> None:
    """The recorded run is under the call's trace id, its top level under the session's span."""
    peer = Peer()
    request = ExportTraceServiceRequest.FromString(recorded_call())
    host = {s.span_id for r in request.resource_spans for c in r.scope_spans for s in c.spans}
    document = run("--host", HOST, "--guest", GUEST).stdout
    peer.requests.append(trace_request_from_json(document.encode()))
    guests = [span for span, _ in peer.spans if span.span_id not in host]
    own = {span.span_id for span in guests}
    assert {span.trace_id for span in guests} == {CALL}
    assert {span.parent_span_id for span in guests} - own == {SESSION}
    assert len(joined) == len(host) + len(guests)


def halves() -> Sequence[ExportTraceServiceRequest]:
    """The recorded call in two requests, its spans dealt out in turn."""
    requests = [ExportTraceServiceRequest.FromString(recorded_call()) for _ in range(2)]
    for turn, request in enumerate(requests):
        for resource_spans in request.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                del scope_spans.spans[turn::2]
    return requests


@pytest.mark.parametrize(
    "content",
    [
        lambda: trace_request_to_json(recorded_call()),
        lambda: orjson.dumps(orjson.loads(trace_request_to_json(recorded_call())), option=orjson.OPT_INDENT_2),
        lambda: tuple(orjson.loads(trace_request_to_json(half.SerializeToString())) for half in halves()),
    ],
    ids=["json", "indented json", "json lines"],
)
def test_every_form_of_a_host_gives_the_same(written: Written, joined: Spans, content: Callable[[], Any]) -> None:
    """OTLP as a JSON document or as JSON lines joins as the protobuf request does."""
    result = run("--host", written("host", content()), "--guest", GUEST)
    assert result.exit_code == 0, result.stderr
    assert spans_of(result.stdout) == joined


def trace_with_spans() -> dict[str, Any]:
    """The run as one trace object with its spans in it."""
    (head,) = [item for item in ITEMS if item["object"] == "trace"]
    return {**head, "spans": [item for item in ITEMS if item is not head]}


@pytest.mark.parametrize(
    "content",
    [
        {"data": ITEMS},
        ITEMS,
        tuple(ITEMS),
        ({"data": ITEMS[::2]}, {"data": ITEMS[1::2]}),
        {"object": "event", "id": "evt_1", "type": "trace.completed", "data": trace_with_spans()},
        {"object": "event", "id": "evt_1", "type": "trace.completed", "data": ITEMS},
        {"object": "event", "id": "evt_1", "type": "trace.completed", "data": {"data": ITEMS}},
        tuple({"object": "event", "type": "trace.completed", "data": [item]} for item in ITEMS),
        ({"type": "trace.completed", "data": [trace_with_spans()]}, {"type": "x", "data": ITEMS[0]}),
        {"requests": [{"body": {"data": [item]}} for item in ITEMS]},
    ],
    ids=[
        *("data", "list", "lines", "lines of data", "event with a trace", "event with a list", "event with data"),
        *("lines of events", "lines of events of both forms", "capture"),
    ],
)
def test_every_form_of_a_guest_gives_the_same(written: Written, joined: Spans, content: Any) -> None:
    """Whatever form the file has, the same items give the same trace."""
    result = run("--host", HOST, "--guest", written("guest", content))
    assert result.exit_code == 0, result.stderr
    assert spans_of(result.stdout) == joined


def test_several_files_of_each_kind_are_one_input(written: Written, joined: Spans) -> None:
    """Hosts and guests may be spread over files, in any order."""
    hosts = [written(f"host{at}", half.SerializeToString()) for at, half in enumerate(halves())]
    guests = [written(f"guest{at}", [item]) for at, item in enumerate(ITEMS)]
    arguments = [*(("--guest", guest) for guest in reversed(guests)), *(("--host", host) for host in hosts)]
    result = run(*(word for pair in arguments for word in pair))
    assert result.exit_code == 0, result.stderr
    assert spans_of(result.stdout) == joined


@pytest.mark.parametrize(
    ("named", "parent", "anchor"),
    [({"trace_id": CALL.hex(), "span_id": SESSION.hex()}, SESSION, "unseen"), ({"trace_id": CALL.hex()}, b"", "none")],
    ids=["span named", "trace named"],
)
def test_a_guest_without_its_host_leaves_under_the_ids_that_it_names(
    written: Written, named: dict[str, str], parent: bytes, anchor: str
) -> None:
    """No ``--host``: the trace id is that of the metadata, the parent the span named there or none, and it says so."""
    items = [{**item, "metadata": named} if item["object"] == "trace" else item for item in ITEMS]
    result = run("--guest", written("guest", items))
    assert result.exit_code == 0, result.stderr
    peer = Peer()
    peer.requests.append(trace_request_from_json(result.stdout.encode()))
    assert {span.trace_id for span, _ in peer.spans} == {CALL}
    own = {span.span_id for span, _ in peer.spans}
    top = [span for span, _ in peer.spans if span.parent_span_id not in own]
    assert {span.parent_span_id for span in top} == {parent}
    for span in top:
        assert {a.key: a.value.string_value for a in span.attributes}["grafter.anchor"] == anchor


def test_posted_events_join_as_they_would_have_in_the_server(written: Written) -> None:
    """A file of posted Realtime events, as JSON or as lines of any age, hangs under the app's session."""
    told = [
        ("session.created", {"session": {"id": "sess_1", "model": "gpt-realtime"}}),
        ("response.created", {"response": {"id": "resp_1"}}),
        ("response.done", {"response": {"id": "resp_1", "status": "completed"}}),
    ]
    for start in (1_764_000_000, 1_964_000_000):
        lines = [
            {"call": "rtc_1", "at": start + n, "from": "server", "event": {"type": kind, **more}}
            for n, (kind, more) in enumerate(told)
        ]
        end = {"call": "rtc_1", "metadata": {"trace_id": CALL.hex()}, "ended": True}
        post = {**end, "events": [{key: line[key] for key in ("at", "from", "event")} for line in lines]}
        found = []
        for content in ((*lines, end), post):
            result = run("--host", HOST, "--guest", written("events", content))
            assert result.exit_code == 0, result.stderr
            found.append(spans_of(result.stdout))
        assert found[0] == found[1]
        peer = Peer()
        peer.requests.append(trace_request_from_json(result.stdout.encode()))
        spans = {span.name: span for span, _ in peer.spans}
        assert spans["realtime_session gpt-realtime"].parent_span_id == SESSION
        assert spans["chat gpt-realtime"].parent_span_id == spans["realtime_session gpt-realtime"].span_id
        assert spans["chat gpt-realtime"].end_time_unix_nano == (start + 2) * 10**9
        assert spans["realtime_session gpt-realtime"].end_time_unix_nano == (start + 2) * 10**9


def test_a_host_without_a_guest_passes_unchanged() -> None:
    """No ``--guest``: what comes out is what went in."""
    result = run("--host", HOST)
    assert spans_of(result.stdout) == spans_of(trace_request_to_json(recorded_call()))


def test_output_goes_into_the_file_that_is_named(tmp_path: Path, joined: Spans) -> None:
    """``-o`` writes one OTLP JSON document and prints nothing."""
    out = tmp_path / "joined.json"
    result = run("--host", HOST, "--guest", GUEST, "-o", out)
    assert (result.exit_code, result.output) == (0, "")
    assert out.read_bytes().count(b"\n") == 1
    assert spans_of(out.read_bytes()) == joined


def test_the_rules_come_from_the_config(written: Written) -> None:
    """``--config`` and ``--set`` decide how an unlinked guest is named, and whether it comes out at all."""
    guest = DATA / "openai" / "py_runner_no_metadata.json"
    config = written("config.yaml", b"processors: {graft: {openai_service_name: voice-model}}")
    result = run("--guest", guest, "--config", config)
    peer = Peer()
    peer.requests.append(trace_request_from_json(result.stdout.encode()))
    recorded: Any = recorded_guest(guest.stem)
    named = {item["trace_id"] for items in recorded for item in items if "trace_id" in item}
    assert {span.trace_id for span, _ in peer.spans} == {bytes(unlinked_trace_id(name)) for name in named}
    assert {service for _, service in peer.spans} == {"voice-model"}
    dropped = run("--guest", guest, "--config", config, "--set", "processors.graft.unlinked=drop")
    assert dropped.exit_code == 0
    assert spans_of(dropped.stdout) == []


@pytest.mark.parametrize("mode", ["hold", "stream"])
def test_the_mode_makes_no_difference(joined: Spans, mode: str) -> None:
    """Everything is there from the beginning, so nothing can leave before something else."""
    result = run("--host", HOST, "--guest", GUEST, "--set", f"processors.graft.mode={mode}")
    assert spans_of(result.stdout) == joined


@pytest.mark.parametrize(
    ("option", "content"),
    [
        ("--host", b"\x00\xff"),
        ("--host", {"data": ITEMS}),
        ("--host", {"call": "rtc_1", "events": []}),
        ("--guest", {"call": 7}),
        ("--host", {"resourceSpans": [{"scopeSpans": 1}]}),
        ("--guest", b"{"),
        ("--guest", {"data": 3}),
        ("--guest", b""),
        ("--guest", recorded_call()),
    ],
    ids=[
        "no otlp",
        "items as host",
        "events as host",
        "no call",
        "odd otlp",
        "no json",
        "no list",
        "empty",
        "otlp as guest",
    ],
)
def test_a_file_of_another_kind_is_named(written: Written, option: str, content: Any) -> None:
    """One line with the file and what is wrong with it, exit code 1, and nothing on stdout."""
    bad = written("bad.file", content)
    result = run(option, bad, "--guest", GUEST)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert str(bad) in line


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """So is one that cannot be read, and one that cannot be written."""
    for arguments in (("--guest", tmp_path / "none"), ("--guest", GUEST, "-o", tmp_path / "none" / "out")):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        assert str(tmp_path / "none") in line


def test_nothing_to_graft_is_a_usage_error() -> None:
    """Neither ``--host`` nor ``--guest``: exit code 2."""
    assert run().exit_code == 2


def test_a_bad_config_is_said_and_nothing_is_grafted(written: Written) -> None:
    """The problem names file, line and key."""
    config = written("config.yaml", b"processors:\n  graft: {modes: hold}\n")
    result = run("--guest", GUEST, "--config", config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{config}:2: processors.graft.modes: unknown key" in result.stderr
