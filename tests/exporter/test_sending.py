"""The rules round an attempt: nothing lost, nothing sent twice unmarked, nobody overrun."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grafter.consumer import Signal, Verdict
from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.exporter.answer import Accepted, Attempt, ExportAnswer, Later, Refused
from grafter.exporter.cut import Limits
from grafter.exporter.gate import FAULT_SECONDS
from grafter.exporter.halving import MIN_CUT_BYTES
from grafter.exporter.sending import Sending
from grafter.otlp.build import request
from grafter.telemetry import Metrics
from tests.exporter.doubles import (
    ENVELOPE,
    Clock,
    Script,
    batch,
    count,
    large_envelope,
    last_error,
    middle,
    spans_in,
    trace,
    traces_in,
)

DOWN = Later("UNAVAILABLE: gone")


def sending(script: Attempt, clock: Clock | None = None, metrics: Metrics | None = None, **limits: int) -> Sending:
    """An exporter named ``out`` over a script, with a clock that stands still."""
    clock = clock or Clock()
    return Sending(
        "out",
        script,
        metrics=metrics or Metrics(),
        clock=clock,
        random=middle,
        sleep=clock.sleep,
        retry=RetryPolicy(),
        limits=Limits(**limits),
    )


async def test_an_accepted_batch_is_one_request_and_is_counted() -> None:
    """A batch that the peer takes goes out once, each trace is accepted, and its spans are counted as sent."""
    script, metrics = Script(lambda _: Accepted()), Metrics()
    results = await sending(script, metrics=metrics).export(batch(trace(1, 2), trace(2, 3, resend=True)))
    assert [r.verdict for r in results] == [Verdict.ACCEPTED] * 2
    assert len(script.bodies) == 1
    assert count(metrics, "exporter_sent_spans") == 5
    assert count(metrics, "resent_spans") == 3
    assert count(metrics, "exporter_failed_spans") == 0
    marked = {s.span_id[3] for s in spans_in(script.bodies[0]) if any(a.key == "grafter.resend" for a in s.attributes)}
    assert marked == {2}


async def test_an_empty_batch_sends_nothing() -> None:
    """No traces, no request: OTLP asks clients not to send empty envelopes."""
    script = Script(lambda _: Accepted())
    assert await sending(script).export(batch()) == []
    assert script.bodies == []


async def test_halving_finds_the_one_bad_trace_of_64() -> None:
    """A refused batch is halved until the bad trace, and each of its two spans, stands alone; all others are delivered
    exactly once."""
    taken: list[int] = []

    def answer(body: bytes) -> ExportAnswer:
        if 41 in traces_in(body):
            return Refused("INVALID_ARGUMENT: no")
        taken.extend(sorted(traces_in(body)))
        return Accepted()

    script, metrics = Script(answer), Metrics()
    results = await sending(script, metrics=metrics).export(batch(*(trace(n) for n in range(1, 65))))
    assert [n for n, r in enumerate(results, 1) if r.verdict is Verdict.REFUSED] == [41]
    assert results[40].reason == "INVALID_ARGUMENT: no"
    assert sorted(taken) == [n for n in range(1, 65) if n != 41]
    assert len(script.bodies) == 18
    assert count(metrics, "exporter_sent_spans") == 63 * 2


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=24),
    bad=st.sets(st.integers(1, 24)),
    dies_after=st.none() | st.integers(0, 12),
    unknown=st.booleans(),
)
def test_every_trace_has_the_result_that_is_true_for_it(
    sizes: list[int], bad: set[int], dies_after: int | None, unknown: bool
) -> None:
    """Accepted means taken exactly once, refused means bad, later and known means not taken, whatever the peer does."""
    taken: list[int] = []
    requests = 0

    def answer(body: bytes) -> ExportAnswer:
        nonlocal requests
        requests += 1
        if dies_after is not None and requests > dies_after:
            return Later("lost", unknown=unknown)
        if traces_in(body) & bad:
            return Refused("bad")
        taken.extend(int.from_bytes(s.trace_id, "big") for s in spans_in(body))
        return Accepted()

    traces = [trace(n, spans) for n, spans in enumerate(sizes, 1)]
    metrics = Metrics()
    results = asyncio.run(sending(Script(answer), metrics=metrics).export(batch(*traces)))
    for one, result in zip(traces, results, strict=True):
        number = int.from_bytes(one.key, "big")
        if result.verdict is Verdict.ACCEPTED:
            assert taken.count(number) == one.spans
        else:
            assert taken.count(number) == 0
        if result.verdict is Verdict.REFUSED:
            assert number in bad
    accepted = sum(t.spans for t, r in zip(traces, results, strict=True) if r.verdict is Verdict.ACCEPTED)
    assert count(metrics, "exporter_sent_spans") == accepted == len(taken)


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4),
    limit=st.integers(MIN_CUT_BYTES, 4 * MIN_CUT_BYTES),
)
def test_what_is_too_large_is_cut_until_it_fits(pieces: list[list[int]], limit: int) -> None:
    """A peer with any limit gets each span exactly once, in requests within its limit; no trace is refused."""
    arrived: list[bytes] = []

    def answer(body: bytes) -> ExportAnswer:
        if len(body) > limit:
            return Refused("RESOURCE_EXHAUSTED: message larger than max", too_large=True)
        arrived.extend(s.span_id for s in spans_in(body))
        return Accepted()

    traces = [trace(n, size=20_000, pieces=own) for n, own in enumerate(pieces, 1)]
    results = asyncio.run(sending(Script(answer)).export(batch(*traces)))
    assert {r.verdict for r in results} == {Verdict.ACCEPTED}
    assert len(arrived) == len(set(arrived)) == sum(t.spans for t in traces)


async def test_one_span_that_is_too_large_is_refused_and_its_sisters_arrive() -> None:
    """Cutting ends at single spans: the trace is refused, in part, and says so."""
    big = trace(1, 1, size=90_000)
    rest = trace(1, size=3_000, pieces=(6, 6))
    whole = batch(type(big)(big.key, (*rest.pieces, *big.pieces), big.spans + rest.spans))
    arrived: list[bytes] = []

    def answer(body: bytes) -> ExportAnswer:
        if len(body) > 80_000:
            return Refused("HTTP 413", too_large=True)
        arrived.extend(s.name.encode()[:1] for s in spans_in(body))
        return Accepted()

    metrics = Metrics()
    results = await sending(Script(answer), metrics=metrics).export(whole)
    assert results[0].verdict is Verdict.REFUSED
    assert results[0].reason == "in part: HTTP 413"
    assert len(arrived) == 12
    assert count(metrics, "exporter_sent_spans") == 12
    assert results[0].part is not None
    assert [len(s.name) for s in spans_in(request([results[0].part]))] == [90_000]


@settings(max_examples=40, deadline=None)
@given(spans=st.integers(2, 3000), bad=st.sets(st.integers(0, 2999), min_size=1, max_size=3))
def test_a_refused_trace_is_halved_down_to_the_span(spans: int, bad: set[int]) -> None:
    """Of a trace with a bad span all others arrive, once; what is refused for good is that span alone."""
    wrong = {n % spans for n in bad}
    arrived: list[int] = []

    def answer(body: bytes) -> ExportAnswer:
        numbers = [int.from_bytes(s.span_id[4:], "big") for s in spans_in(body)]
        if wrong.intersection(numbers):
            return Refused("INVALID_ARGUMENT")
        arrived.extend(numbers)
        return Accepted()

    one = trace(1, spans)
    first = int.from_bytes(spans_in(request([one]))[0].span_id[4:], "big")
    wrong = {first + n for n in wrong}
    metrics = Metrics()
    script = Script(answer)
    result = asyncio.run(sending(script, metrics=metrics).export(batch(one, letters=True)))[0]
    assert result.verdict is Verdict.REFUSED
    refused = one if result.part is None else result.part
    assert {int.from_bytes(s.span_id[4:], "big") for s in spans_in(request([refused]))} == wrong
    assert len(arrived) == len(set(arrived)) == spans - len(wrong)
    assert count(metrics, "exporter_sent_spans") == len(arrived)
    assert len(script.bodies) <= 90


async def test_dead_letters_that_are_refused_again_are_not_asked_for_each_span() -> None:
    """What nothing is taken of costs a bounded number of requests, however many spans there are."""
    script = Script(lambda _: Refused("HTTP 400"))
    results = await sending(script).export(batch(*(trace(n, 50) for n in range(1, 101)), letters=True))
    assert {(r.verdict, r.part) for r in results} == {(Verdict.REFUSED, None)}
    assert len(script.bodies) <= 2 * 100 + 2 * 256


async def test_a_resource_that_is_too_large_is_not_sent_for_each_trace_under_it() -> None:
    """A thousand traces of a few spans: the lightest, sent alone, decides about all; others arrive, each once."""
    large = large_envelope(128 << 10)
    under = [trace(n, 1 + n % 3, envelope=large) for n in range(1, 200)]
    others = [trace(n) for n in range(200, 230)]
    taken: list[int] = []

    def answer(body: bytes) -> ExportAnswer:
        if len(body) > 100 << 10:
            return Refused("413", too_large=True)
        taken.extend(traces_in(body))
        return Accepted()

    script, clock = Script(answer), Clock()
    out = sending(script, clock)
    left = [*others, *under]
    verdicts = []
    for number in range(300, 306):
        # That a refusal is about its trace shows by another one that is taken.
        left.append(trace(number))
        results = await out.export(batch(*left))
        verdicts += [one.verdict for one in results if one.verdict is not Verdict.LATER]
        left = [one for one, result in zip(left, results, strict=True) if result.verdict is Verdict.LATER]
        clock.now += 1000
    assert left == []
    assert verdicts.count(Verdict.REFUSED) == len(under)
    assert sorted(taken) == [*range(200, 230), *range(300, 306)]
    assert sum(map(len, script.bodies)) < 60 * (128 << 10), "each of them alone, and on the way there, would be 400"


async def test_what_fits_with_a_large_resource_arrives() -> None:
    """Of traces under it the light ones are taken, and only the heavy one is refused."""
    large = large_envelope(128 << 10)
    traces = [trace(n, 1, envelope=large, size=90_000 if n == 7 else 10) for n in range(1, 40)]

    def answer(body: bytes) -> ExportAnswer:
        return Refused("413", too_large=True) if len(body) > 200 << 10 else Accepted()

    results = await sending(Script(answer)).export(batch(*traces))
    assert [n for n, r in enumerate(results, 1) if r.verdict is not Verdict.ACCEPTED] == [7]


async def test_a_small_request_that_is_too_large_is_not_about_size() -> None:
    """A used-up quota has the same code as a large message: a small trace is not cut into its spans for it."""
    script = Script(lambda _: Refused("RESOURCE_EXHAUSTED: quota", too_large=True))
    results = await sending(script).export(batch(trace(1, 50), letters=True))
    assert [r.verdict for r in results] == [Verdict.REFUSED]
    assert len(script.bodies) == 1


@pytest.mark.parametrize(
    "refusal",
    [Refused("INTERNAL"), Refused("HTTP 400: unknown dataset"), Refused("RESOURCE_EXHAUSTED", too_large=True)],
    ids=lambda refusal: refusal.reason,
)
@pytest.mark.parametrize("lately", [True, False])
async def test_a_peer_that_refuses_everything_is_out(
    refusal: Refused, lately: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs four requests, then one backoff like every outage; nothing is refused for good, and it is said once."""
    caplog.set_level(logging.INFO, "grafter.exporter")
    broken, clock, metrics = False, Clock(), Metrics()
    script = Script(lambda _: refusal if broken else Accepted())
    exporter = sending(script, clock, metrics)
    if lately:
        await exporter.export(batch(trace(1000)))
    broken = True
    script.bodies.clear()
    whole = batch(*(trace(n) for n in range(1, 65)))
    waits = []
    for _ in range(5):
        results = await exporter.export(whole)
        assert {r.verdict for r in results} == {Verdict.LATER}
        assert all(refusal.reason in r.reason for r in results)
        waits.append(exporter.retry_in())
        clock.now += waits[-1]
    assert len(script.bodies) <= 5 * 4
    assert waits == pytest.approx([5, 7.5, 11.25, 16.875, 25.3125])
    assert refusal.reason in last_error(exporter)
    assert count(metrics, "exporter_failed_spans") > 0

    broken = False
    results = await exporter.export(whole)
    assert {r.verdict for r in results} == {Verdict.ACCEPTED}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert exporter.outages() == {}


async def test_a_lone_trace_that_is_refused_is_named() -> None:
    """Nothing else is sent that would show whose fault it is, so it may stay for long: whoever looks is told which."""
    exporter = sending(Script(lambda _: Refused("INVALID_ARGUMENT: no")))
    lone = trace(77)
    (result,) = await exporter.export(batch(lone))
    assert result.verdict is Verdict.LATER
    for said in (result.reason, last_error(exporter)):
        assert lone.key.hex() in said
        assert "INVALID_ARGUMENT" in said


async def test_three_refused_traces_are_an_outage_also_where_there_are_no_more() -> None:
    """Though something was taken a moment ago."""
    clock, broken = Clock(), False
    script = Script(lambda _: Refused("INTERNAL") if broken else Accepted())
    exporter = sending(script, clock)
    await exporter.export(batch(trace(9)))
    broken = True
    results = await exporter.export(batch(trace(1), trace(2), trace(3)))
    assert {r.verdict for r in results} == {Verdict.LATER}
    assert len(script.bodies) == 1 + 4
    assert exporter.retry_in() == 5.0


async def test_a_peer_that_breaks_amid_a_batch_keeps_nothing_against_its_traces() -> None:
    """A bad trace is being looked for when the peer breaks: what it refuses then is held, and arrives later."""
    taken: list[int] = []
    clock = Clock()

    def answer(body: bytes) -> ExportAnswer:
        if 7 in traces_in(body) or 3 <= len(script.bodies) < 100:
            return Refused("INTERNAL")
        taken.extend(sorted(traces_in(body)))
        return Accepted()

    script = Script(answer)
    exporter = sending(script, clock)
    traces = {n: trace(n) for n in range(1, 65)}
    results = await exporter.export(batch(*traces.values()))
    assert {r.verdict for r in results} == {Verdict.ACCEPTED, Verdict.LATER}
    assert len(script.bodies) < 40
    while len(script.bodies) < 100:
        clock.now += exporter.retry_in()
        await exporter.export(batch(trace(99)))
    for _ in range(3):
        left = [one for n, one in traces.items() if n not in taken]
        clock.now += exporter.retry_in()
        results = await exporter.export(batch(*left, trace(99)))
    assert sorted(n for n in taken if n != 99) == [n for n in range(1, 65) if n != 7]
    assert results[0].verdict is Verdict.REFUSED


async def test_a_lone_bad_trace_holds_up_nobody_and_is_found_in_the_end() -> None:
    """Alone it is only suspected, while others pass; once another one was taken, its next refusal is believed."""
    clock = Clock()
    script = Script(lambda body: Refused("HTTP 400") if 1 in traces_in(body) else Accepted())
    exporter = sending(script, clock)
    await exporter.export(batch(trace(9)))
    clock.now += 5
    assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.LATER
    assert exporter.retry_in() == 0
    assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.LATER
    assert (await exporter.export(batch(trace(2))))[0].verdict is Verdict.ACCEPTED
    assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.REFUSED
    assert exporter.retry_in() == 0


async def test_a_first_trace_that_is_bad_waits_for_the_second() -> None:
    """Nothing was ever taken: the peer counts as out until the probe has another trace with it."""
    clock = Clock()
    script = Script(lambda body: Refused("HTTP 400") if 1 in traces_in(body) else Accepted())
    exporter = sending(script, clock)
    for _ in range(3):
        assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.LATER
        assert exporter.retry_in() > 0
        clock.now += exporter.retry_in()
    results = await exporter.export(batch(trace(1), trace(2)))
    assert [r.verdict for r in results] == [Verdict.REFUSED, Verdict.ACCEPTED]
    assert exporter.outages() == {}


@settings(max_examples=60, deadline=None)
@given(bad=st.sets(st.integers(1, 64), max_size=64), size=st.integers(1, 64))
def test_a_peer_that_refuses_one_kind_gets_all_others(bad: set[int], size: int) -> None:
    """Whatever share of the traces is bad: in the end the others are taken, once each, and those are refused."""
    taken: list[int] = []

    def answer(body: bytes) -> ExportAnswer:
        if traces_in(body) & bad:
            return Refused("HTTP 400")
        taken.extend(sorted(traces_in(body)))
        return Accepted()

    async def run() -> set[int]:
        clock = Clock()
        exporter = sending(Script(answer), clock)
        held = {n: trace(n, 1) for n in range(65)}
        due = dict.fromkeys(held, 0.0)
        refused: set[int] = set()
        for _ in range(1000):
            clock.now = max(clock.now + exporter.retry_in(), min(due.values(), default=0.0))
            some = [n for n in sorted(due, key=due.__getitem__) if due[n] <= clock.now][:size]
            # Others come all the while, so a probe has one of them with it.
            others = [trace(1000)] if exporter.outages() else []
            results = await exporter.export(batch(*(held[n] for n in some), *others))
            for n, result in zip(some, results[: len(some)], strict=True):
                if result.verdict is Verdict.LATER:
                    due[n] = clock.now + result.retry_after
                    continue
                del due[n]
                if result.verdict is Verdict.REFUSED:
                    refused.add(n)
            if not exporter.retry_in():
                await exporter.export(batch(trace(1000)))
            if not due:
                break
        return refused

    assert asyncio.run(run()) == bad
    assert sorted(n for n in taken if n != 1000) == sorted({*range(65)} - bad)


async def test_a_trace_that_was_taken_in_part_comes_back_as_a_resend() -> None:
    """When the peer dies between the parts of a cut trace, some of it has arrived, so its outcome is unknown."""
    small: list[bytes] = []

    def answer(body: bytes) -> ExportAnswer:
        if len(body) > 70_000:
            return Refused("HTTP 413", too_large=True)
        small.append(body)
        return Accepted() if len(small) == 1 else DOWN

    results = await sending(Script(answer)).export(batch(trace(1, 6, size=20_000), trace(2)))
    assert [(r.verdict, r.unknown) for r in results] == [(Verdict.LATER, True), (Verdict.LATER, False)]


async def test_limits_pack_a_batch_into_several_requests() -> None:
    """Past the limits of spans and bytes a batch goes in several requests; a trace beyond them goes alone."""
    script = Script(lambda _: Accepted())
    traces = [trace(1, 3), trace(2, 3), trace(3, 9), trace(4, 1), trace(5, 4)]
    results = await sending(script, batch_spans=6).export(batch(*traces))
    assert {r.verdict for r in results} == {Verdict.ACCEPTED}
    assert [sorted(traces_in(b)) for b in script.bodies] == [[1, 2], [3], [4, 5]]
    script.bodies.clear()
    await sending(script, batch_bytes=2_000).export(batch(*(trace(n, 1, size=900) for n in range(5))))
    assert [sorted(traces_in(b)) for b in script.bodies] == [[0, 1], [2, 3], [4]]


async def test_a_trace_past_the_request_limit_is_cut_before_it_is_sent() -> None:
    """A peer with a known limit (Honeycomb) never sees a request beyond it."""
    script = Script(lambda _: Accepted())
    results = await sending(script, request_bytes=100_000).export(batch(trace(1, 40, size=10_000)))
    assert [r.verdict for r in results] == [Verdict.ACCEPTED]
    assert max(map(len, script.bodies)) <= 100_000
    assert sorted(s.span_id for b in script.bodies for s in spans_in(b)) == sorted(
        s.span_id for s in spans_in(request([trace(1, 40)]))
    )


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=24),
    bad=st.sets(st.integers(1, 24)),
    dies_after=st.none() | st.integers(0, 12),
    unknown=st.booleans(),
    request_bytes=st.sampled_from([1 << 20, 700]),
)
def test_a_batch_goes_the_same_way_with_its_payloads_in_runs(
    sizes: list[int], bad: set[int], dies_after: int | None, unknown: bool, request_bytes: int
) -> None:
    """Whether the payloads come by envelope or by trace: the same requests, results and counts."""
    seen = []
    for in_runs in (False, True):
        script, metrics = Script(lambda _: Accepted()), Metrics()

        def answer(body: bytes, script: Script = script) -> ExportAnswer:
            if dies_after is not None and len(script.bodies) > dies_after:
                return Later("lost", unknown=unknown)
            return Refused("bad") if traces_in(body) & bad else Accepted()

        script.answer = answer
        whole = batch(*[trace(n, spans) for n, spans in enumerate(sizes, 1)])
        if in_runs:
            whole.runs = [(ENVELOPE, [piece.payload for one in whole.traces for piece in one.pieces])]
        results = asyncio.run(sending(script, metrics=metrics, request_bytes=request_bytes).export(whole))
        counts = [count(metrics, f"exporter_{what}_spans") for what in ("sent", "failed")]
        seen.append((results, script.bodies, counts))
    assert seen[0] == seen[1]


async def test_a_blip_is_tried_again_at_once() -> None:
    """One refused connection costs a tenth of a second and nobody hears of it."""
    answers: Iterator[ExportAnswer] = iter((DOWN, Accepted()))
    clock, metrics = Clock(), Metrics()
    script = Script(lambda _: next(answers))
    exporter = sending(script, clock, metrics)
    results = await exporter.export(batch(trace(1)))
    assert [r.verdict for r in results] == [Verdict.ACCEPTED]
    assert clock.slept == [0.1]
    assert exporter.outages() == {}
    assert count(metrics, "exporter_failed_spans") == 2


async def test_a_blip_that_lasts_is_given_back() -> None:
    """After half a second of tries the traces go back to the store, with the moment of the next try."""
    clock = Clock()
    script = Script(lambda _: DOWN)
    exporter = sending(script, clock)
    results = await exporter.export(batch(trace(1), trace(2)))
    assert [(r.verdict, r.unknown, r.retry_after) for r in results] == [(Verdict.LATER, False, 5.0)] * 2
    assert len(script.bodies) == 3
    assert clock.now == 1000.5
    assert exporter.retry_in() == 5.0
    assert last_error(exporter) == "UNAVAILABLE: gone"


async def test_a_failure_that_took_its_time_is_no_blip() -> None:
    """A connection that took seconds to fail is not tried again at once: the slot and the lease are needed."""
    clock = Clock()

    def answer(body: bytes) -> ExportAnswer:
        clock.now += 2
        return DOWN

    script = Script(answer)
    assert (await sending(script, clock).export(batch(trace(1))))[0].verdict is Verdict.LATER
    assert len(script.bodies) == 1


async def test_an_unknown_outcome_is_never_tried_again_here() -> None:
    """Only the store can mark a repeat, so a timeout goes back to it after one attempt, and later than the others."""
    script = Script(lambda _: Later("no answer in time", unknown=True))
    exporter = sending(script)
    results = await exporter.export(batch(trace(1)))
    assert len(script.bodies) == 1
    assert (results[0].verdict, results[0].unknown) == (Verdict.LATER, True)
    assert results[0].retry_after > exporter.retry_in() == 5.0


async def test_a_peer_that_is_down_is_probed_by_one_batch_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    """While the backoff runs batches go back unsent; then one goes alone; its success opens for all. Two log lines."""
    caplog.set_level(logging.INFO, "grafter.exporter")
    alive = False
    clock = Clock()
    script = Script(lambda _: Accepted() if alive else DOWN)
    exporter = sending(script, clock)
    await exporter.export(batch(trace(1)))
    script.bodies.clear()

    clock.now += 4.9
    results = await exporter.export(batch(trace(1)))
    assert results[0].verdict is Verdict.LATER
    assert results[0].retry_after == pytest.approx(0.1)
    assert script.bodies == []

    clock.now += 0.1
    together = await asyncio.gather(*(exporter.export(batch(trace(n))) for n in range(8)))
    assert {r.verdict for results in together for r in results} == {Verdict.LATER}
    assert len(script.bodies) == 1
    assert exporter.retry_in() == 7.5

    alive = True
    clock.now += 7.5
    together = await asyncio.gather(*(exporter.export(batch(trace(n))) for n in range(8)))
    assert [results[0].verdict for results in together].count(Verdict.ACCEPTED) == 1
    together = await asyncio.gather(*(exporter.export(batch(trace(n))) for n in range(8)))
    assert {results[0].verdict for results in together} == {Verdict.ACCEPTED}
    assert exporter.outages() == {}
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


async def test_the_backoff_grows_to_its_limit_and_starts_anew_after_success() -> None:
    """5 s, then one and a half times as long each time, 30 s at most; after an answer 5 s again."""
    alive = False
    clock = Clock()
    exporter = sending(Script(lambda _: Accepted() if alive else DOWN), clock)
    waits = []
    for _ in range(7):
        await exporter.export(batch(trace(1)))
        waits.append(exporter.retry_in())
        clock.now += waits[-1]
    assert waits == pytest.approx([5, 7.5, 11.25, 16.875, 25.3125, 30, 30])
    alive = True
    await exporter.export(batch(trace(1)))
    alive = False
    await exporter.export(batch(trace(1)))
    assert exporter.retry_in() == 5.0


@pytest.mark.parametrize(("hint", "wait"), [(2.0, 5.0), (42.0, 42.0), (1e9, 3600.0)])
async def test_the_peers_hint_wins_when_it_is_longer(hint: float, wait: float) -> None:
    """RetryInfo or Retry-After makes a wait longer, never shorter, and never a day."""
    script = Script(lambda _: Later("HTTP 429", hint))
    results = await sending(script).export(batch(trace(1)))
    assert results[0].retry_after == wait
    assert len(script.bodies) == 1


@settings(max_examples=30, deadline=None)
@given(chance=st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_its_share(chance: float) -> None:
    """A wait is at most half longer or shorter than its interval."""
    clock = Clock()
    exporter = Sending(
        "out",
        Script(lambda _: Later("gone", unknown=True)),
        metrics=Metrics(),
        clock=clock,
        random=lambda: chance,
        sleep=clock.sleep,
        retry=RetryPolicy(),
        limits=Limits(),
    )
    asyncio.run(exporter.export(batch(trace(1))))
    assert 2.5 <= exporter.retry_in() <= 7.5


async def test_a_wrong_key_buries_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of the set-up holds the traces for a long backoff and is said once, as an error."""
    clock = Clock()
    script = Script(lambda _: Later("UNAUTHENTICATED: unknown key", fault=True))
    exporter = sending(script, clock)
    for _ in range(3):
        results = await exporter.export(batch(trace(1), trace(2)))
        assert {(r.verdict, r.retry_after) for r in results} == {(Verdict.LATER, FAULT_SECONDS)}
        clock.now += FAULT_SECONDS
    assert len(script.bodies) == 3
    assert [r.levelname for r in caplog.records] == ["ERROR"]


async def test_what_was_on_its_way_when_the_peer_went_down_does_not_open_the_gate() -> None:
    """A late yes to an old request is no sign of life: only a probe's is, so a flapping peer is not hammered."""
    gate = asyncio.Event()

    class Slow(Script):
        async def send(self, kind: object, body: bytes) -> ExportAnswer:
            if 1 in traces_in(body):
                await gate.wait()
                return Accepted()
            return Later("gone", unknown=True)

    exporter = sending(Slow(lambda _: DOWN))
    slow = asyncio.ensure_future(exporter.export(batch(trace(1))))
    await asyncio.sleep(0)
    await exporter.export(batch(trace(2)))
    gate.set()
    assert (await slow)[0].verdict is Verdict.ACCEPTED
    assert exporter.retry_in() == 5.0


async def test_attempts_are_bounded_and_a_line_empties_when_the_peer_goes() -> None:
    """No more than num_consumers requests are on their way; those in line get LATER without one when the peer goes."""
    now = most = 0
    go = asyncio.Event()

    class Slow(Script):
        async def send(self, kind: object, body: bytes) -> ExportAnswer:
            nonlocal now, most
            now += 1
            most = max(most, now)
            self.bodies.append(body)
            await go.wait()
            now -= 1
            return Later("no answer in time", unknown=True)

    script = Slow(lambda _: DOWN)
    exporter = sending(script, num_consumers=3)
    waiting = [asyncio.ensure_future(exporter.export(batch(trace(n)))) for n in range(20)]
    await asyncio.sleep(0)
    go.set()
    results = [(await one)[0] for one in waiting]
    assert most == 3
    assert len(script.bodies) == 3
    assert [r.unknown for r in results].count(True) == 3
    assert {r.verdict for r in results} == {Verdict.LATER}


async def test_a_cancelled_probe_leaves_its_place() -> None:
    """A probe that is cancelled does not keep the gate shut for ever."""
    clock = Clock()
    exporter = sending(Script(lambda _: DOWN), clock)
    await exporter.export(batch(trace(1)))
    clock.now += 5
    probe = asyncio.ensure_future(exporter.export(batch(trace(1))))
    await asyncio.sleep(0)
    assert exporter.retry_in() > 0
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert exporter.retry_in() == 0


async def test_partial_success_is_counted_and_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """Rejected spans are counted each time and logged with the peer's message once a minute; the traces are done."""
    clock, metrics = Clock(), Metrics()
    exporter = sending(Script(lambda _: Accepted(2, "name too long")), clock, metrics)
    for _ in range(50):
        assert (await exporter.export(batch(trace(1, 5))))[0].verdict is Verdict.ACCEPTED
    assert count(metrics, "exporter_rejected_spans") == 100
    assert len(caplog.records) == 1
    assert "name too long" in caplog.text
    clock.now += 60
    await exporter.export(batch(trace(1, 5)))
    assert "such answers since the last line: 50" in caplog.text
    assert count(metrics, "exporter_sent_spans") == 51 * 5


async def test_forward_says_what_became_of_a_request() -> None:
    """Metrics and logs have no store: taken, refused, too large or not now reaches the sender as such."""
    answers: list[ExportAnswer] = [Accepted(), Refused("INVALID_ARGUMENT"), Refused("HTTP 413", too_large=True)]
    script = Script(lambda _: answers.pop(0))
    exporter = sending(script)
    await exporter.forward(Signal.METRICS, b"m")
    with pytest.raises(RejectedError, match="INVALID_ARGUMENT"):
        await exporter.forward(Signal.LOGS, b"l")
    with pytest.raises(TooLargeError):
        await exporter.forward(Signal.LOGS, b"l")
    assert script.bodies == [b"m", b"l", b"l"]


async def test_a_peer_without_metrics_still_gets_traces() -> None:
    """Trouble with one signal shuts the gate for that signal alone."""
    script = Script(lambda body: Later("UNIMPLEMENTED", fault=True) if body == b"m" else Accepted())
    exporter = sending(script)
    for _ in range(3):
        with pytest.raises(UnavailableError) as raised:
            await exporter.forward(Signal.METRICS, b"m")
        assert raised.value.retry_after == FAULT_SECONDS
    assert script.bodies == [b"m"]
    assert exporter.retry_in() == 0
    assert (await exporter.export(batch(trace(1))))[0].verdict is Verdict.ACCEPTED
