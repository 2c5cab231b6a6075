"""The processor for openai-agents against a door that answers by script, and as an app runs it."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from agents.tracing import CustomSpanData
from agents.tracing.provider import DefaultTraceProvider
from aiohttp import web
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from grafter_propagation import AgentsProcessor
from tests.ports import free_port
from tests.propagation.apps import HELPERS
from tests.propagation.door import Door, busy
from tests.propagation.test_realtime import threads

Sdk = DefaultTraceProvider


def sdk(processor: AgentsProcessor) -> Sdk:
    """An SDK of its own that sends by this processor alone."""
    provider = DefaultTraceProvider()
    provider.set_disabled(False)
    provider.set_processors([processor])  # type: ignore[list-item]
    return provider


def sending(door: Door, **settings: Any) -> AgentsProcessor:
    """A processor that posts soon."""
    return AgentsProcessor(door.url, **{"interval": 0.02, **settings})


def run(provider: Sdk, spans: int = 1, data: dict[str, Any] | None = None, **settings: Any) -> str:
    """One trace with so many spans; its id."""
    with provider.create_trace("Support call", **settings) as made:
        for _ in range(spans):
            with provider.create_span(CustomSpanData("step", data or {}), parent=made):
                pass
    return made.trace_id


def kinds(door: Door) -> list[str]:
    return [item["object"] for item in door.items]


async def test_a_trace_and_its_spans_arrive_as_the_sdk_writes_them(ingest: Door) -> None:
    """The trace first, then its span, with the SDK's own header, under the token."""
    processor = sending(ingest, token="secret")
    trace_id = run(sdk(processor), group_id="conv_42", metadata={"customer": "c_1"})
    await asyncio.to_thread(processor.shutdown)
    made, span = ingest.items
    assert made == {
        "object": "trace",
        "id": trace_id,
        "workflow_name": "Support call",
        "group_id": "conv_42",
        "metadata": {"customer": "c_1"},
    }
    assert (span["object"], span["trace_id"], span["span_data"]["name"]) == ("trace.span", trace_id, "step")
    assert (processor.sent, processor.dropped, processor.pending) == (2, 0, 0)
    assert ingest.headers[0]["OpenAI-Beta"] == "traces=v1"
    assert ingest.headers[0]["Authorization"] == "Bearer secret"


async def test_a_trace_gets_the_ids_of_the_current_span_unless_it_names_some(ingest: Door) -> None:
    """In a dict of its own: what the app gave, perhaps to every run, stays as it is."""
    given: dict[str, Any] = {"customer": "c_1"}
    named = [{"trace_id": "a" * 32}, {"traceparent": f"00-{'b' * 32}-{'c' * 16}-01"}]
    processor = sending(ingest)
    provider = sdk(processor)
    with TracerProvider(shutdown_on_exit=False).get_tracer("app").start_as_current_span("call") as span:
        context = span.get_span_context()
        for metadata in (given, None, *named):
            run(provider, 0, metadata=metadata)
    run(provider, 0)
    await asyncio.to_thread(processor.shutdown)
    ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    ids["traceparent"] = f"00-{ids['trace_id']}-{ids['span_id']}-{int(context.trace_flags):02x}"
    assert [item["metadata"] for item in ingest.items] == [{**given, **ids}, ids, *named, None]
    assert given == {"customer": "c_1"}


async def test_a_link_of_the_apps_own_or_none(ingest: Door) -> None:
    """``link`` may be anything that gives ids; None adds nothing; one that raises costs the link alone."""

    def broken() -> dict[str, object]:
        raise RuntimeError("no ids today")

    links: list[Callable[[], dict[str, object]] | None] = [lambda: {"trace_id": "d" * 32}, None, broken]
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=True))):
        for link in links:
            processor = sending(ingest, link=link)
            run(sdk(processor), 0)
            await asyncio.to_thread(processor.shutdown)
    assert [item["metadata"] for item in ingest.items] == [{"trace_id": "d" * 32}, None, None]


async def test_it_goes_on_trying_where_the_sdk_gives_up(ingest: Door) -> None:
    """Four refusals, then everything is stored, once."""
    ingest.script = [busy("0") for _ in range(4)]
    processor = sending(ingest)
    provider = sdk(processor)
    run(provider)
    await ingest.until(lambda d: len(d.asked) == 3)
    run(provider)
    await ingest.until(lambda d: len(d.items) == 4)
    await asyncio.to_thread(processor.shutdown)
    assert sorted(kinds(ingest)) == ["trace", "trace", "trace.span", "trace.span"]
    assert kinds(ingest)[0] == "trace"
    assert (processor.sent, processor.dropped) == (4, 0)


async def test_a_busy_door_is_left_alone_as_long_as_it_asks(ingest: Door) -> None:
    """A second."""
    ingest.script = [busy("1")]
    processor = sending(ingest)
    run(sdk(processor), 0)
    await ingest.until(lambda d: len(d.asked) == 2)
    (first, _), (second, _) = ingest.asked
    assert second - first >= 0.99
    await asyncio.to_thread(processor.shutdown)


async def test_what_is_refused_is_dropped(ingest: Door, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong token does not fill the queue, and is said."""
    ingest.script = [web.Response(status=401)]
    processor = sending(ingest)
    run(sdk(processor), 0)
    await asyncio.to_thread(processor.shutdown)
    assert (processor.sent, processor.dropped, processor.pending) == (0, 1, 0)
    assert [record.message for record in caplog.records] == ["grafter refuses traces: HTTP 401"]


async def test_the_queue_is_bounded_and_traces_go_last(ingest: Door) -> None:
    """In number and in bytes: of what waits for a door that is away, the oldest spans go."""
    for bound in ({"max_items": 10}, {"max_bytes": 4000}):
        ingest.script = [busy("0")]
        processor = sending(ingest, **bound)
        provider = sdk(processor)
        trace_id = run(provider, 0)
        await ingest.until(lambda d: not d.script)
        run(provider, 100)
        await asyncio.to_thread(processor.force_flush)
        await asyncio.to_thread(processor.shutdown)
        assert processor.sent + processor.dropped == 102
        assert 2 <= processor.sent <= 102
        assert trace_id in [item["id"] for item in ingest.items]


async def test_the_app_is_never_held_up(ingest: Door) -> None:
    """A door that takes a post and never answers; the calls return meanwhile, and the end when its time is over."""
    ingest.script = [None] * 10
    processor = sending(ingest, timeout=600.0)
    provider = sdk(processor)
    run(provider, 0)
    await ingest.until(lambda d: d.asked)
    run(provider, 1000)
    await asyncio.to_thread(processor.shutdown, 0.2)
    assert (processor.sent, len(ingest.asked)) == (0, 1)


async def test_the_end_has_a_bound_and_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens at that port."""
    processor = AgentsProcessor(f"http://127.0.0.1:{free_port()}", interval=0.02)
    run(sdk(processor))
    await asyncio.to_thread(processor.shutdown, 0.3)
    assert (processor.sent, processor.pending) == (0, 0)
    assert any("2 traces and spans were lost" in record.message for record in caplog.records)


async def test_flushing_holds_up_no_job_while_grafter_is_away() -> None:
    """It tries once, at once, and what could not be given goes on waiting."""
    processor = AgentsProcessor(f"http://127.0.0.1:{free_port()}", interval=60.0)
    provider = sdk(processor)
    for _ in range(3):
        run(provider)
        async with asyncio.timeout(60):
            await asyncio.to_thread(processor.force_flush, 600.0)
    assert (processor.pending, processor.dropped) == (6, 0)
    await asyncio.to_thread(processor.shutdown, 0.0)


async def test_a_key_of_a_trace_is_used_for_it_alone(ingest: Door) -> None:
    """As the SDK's exporter does; a key that no header can carry falls back to the token."""
    processor = sending(ingest, token="ours")
    provider = sdk(processor)
    for key in ("theirs", "no\nkey", None):
        run(provider, 0, tracing={"api_key": key} if key else None)
    await asyncio.to_thread(processor.shutdown)
    assert [headers["Authorization"] for headers in ingest.headers] == ["Bearer theirs", "Bearer ours", "Bearer ours"]


async def test_odd_values_cost_only_themselves(ingest: Door) -> None:
    """NaN, half a character, an object of no kind: the post can be read."""
    processor = sending(ingest)
    provider = sdk(processor)
    for value in (float("nan"), "\ud800", object()):
        run(provider, data={"value": value})
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    run(provider, data=circle)
    await asyncio.to_thread(processor.shutdown)
    values = [item["span_data"]["data"]["value"] for item in ingest.items if item["object"] == "trace.span"]
    assert values[:2] == [None, "?"]
    assert values[2].startswith("<object object")
    assert (processor.sent, processor.dropped) == (7, 1)


def test_wrong_settings_are_said_at_the_start() -> None:
    """An address that is none, a token that no header can carry."""
    for arguments in ({"endpoint": "ftp://localhost"}, {"endpoint": "http://localhost", "token": "a\nb"}):
        with pytest.raises(ValueError, match=r"not an http|no header value"):
            AgentsProcessor(**arguments)


async def test_the_end_of_a_process_posts_what_waits_and_a_child_only_its_own(ingest: Door) -> None:
    """Without a flush, in a process that ends by itself; a fork takes nothing of its parent's along."""
    code = f"""
import os, sys
import agents, grafter_propagation
grafter_propagation.instrument("http://127.0.0.1:9")
processor = grafter_propagation.instrument({ingest.url!r}, replace=True, interval=60)
with agents.trace("parent"): pass
if not (child := os.fork()):
    with agents.trace("child"): pass
    processor.shutdown()
    os._exit(0)
os.waitpid(child, 0)
"""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=HELPERS,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(item["workflow_name"] for item in ingest.items) == ["child", "parent"]


async def test_a_quiet_app_costs_no_thread(ingest: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Until the first trace there is none."""
    caplog.set_level(logging.WARNING)
    before = threads("grafter-agents-sdk")
    processor = sending(ingest)
    assert threads("grafter-agents-sdk") <= before
    processor.force_flush()
    processor.shutdown()
    assert ingest.asked == []
    assert caplog.records == []
