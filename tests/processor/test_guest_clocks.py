"""Hosted sessions whose clock is another than the app's, through the processor: what leaves, and what explain says."""

from typing import Any

import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.core.policy import SECOND
from grafter.guests.sessions.intake import closing, opening, read_page, read_session
from grafter.receiver.explaining import Explainer
from tests.agents_server import BEGAN, SESSION, session, span, trace_of
from tests.rig import CALL, Peer, Rig, rig

LINK = {"trace_id": CALL.hex()}
ASKING = 99
MODEL, TOOL = {"gen_ai.operation.name": "chat"}, {"gen_ai.operation.name": "execute_tool"}


def turn(number: int, ahead: float) -> dict[str, Any]:
    """A turn of three seconds that asks for a tool and goes on with its output, by a clock that is ahead."""
    call = TOOL | {"gen_ai.tool.call.id": f"call_{number}", "gen_ai.tool.name": "lookup"}
    return trace_of(
        number,
        span(1, number, "turn", None, ahead, ahead + 3),
        span(2, number, "chat", 1, ahead + 0.1, ahead + 1, attributes=MODEL),
        span(3, number, "lookup", 1, ahead + 1, ahead + 2, attributes=call),
        span(4, number, "chat", 1, ahead + 2, ahead + 3, attributes=MODEL),
    )


def app(*turns: int, kind: Span.SpanKind.ValueType = Span.SPAN_KIND_INTERNAL) -> bytes:
    """The app's side: its root, the span round the first turn, and for each turn of these the tool that it ran, from
    50 ms after it was asked for."""

    def spans(name: str, number: int, start: float, end: float, **attributes: str) -> Span:
        return Span(
            trace_id=CALL,
            span_id=bytes([number + 1] * 8),
            parent_span_id=b"" if number == 0 else bytes([1] * 8),
            name=name,
            start_time_unix_nano=int((BEGAN + start) * SECOND) + 1,
            end_time_unix_nano=int((BEGAN + end) * SECOND) + 1,
            attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes.items()],
        )

    ran = [
        spans("crm", at, at * 60 + 1.05, at * 60 + 1.95, **{**TOOL, "gen_ai.tool.call.id": f"call_{at}"})
        for at in turns
    ]
    resource = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="voice"))])
    asking = spans("gen_ai.realtime.session", ASKING - 1, 59.9, 63.2)
    asking.kind = kind
    scope = ScopeSpans(spans=[spans("call", 0, 0, 600), asking, *ran])
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope])]
    ).SerializeToString()


async def read(served: Rig, run: int, *traces: dict[str, Any], **link: str) -> None:
    """A look at the session finds these; ``link``: more that its metadata say."""
    info = read_session(orjson.dumps(session(metadata=LINK | link)), SESSION, served.policy)
    page = read_page(orjson.dumps({"data": list(traces)}), info, (), served.policy)
    await served.processor.consume([opening(info, run), *page.parts, closing(info, run)])
    served.accepted += page.spans


def began(peer: Peer, name: str) -> list[float]:
    """Seconds after the first turn's minute, of the spans of OpenAI's with that name."""
    return sorted(
        each.start_time_unix_nano / SECOND - BEGAN
        for each, service in peer.spans
        if (each.name, service) == (name, "openai")
    )


@pytest.mark.parametrize("wrong", [-30.0, 0.0, 30.0])
async def test_a_session_is_drawn_on_the_apps_clock(wrong: float) -> None:
    """Thirty seconds either way, and a turn that comes after the release by as much; a clock that is right stays."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(app(1, 2))
        await read(served, 1, turn(1, wrong), turn(2, wrong))
        await served.pass_time(60)
        assert began(peer, "turn") == pytest.approx([60, 120], abs=0.002)
        await read(served, 2, turn(3, wrong))
        await served.pass_time(60)
        assert began(peer, "turn") == pytest.approx([60, 120, 180], abs=0.002)
        told = {
            round(attribute.value.double_value)
            for each, _ in peer.spans
            for attribute in each.attributes
            if attribute.key == "grafter.clock.offset_ms"
        }
        assert told == ({wrong * 1000} if wrong else set())
        answer = await Explainer(served.store, served.policy, lambda: served.now[0]).explain(SESSION)
        lines = str(answer["lines"])
        assert (f"its clock is {wrong:.3f} s ahead of your app's" in lines) == bool(wrong)
        assert ("its clock may well be your app's" in lines) == (not wrong)


async def test_turns_that_contradict_each_other_are_drawn_as_they_came() -> None:
    """One is ahead by half a minute, the other is not: said on each turn, and nothing moved."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(app(1, 2))
        await read(served, 1, turn(1, 30), turn(2, 0))
        await served.pass_time(60)
    assert began(peer, "turn") == [90, 120]
    said = [
        {attribute.key: attribute.value.string_value for attribute in each.attributes}.get("grafter.clock.unsettled")
        for each, _ in peer.spans
        if each.name == "turn"
    ]
    assert said == ["contradiction", "contradiction"]


@pytest.mark.parametrize("kind", [Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_INTERNAL])
async def test_the_span_that_a_sessions_metadata_name_proves_nothing(kind: Span.SpanKind.ValueType) -> None:
    """They may have been replaced since the session began, and a request need not wait for it."""
    for wrong, drawn in ((-30, 30), (30, 90)):
        peer = Peer()
        async with rig(peer) as served:
            await served.host(app(kind=kind))
            await read(served, 1, turn(1, wrong), span_id=bytes([ASKING] * 8).hex())
            await served.pass_time(60)
        assert began(peer, "turn") == pytest.approx([drawn], abs=0.002)


@pytest.mark.parametrize("wrong", [-30.0, 0.0, 30.0])
async def test_a_session_that_comes_after_its_host_is_drawn_on_its_clock_too(wrong: float) -> None:
    """The times of tools are remembered with what left; of a trace that was looked into, as one with an anchor is."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(app(1, 2))
        await served.pass_time(60)
        assert peer.spans
        await read(served, 1, turn(1, wrong), turn(2, wrong))
        await served.pass_time(60)
    assert began(peer, "turn") == pytest.approx([60, 120], abs=0.002)
