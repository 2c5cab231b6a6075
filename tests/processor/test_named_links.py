"""Guests whose host is named by somebody else: a span of the app with the guest's id, or a post. Over every store."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.core.calls import CallNote
from grafter.core.memory_blobs import decode_guest
from grafter.core.model import BY_API, NamedLink, SpanId, TraceId, UnixNano, guest_key, unlinked_trace_id
from grafter.core.policy import GraftPolicy, Mode, Unlinked
from grafter.guests.realtime.event_buffer import EventBuffer
from grafter.guests.realtime.stored_event import SIP
from grafter.receiver.explaining import Explainer
from tests.processor.conftest import Open
from tests.processor.test_realtime_calls import CALL, HOST, opened, post, turn
from tests.rig import START, Peer, Rig, rig
from tests.store.redis.servers import Server

OTHER = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
GUEST = "trace_" + "c" * 32


@pytest.fixture
async def served(open_rig: Open) -> AsyncIterator[tuple[Rig, Peer]]:
    peer = Peer()
    async with open_rig(peer) as one:
        yield one, peer


def spans(host: bytes = HOST, root: bool = True, **named: str) -> bytes:
    """An app's trace of a root and a model call, with these attributes on the latter (``a__b`` for ``a.b``)."""
    request = ExportTraceServiceRequest()
    made = request.resource_spans.add().scope_spans.add().spans
    if root:
        made.add(trace_id=host, span_id=host[:7] + b"\1", name="call", start_time_unix_nano=START)
    chat = made.add(
        trace_id=host, span_id=host[:7] + b"\2", parent_span_id=host[:7] + b"\1", name="ask", start_time_unix_nano=START
    )
    for key, value in named.items():
        chat.attributes.add(key=key.replace("__", ".")).value.string_value = value
    return request.SerializeToString()


def items(guest: str = GUEST, responses: tuple[str, ...] = ("resp_1",), **metadata: str) -> list[object]:
    """A whole trace of the Agents SDK: a run with one answer a response."""
    moments = {"started_at": "2027-01-15T08:00:00.000000+00:00", "ended_at": "2027-01-15T08:00:01.000000+00:00"}
    head = {"object": "trace", "id": guest, "workflow_name": "w", "group_id": None, "metadata": metadata or None}
    run = {
        **{"object": "trace.span", "id": "span_run", "trace_id": guest, "parent_id": None, "error": None, **moments},
        "span_data": {"type": "agent", "name": "clerk", "handoffs": [], "tools": [], "output_type": "str"},
    }
    answers = [
        {**run, "id": f"span_{each}", "parent_id": "span_run", "span_data": {"type": "response", "response_id": each}}
        for each in responses
    ]
    return [head, run, *answers]


def link_of(peer: Peer, name: str = "invoke_agent clerk") -> str | None:
    """How the guest's top-level span says that it was linked."""
    (found,) = [span for span, _ in peer.spans if span.name == name]
    return {each.key: each.value.string_value for each in found.attributes}.get("grafter.link")


def hosts(peer: Peer, name: str = "invoke_agent clerk") -> list[bytes]:
    return [span.trace_id for span, _ in peer.spans if span.name == name]


def balanced(served: Rig, peer: Peer) -> None:
    assert served.store.stats().traces == 0
    assert len(peer.ids) == len(set(peer.ids))
    came, became = served.books(len(peer.spans))
    assert came == became > 0


ORDERS = ["host first", "guest first", "host left", "guest known"]


async def play(served: Rig, order: str, host: bytes, guest: list[object], guests_to: Rig | None = None) -> None:
    """Both halves in this order, until both have left; the guest comes to another replica where one is given."""

    async def come() -> None:
        await (guests_to or served).guest(guest)

    match order:
        case "host first":
            await served.host(host)
            await served.pass_time(5)
            await come()
        case "guest first":
            await come()
            await served.host(host)
        case "host left":
            await served.host(host)
            await served.pass_time(60)
            await come()
        case "guest known":
            await come()
            await served.pass_time(5)
            await served.host(host)
    await served.pass_time(120)


@pytest.mark.parametrize("order", ORDERS)
async def test_a_span_with_the_guests_trace_id_is_its_link(served: tuple[Rig, Peer], order: str) -> None:
    one, peer = served
    await play(one, order, spans(openai__trace_id=GUEST), items())
    assert hosts(peer) == [HOST]
    assert link_of(peer) == "backward"
    assert peer.tree(HOST).splitlines()[1:2] == ["  ask []"]
    balanced(one, peer)


@pytest.mark.parametrize("order", ORDERS)
async def test_a_span_with_the_id_of_one_of_its_answers_is_its_link(served: tuple[Rig, Peer], order: str) -> None:
    """As instrumentations write it on each model call, and no name of a guest is needed."""
    one, peer = served
    host = spans(gen_ai__response__id="resp_2")
    await play(one, order, host, items(responses=("resp_1", "resp_2")))
    assert hosts(peer) == [HOST]
    assert link_of(peer) == "backward"
    balanced(one, peer)


@pytest.mark.parametrize("order", ["host first", "call first", "host left"])
@pytest.mark.parametrize(("key", "value"), [("openai.call_id", CALL), ("gen_ai.conversation.id", "sess_1")])
async def test_a_call_is_found_by_its_id_and_by_its_sessions(
    served: tuple[Rig, Peer], order: str, key: str, value: str
) -> None:
    one, peer = served
    host = spans(**{key.replace(".", "__"): value})
    call = post(opened(0.1), *turn(1, 1), ended=True)
    if order != "call first":
        await one.host(host)
        await one.pass_time(60 if order == "host left" else 2)
    await one.realtime(call)
    if order == "call first":
        await one.pass_time(2)
        await one.host(host)
    await one.pass_time(120)
    assert hosts(peer, "realtime_session gpt-realtime") == [HOST]
    assert link_of(peer, "realtime_session gpt-realtime") == "backward"
    balanced(one, peer)


async def test_a_host_waits_for_a_running_call_that_it_named(served: tuple[Rig, Peer]) -> None:
    """A webhook's span has ended long before the call: the call keeps the trace all the same, and it is one release."""
    one, peer = served
    await one.host(spans(openai__call_id=CALL))
    await one.realtime(post(opened(0.1)))
    for number in range(1, 10):
        await one.realtime(post(*turn(number, number * 4)))
        await one.pass_time(4)
    assert peer.spans == []
    await one.realtime(post(ended=True))
    await one.pass_time(60)
    assert one.count("grafter_released_traces_total", reason="complete") == 1
    assert hosts(peer, "realtime_session gpt-realtime") == [HOST]
    balanced(one, peer)


async def test_a_call_of_which_only_a_webhook_told_holds_nothing_up(served: tuple[Rig, Peer]) -> None:
    one, peer = served
    buffer = EventBuffer(CALL, one.policy)
    buffer.add_own({"type": SIP, "traceparent": f"00-{OTHER.hex()}-{'b' * 16}-01"}, UnixNano(one.now[0]))
    part = buffer.take()
    assert part is not None
    await one.processor.consume([part])
    await one.host(spans(openai__call_id=CALL))
    await one.pass_time(12)
    assert len(peer.spans) == 2


async def test_two_guests_of_one_host(served: tuple[Rig, Peer]) -> None:
    one, peer = served
    other = "trace_" + "d" * 32
    await one.guest(items())
    await one.host(spans(openai__trace_id=GUEST, gen_ai__response__id="resp_9"))
    await one.guest(items(other, responses=("resp_9",)))
    await one.pass_time(120)
    assert hosts(peer) == [HOST, HOST]
    balanced(one, peer)


async def test_the_first_host_that_names_a_guest_keeps_it(served: tuple[Rig, Peer]) -> None:
    one, peer = served
    await one.host(spans(openai__trace_id=GUEST))
    await one.host(spans(OTHER, openai__trace_id=GUEST))
    await one.processor.consume((), links=[NamedLink(GUEST, TraceId(OTHER), how=BY_API)])
    await one.guest(items())
    await one.pass_time(120)
    assert hosts(peer) == [HOST]
    balanced(one, peer)


@pytest.mark.parametrize("order", ORDERS)
async def test_a_guest_that_names_its_host_is_taken_by_nobody(served: tuple[Rig, Peer], order: str) -> None:
    one, peer = served
    await one.host(spans())
    await play(one, order, spans(OTHER, openai__trace_id=GUEST), items(trace_id=HOST.hex()))
    assert hosts(peer) == [HOST]
    assert link_of(peer) == "trace_id"
    balanced(one, peer)


@pytest.mark.parametrize("order", ORDERS)
async def test_answers_that_two_hosts_have_name_none(served: tuple[Rig, Peer], order: str) -> None:
    """What fits two equally is not guessed; the reason is on record."""
    one, peer = served
    await one.host(spans(gen_ai__response__id="resp_1"))
    await play(one, order, spans(OTHER, gen_ai__response__id="resp_2"), items(responses=("resp_1", "resp_2")))
    assert hosts(peer) == [unlinked_trace_id(GUEST)]
    (memory,) = await one.store.recall([guest_key(GUEST)], UnixNano(one.now[0]))
    assert memory is not None
    known = decode_guest(memory.blob)
    assert known is not None
    assert known.record is not None
    assert [refusal.why for refusal in known.record.refused] == ["two_hosts"]
    balanced(one, peer)


@pytest.mark.parametrize("order", ["link first", "guest first", "host left"])
async def test_a_post_names_host_and_anchor(served: tuple[Rig, Peer], order: str) -> None:
    one, peer = served
    link = NamedLink(GUEST, TraceId(HOST), SpanId(HOST[:7] + b"\2"), True, BY_API)
    await one.host(spans())
    if order == "host left":
        await one.pass_time(60)
    if order == "guest first":
        await one.guest(items())
        await one.processor.consume((), links=[link])
    else:
        await one.processor.consume((), links=[link])
        await one.guest(items())
    await one.pass_time(60)
    # Beside an anchor that has left stand the sums of the guest's turns.
    tree = [line for line in peer.tree(HOST).splitlines() if "grafter.summary" not in line]
    assert tree[:3] == ["call []", "  ask []", "    invoke_agent clerk []"]
    assert link_of(peer) == "api"
    balanced(one, peer)


async def test_what_comes_after_a_link_was_used_changes_nothing(served: tuple[Rig, Peer]) -> None:
    """Metadata that names another trace is on record as refused, and later parts go where the first went."""
    one, peer = served
    await one.host(spans(openai__trace_id=GUEST))
    head, run, answer = items(trace_id=OTHER.hex())
    await one.guest([run])
    await one.guest([head])
    await one.pass_time(60)
    await one.guest([answer])
    await one.pass_time(60)
    assert {span.trace_id for span, _ in peer.spans} == {HOST}
    assert link_of(peer) == "backward"
    said = await Explainer(one.store, one.policy, lambda: one.now[0]).explain(GUEST)
    lines = said["lines"]
    assert isinstance(lines, list)
    assert any("linked by a span of yours that has its id" in line for line in lines)
    assert any("came after a link had been used" in line for line in lines)
    assert f"a span of yours that has its id names trace {HOST.hex()} for it" in lines
    balanced(one, peer)


async def test_a_guest_that_left_alone_stays_alone(served: tuple[Rig, Peer]) -> None:
    one, peer = served
    head, run, answer = items()
    await one.guest([head, run])
    await one.pass_time(60)
    await one.processor.consume((), links=[NamedLink(GUEST, TraceId(HOST), how=BY_API)])
    await one.host(spans(gen_ai__response__id="resp_1"))
    await one.guest([answer])
    await one.pass_time(120)
    assert {span.trace_id for span, _ in peer.spans if span.name not in ("call", "ask")} == {unlinked_trace_id(GUEST)}
    assert len(peer.spans) == 4
    balanced(one, peer)


@pytest.mark.parametrize("policy", [GraftPolicy(unlinked=Unlinked.KEEP), GraftPolicy(unlinked=Unlinked.DROP)])
async def test_a_guest_that_would_be_kept_or_dropped_is_woken_by_its_link(open_rig: Open, policy: GraftPolicy) -> None:
    peer = Peer()
    async with open_rig(peer, policy=policy) as one:
        await one.guest(items())
        await one.pass_time(5 if policy.unlinked is Unlinked.DROP else 600)
        await one.host(spans(openai__trace_id=GUEST))
        await one.pass_time(20)
        assert hosts(peer) == [HOST]
        balanced(one, peer)


@pytest.mark.parametrize("order", ["host first", "guest first"])
async def test_in_a_stream_too(open_rig: Open, order: str) -> None:
    peer = Peer()
    async with open_rig(peer, policy=GraftPolicy(mode=Mode.STREAM)) as one:
        if order == "host first":
            await one.host(spans(openai__trace_id=GUEST))
        await one.guest(items())
        if order != "host first":
            await one.pass_time(2)
            await one.host(spans(openai__trace_id=GUEST))
        await one.pass_time(60)
        assert hosts(peer) == [HOST]
        assert link_of(peer) == "backward"
        balanced(one, peer)


@pytest.mark.parametrize("order", ["host first", "guest first"])
@pytest.mark.parametrize("open_rig", ["disk", "redis"], indirect=True)
async def test_links_outlive_the_process(open_rig: Open, order: str) -> None:
    """Whichever half came before the restart; and what comes of the guest later goes where its first spans went."""
    peer = Peer()
    head, run, answer = items()
    clock = [START]
    for step in range(3):
        async with open_rig(peer, now=clock) as one:
            match step, order:
                case (0, "host first") | (1, "guest first"):
                    await one.host(spans(openai__trace_id=GUEST))
                case (0, "guest first") | (1, "host first"):
                    await one.guest([head, run])
                case _:
                    await one.guest([answer])
                    await one.pass_time(60)
            await one.pass_time(2)
    assert {span.trace_id for span, _ in peer.spans} == {HOST}
    assert link_of(peer) == "backward"
    assert len(peer.ids) == len(set(peer.ids)) == 4


@pytest.mark.parametrize("order", ORDERS)
async def test_replicas_share_what_was_named(redis: Server, order: str) -> None:
    """One hears of the host, another of the guest, and neither told the other."""
    prefix = f"shared-links-{ORDERS.index(order)}"
    peers, clock = [Peer(), Peer()], [START]
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(rig(peer, redis={"url": redis.url, "prefix": prefix}, now=clock))
            for peer in peers
        ]
        await play(one, order, spans(openai__trace_id=GUEST), items(), guests_to=other)
        await other.pass_time(60)
    assert [found for peer in peers for found in hosts(peer)] == [HOST]


@pytest.mark.parametrize("host", ["held", "left", "not there"])
async def test_a_sip_header_comes_before_a_span_that_names_the_call(open_rig: Open, host: str) -> None:
    """Once its host has come; without it the span's trace is the call's."""
    peer = Peer()
    async with open_rig(peer) as one:
        if host != "not there":
            await one.host(spans(OTHER))
        if host == "left":
            await one.pass_time(60)
        traceparent = f"00-{OTHER.hex()}-{'b' * 16}-01"
        await one.store.put_calls([CallNote(CALL, UnixNano(one.now[0]), traceparent=traceparent)], UnixNano(one.now[0]))
        buffer = EventBuffer(CALL, one.policy)
        buffer.add_own({"type": SIP, "traceparent": traceparent}, UnixNano(one.now[0]))
        part = buffer.take()
        assert part is not None
        await one.processor.consume([part])
        await one.host(spans(openai__call_id=CALL))
        await one.realtime(post(opened(0.1), *turn(1, 1), ended=True))
        await one.pass_time(120)
        expected, how = (HOST, "backward") if host == "not there" else (OTHER, "sip")
        assert hosts(peer, "realtime_session gpt-realtime") == [expected]
        assert link_of(peer, "realtime_session gpt-realtime") == how
        balanced(one, peer)


@pytest.mark.parametrize("host", ["held", "left", "not there"])
async def test_an_id_that_spells_a_host_comes_before_a_span_that_has_it(open_rig: Open, host: str) -> None:
    peer = Peer()
    guest = f"trace_{OTHER.hex()}"
    async with open_rig(peer) as one:
        if host != "not there":
            await one.host(spans(OTHER))
        if host == "left":
            await one.pass_time(60)
        await one.host(spans(openai__trace_id=guest, gen_ai__response__id="resp_1"))
        await one.guest(items(guest))
        await one.pass_time(120)
        expected, how = (HOST, "backward") if host == "not there" else (OTHER, "openai_trace_id")
        assert hosts(peer) == [expected]
        assert link_of(peer) == how
        balanced(one, peer)
