"""A call whose steps both sides traced, through the processor: what leaves, before and after a release."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.core.policy import GraftPolicy, Mode, Tools
from grafter.otlp import shallow_pb2
from grafter.receiver.explaining import Explainer
from tests.checker import Call, check
from tests.processor.conftest import Open
from tests.rig import CALL, SESSION, Peer, recorded_guest, rig

ASKED = "call_6c37a5262c3246d7a6ae2587"
"""The one tool call in the recorded run's model answers that a tool ran for."""
RUN = "py_runner_chat_completions"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
    root = host_span(ROOT, b"", "callsphere.call", -10_000_000, 10_000_000)
    session = host_span(SESSION, ROOT, "gen_ai.realtime.session", -9_000_000, 9_000_000)
    scope = ScopeSpans(spans=[root, session, *spans])
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


CALLED = host_span(TOOL, SESSION, "gen_ai.tool.execute", 10, 20_000, gen_ai__tool__call__id=ASKED)
SERVING = host_span(SERVED, TOOL, "POST /lookup", 20, 19_000)


def sent(peer: Peer) -> dict[bytes, bytes]:
    """What left, as bytes, by span id."""
    found: dict[bytes, bytes] = {}
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


def alone(*spans: Span) -> bytes:
    """Spans that come by themselves."""
    scope = ScopeSpans(spans=spans)
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


def items_of(name: str) -> list[dict[str, Any]]:
    return [item for request in recorded_guest(name) for item in request if isinstance(item, dict)]


def within(item: Mapping[str, Any]) -> tuple[int, int]:
    """When an item was, as ``host_span`` takes it."""
    start, end = (datetime.fromisoformat(item[key]) - EPOCH for key in ("started_at", "ended_at"))
    return start // timedelta(microseconds=1) - BEGAN // 1000, end // timedelta(microseconds=1) - BEGAN // 1000


def counted(peer: Peer) -> int:
    """What a dashboard's SUM over input tokens says."""
    return sum(attributes(span).get("gen_ai.usage.input_tokens", 0) for span, _ in peer.spans)


BY_NAME = host_span(
    MODEL, SESSION, "tool", 20, 900_000, gen_ai__operation__name="execute_tool", gen_ai__tool__name="lookup_order"
)
BY_NAME.attributes.add(key="gen_ai.tool.call.arguments").value.string_value = '{"order_id": 7}'


@pytest.mark.parametrize(("late", "how"), [(CALLED, "call_id"), (BY_NAME, "name_arguments")])
async def test_a_tool_that_outlives_its_call_hangs_under_openais_span_of_it(
    open_rig: Open, late: Span, how: str
) -> None:
    """It ends, and so comes, when all else has left; so does what hangs below it. By id, and by name and arguments."""
    peer = Peer()
    async with open_rig(peer) as r:
        await r.host(host())
        for request in recorded_guest(RUN):
            await r.guest(request)
        await r.pass_time(3600, step=10)
        assert late.span_id not in sent(peer)
        await r.host(alone(late))
        await r.host(alone(host_span(SERVED, late.span_id, "POST /lookup", 30, 19_000)))
        await r.pass_time(30)
        raw = sent(peer)
        assert raw[late.span_id].startswith(late.SerializeToString())
        moved, tool = Span.FromString(raw[late.span_id]), named(peer, "execute_tool lookup_order")
        assert moved.parent_span_id == tool.span_id
        said = attributes(moved)
        assert (said["grafter.match"], said["grafter.parent.original"]) == (how, SESSION.hex())
        (link,) = moved.links
        assert Span.FromString(raw[link.span_id]).name.startswith("chat")
        assert Span.FromString(raw[SERVED]).parent_span_id == late.span_id
        served = host_span(SERVED, late.span_id, "POST /lookup", 30, 19_000)
        check(Call([host(), alone(late, served)], items_of(RUN)), peer.requests)
        answer = await Explainer(r.store, r.policy, lambda: r.now[0]).explain(CALL.hex())
        assert f"steps that came after OpenAI's span of them: 1 (1 by {how})" in str(answer["lines"])
        came, became = r.books(len(peer.spans))
        assert came == became


@pytest.mark.parametrize("late", [False, True])
async def test_a_model_call_that_comes_after_openais_span_of_it_is_counted_once(open_rig: Open, late: bool) -> None:
    """By the response's id, and where the app's span has none by time and usage, one to one: its counts, which the
    trace has already, stand under another name; a column that OpenAI's span lacks stays."""
    turns = [
        item["span_data"] | {key: item[key] for key in ("started_at", "ended_at")}
        for request in recorded_guest("py_runner_responses")
        for item in request
        if isinstance(item, dict) and (item.get("span_data") or {}).get("type") == "response"
    ]
    truth = sum(turn["usage"]["input_tokens"] for turn in turns)
    first = turns[0]
    used = {"gen_ai__usage__input_tokens": first["usage"]["input_tokens"]}
    used["gen_ai__usage__output_tokens"] = first["usage"]["output_tokens"]
    by_id = host_span(
        MODEL,
        SESSION,
        "chat m",
        *within(first),
        **used,
        gen_ai__response__id=first["response_id"],
        gen_ai__usage__of_their_own=5,
    )
    peer = Peer()
    async with open_rig(peer) as r:
        await r.host(host() if late else host(by_id))
        for request in recorded_guest("py_runner_responses"):
            await r.guest(request)
        await r.pass_time(60)
        if late:
            await r.host(alone(by_id))
            await r.pass_time(20)
        assert counted(peer) == truth
        said = attributes(Span.FromString(sent(peer)[MODEL]))
        assert said["gen_ai.usage.of_their_own"] == 5
        assert said["grafter.match"] == "response_id"
        twin = Span.FromString(sent(peer)[bytes.fromhex(said["grafter.duplicate_of"])])
        assert attributes(twin)["gen_ai.response.id"] == first["response_id"]
        assert Span.FromString(sent(peer)[MODEL]).parent_span_id == twin.span_id
        assert ("grafter.duplicate.usage.input_tokens" in said) == late
        if late:
            check(Call([host(), alone(by_id)], items_of("py_runner_responses")), peer.requests)


async def test_a_late_model_call_without_an_id_is_one_of_openais_or_none() -> None:
    """Time and usage say which; a second one of the same is no second one."""
    span, usage = next(
        (item, item["span_data"]["usage"])
        for request in recorded_guest("py_runner_responses")
        for item in request
        if isinstance(item, dict) and (item.get("span_data") or {}).get("type") == "response"
    )
    words = {"llm__token_count__prompt": usage["input_tokens"], "llm__token_count__completion": usage["output_tokens"]}
    words |= {"gen_ai__usage__input_tokens": usage["input_tokens"]}
    first, second = (host_span(own, SESSION, "llm", *within(span), **words) for own in (MODEL, TOOL))
    peer = Peer()
    async with rig(peer) as r:
        await r.host(host())
        for request in recorded_guest("py_runner_responses"):
            await r.guest(request)
        await r.pass_time(60)
        before = counted(peer)
        await r.host(alone(first))
        await r.pass_time(20)
        assert counted(peer) == before
        assert attributes(Span.FromString(sent(peer)[MODEL]))["grafter.match"] == "usage_time"
        await r.host(alone(second))
        await r.pass_time(20)
    assert "grafter.match" not in attributes(Span.FromString(sent(peer)[TOOL]))


async def test_what_comes_late_and_may_stand_above_openais_spans_is_not_moved(open_rig: Open) -> None:
    """The session's span hangs below a span that has not come: that may be the tool's, so the tool stays."""
    peer = Peer()
    above = host_span(TOOL, ROOT, "gen_ai.tool.execute", -950_000, 1_950_000, gen_ai__tool__call__id=ASKED)
    session = host_span(SESSION, TOOL, "gen_ai.realtime.session", -900_000, 1_900_000)
    async with open_rig(peer) as r:
        await r.host(alone(host_span(ROOT, b"", "callsphere.call", -1_000_000, 2_000_000), session))
        for request in recorded_guest(RUN):
            await r.guest(request)
        await r.pass_time(60)
        await r.host(alone(above))
        await r.pass_time(30)
    late = Span.FromString(sent(peer)[TOOL])
    assert late.parent_span_id == ROOT
    assert attributes(late)["grafter.match"] == "call_id"


@pytest.mark.parametrize("when", ["stream", "both late"])
async def test_a_guest_that_left_apart_from_its_host_is_known_to_what_follows(open_rig: Open, when: str) -> None:
    """In a stream the run may leave before the app's batch; held, an hour after its host, and the app's last spans
    after it. Each model call is counted once, and says which it is."""
    turns = [
        item["span_data"]
        for request in recorded_guest("py_runner_responses")
        for item in request
        if isinstance(item, dict) and (item.get("span_data") or {}).get("type") == "response"
    ]
    calls = [
        host_span(
            bytes([0xC0 + n] * 8),
            SESSION,
            "chat m",
            -60_000 + n,
            -1_000,
            gen_ai__response__id=turn["response_id"],
            gen_ai__usage__input_tokens=turn["usage"]["input_tokens"],
            gen_ai__usage__output_tokens=turn["usage"]["output_tokens"],
        )
        for n, turn in enumerate(turns)
    ]
    peer = Peer()
    async with open_rig(peer, policy=GraftPolicy(mode=Mode.STREAM if when == "stream" else Mode.HOLD)) as r:
        await r.host(host())
        await r.pass_time(1 if when == "stream" else 3600, step=1 if when == "stream" else 10)
        for request in recorded_guest("py_runner_responses"):
            await r.guest(request)
        await r.pass_time(30)
        assert counted(peer) == sum(turn["usage"]["input_tokens"] for turn in turns)
        await r.host(alone(*calls, CALLED))
        await r.pass_time(30)
        assert counted(peer) == sum(turn["usage"]["input_tokens"] for turn in turns)
        said = sent(peer)
        for call in calls:
            words = attributes(Span.FromString(said[call.span_id]))
            assert words["grafter.match"] == "response_id"
            twin = attributes(Span.FromString(said[bytes.fromhex(words["grafter.duplicate_of"])]))
            assert twin["gen_ai.response.id"] == words["gen_ai.response.id"]
            assert "grafter.duplicate.usage.input_tokens" in words
        came, became = r.books(len(peer.spans))
        assert came == became
