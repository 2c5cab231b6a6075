"""A call whose steps both sides traced, through the processor: what leaves, before and after a release."""

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.core.policy import GraftPolicy, Mode, Tools
from grafter.otlp import shallow_pb2
from tests.rig import CALL, SESSION, Peer, recorded_guest, rig

ASKED = "call_6c37a5262c3246d7a6ae2587"
"""The one tool call in the recorded run's model answers that a tool ran for."""
RUN = "py_runner_chat_completions"
BEGAN = 1_795_382_878_909_256_000
ROOT, TOOL, SERVED, MODEL = (bytes([0xA0 + n] * 8) for n in range(4))


def host_span(own: bytes, parent: bytes, name: str, start: int, end: int, **attributes: str | int) -> Span:
    """Microseconds from when the recorded tool began; in names ``_`` stands twice for a dot."""
    values = {
        key.replace("__", "."): AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
        for key, value in attributes.items()
    }
    return Span(
        trace_id=CALL,
        span_id=own,
        parent_span_id=parent,
        name=name,
        start_time_unix_nano=BEGAN + start * 1000,
        end_time_unix_nano=BEGAN + end * 1000,
        attributes=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def host(*spans: Span) -> bytes:
    """A call with its session span, and these."""
    root = host_span(ROOT, b"", "callsphere.call", -1_000_000, 2_000_000)
    session = host_span(SESSION, ROOT, "gen_ai.realtime.session", -900_000, 1_900_000)
    scope = ScopeSpans(spans=[root, session, *spans])
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


CALLED = host_span(TOOL, SESSION, "gen_ai.tool.execute", 10, 20_000, gen_ai__tool__call__id=ASKED)
SERVING = host_span(SERVED, TOOL, "POST /lookup", 20, 19_000)


def sent(peer: Peer) -> dict[bytes, bytes]:
    """What left, as bytes, by span id."""
    found = {}
    for request in peer.requests:
        for resource in shallow_pb2.Request.FromString(request).resource_spans:
            for scope in resource.scope_spans:
                found |= {Span.FromString(raw).span_id: raw for raw in scope.spans}
    return found


def attributes(span: Span) -> dict[str, Any]:
    values = {each.key: each.value for each in span.attributes}
    return {key: getattr(value, str(value.WhichOneof("value"))) for key, value in values.items()}


def named(peer: Peer, name: str) -> Span:
    (span,) = [span for span, _ in peer.spans if span.name == name]
    return span


async def test_a_host_span_is_moved_by_what_is_appended_to_it() -> None:
    """Under the tool that the run's answer asked for by that id, content none; every byte that came stands first."""
    peer = Peer()
    async with rig(peer) as r:
        await r.host(host(CALLED, SERVING))
        for request in recorded_guest(RUN):
            await r.guest(request)
        await r.pass_time(20)
    raw = sent(peer)
    tool = named(peer, "execute_tool lookup_order")
    assert raw[TOOL].startswith(CALLED.SerializeToString())
    assert raw[SERVED] == SERVING.SerializeToString()
    moved = Span.FromString(raw[TOOL])
    assert moved.parent_span_id == tool.span_id
    assert attributes(moved) == {
        "gen_ai.tool.call.id": ASKED,
        "grafter.match": "call_id",
        "grafter.parent.original": SESSION.hex(),
    }
    assert attributes(tool)["gen_ai.tool.call.id"] == ASKED
    (asking,) = {link.span_id for link in (*tool.links, *moved.links)}
    assert Span.FromString(raw[asking]).name.startswith("chat")


@pytest.mark.parametrize("tools", [Tools.SIBLINGS, Tools.OFF])
async def test_the_setting_leaves_spans_where_they_are(tools: Tools) -> None:
    """``siblings`` links them; with ``off`` they leave as they came."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(tools=tools)) as r:
        await r.host(host(CALLED, SERVING))
        for request in recorded_guest(RUN):
            await r.guest(request)
        await r.pass_time(20)
    raw = sent(peer)
    assert Span.FromString(raw[TOOL]).parent_span_id == SESSION
    assert len(Span.FromString(raw[TOOL]).links) == (1 if tools is Tools.SIBLINGS else 0)
    assert (raw[TOOL] == CALLED.SerializeToString()) == (tools is Tools.OFF)


@pytest.mark.parametrize("mode", Mode)
async def test_after_the_release_the_guest_links_to_what_has_left(mode: Mode) -> None:
    """The late guest's turn names the tool span that it cannot move any more."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as r:
        await r.host(host(CALLED, SERVING))
        await r.pass_time(60)
        assert sent(peer)[TOOL] == CALLED.SerializeToString()
        for request in recorded_guest(RUN):
            await r.guest(request)
        await r.pass_time(60)
    linked = [span for span, _ in peer.spans if any(link.span_id == TOOL for link in span.links)]
    assert [attributes(span)["gen_ai.operation.name"] for span in linked] == ["chat"]
    assert attributes(linked[0])["grafter.match"] == "call_id"


async def test_usage_of_one_response_stands_once_before_and_after_a_release() -> None:
    """The app's own span of a model call keeps its counts; the guest's are not added to them."""
    response = next(
        str(item["span_data"]["response_id"])
        for request in recorded_guest("py_runner_responses")
        for item in request
        if isinstance(item, dict) and (item.get("span_data") or {}).get("type") == "response"
    )
    own: dict[str, str | int] = {"gen_ai__response__id": response, "gen_ai__operation__name": "chat"}
    own |= {"gen_ai__usage__input_tokens": 7, "gen_ai__usage__output_tokens": 3}
    for late in (False, True):
        peer = Peer()
        async with rig(peer) as r:
            await r.host(host(host_span(MODEL, SESSION, "chat m", -60_000, -1_000, **own)))
            if late:
                await r.pass_time(60)
            for request in recorded_guest():
                await r.guest(request)
            await r.pass_time(60)
        said = {span.span_id: attributes(span) for span, _ in peer.spans}
        same = {own: words for own, words in said.items() if words.get("gen_ai.response.id") == response}
        counted = {own: words for own, words in same.items() if "gen_ai.usage.input_tokens" in words}
        assert len(same) == 2
        assert {own: words["gen_ai.usage.input_tokens"] for own, words in counted.items()} == {MODEL: 7}
