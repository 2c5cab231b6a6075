"""What comes an hour late, half, or of a process that died: still one tree, everything where it belongs. Over every
store."""

from typing import Any, cast

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.core.model import FLAG_HAS_IS_REMOTE, FLAG_IS_REMOTE
from grafter.core.policy import SECOND, GraftPolicy, Mode
from tests.checker import Call, check
from tests.processor.conftest import Open
from tests.processor.test_named_links import GUEST, items
from tests.processor.test_realtime_calls import HOST, event, linked, opened, post, turn
from tests.rig import START, Peer, Rig

ROOT, SESSION, SIP, TOOL, SERVED, AGENT_TOOL, OTHER_SESSION = (bytes([n]) * 8 for n in range(1, 8))
LOCAL, REMOTE = FLAG_HAS_IS_REMOTE, FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE
Row = tuple[bytes, bytes, str, float, float, dict[str, str]]


def request(*rows: Row, flags: int = LOCAL) -> bytes:
    """Spans of the app: id, parent or nothing, name, start and end in seconds, attributes."""
    made = []
    for own, parent, name, start, end, attributes in rows:
        span = Span(
            trace_id=HOST,
            span_id=own,
            parent_span_id=parent,
            name=name,
            start_time_unix_nano=START + int(start * SECOND),
            end_time_unix_nano=START + int(end * SECOND),
            flags=flags,
        )
        for key, value in attributes.items():
            span.attributes.add(key=key).value.string_value = value
        made.append(span)
    scope = ScopeSpans(spans=made)
    resource = ResourceSpans(scope_spans=[scope])
    resource.resource.attributes.add(key="service.name").value.string_value = "app"
    return ExportTraceServiceRequest(resource_spans=[resource]).SerializeToString()


CALL: list[Row] = [
    (ROOT, b"", "call", 0, 60, {}),
    (SESSION, ROOT, "gen_ai.realtime.session", 0.1, 59, {}),
]
ASKED: dict[str, str] = {"gen_ai.tool.call.id": "call_1"}


def asking(number: int, offset: float, call_id: str = "call_1", name: str = "ask_clerk") -> list[dict[str, Any]]:
    """A response that asks for a tool, and the tool's output a second later."""
    item = {"id": f"item_{call_id}", "type": "function_call", "call_id": call_id, "name": name, "arguments": "{}"}
    response: dict[str, Any] = {"id": f"resp_ask{number}", "status": "completed", "output": [item]}
    response["usage"] = {"total_tokens": 12, "input_tokens": 10, "output_tokens": 2}
    output = {"id": f"out_{call_id}", "type": "function_call_output", "call_id": call_id, "output": "{}"}
    of = {"response_id": response["id"], "item_id": item["id"], "call_id": call_id}
    return [
        event(offset, "response.created", response={"id": response["id"], "status": "in_progress"}),
        event(offset + 0.1, "response.output_item.added", response_id=response["id"], item=item),
        event(offset + 0.2, "response.function_call_arguments.done", name=name, arguments="{}", **of),
        event(offset + 0.3, "response.done", response=response),
        event(offset + 2, "conversation.item.create", client=True, item=output),
        event(offset + 2.01, "conversation.item.added", item=output),
    ]


def words(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes}


def by_name(peer: Peer, name: str) -> Span:
    (span,) = [span for span, _ in peer.spans if span.name == name]
    return span


def tree(peer: Peer) -> list[str]:
    return [line for line in peer.tree(HOST).splitlines() if "grafter.summary" not in line]


def balanced(served: Rig, peer: Peer) -> None:
    assert served.store.stats().traces == 0
    assert len(peer.ids) == len(set(peer.ids))
    came, became = served.books(len(peer.spans))
    assert came == became > 0


async def test_a_host_that_crashed_gives_one_tree(open_rig: Open) -> None:
    """Its root and the session's span never ended. What they held hangs where it would have hung, and nothing that the
    app sent is changed."""
    peer = Peer()
    ended = request((SIP, ROOT, "sip.invite", 0, 1, {}), (TOOL, SESSION, "lookup", 3, 4, {}))
    async with open_rig(peer) as r:
        await r.host(ended)
        await r.realtime(post(opened(0.2), *turn(1, 1), **linked(span_id=SESSION.hex()), ended=True))
        await r.pass_time(590, step=5)
        assert peer.spans == []
        await r.pass_time(30)
        assert tree(peer) == [
            "app.root_not_received [app]",
            "  app.span_not_received [app]",
            "    sip.invite [app]",
            "  app.span_not_received [app]",
            "    realtime_session gpt-realtime [openai]",
            "      user_speech [openai]",
            "      chat gpt-realtime [openai]",
            "    lookup [app]",
        ]
        root = by_name(peer, "app.root_not_received")
        assert words(root)["grafter.ended_by"] == "crash"
        assert words(root)["grafter.synthetic"] is True
        assert words(by_name(peer, "realtime_session gpt-realtime"))["grafter.anchor"] == "unseen"
        sent = {span.span_id: span for span, _ in peer.spans}
        for span in ExportTraceServiceRequest.FromString(ended).resource_spans[0].scope_spans[0].spans:
            assert sent[span.span_id] == span
        assert r.count("grafter_synthetic_spans_total") == 3
        balanced(r, peer)


async def test_what_comes_after_a_crash_hangs_where_it_would_have_hung(open_rig: Open) -> None:
    """A span that another process still held, and a guest an hour later: under the spans that stand in."""
    peer = Peer()
    async with open_rig(peer) as r:
        await r.host(request((SIP, ROOT, "sip.invite", 0, 1, {}), (TOOL, SESSION, "lookup", 3, 4, {})))
        await r.realtime(post(opened(0.2), *turn(1, 1), **linked(span_id=SESSION.hex()), ended=True))
        await r.pass_time(3600, step=10)
        await r.host(request((SERVED, SESSION, "db", 5, 6, {})))
        await r.guest(items(trace_id=HOST.hex(), span_id=SESSION.hex()))
        await r.guest(items("trace_" + "d" * 32, trace_id=HOST.hex()))
        await r.pass_time(60)
        (root,) = {span.span_id for span, _ in peer.spans if not span.parent_span_id}
        assert by_name(peer, "db").parent_span_id == SESSION
        runs = [span for span, _ in peer.spans if span.name == "invoke_agent clerk"]
        under = {words(span)["openai.agents.trace.id"]: span.parent_span_id for span in runs}
        assert under == {GUEST: SESSION, "trace_" + "d" * 32: root}
        balanced(r, peer)


async def test_a_host_of_which_only_the_root_is_missing_has_it_stood_in_for_under_its_own_id(open_rig: Open) -> None:
    """The tree is the app's own, and what names the root later finds it."""
    peer = Peer()
    async with open_rig(peer) as r:
        await r.host(request(CALL[1]))
        await r.guest(items(trace_id=HOST.hex()))
        await r.pass_time(700, step=5)
        assert tree(peer)[:3] == [
            "app.root_not_received [app]",
            "  gen_ai.realtime.session [app]",
            "    invoke_agent clerk [app]",
        ]
        assert by_name(peer, "app.root_not_received").span_id == ROOT
        balanced(r, peer)


@pytest.mark.parametrize("why", ["root elsewhere", "no guest", "held too long"])
async def test_nothing_stands_in_for_what_may_well_be_there(open_rig: Open, why: str) -> None:
    """A parent in another process, a trace in which nothing of OpenAI's hangs, a call that outlasts ``wait.max``."""
    peer = Peer()
    async with open_rig(peer) as r:
        await r.host(request(CALL[1], flags=REMOTE if why == "root elsewhere" else LOCAL))
        if why != "no guest":
            await r.guest(items(trace_id=HOST.hex()))
        if why == "held too long":
            for number in range(25):
                await r.pass_time(300, step=10)
                await r.host(request((bytes([9, number]) * 4, SESSION, "tick", 5, 6, {})))
        await r.pass_time(1000, step=10)
        assert not any("grafter.ended_by" in words(span) for span, _ in peer.spans)
        balanced(r, peer)


async def test_a_guest_an_hour_after_its_host_left_finds_its_anchor_and_its_tool(open_rig: Open) -> None:
    """Under the session whose id it has, of two; and its turn links to the app's span of the tool that it asked for."""
    peer = Peer()
    second = {"gen_ai.conversation.id": "sess_1"}
    rows: list[Row] = [
        *CALL,
        (OTHER_SESSION, ROOT, "gen_ai.realtime.session", 0.05, 59, second),
        (TOOL, SESSION, "gen_ai.tool.execute", 4, 5, ASKED),
    ]
    async with open_rig(peer) as r:
        await r.host(request(*rows))
        await r.pass_time(3600, step=10)
        assert len(peer.spans) == 4
        await r.realtime(post(opened(0.2), *turn(1, 1), *asking(2, 4), **linked(), ended=True))
        await r.pass_time(60)
        session = by_name(peer, "realtime_session gpt-realtime")
        assert session.parent_span_id == OTHER_SESSION
        (turn_,) = [span for span, _ in peer.spans if any(link.span_id == TOOL for link in span.links)]
        assert words(turn_)["gen_ai.response.id"] == "resp_ask2"
        assert words(turn_)["grafter.match"] == "call_id"
        assert turn_.links[0].trace_id == HOST
        balanced(r, peer)


@pytest.mark.parametrize("late", ["nothing", "the call", "the agent", "the app"])
async def test_an_agent_that_is_a_tool_of_a_call_hangs_below_that_tool(open_rig: Open, late: str) -> None:
    """Each by its own evidence, whichever comes an hour after the rest: the agent's run under the app's span of the
    tool that its metadata names, that under the call's tool by its id, the call under its session."""
    peer = Peer()
    rows: list[Row] = [*CALL, (AGENT_TOOL, SESSION, "ask_clerk", 4.5, 5.5, ASKED)]
    call = post(opened(0.2), *turn(1, 1), *asking(2, 4), **linked(), ended=True)
    moments = {"started_at": "2027-01-15T08:00:04.600000+00:00", "ended_at": "2027-01-15T08:00:05.400000+00:00"}
    run = cast("list[dict[str, Any]]", items(responses=("resp_9",), trace_id=HOST.hex(), span_id=AGENT_TOOL.hex()))
    run = [each | (moments if each["object"] == "trace.span" else {}) for each in run]
    async with open_rig(peer) as r:
        for what in ("the app", "the call", "the agent"):
            if what != late:
                await bring(r, what, rows, call, run)
        await r.pass_time(3600, step=10)
        if late != "nothing":
            await bring(r, late, rows, call, run)
            await r.pass_time(3600, step=10)
        balanced(r, peer)
    agent, tool = by_name(peer, "invoke_agent clerk"), by_name(peer, "execute_tool ask_clerk")
    if late == "the app":
        # Nothing of it was there to hang them under, and it names neither.
        assert {agent.parent_span_id, by_name(peer, "realtime_session gpt-realtime").parent_span_id} == {
            AGENT_TOOL,
            b"",
        }
        return
    assert agent.parent_span_id == AGENT_TOOL
    assert by_name(peer, "realtime_session gpt-realtime").parent_span_id == SESSION
    mine = by_name(peer, "ask_clerk")
    assert mine.parent_span_id == (SESSION if late == "the call" else tool.span_id)
    if late == "nothing":
        events = [each["event"] for each in call["events"]]
        check(Call([request(*rows)], run, events), peer.requests)


async def bring(r: Rig, what: str, rows: list[Row], call: dict[str, Any], run: list[dict[str, Any]]) -> None:
    match what:
        case "the app":
            await r.host(request(*rows))
        case "the call":
            await r.realtime(call)
        case "the agent":
            await r.guest(run)


@pytest.mark.parametrize("source", ["run", "call"])
async def test_a_guest_that_comes_a_minute_late_in_a_stream(open_rig: Open, source: str) -> None:
    """At once, under its anchor, which left a minute before; the turn that asked links to the app's tool."""
    peer = Peer()
    used = {**ASKED, "gen_ai.operation.name": "execute_tool"}
    async with open_rig(peer, policy=GraftPolicy(mode=Mode.STREAM)) as r:
        await r.host(request(*CALL, (TOOL, SESSION, "gen_ai.tool.execute", 4, 5, used)))
        await r.pass_time(60)
        assert len(peer.spans) == 3
        if source == "run":
            await r.guest(items(trace_id=HOST.hex(), span_id=SESSION.hex()))
        else:
            await r.realtime(post(opened(0.2), *turn(1, 1), *asking(2, 4), **linked(), ended=True))
        await r.pass_time(1)
        top = "invoke_agent clerk" if source == "run" else "realtime_session gpt-realtime"
        assert by_name(peer, top).parent_span_id == SESSION
        linked_to = [words(span) for span, _ in peer.spans if any(link.span_id == TOOL for link in span.links)]
        assert [each["gen_ai.response.id"] for each in linked_to] == ([] if source == "run" else ["resp_ask2"])
        await r.pass_time(60)
        assert len({span.trace_id for span, _ in peer.spans}) == 1
        balanced(r, peer)
