"""``grafter dead``: asked of a grafter that runs, and of its store when it has stopped."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.commands import command, typed
from tests.e2e.conftest import Start, to_http
from tests.e2e.process import Grafter
from tests.e2e.sink import Sink, spans_of
from tests.ports import free_port

GOOD, BAD = (bytes(15) + b"g").hex(), (bytes(15) + b"b").hex()


def request() -> ExportTraceServiceRequest:
    """A good trace, and one whose second span is refused."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for trace in (GOOD, BAD):
        bad = trace == BAD
        spans.add(trace_id=bytes.fromhex(trace), span_id=b"root    ", name="call")
        spans.add(
            trace_id=bytes.fromhex(trace),
            span_id=b"step    ",
            parent_span_id=b"root    ",
            name="unwanted" if bad else "step",
        )
    return request


def unwanted(asked: ExportTraceServiceRequest) -> bool:
    return any(span.name == "unwanted" for span in spans_of(asked))


async def send(grafter: Grafter, what: ExportTraceServiceRequest) -> None:
    headers = {"Content-Type": "application/x-protobuf"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{grafter.otlp_http}/v1/traces", data=what.SerializeToString(), headers=headers) as answer,
    ):
        assert answer.status == 200


async def in_the_box(spans: float, grafter: Grafter, session: aiohttp.ClientSession) -> bool:
    counters = await grafter.counters(session)
    return counters["grafter_dead_letter_spans"] == spans and counters["grafter_held_spans"] == 0


async def listed(grafter: Grafter, *more: str) -> Any:
    code, out, err = await command(grafter, "dead", "list", "--json", *more)
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_letter_is_listed_shown_and_sent_again(start: Start, sink: Sink, stopped: bool) -> None:
    """The one bad span of a trace lies in the box, and leaves it when the backend takes it, with the id that it had."""
    sink.refuse_for_good = unwanted
    grafter = await start()
    await send(grafter, request())
    await sink.until_spans(GOOD, 2)
    await grafter.until(partial(in_the_box, 1, grafter), "the bad span to be in the box")
    if stopped:
        await grafter.terminate()

    found = await listed(grafter)
    (letter,) = found["letters"]
    assert (letter["trace_id"], letter["exporter"], letter["spans"]) == (BAD, "otlp_grpc/sink", 1)
    assert letter["reason"].endswith("INVALID_ARGUMENT: not this one")
    assert found["box"]["otlp_grpc/sink"]["letters"] == 1
    assert (await listed(grafter, "--exporter", "other"))["letters"] == []
    code, out, _ = await command(grafter, "dead", "list")
    assert code == 0
    assert BAD in out
    code, out, _ = await command(grafter, "dead", "show", BAD)
    assert code == 0
    assert "unwanted" in out
    code, out, _ = await command(grafter, "dead", "show", letter["id"], "--json")
    document = json.loads(out)["letters"][0]["document"]
    assert document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] == "unwanted"
    assert (await command(grafter, "dead", "show", GOOD))[0] == 1

    code, out, _ = await (typed if stopped else command)(grafter, "dead", "retry", "--all")
    assert code == 1
    assert "0 letters" in out
    assert "INVALID_ARGUMENT" in out
    assert len((await listed(grafter))["letters"]) == 1

    sink.refuse_for_good = lambda _: False
    # Its exporter is opened here where grafter has stopped, and gRPC takes one loop a process.
    code, out, _ = await typed(grafter, "dead", "retry", BAD)
    assert (code, out) == (0, "1 letter, 1 span taken\n")
    assert sorted(each.span.span_id for each in sink.spans(BAD)) == [b"root    ", b"step    "]
    assert (await listed(grafter))["box"] == {}
    assert sink.repeats() == {}
    assert [a.key for each in sink.spans(BAD) for a in each.span.attributes] == []


async def test_what_is_in_the_box_is_known_after_a_kill_and_dropped_by_command(start: Start, sink: Sink) -> None:
    """The gauges say so at once; a drop needs an id or --yes, and is counted."""
    sink.refuse_for_good = unwanted
    grafter = await start({"otlp_http/sink": to_http(sink)})
    await send(grafter, request())
    await grafter.until(partial(in_the_box, 1, grafter), "the bad span to be in the box")
    await grafter.kill()
    await grafter.start()
    await grafter.until(partial(in_the_box, 1, grafter), "the box to be known")
    for arguments in ([], ["--all"], ["--reason", "400"]):
        code, _, err = await command(grafter, "dead", "drop", *arguments)
        assert code == 2
        assert "which letters?" in err
    assert (await command(grafter, "dead", "drop", "--reason", "other", "--yes"))[:2] == (
        0,
        "no letter is meant by that\n",
    )
    code, out, _ = await typed(grafter, "dead", "drop", "--reason", "400", "--yes")
    assert (code, out) == (0, "1 letter, 1 span dropped\n")
    async with aiohttp.ClientSession() as session:
        counters = await grafter.counters(session)
    assert counters["grafter_dropped_spans_total"] == 1
    assert (await listed(grafter))["letters"] == []


@pytest.mark.parametrize("arguments", [["dead", "list"], ["dead", "retry", "--all"], ["explain", BAD], ["status"]])
async def test_where_there_is_no_store_none_is_made(tmp_path: Path, arguments: list[str]) -> None:
    """A wrong directory is said to be one."""
    grafter = Grafter(tmp_path, {"debug": {}})
    code, out, err = await command(grafter, *arguments, "--set", f"extensions.store.embedded.directory={tmp_path}/typo")
    assert (code, out) == (1, "")
    assert f"there is no store in {tmp_path}/typo" in err
    assert not (tmp_path / "typo").exists()


async def test_who_holds_the_store_is_named(start: Start) -> None:
    """A grafter that runs, and is not asked because the config names another address, has the store to itself."""
    grafter = await start()
    nobody = free_port()
    code, _, err = await typed(grafter, "dead", "list", "--set", f"receivers.openai.endpoint=localhost:{nobody}")
    assert code == 1
    assert "is in use by process" in err
