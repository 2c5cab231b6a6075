"""Which traces leave, with which weight, and that what must be kept always is: the processor with tail sampling."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from grafter.consumer import Result, Verdict
from grafter.core.policy import SECOND, GraftPolicy, Redact
from grafter.core.sampling.attribute import Attribute
from grafter.core.sampling.barge_in import BargeIn
from grafter.core.sampling.error import Error
from grafter.core.sampling.everything import Drop
from grafter.core.sampling.first_token import FirstToken
from grafter.core.sampling.guest import HasGuest
from grafter.core.sampling.latency import Latency
from grafter.core.sampling.policies import SamplingPolicy
from grafter.core.sampling.policy import Policy
from grafter.core.sampling.probabilistic import Probabilistic
from grafter.core.sampling.span_count import SpanCount
from grafter.core.sampling.weights import decode, randomness, threshold, weight
from grafter.processor.assembling import Assembler
from tests.guests.realtime.hand import T0, TRACE, Call
from tests.rig import ACCEPTED, CALL, START, Peer, Rig, recorded_call, recorded_guest, rig

ERROR, SLOW, ONE_OF_100 = Error("error"), FirstToken("first_token"), Probabilistic("probabilistic", 100)
SAMPLED = SamplingPolicy((ERROR, SLOW, ONE_OF_100))
DROPS = SamplingPolicy((ERROR, SLOW, Drop("drop")))
LUCKY, UNLUCKY = b"\x01" * 9 + b"\xff" * 7, b"\x01" * 9 + bytes(7)


def attribute(key: str, value: str | float | bool) -> KeyValue:
    match value:
        case bool():
            return KeyValue(key=key, value=AnyValue(bool_value=value))
        case int():
            return KeyValue(key=key, value=AnyValue(int_value=value))
        case float():
            return KeyValue(key=key, value=AnyValue(double_value=value))
        case _:
            return KeyValue(key=key, value=AnyValue(string_value=value))


def span(trace_id: bytes, own: int = 1, parent: int = 0, *, error: bool = False, **more: object) -> Span:
    """A span of 5 ms."""
    found = Span(
        trace_id=trace_id,
        span_id=own.to_bytes(8),
        parent_span_id=parent.to_bytes(8) if parent else b"",
        name=f"span {own}",
        start_time_unix_nano=START,
        end_time_unix_nano=START + 5_000_000,
        status=Status(code=Status.STATUS_CODE_ERROR) if error else None,
    )
    found.MergeFrom(Span(**more))  # type: ignore[arg-type]  # fields of Span
    return found


def request(*spans: Span, resource: Sequence[KeyValue] = ()) -> bytes:
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=Resource(attributes=resource), scope_spans=[ScopeSpans(spans=spans)])]
    ).SerializeToString()


def said(found: Span, key: str) -> object:
    """The value of an attribute; None where there is none. A key that stands twice is an error."""
    values = [a.value for a in found.attributes if a.key == key]
    assert len(values) <= 1
    return getattr(values[0], values[0].WhichOneof("value") or "") if values else None


def balanced(r: Rig, peer: Peer) -> None:
    came, became = r.books(len(peer.spans))
    assert came == became


async def left(policies: Iterable[Policy], *spans: Span, resource: Sequence[KeyValue] = ()) -> list[Span]:
    """What leaves of one complete trace."""
    peer = Peer()
    async with rig(peer, sampling=SamplingPolicy(tuple(policies))) as r:
        await r.host(request(*spans, resource=resource))
        await r.pass_time(15)
        balanced(r, peer)
    return [found for found, _ in peer.spans]


async def test_every_error_and_every_slow_turn_is_kept_while_one_of_100_drops_the_rest() -> None:
    """Of 4,000 traces all errors and all slow first tokens leave; of the rest exactly those that every sampler of 1 in
    100 keeps; the weights add up to what came within three standard deviations, and so do the books."""
    rng = random.Random(11)
    ids = [rng.randbytes(16) for _ in range(4000)]
    errors, slow = set(ids[:150]), set(ids[150:300])
    peer = Peer()
    async with rig(peer, sampling=SAMPLED) as r:
        for own in ids:
            ttft = [attribute("lk.response.ttft", 1.6 if own in slow else 0.4)]
            await r.host(request(span(own), span(own, 2, 1, error=own in errors, attributes=ttft)))
        await r.pass_time(15)
        assert r.store.stats().traces == 0
        balanced(r, peer)
        kept = {found.trace_id for found, _ in peer.spans}
        chance = {own for own in ids if randomness(own) >= threshold(100)}
        assert kept == errors | slow | chance
        assert len(peer.spans) == 2 * len(kept)
        for found, _ in peer.spans:
            by_chance = found.trace_id not in errors | slow
            policy = "probabilistic" if by_chance else "error" if found.trace_id in errors else "first_token"
            assert said(found, "grafter.policy") == policy
            assert said(found, "SampleRate") == (100 if by_chance else 1)
            assert found.trace_state == ("ot=th:fd70a3d70a3d71" if by_chance else "ot=th:0")
        # Honeycomb reads the attribute first, a Collector the threshold: they count the same.
        thresholds = [decode(found.trace_state.removeprefix("ot=th:").encode()) for found, _ in peer.spans]
        rates = [float(str(said(found, "SampleRate"))) for found, _ in peer.spans]
        assert sum(weight(t) for t in thresholds if t is not None) == pytest.approx(sum(rates))
        total = 300 + 100 * len(chance - errors - slow)
        assert abs(total - 4000) < 3 * (3700 * 99) ** 0.5
        assert r.count("grafter_sampled_traces_total", policy="error", decision="kept") == 150
        assert r.count("grafter_sampled_traces_total", policy="first_token", decision="kept") == 150
        assert r.count("grafter_sampled_traces_total") == 4000
        assert r.count("grafter_sampled_out_spans_total", policy="probabilistic") == 2 * (4000 - len(kept))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("grafter.turn.first_token_ms", 1501),
        ("grafter.caller_wait_ms", 1501.0),
        ("gen_ai.response.time_to_first_chunk", 1.501),
        ("lk.response.ttft", 1.501),
        ("lk.e2e_latency", 1.501),
        ("metrics.ttfb", 1.501),
        ("turn.user_bot_latency_seconds", 1.501),
        ("time_to_first_token_ms", "1501"),
    ],
)
async def test_a_first_token_has_many_names(key: str, value: str | float) -> None:
    """LiveKit's, Pipecat's, OpenInference's and the conventions' names are read from host spans, each in its unit; the
    same figure below the threshold keeps nothing."""
    slow, quick = attribute(key, value), attribute(key, float(value) / 1.1)
    assert await left((SLOW, Drop("drop")), span(CALL, attributes=[slow]))
    assert not await left((SLOW, Drop("drop")), span(CALL, attributes=[quick]))


async def test_a_caller_turn_counts_before_a_model_turn() -> None:
    """Where a span says how long the caller waited, that is the figure, and not its own first token."""
    both = [attribute("grafter.caller_wait_ms", 900.0), attribute("grafter.turn.first_token_ms", 1600.0)]
    assert not await left((SLOW, Drop("drop")), span(CALL, attributes=both))


async def test_an_answer_out_of_band_is_no_turn() -> None:
    """Nobody waits for what is asked for beside the conversation, however long it takes."""
    slow = attribute("grafter.turn.first_token_ms", 9000.0)
    aside = [slow, attribute("grafter.turn.conversation", "none")]
    assert not await left((SLOW, Drop("drop")), span(CALL, attributes=aside))
    assert await left((SLOW, Drop("drop")), span(CALL, attributes=[slow]))


@pytest.mark.parametrize(
    ("policy", "matching", "other"),
    [
        (Latency("l", 5), {"end_time_unix_nano": START + 5_000_001}, {}),
        (Attribute("a", "tier", frozenset({"7"})), {"attributes": [attribute("tier", 7)]}, {}),
        (Attribute("a", "tier"), {"attributes": [attribute("tier", True)]}, {"name": "tier"}),
        (BargeIn("b"), {"events": [Span.Event(name="gen_ai.audio.barge_in")]}, {"name": "gen_ai.audio.barge_in"}),
        (
            BargeIn("b"),
            {"attributes": [attribute("lk.interrupted", True), attribute("lk.interruption.source", "user_turn")]},
            {"attributes": [attribute("lk.interrupted", True), attribute("lk.interruption.source", "programmatic")]},
        ),
        (
            BargeIn("b"),
            {"attributes": [attribute("turn.was_interrupted", True)]},
            {
                "attributes": [
                    attribute("turn.was_interrupted", True),
                    attribute("turn.ended_by_conversation_end", True),
                ]
            },
        ),
        (ERROR, {"status": Status(message="no", code=Status.STATUS_CODE_ERROR)}, {"name": "\x18\x02"}),
    ],
)
async def test_what_policies_find_in_spans(
    policy: Policy, matching: dict[str, object], other: dict[str, object]
) -> None:
    """What each asks for is found, and what only looks like it is not taken for it."""
    assert await left((policy, Drop("drop")), span(CALL), span(CALL, 2, 1, **matching))
    assert not await left((policy, Drop("drop")), span(CALL), span(CALL, 2, 1, **other))


async def test_a_large_trace_is_looked_into_as_a_small_one() -> None:
    """Its error and its slow turn are found among 5,000 spans, and all of them leave with the weight."""
    some = [span(LUCKY, n + 1, min(n, 1), attributes=[attribute("a", "x" * 100)]) for n in range(4999)]
    slow = span(LUCKY, 5000, 1, attributes=[attribute("lk.response.ttft", 2.0)])
    for policy, last in ((ERROR, span(LUCKY, 5000, 1, error=True)), (SLOW, slow)):
        found = await left((policy, Drop("drop")), *some, last)
        assert len(found) == 5000
        assert {(said(one, "SampleRate"), one.trace_state) for one in found} == {(1, "ot=th:0")}


async def test_a_resource_has_attributes_too() -> None:
    """A policy on service.name need not stand on every span."""
    policies = (Attribute("a", "service.name", frozenset({"dialer"})), Drop("drop"))
    assert await left(policies, span(CALL), resource=[attribute("service.name", "dialer")])
    assert not await left(policies, span(CALL), resource=[attribute("service.name", "mailer")])


async def test_span_count_and_guests() -> None:
    """Spans are counted over the whole trace; a guest is one that was hung into it."""
    assert await left((SpanCount("s", 2), Drop("drop")), span(CALL), span(CALL, 2, 1))
    assert not await left((SpanCount("s", 3), Drop("drop")), span(CALL), span(CALL, 2, 1))
    for policy, spans in ((HasGuest("g"), 22), (HasGuest("g", present=False), 0)):
        peer = Peer()
        async with rig(peer, sampling=SamplingPolicy((policy, Drop("drop")))) as r:
            await r.host(recorded_call())
            for items in recorded_guest():
                await r.guest(items)
            await r.pass_time(30)
            balanced(r, peer)
            assert len(peer.spans) == spans


async def test_forwarded_bytes_are_only_added_to() -> None:
    """A kept span is what came, byte for byte, with fields behind it; guests carry the same weight."""
    peer = Peer()
    async with rig(peer, sampling=SamplingPolicy((HasGuest("guest"), Drop("drop")))) as r:
        await r.host(recorded_call())
        for items in recorded_guest():
            await r.guest(items)
        await r.pass_time(20)
        balanced(r, peer)
    came = [s for rs in ExportTraceServiceRequest.FromString(recorded_call()).resource_spans for s in rs.scope_spans]
    whole = b"".join(peer.requests)
    for raw in (s.SerializeToString() for scope in came for s in scope.spans):
        assert raw in whole
    assert len(peer.spans) == 22
    for found, _ in peer.spans:
        assert (said(found, "grafter.policy"), said(found, "SampleRate")) == ("guest", 1)
        assert found.trace_state == "ot=th:0"


@pytest.mark.parametrize("flags", [0x01, 0x03])
async def test_weights_that_came_are_kept_up(flags: int) -> None:
    """Mixed thresholds stay per span, unknown keys and other vendors survive, a rate is replaced and never doubled; the
    random flag changes nothing."""
    states = ["", "ot=th:fff;zz:1,a=b", "congo=t61, ot=rv:ffffffffffffff;th:8"]
    spans = [span(LUCKY, n + 1, min(n, 1), trace_state=state, flags=flags) for n, state in enumerate(states)]
    spans.append(span(LUCKY, 4, 1, attributes=[attribute("sampleRate", 3), attribute("a", "b")], flags=flags))
    found = await left((Probabilistic("p", 10),), *spans)
    assert [(f.trace_state, said(f, "SampleRate")) for f in found] == [
        ("ot=th:e6666666666666", 10),
        ("ot=th:fff;zz:1,a=b", 4096),
        ("ot=rv:ffffffffffffff;th:e6666666666666,congo=t61", 10),
        ("", 30),
    ]
    assert said(found[3], "sampleRate") is None
    assert said(found[3], "a") == "b"
    assert {f.flags for f in found} == {flags}


async def test_a_resources_rate_is_multiplied() -> None:
    """A SampleRate on the resource counts for its spans."""
    (found,) = await left((Probabilistic("p", 10),), span(LUCKY), resource=[attribute("SampleRate", "5")])
    assert (said(found, "SampleRate"), found.trace_state) == (50, "")


async def test_the_guest_weighs_what_the_app_weighs() -> None:
    """The app's own sampler kept one of five: grafted spans stand for five as well, on time and late."""
    peer = Peer()
    async with rig(peer, sampling=SamplingPolicy((HasGuest("guest"), ERROR, Drop("drop")))) as r:
        sent = ExportTraceServiceRequest.FromString(recorded_call())
        for resource_spans in sent.resource_spans:
            for scope in resource_spans.scope_spans:
                for one in scope.spans:
                    one.attributes.append(attribute("SampleRate", 5))
        await r.host(sent.SerializeToString())
        first, *rest = recorded_guest()
        await r.guest(first)
        await r.pass_time(60)
        for items in rest:
            await r.guest(items)
        await r.pass_time(60)
        assert {said(found, "SampleRate") for found, _ in peer.spans} == {5}


async def test_late_parts_follow_the_decision() -> None:
    """What comes late of a kept trace carries its policy and weight, of a dropped one is dropped, and neither counts
    as another trace."""
    for own, kept in ((LUCKY, True), (UNLUCKY, False)):
        peer = Peer()
        async with rig(peer, sampling=SAMPLED) as r:
            await r.host(request(span(own)))
            await r.pass_time(15)
            await r.host(request(span(own, 2, 1)))
            await r.pass_time(15)
            balanced(r, peer)
            assert r.count("grafter_sampled_traces_total") == 1
            assert [said(found, "SampleRate") for found, _ in peer.spans] == ([100, 100] if kept else [])
            assert r.count("grafter_late_keep_after_drop_total") == 0


async def test_a_late_error_of_a_dropped_trace_is_kept_and_said() -> None:
    """A complete trace was dropped for good: its late error leaves alone, is counted, and takes the rest along."""
    peer = Peer()
    async with rig(peer, sampling=SAMPLED) as r:
        await r.host(request(span(UNLUCKY)))
        await r.pass_time(15)
        await r.host(request(span(UNLUCKY, 2, 1, error=True)))
        await r.pass_time(15)
        await r.host(request(span(UNLUCKY, 3, 2)))
        await r.pass_time(15)
        balanced(r, peer)
        assert [(found.name, said(found, "grafter.policy")) for found, _ in peer.spans] == [
            ("span 2", "error"),
            ("span 3", "error"),
        ]
        assert r.count("grafter_late_keep_after_drop_total") == 1


async def test_a_late_part_is_not_kept_for_what_the_rest_may_be() -> None:
    """Of a dropped trace a late part says nothing about guests and numbers of spans: it does not come back by these."""
    few = SamplingPolicy((HasGuest("no guest", present=False, complete=False), SpanCount("few", 2, 2), Drop("drop")))
    peer = Peer()
    async with rig(peer, sampling=few) as r:
        await r.host(request(span(UNLUCKY)))
        await r.pass_time(15)
        await r.host(request(span(UNLUCKY, 2, 1), span(UNLUCKY, 3, 1)))
        await r.pass_time(15)
        balanced(r, peer)
        assert peer.requests == []
        assert r.count("grafter_late_keep_after_drop_total") == 0


async def test_behind_another_grafter_one_policy_stands() -> None:
    """What a grafter in front wrote is replaced, no key stands twice, and of two thresholds the stricter one leaves."""
    (first,) = await left((Probabilistic("front", 2),), span(LUCKY))
    (second,) = await left((Attribute("a", "nobody"), Probabilistic("behind", 10)), first)
    assert said(second, "grafter.policy") == "behind"
    assert (said(second, "SampleRate"), second.trace_state) == (10, "ot=th:e6666666666666")


@pytest.mark.parametrize(("first", "status", "policy"), [(3.0, "completed", "first_token"), (1.4, "failed", "error")])
async def test_a_guest_a_minute_late_costs_no_slow_turn_and_no_error(first: float, status: str, policy: str) -> None:
    """The reference call with its guest 60 s late, and one slow turn in it or one that failed: all of it leaves as one
    tree, nothing was dropped before, and no late part had to be kept after a drop."""
    peer = Peer()
    async with rig(peer, sampling=DROPS) as r:
        await r.host(recorded_call())
        await r.pass_time(60)
        assert peer.requests == []
        at = (START // SECOND) - 100
        events = [
            {"type": "session.created", "session": {"id": "sess_1", "model": "gpt-realtime"}},
            {"type": "response.created", "response": {"id": "resp_1"}},
            {"type": "response.output_audio.delta", "response_id": "resp_1", "delta_bytes": 4000},
            {"type": "response.done", "response": {"id": "resp_1", "status": status}},
        ]
        moments = [0.0, 1.0, first, 4.0]
        posted: list[dict[str, object]] = [
            {"call": "k", "at": at + moment, "from": "server", "event": {"event_id": f"e{n}", **event}}
            for n, (moment, event) in enumerate(zip(moments, events, strict=True))
        ]
        create = {"call": "k", "at": at + 0.9, "from": "client", "event": {"type": "response.create", "event_id": "c"}}
        posted.insert(1, create)
        posted[0]["metadata"] = {"trace_id": CALL.hex()}
        await r.realtime(*posted, {"call": "k", "ended": True})
        await r.pass_time(60)
        balanced(r, peer)
        assert {found.trace_id for found, _ in peer.spans} == {CALL}
        assert {said(found, "grafter.policy") for found, _ in peer.spans} == {policy}
        assert len(peer.spans) >= 6 + 2
        assert r.count("grafter_sampled_out_spans_total") == 0
        assert r.count("grafter_late_keep_after_drop_total") == 0


@pytest.mark.parametrize(("seconds", "kept"), [(1.6, True), (1.4, False)])
async def test_an_answer_that_was_given_up_is_a_slow_turn(seconds: float, kept: bool) -> None:
    """The caller speaks again before any of the answer came, so OpenAI cancels it, and is answered quickly then: no
    wait is long, but the answer that never came was waited for."""
    peer, at = Peer(), 2050 + seconds * 1000
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "r1").starts(at - 20, "u2")
    call.done(at, "r1", "cancelled", "turn_detected").stops(at + 900, "u2").committed(at + 902, "u2")
    call.created(at + 950, "r2").sound(at + 1200, "r2").done(at + 1500, "r2").ended(9000)
    rows = [{**row, "at": START / SECOND + float(str(row["at"])) - T0} for row in call.rows]
    async with rig(peer, sampling=DROPS) as r:
        await r.host(request(span(bytes.fromhex(TRACE))))
        await r.realtime(*rows)
        await r.pass_time(60)
        balanced(r, peer)
    assert {said(found, "grafter.policy") for found, _ in peer.spans} == ({"first_token"} if kept else set())


async def test_an_incomplete_trace_is_held_for_regret_and_then_dropped() -> None:
    """Without its guest it stays 15 minutes beyond its waits, over a restart too; then the drop is final."""
    peer = Peer()
    async with rig(peer, sampling=DROPS) as r:
        await r.host(recorded_call())
        await r.pass_time(40 + 15 * 60 - 2)
        assert r.store.stats().spans == 6
        await r.pass_time(4)
        assert r.store.stats().spans == 0
        assert peer.requests == []
        assert r.count("grafter_sampled_traces_total", policy="drop", decision="dropped") == 1
        balanced(r, peer)


async def test_a_late_error_within_regret_releases_all_of_it() -> None:
    """No root has come; an error that does ten minutes after the wait takes the whole trace with it."""
    peer = Peer()
    policy = GraftPolicy()
    async with rig(peer, policy=policy, sampling=DROPS) as r:
        await r.host(request(span(UNLUCKY, 2, 1)))
        await r.pass_time(20 * 60, step=20)
        assert r.store.stats().spans == 1
        await r.host(request(span(UNLUCKY, 3, 1, error=True)))
        await r.pass_time(11 * 60, step=20)
        balanced(r, peer)
        assert {found.name for found, _ in peer.spans} == {"span 2", "span 3"}
        assert r.count("grafter_late_keep_after_drop_total") == 0


@pytest.mark.parametrize("own", [LUCKY, UNLUCKY])
async def test_chance_waits_with_what_is_incomplete(own: bytes) -> None:
    """What chance would keep is held as long as what it would drop: an error that comes meanwhile counts once."""
    peer = Peer()
    async with rig(peer, sampling=SAMPLED) as r:
        await r.host(request(span(own, 2, 1)))
        await r.pass_time(11 * 60, step=20)
        assert peer.requests == []
        await r.pass_time(15 * 60, step=20)
        assert [said(found, "SampleRate") for found, _ in peer.spans] == ([100] if own is LUCKY else [])


async def test_without_regret_or_room_what_is_incomplete_is_kept() -> None:
    """regret: 0, and a store that is more than half full, keep it by the policy incomplete."""
    for sampling, max_bytes in (
        (SamplingPolicy((Drop("drop"),), regret=0), 1 << 30),
        (SamplingPolicy((Drop("drop"),)), 300),
    ):
        peer = Peer()
        async with rig(peer, sampling=sampling, max_bytes=max_bytes) as r:
            await r.host(request(span(UNLUCKY, 2, 1), *[span(UNLUCKY, n, 1) for n in range(3, 6)]))
            await r.pass_time(11 * 60, step=20)
            balanced(r, peer)
            assert {said(found, "grafter.policy") for found, _ in peer.spans} == {"incomplete"}


async def test_a_dry_run_drops_nothing_and_says_what_it_would() -> None:
    """Every span leaves with the policy and the fate; no weight is written."""
    peer = Peer()
    async with rig(peer, sampling=SamplingPolicy((ERROR, ONE_OF_100), dry_run=True)) as r:
        await r.host(request(span(LUCKY)))
        await r.host(request(span(UNLUCKY)))
        await r.pass_time(15)
        await r.host(request(span(UNLUCKY, 2, 1, error=True)))
        await r.pass_time(15)
        balanced(r, peer)
        fates = {found.name + found.trace_id[-1:].hex(): said(found, "grafter.dry_run") for found, _ in peer.spans}
        assert fates == {"span 1ff": "keep", "span 100": "drop", "span 200": "keep"}
        assert all(said(found, "SampleRate") is None and not found.trace_state for found, _ in peer.spans)
        assert r.count("grafter_sampled_traces_total", decision="would_drop") == 1
        assert r.count("grafter_late_keep_after_drop_total") == 0


async def test_the_default_leaves_every_byte_alone() -> None:
    """error, first_token, always can drop nothing: what leaves is what left before there was sampling."""
    outs = []
    for sampling in (None, SamplingPolicy()):
        peer = Peer()
        async with rig(peer, sampling=sampling) as r:
            await r.host(recorded_call())
            await r.host(request(span(LUCKY)))
            for items in recorded_guest():
                await r.guest(items)
            await r.pass_time(30)
            outs.append(sorted(peer.requests))
            assert Assembler(r.policy, "test", sampling).takes_plain
    assert outs[0] == outs[1]


async def test_what_was_sent_once_is_not_dropped_at_the_second_attempt() -> None:
    """The peer falls silent, and what is sent again is the same trace with the same weight."""
    peer = Peer()
    answers = iter([Result(Verdict.LATER, unknown=True)])
    peer.answer = lambda _batch: next(answers, ACCEPTED)
    async with rig(peer, sampling=SAMPLED) as r:
        await r.host(request(span(LUCKY)))
        await r.pass_time(30)
        assert [said(found, "grafter.resend") for found, _ in peer.spans] == [None, True]
        assert [said(found, "SampleRate") for found, _ in peer.spans] == [100, 100]


async def test_a_decision_outlives_the_process(tmp_path: Path) -> None:
    """Another process over the same store drops the late parts of what the first one dropped."""
    peer = Peer()
    async with rig(peer, sampling=SAMPLED, directory=tmp_path) as r:
        await r.host(request(span(UNLUCKY)))
        await r.pass_time(15)
        now = r.now[0]
    async with rig(peer, sampling=SAMPLED, directory=tmp_path, now=(now,)) as r:
        await r.host(request(span(UNLUCKY, 2, 1)))
        await r.pass_time(15)
        assert r.store.stats().spans == 0
        assert peer.requests == []


async def test_redacted_values_stay_redacted() -> None:
    """Policies see what leaves, and writing the weight brings nothing back."""
    peer = Peer()
    policy = GraftPolicy(redact=Redact(frozenset({"phone"}), secret=b"s"))
    async with rig(peer, policy=policy, sampling=SamplingPolicy((Attribute("p", "phone"), Drop("drop")))) as r:
        await r.host(request(span(UNLUCKY, attributes=[attribute("phone", "+15550100")])))
        await r.pass_time(15)
        (found,) = [found for found, _ in peer.spans]
        assert said(found, "grafter.policy") == "p"
        assert b"+15550100" not in peer.requests[0]
