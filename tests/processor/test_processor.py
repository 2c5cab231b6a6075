"""What leaves, when, once, and whole: the processor over a real store, a turned clock and a scripted peer."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.consumer import Batch, Result, Verdict
from grafter.core.model import Key, UnixNano
from grafter.core.policy import GraftPolicy, HostMissing, Mode, Redact, Unlinked, Waits
from grafter.core.state import TraceState
from grafter.errors import UnavailableError
from grafter.otlp.frames import framed
from grafter.processor.assembling import Assembler
from grafter.processor.lanes import Limits
from grafter.processor.release_result import Assembled
from grafter.store.model import PlainBatch
from tests.rig import ACCEPTED, CALL, DATA, SESSION, START, Peer, recorded_call, recorded_guest, rig

GUEST_SPANS = 16
HOST_SPANS = 6
OTHER = bytes(range(16))


def host_request(trace_id: bytes, *spans: tuple[int, int, str]) -> bytes:
    """A request of (span id, parent id or 0, name)."""
    return ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                scope_spans=[
                    ScopeSpans(
                        spans=[
                            Span(
                                trace_id=trace_id,
                                span_id=own.to_bytes(8),
                                parent_span_id=parent.to_bytes(8) if parent else b"",
                                name=name,
                                start_time_unix_nano=START + own,
                                end_time_unix_nano=START + own + 5,
                            )
                            for own, parent, name in spans
                        ]
                    )
                ]
            )
        ]
    ).SerializeToString()


def items(guest: str, host: bytes | None, *spans: tuple[str, str | None]) -> list[object]:
    """A trace object (when there is a host to name) and custom spans (id, parent)."""
    found: list[object] = []
    if host is not None:
        found.append({"object": "trace", "id": guest, "workflow_name": "w", "metadata": {"trace_id": host.hex()}})
    return found + [
        {
            "object": "trace.span",
            "id": own,
            "trace_id": guest,
            "parent_id": parent,
            "started_at": "2026-11-22T21:00:00+00:00",
            "ended_at": "2026-11-22T21:00:01+00:00",
            "span_data": {"type": "custom", "name": own, "data": {}},
            "error": None,
        }
        for own, parent in spans
    ]


SUMS = ("grafter.app_ms", "grafter.openai_ms", "grafter.unknown_ms")


def unchanged_host_spans(peer: Peer, request: bytes) -> None:
    """Each span of the request came out once and as it went in, but for the sums behind the anchor's attributes."""
    went_in = [
        span
        for resource in ExportTraceServiceRequest.FromString(request).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    came_out = {span.span_id: span for span, _ in peer.spans}
    assert len(peer.ids) == len(set(peer.ids))
    for one in [one for one in came_out[SESSION].attributes if one.key in SUMS]:
        came_out[SESSION].attributes.remove(one)
    assert [came_out[span.span_id] for span in went_in] == went_in


async def test_a_recorded_call_and_a_recorded_run_leave_as_one_tree() -> None:
    """The app's trace and the SDK's trace of the same call come out as one tree, the guest under the session span."""
    peer = Peer()
    async with rig(peer) as r:
        await r.host(recorded_call())
        for request in recorded_guest():
            await r.guest(request)
        await r.pass_time(20)
        (anchor,) = [span for span, _ in peer.spans if span.span_id == SESSION]
        assert tuple(one.key for one in anchor.attributes) == SUMS
        unchanged_host_spans(peer, recorded_call())
        assert {span.trace_id for span, _ in peer.spans} == {CALL}
        assert peer.tree(CALL) == (DATA / "trees" / "recorded_call.txt").read_text().rstrip()
        assert r.store.stats().traces == 0
        came, became = r.books(len(peer.spans))
        assert came == became
        assert r.count("grafter_grafted_spans_total", source="sdk", match="named") == GUEST_SPANS


@given(seed=st.integers(0, 1 << 32), repeats=st.integers(0, 3), data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
async def test_order_and_repetition_do_not_matter(seed: int, repeats: int, data: st.DataObject) -> None:
    """Any order of arrival and any repetition while the trace is held gives the same final trace, each span once."""
    host = [
        s
        for resource in ExportTraceServiceRequest.FromString(recorded_call()).resource_spans
        for s in resource.scope_spans[0].spans
    ]
    guest = [item for request in recorded_guest() for item in request]
    plain, shuffled = Peer(), Peer()
    rng = random.Random(seed)
    async with rig(plain) as r:
        await r.host(recorded_call())
        await r.guest(guest)
        await r.pass_time(30)
    async with rig(shuffled) as r:
        # Each span and item a request of its own, some of them several times; all of it well within every wait.
        arrivals: list[tuple[str, object]] = [("host", s) for s in host] + [("guest", i) for i in guest]
        arrivals += rng.choices(arrivals, k=repeats * 5)
        rng.shuffle(arrivals)
        template = ExportTraceServiceRequest.FromString(recorded_call())
        for kind, one in arrivals:
            if kind == "host":
                request = ExportTraceServiceRequest()
                request.CopyFrom(template)
                del request.resource_spans[0].scope_spans[0].spans[:]
                assert isinstance(one, Span)
                request.resource_spans[0].scope_spans[0].spans.append(one)
                await r.host(request.SerializeToString())
            else:
                await r.guest([one])
            if data.draw(st.booleans()):
                await r.pass_time(data.draw(st.sampled_from([0.1, 0.4])))
        await r.pass_time(60)
        came, became = r.books(len(shuffled.spans))
        assert came == became
    key = lambda one: (one[0].span_id, one[1])  # noqa: E731
    assert sorted(shuffled.spans, key=key) == sorted(plain.spans, key=key)


trace_numbers = st.integers(1, 6)
requests = st.lists(
    st.tuples(
        trace_numbers,
        st.lists(st.integers(2, 12), max_size=4, unique=True),
        st.booleans(),
        st.sampled_from(["step", "step", "other"]),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent=requests)
@example(sent=[(1, [], True, "step"), (1, [2], False, "step"), (1, [2], False, "other")])
async def test_traces_leave_alike_together_and_alone(sent: list[tuple[int, list[int], bool, str]]) -> None:
    """With one exporter plain traces leave in batches, with two one by one: the same spans, memories and books."""
    seen = []
    for peers in ([Peer("a")], [Peer("a"), Peer("b")]):
        async with rig(*peers) as r:
            for number, spans, with_root, name in sent:
                trace_id = number.to_bytes(16)
                request = host_request(trace_id, *[(1, 0, "root")] * with_root, *[(n, 1, name) for n in spans])
                await r.host(request)
            await r.pass_time(700)
            recalled = await r.store.recall([Key(n.to_bytes(16)) for n in range(1, 7)], UnixNano(r.now[0]))
            assert r.books(len(peers[0].ids))[0] == r.books(len(peers[0].ids))[1]
            seen.append((sorted(peers[0].spans, key=str), recalled, r.count("grafter_merged_spans_total")))
    assert seen[0] == seen[1]


async def test_a_late_guest_hangs_where_it_would_have_hung() -> None:
    """After the release, the guest's spans and a late host span leave under the same trace, anchor and ids."""
    peer = Peer()
    async with rig(peer) as r:
        await r.host(recorded_call())
        await r.pass_time(60)
        assert len(peer.spans) == HOST_SPANS
        assert r.count("grafter_expected_guests_total", outcome="never") == 1
        for request in recorded_guest():
            await r.guest(request)
        await r.host(host_request(CALL, (77, 5, "late.span")))
        await r.pass_time(20)
        tops = [s for s, _ in peer.spans if s.parent_span_id == SESSION and s.name.startswith("invoke_workflow")]
        assert len(tops) == 1
        assert {span.trace_id for span, _ in peer.spans} == {CALL}
        # Beside them the sums, on a span of their own, for the anchor had left.
        (summary,) = [s for s, _ in peer.spans if s.name == "grafter.summary"]
        assert summary.parent_span_id == SESSION
        assert {"grafter.synthetic", "grafter.openai_ms"} <= {one.key for one in summary.attributes}
        assert r.count("grafter_synthetic_spans_total") == 1
        assert len(peer.spans) == HOST_SPANS + GUEST_SPANS + 2
        # A second delivery of what was sent: guest spans are remembered, a host span is forwarded again.
        for request in recorded_guest():
            await r.guest(request)
        await r.pass_time(60)
        assert len(peer.spans) == HOST_SPANS + GUEST_SPANS + 2
        assert r.count("grafter_merged_spans_total", reason="repeat") == GUEST_SPANS
        assert r.books(len(peer.spans))[0] == r.books(len(peer.spans))[1]


async def test_a_late_guest_finds_a_span_that_no_selector_names() -> None:
    """A guest that names an ordinary host span by id is hung under it even when the host left long before."""
    peer = Peer()
    async with rig(peer) as r:
        await r.host(host_request(OTHER, (1, 0, "root"), (2, 1, "handler"), (3, 1, "other")))
        await r.pass_time(60)
        guest = items("trace_x", OTHER, ("a", None))
        guest[0]["metadata"]["span_id"] = (2).to_bytes(8).hex()  # type: ignore[index]
        await r.guest(guest)
        await r.pass_time(60)
        (own,) = [s for s, _ in peer.spans if s.name == "a"]
        assert own.parent_span_id == (2).to_bytes(8)


async def test_a_guest_waits_for_its_host_and_leaves_without_it() -> None:
    """A guest whose host never comes leaves after idle under the trace id that it names, and says so."""
    peer = Peer()
    async with rig(peer) as r:
        await r.guest(items("trace_x", OTHER, ("a", None), ("b", "a")))
        await r.pass_time(500, step=50)
        assert peer.spans == []
        await r.pass_time(200, step=50)
        assert {span.trace_id for span, _ in peer.spans} == {OTHER}
        (top,) = [s for s, _ in peer.spans if s.name == "a"]
        assert {a.key: a.value.string_value for a in top.attributes}["grafter.anchor"] == "none"
        # The host comes after all: a trace of its own release, under the same id.
        await r.host(host_request(OTHER, (1, 0, "root")))
        await r.pass_time(30)
        assert len(peer.spans) == 3


@pytest.mark.parametrize(
    ("host_missing", "traceparent_flags", "left"),
    [
        (HostMissing.FOLLOW_FLAGS, "00", 0),
        (HostMissing.FOLLOW_FLAGS, "01", 1),
        (HostMissing.DROP, "01", 0),
        (HostMissing.FORWARD, "00", 1),
    ],
)
async def test_a_host_that_was_sampled_away(host_missing: HostMissing, traceparent_flags: str, left: int) -> None:
    """What becomes of a guest without a host is what host_missing says; what is dropped is counted."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(host_missing=host_missing)) as r:
        guest = items("trace_x", OTHER, ("a", None))
        guest[0]["metadata"] = {"traceparent": f"00-{OTHER.hex()}-00000000000000aa-{traceparent_flags}"}  # type: ignore[index]
        await r.guest(guest)
        await r.pass_time(700, step=50)
        assert len(peer.spans) == left
        assert r.count("grafter_dropped_spans_total", reason="host_missing") == 1 - left
        assert r.books(left)[0] == r.books(left)[1]


@pytest.mark.parametrize(
    ("unlinked", "left", "held"), [(Unlinked.FORWARD, 1, 0), (Unlinked.DROP, 0, 0), (Unlinked.KEEP, 0, 1)]
)
async def test_a_guest_without_a_link(unlinked: Unlinked, left: int, held: int) -> None:
    """It is forwarded as a trace of its own, dropped and counted, or kept, as configured."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(unlinked=unlinked)) as r:
        trace = "trace_" + "ab" * 16
        await r.guest([{"object": "trace", "id": trace, "metadata": None}, *items(trace, None, ("a", None))])
        await r.pass_time(60)
        assert len(peer.spans) == left
        assert all(span.trace_id == bytes.fromhex("ab" * 16) for span, _ in peer.spans)
        assert r.store.stats().traces == held
        assert r.books(left)[0] == r.books(left)[1]


@pytest.mark.parametrize("host_first", [True, False])
async def test_an_openai_trace_id_that_spells_the_host(host_first: bool) -> None:
    """An app that gives OpenAI its own trace id needs no metadata, whichever of the two comes first."""
    peer = Peer()
    guest = items("trace_" + OTHER.hex(), None, ("a", None))
    guest.insert(0, {"object": "trace", "id": "trace_" + OTHER.hex(), "metadata": None})
    async with rig(peer) as r:
        arrivals = [r.host(host_request(OTHER, (1, 0, "root"))), r.guest(guest)]
        for arrival in arrivals if host_first else arrivals[::-1]:
            await arrival
            await r.pass_time(1)
        await r.pass_time(30)
        (own,) = [s for s, _ in peer.spans if s.name == "a"]
        assert (own.trace_id, own.parent_span_id) == (OTHER, (1).to_bytes(8))


async def test_the_inbound_webhook_ends_long_before_the_call() -> None:
    """The root ends in the first second, parts of both sides follow every 20 s for 12 minutes: one release, whole."""
    peer = Peer()
    async with rig(peer) as r:
        await r.host(host_request(OTHER, (1, 0, "webhook")))
        await r.guest(items("trace_x", OTHER, ("turn0", "top")))
        for n in range(1, 36):
            await r.pass_time(10)
            await r.host(host_request(OTHER, (n + 1, 1, f"step{n}")))
            await r.pass_time(10)
            await r.guest(items("trace_x", None, (f"turn{n}", "top")))
            assert peer.spans == [], f"left after {20 * n} s of a call that went on"
        await r.guest(items("trace_x", None, ("top", None)))
        await r.pass_time(60)
        assert r.count("grafter_released_traces_total") == 1
        assert r.count("grafter_released_traces_total", reason="complete") == 1
        assert len(peer.spans) == 36 + 37
        assert "grafter.parent.missing" not in {a.key for span, _ in peer.spans for a in span.attributes}


async def test_stream_sends_at_once_and_joins_what_follows() -> None:
    """In stream mode host spans leave at the next tick; the guest leaves as soon as its anchor has."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=Mode.STREAM)) as r:
        for request in recorded_guest():
            await r.guest(request)
        await r.pass_time(2, step=0.1)
        assert peer.spans == []
        await r.host(recorded_call())
        await r.pass_time(1, step=0.1)
        assert len(peer.spans) == HOST_SPANS + GUEST_SPANS
        tops = [s for s, _ in peer.spans if s.name.startswith("invoke_workflow")]
        assert [s.parent_span_id for s in tops] == [SESSION]


async def test_stream_stands_in_for_a_parent_that_never_comes() -> None:
    """A child leaves before its parent; for_guest later a synthetic span takes the parent's place, once."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=Mode.STREAM)) as r:
        await r.host(host_request(OTHER, (1, 0, "root")))
        await r.pass_time(1)
        await r.guest(items("trace_x", OTHER, ("child", "never")))
        await r.pass_time(2)
        (child,) = [s for s, _ in peer.spans if s.name == "child"]
        await r.pass_time(120)
        (stand_in,) = [s for s, _ in peer.spans if s.span_id == child.parent_span_id]
        assert stand_in.parent_span_id == (1).to_bytes(8)
        assert len(peer.spans) == 3
        assert r.store.stats().traces == 0
        assert r.books(3)[0] == r.books(3)[1]


async def test_a_peer_that_is_down_loses_nothing() -> None:
    """While the peer refuses for now, traces stay held; when it is back they leave once, unmarked."""
    peer = Peer()
    peer.answer = lambda _batch: Result(Verdict.LATER, "down", 5.0)
    async with rig(peer) as r:
        await r.host(recorded_call())
        await r.pass_time(600, step=5)
        assert r.store.stats().spans == HOST_SPANS
        peer.answer = lambda _batch: ACCEPTED
        await r.pass_time(30)
        unchanged_host_spans(peer, recorded_call())
        assert r.books(HOST_SPANS)[0] == r.books(HOST_SPANS)[1]


async def test_an_unknown_outcome_is_sent_again_and_says_so() -> None:
    """A peer that fell silent gets the trace again, with the same ids, and each span says that it may be a repeat."""
    peer = Peer()
    peer.answer = lambda _batch: Result(Verdict.LATER, "timeout", 1.0, unknown=True)
    async with rig(peer) as r:
        await r.host(recorded_call())
        await r.pass_time(60, step=1)
        first = len(peer.requests)
        assert first > 1
        peer.answer = lambda _batch: ACCEPTED
        await r.pass_time(10)
        assert len(set(peer.ids)) == HOST_SPANS
        assert r.count("grafter_released_traces_total", reason="guest_timeout") == 1
        last = Peer()
        last.requests = peer.requests[-1:]
        assert all(any(a.key == "grafter.resend" for a in span.attributes) for span, _ in last.spans)
        initial = Peer()
        initial.requests = peer.requests[:1]
        assert not any(a.key == "grafter.resend" for span, _ in initial.spans for a in span.attributes)


async def test_one_of_two_exporters_is_down() -> None:
    """The one that is up gets each span once, and the other all of them when it is back."""
    up, down = Peer("up"), Peer("down")
    down.answer = lambda _batch: Result(Verdict.LATER, "down", 3.0)
    async with rig(up, down) as r:
        await r.host(recorded_call())
        await r.pass_time(60, step=1)
        assert (len(up.spans), len(down.spans)) == (HOST_SPANS, 0)
        # A part that comes meanwhile is no part of what is waiting.
        await r.host(host_request(CALL, (77, 5, "meanwhile")))
        await r.pass_time(30, step=1)
        down.answer = lambda _batch: ACCEPTED
        await r.pass_time(60, step=1)
        assert sorted(up.ids) == sorted(down.ids)
        assert len(up.ids) == len(set(up.ids)) == HOST_SPANS + 1
        assert r.store.stats().traces == 0


async def test_what_a_peer_refuses_for_good_is_kept_with_its_reason() -> None:
    """A refused trace goes to the dead-letter box as a whole request; others are not touched by it."""

    def answer(batch: Batch) -> Result:
        return Result(Verdict.REFUSED, "bad span") if any(t.key == CALL for t in batch.traces) else ACCEPTED

    peer = Peer()
    peer.answer = answer
    async with rig(peer) as r:
        await r.host(recorded_call())
        await r.pass_time(60)
        await r.host(host_request(OTHER, (1, 0, "root")))
        await r.pass_time(60)
        (letter,) = await r.store.dead_letters(10)
        assert (letter.key, letter.reason, letter.spans) == (CALL, "bad span", HOST_SPANS)
        assert len(ExportTraceServiceRequest.FromString(letter.payload).resource_spans[0].scope_spans[0].spans) == 6
        assert len(peer.spans) == 1
        assert r.books(1)[0] == r.books(1)[1]


async def test_a_restart_between_intent_and_outcome_marks_the_repeat(tmp_path: Path) -> None:
    """A process that dies while bytes are out sends them again after its restart, marked; what was settled never."""
    peer = Peer()

    class Killed(BaseException):
        pass

    def die(_batch: Batch) -> Result:
        raise Killed

    async with rig(peer, directory=tmp_path) as r:
        await r.host(host_request(OTHER, (1, 0, "settled")))
        await r.pass_time(20)
        await r.host(recorded_call())
        peer.answer = die
        with pytest.raises(BaseException):  # noqa: B017, PT011  # whatever a task group makes of it
            await r.pass_time(60)
        now = r.now[0]
    again = Peer()
    async with rig(again, directory=tmp_path, now=[now]) as r:
        await r.store.recovered()
        await r.pass_time(60)
        unmarked = [span for span, _ in again.spans if not any(a.key == "grafter.resend" for a in span.attributes)]
        assert unmarked == []
        assert len(again.spans) == HOST_SPANS
        assert r.books(HOST_SPANS)[0] == r.books(HOST_SPANS)[1]


async def test_a_trace_that_is_too_big_leaves_early() -> None:
    """Past max_trace_bytes a trace leaves at once and what follows leaves by the same decision."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(max_trace_bytes=300)) as r:
        await r.host(host_request(OTHER, *((n, 1000, f"step {n}") for n in range(1, 20))))
        await r.pass_time(1)
        assert len(peer.spans) == 19
        assert r.count("grafter_released_traces_total", reason="oversize") == 1


async def test_a_full_store_refuses_and_keeps_what_it_has() -> None:
    """Past max_bytes a request is refused as a whole with a hint; what was acknowledged leaves as ever."""
    peer = Peer()
    async with rig(peer, max_bytes=1000) as r:
        await r.host(host_request(OTHER, (1, 0, "root")))
        with pytest.raises(UnavailableError) as refused:
            await r.host(host_request(CALL, *((n, 1000, f"step {n}") for n in range(1, 40))))
        assert refused.value.retry_after > 0
        await r.pass_time(60)
        assert len(peer.spans) == 1
        await r.host(host_request(CALL, (1, 0, "room again")))


@pytest.mark.parametrize("with_guest", [True, False])
async def test_redacted_attributes(with_guest: bool) -> None:
    """A redacted key leaves no plain value on any span, and equal values stay equal; other spans stay as they were."""
    peer = Peer()
    policy = GraftPolicy(redact=Redact(keys=frozenset({"call.from"}), secret=b"secret"))
    async with rig(peer, policy=policy) as r:
        await r.host(recorded_call())
        if with_guest:
            for request in recorded_guest():
                await r.guest(request)
        await r.pass_time(60)
    values = [a.value.string_value for span, _ in peer.spans for a in span.attributes if a.key == "call.from"]
    assert len(values) == 1
    assert "+1415" not in repr(peer.requests)
    assert len(values[0]) == 32


async def test_two_guests_of_one_host() -> None:
    """Two guests that claim one host are both grafted, whatever their clocks."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(waits=Waits())) as r:
        await r.host(host_request(OTHER, (1, 0, "root")))
        await r.guest(items("trace_x", OTHER, ("a", None)) + items("trace_y", OTHER, ("a", None)))
        await r.pass_time(60)
        assert len({span.span_id for span, _ in peer.spans if span.parent_span_id == (1).to_bytes(8)}) == 2


async def test_one_broken_trace_does_not_hold_up_the_others() -> None:
    """A trace that cannot be assembled is set aside alone; in the end it is in the dead-letter box as it came."""

    class Broken(Assembler):
        def host(self, key: Key, state: TraceState, *more: Any) -> Assembled:
            if state.guests:
                raise RuntimeError("a bug")
            return super().host(key, state, *more)

    peer = Peer()
    async with rig(peer, assembler=Broken) as r:
        for n in range(1, 50):
            await r.host(host_request(n.to_bytes(16), (1, 0, "root")))
        await r.guest(items("trace_x", OTHER, ("a", None)))
        await r.host(host_request(OTHER, (1, 0, "root")))

        await r.pass_time(120)
        assert len(peer.spans) == 49
        await r.pass_time(600, step=5)
        assert r.store.stats().traces == 0
        assert {letter.key for letter in await r.store.dead_letters(10)} == {OTHER}
        came, became = r.books(49)
        assert came == became


async def test_a_withdrawn_export_does_not_end_the_waits() -> None:
    """After an outage the guest's rest that came meanwhile is waited for like any other."""
    peer = Peer()
    peer.answer = lambda _batch: Result(Verdict.LATER, "down", 1.0)
    async with rig(peer) as r:
        await r.host(host_request(OTHER, (1, 0, "root")))
        await r.pass_time(15)
        await r.guest(items("trace_x", OTHER, ("child", "mid")))
        await r.pass_time(1)
        peer.answer = lambda _batch: ACCEPTED
        await r.pass_time(4)
        await r.guest(items("trace_x", None, ("mid", "top"), ("top", None)))
        await r.pass_time(60)
        assert not any(a.key == "grafter.parent.missing" for span, _ in peer.spans for a in span.attributes)
        assert len(peer.spans) == 4


async def test_a_stop_ends_within_its_grace() -> None:
    """An exporter that never answers does not keep a stop from ending, however many batches wait behind it."""

    class Silent(Peer):
        async def export(self, batch: Batch) -> Sequence[Result]:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    async with rig(Silent()) as r:
        big = [(n, 1000, "step") for n in range(1, 2100)]
        for n in range(1, 30):
            await r.host(host_request(n.to_bytes(16), (5000, 0, "root"), *big))
        r.now[0] += 60 * 10**9
        async with asyncio.timeout(60):
            async with r.processor.running(grace_seconds=0.2):
                while not r.processor.memory_bytes:  # noqa: ASYNC110  # a turn of the loop each time
                    await asyncio.sleep(0)
        assert r.store.stats().traces == 29


async def test_what_is_left_of_a_guest_stays_together() -> None:
    """Parts that come while the host is being sent join what comes after it, with the right parents."""
    peer = Peer()
    async with rig(peer) as r:
        await r.host(host_request(OTHER, (1, 0, "root")))
        await r.guest(items("trace_x", OTHER, ("first", None)))
        peer.answer = lambda _batch: Result(Verdict.LATER, "timeout", 3.0, unknown=True)
        await r.pass_time(17)
        await r.guest(items("trace_x", None, ("child", "mid")))
        peer.answer = lambda _batch: ACCEPTED
        await r.pass_time(4)
        await r.guest(items("trace_x", None, ("mid", "first")))
        await r.pass_time(60)
        parents = {span.name: span.parent_span_id for span, _ in peer.spans}
        ids = {span.name: span.span_id for span, _ in peer.spans}
        assert (parents["child"], parents["mid"]) == (ids["mid"], ids["first"])


@pytest.mark.parametrize("mode", list(Mode))
async def test_the_rest_of_a_dropped_guest_is_dropped_too(mode: Mode) -> None:
    """What is dropped because its host was sampled away stays dropped, also when more of it comes without metadata."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as r:
        guest = items("trace_x", OTHER, ("a", None))
        guest[0]["metadata"] = {"traceparent": f"00-{OTHER.hex()}-00000000000000aa-00"}  # type: ignore[index]
        await r.guest(guest)
        await r.pass_time(700, step=20)
        await r.guest(items("trace_x", None, ("b", "a")))
        await r.pass_time(700, step=20)
        assert peer.spans == []
        assert r.count("grafter_dropped_spans_total", reason="host_missing") == 2


async def test_a_span_that_cannot_be_read_and_may_hold_a_secret_leaves_without_it() -> None:
    """With redaction, of an undecodable span that holds the key what can be read leaves, marked."""
    peer = Peer()
    good = recorded_call()
    bad = framed(0x0A, OTHER) + framed(0x12, b"\1" * 8) + framed(0x4A, b"\xff\xffcall.from+1415")
    run = framed(0x12, bad)
    async with rig(peer, policy=GraftPolicy(redact=Redact(keys=frozenset({"call.from"}), secret=b"s"))) as r:
        await r.host(framed(0x0A, framed(0x12, run)))
        await r.host(good)
        await r.pass_time(60)
        assert len(peer.spans) == HOST_SPANS + 1
        assert "+1415" not in repr(peer.requests)
        odd = [s for s, _ in peer.spans if any(a.key == "grafter.value.odd" for a in s.attributes)]
        assert [s.span_id for s in odd] == [b"\1" * 8]


async def test_a_store_that_is_away_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is met at each tick; the log has one line of it, not ten a second."""
    async with rig(Peer()) as r:
        rounds, enough = 0, asyncio.Event()

        async def claim(*_asked: object, **_more: object) -> list[object]:
            nonlocal rounds
            rounds += 1
            if rounds >= 5:
                enough.set()
            raise UnavailableError("no answer")

        monkeypatch.setattr(r.store, "claim", claim)
        async with asyncio.timeout(30), r.processor.running():
            await enough.wait()
        assert [record.message for record in caplog.records] == ["the store is not available: no answer"]


async def test_what_is_on_its_way_stays_owned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend may take longer than a lease lasts: what was sent as one is renewed, and what was claimed beside it."""
    kinds: list[type] = []
    answered = asyncio.Event()

    class Slow(Peer):
        async def export(self, batch: Batch) -> Sequence[Result]:
            await answered.wait()
            return await super().export(batch)

    peer = Slow()
    async with rig(peer, sending=Limits(lease_seconds=0.3, tick_seconds=0.01)) as r:
        renew_in_store = r.store.renew

        async def renew(claims: Any, now: UnixNano) -> None:
            kinds.append(type(claims))
            if min(kinds.count(PlainBatch), kinds.count(list)) >= 2:
                answered.set()
            await renew_in_store(claims, now)

        read_in_store = r.store.read

        async def read(claims: Any) -> Any:
            # As from a disk: what was claimed first is on its way by then.
            await asyncio.sleep(0)
            return await read_in_store(claims)

        monkeypatch.setattr(r.store, "read", read)
        monkeypatch.setattr(r.store, "renew", renew)
        await r.host(host_request(OTHER, (1, 0, "root")))
        await r.host(host_request(OTHER[::-1], (2, 9, "no root")))
        r.now[0] += 700 * 10**9
        async with asyncio.timeout(30), r.processor.running():
            while r.store.stats().traces:  # noqa: ASYNC110  # a turn of the loop each time
                await asyncio.sleep(0)
        assert len(peer.ids) == 2


async def test_a_store_that_is_away_while_something_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a lease that cannot be renewed nor a settlement that is not taken ends anything: what has left is settled
    when the store is back, and does not leave again."""
    peer, answered = Peer(), asyncio.Event()

    class Slow(Peer):
        async def export(self, batch: Batch) -> Sequence[Result]:
            await answered.wait()
            return await peer.export(batch)

    async with rig(Slow(), sending=Limits(lease_seconds=0.3, tick_seconds=0.01)) as r:
        renewals = settlements = 0
        settle_in_store = r.store.settle

        async def renew(*_asked: object) -> None:
            nonlocal renewals
            renewals += 1
            if renewals >= 2:
                answered.set()
            raise UnavailableError("no answer")

        async def settle(*asked: Any) -> Sequence[bool]:
            nonlocal settlements
            settlements += 1
            if settlements < 3:
                raise UnavailableError("no answer")
            return await settle_in_store(*asked)

        monkeypatch.setattr(r.store, "renew", renew)
        monkeypatch.setattr(r.store, "settle", settle)
        await r.host(host_request(OTHER, (1, 0, "root")))
        r.now[0] += 60 * 10**9
        async with asyncio.timeout(30), r.processor.running():
            while r.store.stats().traces:  # noqa: ASYNC110  # a turn of the loop each time
                await asyncio.sleep(0)
        assert (renewals >= 2, settlements, len(peer.ids)) == (True, 3, 1)
