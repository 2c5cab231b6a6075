"""Traces of other systems that move under a call's host trace, by a value that both have. Over every store."""

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.core.model import NamedLink, TraceId, guest_span_id
from grafter.core.policy import GraftPolicy, Rule
from grafter.core.rules import RuleSet
from grafter.core.sampling.everything import Drop
from grafter.core.sampling.policies import SamplingPolicy
from grafter.processor.config import GraftProcessor
from grafter.receiver.explaining import Explainer
from tests.checker import Call, check
from tests.processor.conftest import Open
from tests.processor.test_named_links import GUEST, HOST, OTHER, balanced, items
from tests.rig import START, Peer, Rig, recorded_call, rig
from tests.store.redis.servers import Server

POLICY = GraftPolicy(rules=(Rule("lk.sip.callID", "sip.call_id"), Rule("conversation.id")))
AGENT = bytes.fromhex("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
THIRD = bytes.fromhex("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
TREE = """\
call [app]
  gen_ai.realtime.session [app]
    job_entrypoint [agent]
      agent_session [agent]
        agent_turn [agent]"""


def request(trace: bytes, service: str, *spans: tuple[int, int, str, dict[str, str]]) -> bytes:
    """Spans as (id, parent or 0, name, attributes)."""
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    scope = resource.scope_spans.add()
    scope.scope.name = f"{service}.tracer"
    for own, parent, name, attributes in spans:
        span = scope.spans.add(
            trace_id=trace,
            span_id=bytes([own]) * 8,
            parent_span_id=bytes([parent]) * 8 if parent else b"",
            name=name,
            start_time_unix_nano=START + own,
            end_time_unix_nano=START + 1000 - own,
        )
        for key, value in attributes.items():
            span.attributes.add(key=key).value.string_value = value
    return made.SerializeToString()


def host(trace: bytes = HOST, **named: str) -> bytes:
    values = {key.replace("__", "."): value for key, value in named.items()}
    return request(trace, "app", (1, 0, "call", values), (2, 1, "gen_ai.realtime.session", {}))


def agent(trace: bytes = AGENT, **named: str) -> list[bytes]:
    """As LiveKit sends it: what ends comes first, and the id stands on a span below the root."""
    values = {key.replace("__", "."): value for key, value in named.items()}
    return [
        request(trace, "agent", (5, 4, "agent_turn", {})),
        request(trace, "agent", (4, 3, "agent_session", values), (3, 0, "job_entrypoint", {})),
    ]


CALL: dict[str, Any] = {"sip__call_id": "SCL_1@sip.example"}
SAME: dict[str, Any] = {"lk__sip__callID": "SCL_1@sip.example"}


async def play(served: Rig, order: str, to: Rig | None = None) -> None:
    other = to or served
    first, second = agent(**SAME)
    match order:
        case "host first":
            await served.host(host(**CALL))
            await other.host(first)
            await other.host(second)
        case "agent first":
            await other.host(first)
            await other.host(second)
            await served.pass_time(3)
            await served.host(host(**CALL))
        case "host left":
            await served.host(host(**CALL))
            await served.pass_time(60)
            await other.host(first)
            await other.host(second)
        case "host late":
            await other.host(first)
            await other.host(second)
            await served.pass_time(25)
            await served.host(host(**CALL))
    await served.pass_time(120)


SESSION_NAME = "gen_ai.realtime.session"
ORDERS = ["host first", "agent first", "host left", "host late"]


def named(peer: Peer, name: str) -> Span:
    (found,) = [span for span, _ in peer.spans if span.name == name]
    return found


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


@pytest.mark.parametrize("order", ORDERS)
async def test_a_trace_with_the_calls_id_is_part_of_the_call(open_rig: Open, order: str) -> None:
    """Whole, whichever of its spans has the id, with parents as they were, its own resource and scope, and ids by the
    rule for guests."""
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        await play(one, order)
        assert peer.tree(HOST) == TREE
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        root = named(peer, "job_entrypoint")
        assert root.span_id == guest_span_id(AGENT.hex(), (bytes([3]) * 8).hex())
        said = attributes(root)
        assert (said["grafter.link"], said["grafter.source"]) == ("rule", "otlp")
        assert (said["grafter.guest.trace_id"], said["grafter.guest.span_id"]) == (AGENT.hex(), "03" * 8)
        assert "grafter.link" not in attributes(named(peer, "agent_turn"))
        assert one.count("grafter_grafted_spans_total", source="otlp") == 3
        balanced(one, peer)


async def test_what_comes_late_of_it_goes_where_it_went(open_rig: Open) -> None:
    """Its spans, and a guest of its own, though they know of no call."""
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        await play(one, "host first")
        await one.host(request(AGENT, "agent", (9, 4, "late_turn", {})))
        await one.guest(items(trace_id=AGENT.hex(), span_id="04" * 8))
        await one.pass_time(60)
        late, guest = named(peer, "late_turn"), named(peer, "invoke_agent clerk")
        session = guest_span_id(AGENT.hex(), (bytes([4]) * 8).hex())
        assert (late.trace_id, late.parent_span_id) == (HOST, session)
        assert (guest.trace_id, guest.parent_span_id) == (HOST, session)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        balanced(one, peer)


async def test_its_own_guests_move_with_it(open_rig: Open) -> None:
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        await one.host(host(**CALL))
        await one.guest(items(trace_id=AGENT.hex(), span_id="04" * 8))
        for each in agent(**SAME):
            await one.host(each)
        await one.pass_time(120)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        guest = named(peer, "invoke_agent clerk")
        assert guest.parent_span_id == named(peer, "agent_session").span_id
        assert guest.span_id == guest_span_id(GUEST, "span_run")
        balanced(one, peer)


@pytest.mark.parametrize("guest_comes", ["with the host", "late"])
async def test_its_steps_are_those_of_the_calls_guests(open_rig: Open, guest_comes: str) -> None:
    """A model call that both describe stands once, whether OpenAI's half left with the host or after it."""
    peer = Peer()
    run = items(responses=("resp_1",), trace_id=HOST.hex())
    answer = {"gen_ai.response.id": "resp_1", "gen_ai.operation.name": "chat"}
    async with open_rig(peer, policy=POLICY) as one:
        await one.host(host(**CALL))
        if guest_comes == "with the host":
            await one.guest(run)
        await one.pass_time(60)
        if guest_comes == "late":
            await one.guest(run)
            await one.pass_time(60)
        await one.host(request(AGENT, "agent", (6, 5, "llm", answer)))
        for each in agent(**SAME):
            await one.host(each)
        await one.pass_time(120)
        (llm,) = [span for span, _ in peer.spans if span.name == "llm"]
        (twin,) = [
            span
            for span, _ in peer.spans
            if span.name != "llm" and attributes(span).get("gen_ai.response.id") == "resp_1"
        ]
        said = attributes(llm)
        assert (said["grafter.match"], said["grafter.duplicate_of"]) == ("response_id", twin.span_id.hex())
        assert (llm.trace_id, llm.parent_span_id) == (HOST, twin.span_id)
        balanced(one, peer)


async def test_without_a_host_it_leaves_as_it_came(open_rig: Open) -> None:
    """After the wait for its other half, byte for byte; and a host that comes later changes nothing."""
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        for each in agent(**SAME):
            await one.host(each)
        await one.pass_time(38)
        assert peer.spans == []
        await one.pass_time(10)
        assert sorted(span.SerializeToString() for span, _ in peer.spans) == sorted(
            span.SerializeToString()
            for each in agent(**SAME)
            for resource in ExportTraceServiceRequest.FromString(each).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        )
        await one.host(host(**CALL))
        await one.host(request(AGENT, "agent", (9, 4, "late_turn", {})))
        await one.pass_time(60)
        assert named(peer, "late_turn").trace_id == AGENT
        assert one.count("grafter_expected_guests_total", source="otlp") == 0
        balanced(one, peer)


@pytest.mark.parametrize(
    "values", [{"lk__sip__callID": "another"}, {"lk__sip__callID": " "}, {"lk__room": "SCL_1"}, {}]
)
async def test_what_has_not_the_value_stays_apart(open_rig: Open, values: dict[str, str]) -> None:
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        await one.host(host(**CALL))
        for each in agent(**values):
            await one.host(each)
        await one.pass_time(120)
        assert {span.trace_id for span, _ in peer.spans} == {HOST, AGENT}
        balanced(one, peer)


async def test_values_of_two_calls_move_it_nowhere(open_rig: Open) -> None:
    """What fits two is not guessed, and what was noted first of one value stands."""
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        await one.host(host(sip__call_id="a"))
        await one.host(host(OTHER, sip__call_id="b"))
        await one.host(host(THIRD, sip__call_id="a"))
        first, second = agent(lk__sip__callID="a")
        await one.host(first)
        await one.host(request(AGENT, "agent", (8, 3, "transfer", {"lk.sip.callID": "b"})))
        await one.host(second)
        await one.pass_time(120)
        assert named(peer, "job_entrypoint").trace_id == AGENT
        balanced(one, peer)


async def test_with_one_key_the_first_trace_is_the_host(open_rig: Open) -> None:
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        await one.host(host(conversation__id="c1"))
        await one.pass_time(1)
        for trace in (AGENT, OTHER):
            for each in agent(trace, conversation__id="c1"):
                await one.host(each)
        await one.pass_time(120)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        assert len(peer.spans) == 8
        balanced(one, peer)


async def test_it_waits_for_as_long_as_its_host_is_held(open_rig: Open) -> None:
    """And leaves after it: the host's memory has the span under which it hangs."""
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        for each in agent(**SAME):
            await one.host(each)
        for _ in range(20):
            await one.host(host(**CALL))
            await one.pass_time(8)
        assert peer.spans == []
        await one.pass_time(120)
        assert peer.tree(HOST) == TREE
        balanced(one, peer)


async def test_a_host_that_is_dropped_takes_it_along(open_rig: Open) -> None:
    """One decision a trace."""

    peer = Peer()
    sampling = SamplingPolicy((Drop("drop"),))
    async with open_rig(peer, policy=POLICY, sampling=sampling) as one:
        await play(one, "host first")
        await one.pass_time(3600, step=60)
        assert peer.spans == []
        assert one.count("grafter_sampled_traces_total", decision="dropped") == 1
        assert one.count("grafter_sampled_out_spans_total") == 5


async def test_links_into_the_trace_lead_to_where_it_is(open_rig: Open) -> None:
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        await one.host(host(**CALL))
        first, second = agent(**SAME)
        made = ExportTraceServiceRequest.FromString(first)
        turn = made.resource_spans[0].scope_spans[0].spans[0]
        turn.links.add(trace_id=AGENT, span_id=bytes([4]) * 8)
        turn.links.add(trace_id=OTHER, span_id=bytes([4]) * 8)
        await one.host(made.SerializeToString())
        await one.host(second)
        await one.pass_time(120)
        inside, outside = named(peer, "agent_turn").links
        assert (inside.trace_id, inside.span_id) == (HOST, named(peer, "agent_session").span_id)
        assert (outside.trace_id, outside.span_id) == (OTHER, bytes([4]) * 8)


@pytest.mark.parametrize("order", ["host first", "agent first"])
@pytest.mark.parametrize("open_rig", ["disk", "redis"], indirect=True)
async def test_it_outlives_the_process(open_rig: Open, order: str) -> None:
    peer = Peer()
    clock = [START]
    first, second = agent(**SAME)
    steps = [[host(**CALL)], [first], [second]] if order == "host first" else [[first, second], [host(**CALL)], []]
    for step in steps:
        async with open_rig(peer, policy=POLICY, now=clock) as one:
            for each in step:
                await one.host(each)
            await one.pass_time(2)
    async with open_rig(peer, policy=POLICY, now=clock) as one:
        await one.pass_time(120)
        assert one.store.stats().traces == 0
    assert peer.tree(HOST) == TREE
    assert len(peer.ids) == len(set(peer.ids)) == 5


@pytest.mark.parametrize("order", ORDERS)
async def test_replicas_see_it_alike(redis: Server, order: str) -> None:
    prefix = f"shared-rules-{ORDERS.index(order)}"
    peers, clock = [Peer(), Peer()], [START]
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(
                rig(peer, policy=POLICY, redis={"url": redis.url, "prefix": prefix}, now=clock)
            )
            for peer in peers
        ]
        await play(one, order, to=other)
        await other.pass_time(60)
    both = Peer()
    both.requests = [body for peer in peers for body in peer.requests]
    assert both.tree(HOST) == TREE
    assert len(both.ids) == len(set(both.ids)) == 5


def recipe(number: int) -> GraftPolicy:
    """The policy of a YAML block of docs/rules.md."""
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text("utf-8")
    block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[number])
    return GraftProcessor.model_validate(block["processors"]["graft"]).policy(1 << 26)


@pytest.mark.parametrize("order", ["host first", "agent first"])
@pytest.mark.parametrize(
    ("name", "number", "key", "value", "tree"),
    [
        ("livekit_agents_1.8.9", 1, "sip.call_id", "SCL_Vx7c2k9QmT4d", "agent_session|agent_turn|llm_node|llm_request"),
        ("pipecat_1.14.0", 2, "twilio.call_sid", "CA1e2d3c4b5a69788796a5b4c3d2e1f001", "conversation|turn"),
    ],
)
async def test_the_recipes_join_what_the_packages_write(
    name: str, number: int, key: str, value: str, tree: str, order: str
) -> None:
    """Rules as the document has them, spans as LiveKit and Pipecat wrote them: one tree, nothing lost."""
    recorded = recorded_call(name)
    mine = request(HOST, "app", (1, 0, "call", {key: value}), (2, 1, "gen_ai.realtime.session", {}))
    peer = Peer()
    async with rig(peer, policy=recipe(number)) as one:
        for body in (mine, recorded) if order == "host first" else (recorded, mine):
            await one.host(body)
            await one.pass_time(3)
        await one.pass_time(120)
        balanced(one, peer)
    check(Call([mine], by_rule=[recorded]), peer.requests)
    lines = peer.tree(HOST).splitlines()
    assert lines[:2] == ["call [app]", f"  {SESSION_NAME} [app]"]
    for depth, inside in enumerate(tree.split("|"), 2):
        assert any(line.startswith("  " * depth + inside + " ") for line in lines), inside
    assert not any(line.startswith(("  c", "a")) for line in lines[1:])


async def test_explain_says_where_it_went_and_what_it_waits_for() -> None:
    async with rig(Peer(), policy=POLICY) as one:
        for each in agent(**SAME):
            await one.host(each)
        await one.pass_time(15)
        explainer = Explainer(one.store, one.policy, lambda: one.now[0])
        waiting = await explainer.explain(AGENT.hex())
        assert "the trace of its call" in str(waiting["lines"])
        await one.host(host(**CALL))
        await one.pass_time(120)
        moved = await explainer.explain(AGENT.hex())
        assert f"by processors.graft.rules, to trace {HOST.hex()}, under span {'02' * 8}" in str(moved["lines"])
        assert moved["left"]["moved"] == {"host": HOST.hex(), "span": "02" * 8, "anchor": "selector"}  # type: ignore[index]


keys, values = st.sampled_from(["a", "b", "c"]), st.sampled_from(["1", "2"])
pairs = st.frozensets(st.tuples(keys, values), max_size=4)


@given(
    rules=st.lists(st.builds(Rule, keys, st.sampled_from(["", "a", "b", "c"])), max_size=3),
    traces=st.lists(pairs, min_size=1, max_size=5),
)
def test_whatever_the_rules_and_the_order_nothing_moves_in_circles(
    rules: list[Rule], traces: list[frozenset[tuple[str, str]]]
) -> None:
    """A host moves nowhere, so what moves is at its end after one step; and each value has one host, the first."""
    these = RuleSet(rules)
    ids = [TraceId(bytes([n]) * 16) for n in range(1, len(traces) + 1)]
    known = {trace: these.values(pairs) for trace, pairs in zip(ids, traces, strict=True)}
    noted: dict[str, NamedLink] = {}
    for trace, found in known.items():
        for link in these.notes(trace, found):
            noted.setdefault(link.guest, link)
    to = {trace: these.hosts(trace, found, noted) for trace, found in known.items()}
    for trace, hosts in to.items():
        for each in hosts:
            assert to[each] == {each}
        if trace in hosts:
            assert hosts == {trace}
