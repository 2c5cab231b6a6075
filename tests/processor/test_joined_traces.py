"""Whole joined traces under the independent checker: every recording, the demo's two calls, and made-up ones."""

import copy
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.commands.demo.agents_call import AgentsCall
from grafter.commands.demo.many_calls import booking
from grafter.core.policy import Content, GraftPolicy, Tools
from grafter.otlp.from_json import trace_request_from_json
from tests.checker import TOTALS, Call, check
from tests.processor.test_rules import recipe
from tests.rig import CALL, DATA, Peer, Rig, recorded_call, rig

RECORDINGS = sorted(
    path.stem
    for path in (DATA / "openai").glob("*.json")
    if path.stem not in ("py_realtime_client_events", "py_runner_no_metadata", "py_span_without_trace_object")
)
"""Those that name a host: without a trace object, or without metadata, there is nothing to join."""


def items_of(name: str) -> list[dict[str, Any]]:
    """The items of a recording, all of its traces made to name the reference call."""
    requests = orjson.loads((DATA / "openai" / f"{name}.json").read_bytes())["requests"]
    items = [copy.deepcopy(item) for request in requests for item in request["body"]["data"] if item]
    for item in items:
        if item["object"] == "trace":
            item["metadata"] = {"trace_id": CALL.hex()}
    known = {item["id"] for item in items if item["object"] == "trace"}
    return [item for item in items if item["object"] == "trace" or item["trace_id"] in known]


async def joined(r: Rig, peer: Peer, call: Call) -> None:
    for request in call.host:
        await r.host(request)
    if call.items:
        await r.guest(call.items)
    await r.pass_time(120)
    check(call, peer.requests)
    came, became = r.books(len(peer.spans))
    assert came == became


@pytest.mark.parametrize("content", [Content.NONE, Content.FULL])
@pytest.mark.parametrize("name", RECORDINGS)
async def test_every_recording_joins(name: str, content: Content) -> None:
    """Nothing lost, nothing invented, one tree, each step once, and tokens add up."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(content=content)) as r:
        await joined(r, peer, Call([recorded_call()], items_of(name)))


async def test_the_demos_agents_call_joins() -> None:
    """Four model calls and three tools that both sides traced, one of them failing."""
    story = AgentsCall(datetime(2026, 11, 28, 12, tzinfo=UTC))
    peer = Peer()
    async with rig(peer) as r:
        items = [item for body in story.guest() for item in body["data"]]
        await joined(r, peer, Call([body for _, body in story.host.requests()], items))
        assert sum("grafter.parent.original" in str(span) for span, _ in peer.spans) == 7


async def test_the_demos_realtime_call_joins() -> None:
    """Five responses and a tool in another service."""
    story = booking(datetime(2027, 1, 15, 7, 59, tzinfo=UTC))
    posts = list(story.posts())
    peer = Peer()
    async with rig(peer) as r:
        for _, body in story.host.requests():
            await r.host(body)
        await r.realtime(*posts)
        await r.pass_time(120)
        events = [event["event"] for post in posts for event in post.get("events", ())]
        check(Call([body for _, body in story.host.requests()], events=events), peer.requests)


async def test_a_recorded_livekit_call_joins() -> None:
    """LiveKit describes each response and the tool itself: two responses of 40 and 20 tokens sum up to 80 and 40."""
    host = trace_request_from_json((DATA / "livekit" / "host.json").read_bytes())
    posts = [orjson.loads(line) for line in (DATA / "livekit" / "guest.ndjson").read_bytes().splitlines()]
    peer = Peer()
    async with rig(peer, now=[T0 + 900_000 * 10**9]) as r:
        await r.host(host)
        await r.realtime(*posts)
        await r.pass_time(120)
    check(Call([host], events=[each["event"] for post in posts for each in post.get("events", ())]), peer.requests)
    sums = {"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 0}
    for span, _ in peer.spans:
        for attribute in span.attributes:
            if attribute.key in sums:
                sums[attribute.key] += attribute.value.int_value
    assert list(sums.values()) == [80, 40]


FRAMEWORKS = [
    ("livekit_agents_1.8.9", 1, "sip.call_id", "SCL_Vx7c2k9QmT4e", {"realtime_inference": 2, "function_tool": 1}),
    ("pipecat_1.14.0", 2, "twilio.call_sid", "CA1e2d3c4b5a69788796a5b4c3d2e1f002", {"llm_response": 2}),
]
"""What wrote the spans, the recipe of docs/rules.md, what a host has by which they move, and how many of their steps
OpenAI's half describes too."""


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize(("name", "recipe_number", "key", "value", "steps"), FRAMEWORKS)
async def test_what_a_framework_wrote_beside_a_realtime_session_joins(
    name: str, recipe_number: int, key: str, value: str, steps: dict[str, int], moves: bool
) -> None:
    """Two responses of 40 and 20 tokens sum up to 80 and 40, and each step that both describe stands once: when the
    session names the framework's own trace, and when both belong to the trace of a webhook, to which the framework's
    moves by a rule."""
    recorded = (DATA / "beside" / f"{name}.pb").read_bytes()
    post = orjson.loads((DATA / "beside" / f"{name}.json").read_bytes())
    came = [
        span
        for resource in ExportTraceServiceRequest.FromString(recorded).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    trace = CALL if moves else came[0].trace_id
    call = Call([recorded], events=[each["event"] for each in post["events"]])
    if moves:
        call.host, call.by_rule = [webhook(key, value)], [recorded]
    peer = Peer()
    async with rig(peer, policy=recipe(recipe_number), now=[T0 + 960_000 * 10**9]) as r:
        for body in (*call.host, *call.by_rule):
            await r.host(body)
        await r.realtime({**post, "metadata": {"trace_id": trace.hex()}})
        await r.pass_time(120)
        assert r.store.stats().traces == 0
        books, became = r.books(len(peer.spans))
        assert books == became
    spans = {span.span_id: span for span, _ in peer.spans}
    assert {span.trace_id for span in spans.values()} == {trace}
    assert [span.name for span in spans.values() if span.parent_span_id not in spans] == [
        "call" if moves else came[-1].name
    ]
    sums = [
        sum(one.value.int_value for s in spans.values() for one in s.attributes if one.key == key) for key in TOTALS
    ]
    assert sums == [80, 40]
    matched = [span for span in spans.values() if any(one.key == "grafter.match" for one in span.attributes)]
    assert Counter(span.name for span in matched) == steps
    for span in matched:
        upper = spans[span.parent_span_id].name
        assert upper == ("execute_tool lookup" if span.name == "function_tool" else "chat gpt-realtime")
    check(call, peer.requests)


def webhook(key: str, value: str) -> bytes:
    """The trace of a call's webhook, which has what a rule asks for."""
    call, session = host_span(1, 0, "call", 0, 10), host_span(2, 1, "gen_ai.realtime.session", 1, 9)
    call.attributes.add(key=key).value.string_value = value
    return request([call, session])


T0 = 1_795_000_000 * 10**9


def iso(milliseconds: int) -> str:
    return datetime.fromtimestamp((T0 // 10**6 + milliseconds) / 1000, UTC).isoformat(timespec="microseconds")


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A run of a few turns, in which tools overlap and repeat, and an app that traced some of it, in its own way."""
    numbers = st.integers(0, 3)
    items: list[dict[str, Any]] = [
        {"object": "trace", "id": "trace_made", "workflow_name": "w", "metadata": {"trace_id": CALL.hex()}}
    ]
    spans = [host_span(1, 0, "call", 0, 60_000), host_span(2, 1, "gen_ai.realtime.session", 1, 59_000)]
    at = 100
    for turn in range(draw(st.integers(1, 4))):
        top = f"turn{turn}"
        asked = draw(st.lists(st.tuples(numbers, numbers, st.integers(0, 50)), max_size=4))
        usage = {"input_tokens": draw(st.integers(0, 2)) * 10, "output_tokens": 5}
        items.append(made(top, None, at, at + 900, {"type": "custom", "name": top, "data": {}}))
        answer = draw(st.booleans())
        data: dict[str, Any] = {"type": "response", "response_id": f"resp_{turn}", "usage": usage}
        if answer:
            calls_asked = [
                {"id": f"call_{turn}_{n}", "function": {"name": f"tool{name}", "arguments": f'{{"a": {given}}}'}}
                for n, (name, given, _) in enumerate(asked)
            ]
            output = [{"role": "assistant", "content": None, "tool_calls": calls_asked}]
            data = {"type": "generation", "model": "m", "usage": usage, "output": output}
        items.append(made(f"model{turn}", top, at + 10, at + 200, data))
        app = draw(st.sampled_from(["none", "bare", "counted", "other"]))
        if app != "none":
            words: dict[str, Any] = {"gen_ai.operation.name": "chat", "gen_ai.response.id": f"resp_{turn}"}
            if app == "other":
                words = {"llm.token_count.prompt": usage["input_tokens"], "llm.token_count.completion": 5}
            elif app == "counted":
                words |= {"gen_ai.usage.input_tokens": usage["input_tokens"], "gen_ai.usage.output_tokens": 5}
            spans.append(host_span(len(spans) + 1, draw(st.sampled_from([1, 2])), "model", at + 12, at + 190, words))
        for n, (name, given_, late) in enumerate(asked):
            start, end = at + 210 + late, at + 500 + late
            function = {"type": "function", "name": f"tool{name}", "input": f'{{"a": {given_}}}', "output": "{}"}
            items.append(made(f"tool{turn}_{n}", top, start, end, function))
            words = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": f"tool{name}"}
            if draw(st.booleans()):
                words["gen_ai.tool.call.id"] = f"call_{turn}_{n}"
            if draw(st.booleans()):
                words["gen_ai.tool.call.arguments"] = f'{{"a": {given_}}}'
            if draw(st.booleans()):
                parent = draw(st.integers(1, len(spans)))
                spans.append(host_span(len(spans) + 1, parent, "tool", start + 5, end + draw(numbers) * 100 - 5, words))
                spans.append(host_span(len(spans) + 1, len(spans), "served", start + 6, end - 6, words))
        at += 1000
    return Call([request(spans)], items)


def made(own: str, parent: str | None, start: int, end: int, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "trace.span",
        "id": own,
        "trace_id": "trace_made",
        "parent_id": parent,
        "started_at": iso(start),
        "ended_at": iso(end),
        "span_data": data,
        "error": None,
    }


def host_span(own: int, parent: int, name: str, start: int, end: int, words: dict[str, Any] | None = None) -> Span:
    values = {
        key: AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
        for key, value in (words or {}).items()
    }
    return Span(
        trace_id=CALL,
        span_id=own.to_bytes(8),
        parent_span_id=parent.to_bytes(8) if parent else b"",
        name=name,
        start_time_unix_nano=T0 + start * 10**6,
        end_time_unix_nano=T0 + end * 10**6,
        attributes=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def request(spans: Sequence[Span]) -> bytes:
    scope = ScopeSpans(spans=spans)
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


@given(call=calls(), seed=st.integers(0, 1 << 32), tools=st.sampled_from(Tools))
@settings(suppress_health_check=[HealthCheck.too_slow])
async def test_made_up_calls_join(call: Call, seed: int, tools: Tools) -> None:
    """Whatever overlaps, repeats or is traced in whatever way, in any order, under any setting."""
    call.moves = tools is Tools.UNDER_TURN
    items = list(call.items)
    random.Random(seed).shuffle(items)
    call.items = items
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(tools=tools)) as r:
        await joined(r, peer, call)


Break = Callable[[list[Span]], object]


def named(spans: list[Span], name: str) -> Span:
    return next(span for span in spans if span.name == name)


def add(span: Span, key: str, value: int) -> None:
    span.attributes.add(key=key).value.int_value = value


FAULTS: dict[str, Break] = {
    "a host span is lost": lambda spans: spans.remove(named(spans, "gen_ai.client")),
    "a guest span is lost": lambda spans: spans.remove(named(spans, "handoff Booking")),
    "a span leaves twice": lambda spans: spans.append(named(spans, "sip.invite")),
    "a span is invented": lambda spans: spans.append(Span(trace_id=spans[0].trace_id, span_id=b"invented", name="x")),
    "a host span's time changes": lambda spans: setattr(named(spans, "sip.invite"), "start_time_unix_nano", 1),
    "an attribute is not announced": lambda spans: add(named(spans, "sip.invite"), "surprise", 1),
    "a host span moves in silence": lambda spans: setattr(
        named(spans, "sip.invite"), "parent_span_id", named(spans, "gen_ai.realtime.session").span_id
    ),
    "a tool stays beside OpenAI's span of it": lambda spans: setattr(
        named(spans, "gen_ai.client"), "parent_span_id", named(spans, "gen_ai.realtime.session").span_id
    ),
    "a guest's span has another parent": lambda spans: setattr(
        named(spans, "handoff Booking"), "parent_span_id", named(spans, "callsphere.call").span_id
    ),
    "a circle": lambda spans: setattr(
        named(spans, "invoke_workflow Clinic line"), "parent_span_id", named(spans, "handoff Booking").span_id
    ),
    "a second root": lambda spans: named(spans, "invoke_workflow Clinic line").ClearField("parent_span_id"),
    "tokens are counted twice": lambda spans: add(named(spans, "gen_ai.client"), "gen_ai.usage.input_tokens", 812),
    "another trace": lambda spans: setattr(named(spans, "handoff Booking"), "trace_id", b"another trace id"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_checker_sees_what_is_wrong(fault: str) -> None:
    """Each of its promises, broken in a trace that is otherwise right."""
    story = AgentsCall(datetime(2026, 11, 28, 12, tzinfo=UTC))
    peer = Peer()
    call = Call([body for _, body in story.host.requests()], [item for body in story.guest() for item in body["data"]])
    async with rig(peer) as r:
        await joined(r, peer, call)
    (body,) = peer.requests
    check(call, [rebuilt(body, lambda _spans: None)])
    with pytest.raises(AssertionError):
        check(call, [rebuilt(body, FAULTS[fault])])


def rebuilt(body: bytes, fault: Break) -> bytes:
    """The request with a fault in it: spans that the fault removes are gone, those that it adds stand last."""
    request = ExportTraceServiceRequest.FromString(body)
    scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
    whose = [(scope, span) for scope in scopes for span in scope.spans]
    spans = [span for _, span in whose]
    fault(spans)
    places: dict[int, list[bytes]] = {id(scope): [] for scope in scopes}
    for span in spans:
        scope = next((scope for scope, known in whose if known is span), scopes[-1])
        places[id(scope)].append(span.SerializeToString())
    for scope in scopes:
        del scope.spans[:]
        scope.spans.extend(Span.FromString(raw) for raw in places[id(scope)])
    return request.SerializeToString()
