"""A guest's spans on its host's clock: what counts as evidence, what never does, and what is changed by it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from math import inf
from random import Random

import pytest

from grafter.core.anchor import AnchorIndex
from grafter.core.causality import on_host_clock
from grafter.core.clock import ClockRecord, Finding
from grafter.core.explain import GuestRecord, advice, sentences
from grafter.core.join import Grafted, graft
from grafter.core.line_up import line_up
from grafter.core.memory import GuestMemory
from grafter.core.memory_blobs import decode_guest, encode_guest
from grafter.core.model import (
    AttributeValue,
    Envelope,
    Guest,
    GuestSpan,
    HostSpan,
    Link,
    Source,
    SpanEvent,
    SpanId,
    ToolCall,
    TraceId,
    UnixNano,
    guest_span_id,
)
from grafter.core.policy import GraftPolicy
from grafter.core.steps import host_steps

HOST = TraceId(b"h" * 16)
POLICY = GraftPolicy()
APP, ELSEWHERE = Envelope(b"app", b"scope"), Envelope(b"calendar", b"scope")
MS = 1_000_000
SECOND = 1_000 * MS
START = 1_800_000_000 * SECOND
INTERNAL, CLIENT = 1, 3
TOOL: dict[str, AttributeValue] = {"gen_ai.operation.name": "execute_tool"}
CHAT: dict[str, AttributeValue] = {"gen_ai.operation.name": "chat"}


def own(name: str) -> SpanId:
    return SpanId(name.encode().rjust(8, b"."))


def at(milliseconds: float) -> UnixNano:
    # No whole millisecond, as clocks have it: whole ones are taken for rounded ones.
    return UnixNano(START + int(milliseconds * MS) + 1)


def host_span(
    name: str,
    start: float,
    end: float,
    parent: str = "call",
    envelope: Envelope = APP,
    kind: int = INTERNAL,
    **more: str,
) -> HostSpan:
    """``call``: the id of a tool call, ``response`` of a response, ``what`` the operation."""
    words = {"call": "gen_ai.tool.call.id", "response": "gen_ai.response.id", "what": "gen_ai.operation.name"}
    attributes = {words[key]: value for key, value in more.items()}
    above = own(parent) if parent else b""
    return HostSpan(own(name), above, name, at(start), at(end), 1, "", envelope, attributes, kind)


def tool_span(name: str, start: float, end: float, call: str, envelope: Envelope = APP) -> HostSpan:
    return host_span(name, start, end, envelope=envelope, call=call, what="execute_tool")


def guest_span(
    name: str, start: float, end: float, parent: str | None = None, attributes: dict[str, AttributeValue] | None = None
) -> GuestSpan:
    return GuestSpan(
        span_id=guest_span_id("g", name),
        parent=None if parent is None else guest_span_id("g", parent),
        parent_name=parent or "",
        name=name,
        kind=INTERNAL,
        start=at(start),
        end=at(end),
        attributes=tuple((attributes or {}).items()),
        events=(SpanEvent(at(start), "began"),),
    )


def turn(name: str, start: float, end: float, parent: str | None = None, *calls: str, response: str = "") -> GuestSpan:
    attributes = CHAT | ({"gen_ai.response.id": response} if response else {})
    asked = tuple(ToolCall(call, "look", None) for call in calls)
    return replace(guest_span(name, start, end, parent, attributes), tool_calls=asked)


def call(name: str, start: float, end: float, parent: str | None, call_id: str) -> GuestSpan:
    attributes: dict[str, AttributeValue] = {"gen_ai.tool.call.id": call_id, "gen_ai.tool.name": "look"}
    return guest_span(name, start, end, parent, TOOL | attributes)


ROOT = host_span("call", 0, 60_000, parent="")


def joined(
    host: Sequence[HostSpan],
    guest: Sequence[GuestSpan],
    source: Source = Source.SESSIONS,
    named: str = "",
    earlier: GuestMemory | None = None,
) -> Grafted:
    """The guest as it leaves beside the host; ``named``: the host span that its metadata names."""
    link = Link(HOST, own(named) if named else None)
    index = AnchorIndex.of(host, POLICY)
    measured_here = source is Source.SDK
    hung = graft(
        Guest("g", source, tuple(guest), link, measured_in_app=measured_here), index, HOST, POLICY, earlier, {}
    )
    lined = line_up(host, host_steps(host, lambda text: text), [hung], POLICY, None)
    (dated,) = on_host_clock(host, lined, [earlier is None])
    return dated


def clock(guest: Grafted) -> ClockRecord:
    found = guest.record.clock
    assert found is not None
    return found


def ahead(milliseconds: float, *spans: GuestSpan) -> list[GuestSpan]:
    """Spans that a clock wrote which is ahead by that much."""
    by = int(milliseconds * MS)
    return [
        replace(
            span,
            start=UnixNano(span.start + by),
            end=UnixNano(span.end + by),
            events=tuple(replace(event, time=UnixNano(event.time + by)) for event in span.events),
        )
        for span in spans
    ]


def times(guest: Grafted) -> dict[str, tuple[int, int]]:
    return {each.span.name: (each.span.start, each.span.end) for each in guest.spans}


# A turn asks for a tool, the app runs it, and the next turn goes on with its output.
TURNS = (turn("ask", 1000, 1500, None, "c1"), call("look", 1500, 2000, "ask", "c1"), turn("answer", 2000, 2400))
CALENDAR = tool_span("calendar", 1550, 1950, "c1")


@pytest.mark.parametrize("wrong", [-5000, -900, 900, 5000])
def test_a_clock_that_is_wrong_is_drawn_right(wrong: float) -> None:
    """The tool ran within 50 ms on either side of what OpenAI saw of it, so the middle is the truth."""
    guest = joined((ROOT, CALENDAR), ahead(wrong, *TURNS))
    found = clock(guest)
    assert found.finding is Finding.SHIFTED
    assert found.offset == wrong * MS
    assert found.bounds.low < wrong * MS < found.bounds.high
    assert times(guest) == {span.name: (span.start, span.end) for span in TURNS}
    assert [each.span.events for each in guest.spans] == [span.events for span in TURNS]


def test_what_was_done_stands_on_every_span_that_was_moved() -> None:
    """The bounds of the tool's id: 450 ms of its own, 50 ms on either side of it, and a millisecond for rounding."""
    guest = joined((ROOT, CALENDAR), ahead(5000, *TURNS))
    told = [{key: value for key, value in each.attributes if key.startswith("grafter.clock.")} for each in guest.spans]
    assert (
        told
        == [
            {
                "grafter.clock.offset_ms": 5000.0,
                "grafter.clock.offset_min_ms": 4549.0,
                "grafter.clock.offset_max_ms": 5451.0,
                "grafter.clock.pairs": 1,
                "grafter.clock.method": "two_sided",
            }
        ]
        * 3
    )
    assert "its clock is 5.000 s ahead of your app's" in sentences(guest.record)[-1]


def test_a_clock_that_may_be_right_is_left_alone() -> None:
    """Not a nanosecond, not an attribute; that was looked at stands on record."""
    guest = joined((ROOT, CALENDAR), ahead(400, *TURNS))
    assert clock(guest).finding is Finding.AGREES
    assert times(guest) == {span.name: (span.start, span.end) for span in ahead(400, *TURNS)}
    assert not any(key.startswith("grafter.clock.") for each in guest.spans for key, _ in each.attributes)
    assert "its clock may well be your app's" in sentences(guest.record)[-1]


def test_without_a_span_of_the_tool_its_turns_bound_it() -> None:
    """Asked for in one turn, known in the next one beside it."""
    spans = [span for span in TURNS if span.name != "look"]
    guest = joined((ROOT, CALENDAR), ahead(5000, *spans))
    assert clock(guest).finding is Finding.SHIFTED
    assert clock(guest).bounds.low <= 5000 * MS <= clock(guest).bounds.high
    both = (turn("ask", 1000, 1500, None, "c1", "c2"), spans[1])
    parallel = joined((ROOT, CALENDAR, tool_span("diary", 1560, 1960, "c2")), ahead(-5000, *both))
    assert clock(parallel).finding is Finding.SHIFTED
    # The later of the two is bounded by the next turn as the first is.
    assert clock(parallel).left_out == 0
    assert abs(clock(parallel).offset + 5000 * MS) < 500 * MS
    last = joined((ROOT, CALENDAR), ahead(5000, *spans[:1]))
    assert clock(last).method == "one_sided"


@dataclass
class Evidence:
    """A host and a guest whose clock is ahead, and what must not be concluded from them."""

    host: Sequence[HostSpan]
    guest: Sequence[GuestSpan] = TURNS
    source: Source = Source.SESSIONS
    named: str = ""
    wrong: float = 5000
    finding: Finding | None = None
    dates: dict[str, str] = field(default_factory=dict)


TALK = host_span("talk", 900, 2600)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Evidence((ROOT,)), id="nothing that both sides dated"),
        pytest.param(Evidence((ROOT, replace(CALENDAR, envelope=ELSEWHERE))), id="a tool on another clock"),
        pytest.param(
            Evidence((ROOT, replace(CALENDAR, attributes=TOOL | {"gen_ai.tool.name": "look"}))), id="a tool by its name"
        ),
        pytest.param(Evidence((ROOT, TALK)), id="a root is a link, and contains nothing"),
        pytest.param(
            Evidence((ROOT, TALK), source=Source.WEBHOOK, named="talk", finding=Finding.AGREES),
            id="a span that need not wait",
        ),
        pytest.param(
            Evidence(
                (ROOT, replace(TALK, kind=CLIENT, end=at(1100))),
                source=Source.WEBHOOK,
                named="talk",
                finding=Finding.AGREES,
            ),
            id="a call that was shorter than the guest",
        ),
        pytest.param(
            Evidence(
                (ROOT, replace(TALK, kind=CLIENT)),
                source=Source.WEBHOOK,
                named="talk",
                wrong=90_000,
                finding=Finding.AGREES,
            ),
            id="a later turn of a session",
        ),
        pytest.param(
            Evidence((ROOT, host_span("log", 30_000, 30_001, call="c1")), wrong=0, finding=Finding.AGREES),
            id="a log line that names the call",
        ),
        pytest.param(
            Evidence(
                (ROOT, host_span("poll", 30_000, 30_100, response="r1")),
                (turn("ask", 1000, 1500, response="r1"),),
                wrong=0,
                finding=Finding.AGREES,
            ),
            id="a later question for the response",
        ),
        pytest.param(
            Evidence(
                (ROOT, host_span("poll", 30_000, 30_100, response="r1", what="chat")),
                (turn("ask", 1000, 1500, response="r1"),),
                wrong=0,
                finding=Finding.AGREES,
            ),
            id="a later question for the response that is called a model call",
        ),
        pytest.param(
            Evidence(
                (ROOT, host_span("post", 900, 3000, kind=CLIENT)),
                (turn("ask", 2800, 3400), turn("answer", 3500, 4200)),
                Source.WEBHOOK,
                named="post",
                wrong=0,
                finding=Finding.AGREES,
            ),
            id="a slow call that begins the guest, and does not wait for it",
        ),
        pytest.param(
            Evidence(
                (ROOT, replace(CALENDAR, envelope=ELSEWHERE), tool_span("again", 30_000, 30_100, "c1")),
                wrong=0,
                finding=Finding.AGREES,
            ),
            id="another attempt, of which the first ran in another service",
        ),
        pytest.param(
            Evidence(
                (ROOT, tool_span("calendar", 1350, 1950, "c1")),
                (call("look", 1500, 2000, None, "c1"),),
                wrong=0,
                finding=Finding.AGREES,
            ),
            id="a tool that begins while its arguments come, of a turn that is not known",
        ),
        pytest.param(
            Evidence((ROOT, host_span("later", 30_000, 33_000)), named="later", wrong=0),
            id="a session whose metadata was replaced in a later turn",
        ),
        pytest.param(
            Evidence((ROOT, CALENDAR, tool_span("again", 30_000, 30_100, "c1")), wrong=0, finding=Finding.AGREES),
            id="another attempt, after the output",
        ),
        pytest.param(
            Evidence((ROOT, replace(CALENDAR, end=at(9000))), wrong=0, finding=Finding.AGREES),
            id="a tool that goes on after its output",
        ),
        pytest.param(
            Evidence(
                (ROOT, tool_span("calendar", 1499, 2001, "c1")), source=Source.SDK, wrong=0, finding=Finding.AGREES
            ),
            id="the app's own span stands round the SDK's",
        ),
        pytest.param(
            Evidence((ROOT, CALENDAR), source=Source.REALTIME, finding=Finding.AGREES),
            id="a recorder hears later than the app, never earlier",
        ),
        pytest.param(
            Evidence(
                (ROOT, tool_span("calendar", 2500, 3500, "c1")), source=Source.REALTIME, wrong=0, finding=Finding.AGREES
            ),
            id="an output that says one moment, and then the tool",
        ),
        pytest.param(
            Evidence(
                (ROOT, host_span("mine", 1600, 1650, response="r1", what="chat")),
                (turn("ask", 1000, 1500, response="r1"),),
                Source.WEBHOOK,
                wrong=0,
                finding=Finding.AGREES,
            ),
            id="a span of a response that begins when that has ended",
        ),
        pytest.param(
            Evidence((ROOT, replace(CALENDAR, start=at(2000), end=at(1000)))), id="a span that ends before it starts"
        ),
        pytest.param(
            Evidence(
                (ROOT, replace(TALK, start=at(1200)), host_span("inside", 950, 1000, parent="talk")),
                source=Source.WEBHOOK,
                named="talk",
                wrong=0,
                finding=Finding.AGREES,
            ),
            id="an anchor that begins after what hangs below it",
        ),
    ],
)
def test_what_proves_nothing_moves_nothing(case: Evidence) -> None:
    spans = ahead(case.wrong, *case.guest)
    guest = joined(case.host, spans, case.source, case.named)
    assert (None if guest.record.clock is None else guest.record.clock.finding) == case.finding
    assert times(guest) == {span.name: (span.start, span.end) for span in spans}


def test_the_span_that_the_app_named_had_begun() -> None:
    """One side only: the nearest bound, so that the guest begins with it."""
    guest = joined((ROOT, TALK), ahead(-5000, *TURNS), Source.WEBHOOK, named="talk")
    assert clock(guest).method == "one_sided"
    assert abs(min(start for start, _ in times(guest).values()) - TALK.start) <= MS


def test_a_call_mostly_contains_what_it_begins() -> None:
    """A CLIENT span from 100 ms before to 200 ms after. That a guest began before it is certain to be wrong, and the
    middle of what is likely 50 ms beside the truth; that one ended after it may be right."""
    asking = (ROOT, replace(TALK, kind=CLIENT))
    behind = clock(joined(asking, ahead(-5000, *TURNS), Source.WEBHOOK, named="talk"))
    assert (behind.method, behind.offset) == ("two_sided", -5050 * MS)
    assert behind.bounds.high == -4899 * MS
    assert clock(joined(asking, ahead(5000, *TURNS), Source.WEBHOOK, named="talk")).finding is Finding.AGREES


def test_a_recorder_hears_a_tools_output_after_it_was_sent() -> None:
    """The other side is open: a clock that is behind is drawn where the output was heard."""
    guest = joined((ROOT, CALENDAR), ahead(-5000, *TURNS), Source.REALTIME)
    found = clock(guest)
    assert (found.method, found.offset) == ("one_sided", -4949 * MS)


def test_one_response_is_of_one_time() -> None:
    """An id of OpenAI's: the app had it after OpenAI began, and OpenAI's span lies mostly within the app's."""
    mine = host_span("mine", 900, 1700, response="r1", what="chat")
    theirs = turn("ask", 1000, 1500, response="r1")
    guest = joined((ROOT, mine), ahead(5000, theirs), Source.WEBHOOK)
    found = clock(guest)
    assert found.offset == 4950 * MS
    assert (found.bounds.low, found.bounds.high) == (4299 * MS, inf)


@pytest.mark.parametrize(
    "address",
    [
        "https://api.openai.com/v1/agents/sessions",
        "https://example.com/",
        "https://gateway.example/openai.com/v1/agents/sessions",
        "https://api.openai.com.gateway.example/v1",
        "https://[::1/openai.com",
    ],
)
def test_openais_date_is_of_the_time_of_the_request(address: str) -> None:
    """A whole second of OpenAI's clock, within an answer to the app."""
    date = formatdate((START + 12 * SECOND) // SECOND, usegmt=True)
    attributes: dict[str, AttributeValue] = {"http.response.header.date": (date,), "url.full": address}
    request = replace(host_span("post", 1900, 2100), attributes=attributes)
    guest = joined((ROOT, request), ahead(10_000, *TURNS))
    if "/api.openai.com/" not in address:
        assert guest.record.clock is None
        return
    found = clock(guest)
    assert found.bounds.low <= 10_000 * MS <= found.bounds.high
    assert found.offset == pytest.approx(10_500 * MS, abs=MS)


def test_whole_seconds_say_a_second_less() -> None:
    coarse = [
        replace(
            span, start=UnixNano(span.start // SECOND * SECOND), end=UnixNano(span.end // SECOND * SECOND), events=()
        )
        for span in ahead(5000, *TURNS)
    ]
    found = clock(joined((ROOT, CALENDAR), coarse))
    assert found.finding is Finding.SHIFTED
    assert found.bounds.high - found.bounds.low >= 2 * SECOND
    assert found.bounds.low <= 5000 * MS <= found.bounds.high


def test_a_contradiction_is_said_and_nothing_moved() -> None:
    """Two calls, one of which was matched with a span of another one: nobody knows which."""
    more = (call("look2", 1500, 2000, "ask", "c2"),)
    host = (ROOT, CALENDAR, tool_span("diary", 41_550, 41_950, "c2"))
    spans = ahead(5000, *TURNS, *more)
    guest = joined(host, spans)
    assert clock(guest).finding is Finding.CONTRADICTION
    assert times(guest) == {span.name: (span.start, span.end) for span in spans}
    said = {each.span.name: dict(each.attributes).get("grafter.clock.unsettled") for each in guest.spans}
    assert said == {"ask": "contradiction", "answer": "contradiction", "look": None, "look2": None}
    assert "contradicts itself" in sentences(guest.record)[-1]
    assert advice(guest.record) == [
        "look for spans of yours that carry the id of a tool call or response of another step"
    ]


def test_one_wrong_graft_is_outvoted_and_named() -> None:
    """Of four tools one ran in another call."""
    calls = [call(f"look{at}", 3000 + at * 1000, 3500 + at * 1000, "ask", f"d{at}") for at in range(4)]
    host = [tool_span(f"run{at}", 3050 + at * 1000, 3450 + at * 1000, f"d{at}") for at in range(3)]
    guest = joined((ROOT, *host, tool_span("run3", 40_000, 40_400, "d3")), ahead(5000, *TURNS[:1], *calls))
    found = clock(guest)
    assert (found.finding, found.offset, found.pairs, found.left_out) == (Finding.SHIFTED, 5000 * MS, 4, 1)
    assert all(dict(each.attributes)["grafter.clock.pairs_left_out"] == 1 for each in guest.spans)


def test_what_comes_late_is_set_back_by_the_same() -> None:
    """Through the store: what is remembered of the guest says by how much, whatever is known by then."""
    first = joined((ROOT, CALENDAR), ahead(5000, *TURNS))
    memory = decode_guest(encode_guest(first.memory))
    assert memory is not None
    later = turn("bye", 3000, 3400)
    guest = joined((ROOT, CALENDAR), ahead(5000, *TURNS, later), earlier=memory)
    assert times(guest) == {"bye": (later.start, later.end)}
    assert clock(guest) == clock(first)


def test_what_left_without_evidence_is_not_moved_later() -> None:
    first = joined((ROOT,), ahead(5000, *TURNS[:1]))
    memory = decode_guest(encode_guest(first.memory))
    guest = joined((ROOT, CALENDAR), ahead(5000, *TURNS), earlier=memory)
    assert times(guest) == {span.name: (span.start, span.end) for span in ahead(5000, *TURNS[1:])}


def test_a_record_of_a_clock_that_cannot_be_read_costs_only_itself() -> None:
    """A newer version may have found something else."""
    record = joined((ROOT, CALENDAR), ahead(5000, *TURNS)).record
    assert GuestRecord.of(record.values()) == record
    assert GuestRecord.of(record.values() | {"clock": {"finding": "something new"}}) == replace(record, clock=None)


def test_a_clock_that_was_set_back_at_the_door_says_both() -> None:
    """A Realtime sender who is hours ahead is set right as it posts, and found to be wrong by a little more here."""
    spans = [
        replace(span, attributes=(*span.attributes, ("grafter.clock.offset_ms", 7_200_000.0))) for span in TURNS[:1]
    ]
    guest = joined((ROOT, CALENDAR), ahead(-5000, *spans, *TURNS[1:]), Source.REALTIME)
    assert dict(guest.spans[0].attributes)["grafter.clock.offset_ms"] == 7_200_000.0 - 4949


# --- Whole conversations, simulated: what is true is known here, and found out there.


@dataclass
class Conversation:
    """A hosted session of several turns, each of which may ask for tools that the app runs."""

    host: list[HostSpan] = field(default_factory=lambda: [ROOT])
    guest: list[GuestSpan] = field(default_factory=list)

    @classmethod
    def of(cls, chance: Random) -> "Conversation":
        made = cls()
        now = 1000.0

        def delay() -> float:
            return min(5 + chance.expovariate(1 / 40), 300)

        for number in range(chance.randint(1, 12)):
            begun = now
            now += chance.uniform(100, 2000)
            made.guest.append(turn(f"turn{number}", begun, now))
            ends = [now]
            for each in range(chance.choice((0, 1, 1, 3))):
                name = f"{number}.{each}"
                started = now + delay()
                ended = started + chance.choice((5, 200, 3000)) * chance.uniform(0.5, 1)
                ends.append(ended + delay())
                made.guest.append(call(f"tool{name}", now, ends[-1], f"turn{number}", f"c{name}"))
                made.host.append(tool_span(f"r{name}", started, ended, f"c{name}"))
            now = max(ends) + chance.uniform(0, 2000)
        return made


@pytest.mark.parametrize("honest", [True, False])
def test_conversations_are_drawn_as_they_went(honest: bool) -> None:
    """Every tool lies within the call that asked for it, nothing grows or shrinks, and what may be right stays."""
    moved = 0
    for seed in range(400):
        chance = Random(seed)
        told = Conversation.of(chance)
        wrong = 0.0 if honest else chance.uniform(-5000, 5000)
        spans = ahead(wrong, *told.guest)
        guest = joined(told.host, spans, chance.choice((Source.SESSIONS, Source.WEBHOOK)))
        drawn = times(guest)
        found = guest.record.clock
        if found is None or found.finding is not Finding.SHIFTED:
            assert drawn == {span.name: (span.start, span.end) for span in spans}
            continue
        moved += 1
        assert not honest
        assert found.bounds.low <= int(wrong * MS) <= found.bounds.high
        assert {name: end - start for name, (start, end) in drawn.items()} == {
            span.name: span.end - span.start for span in told.guest
        }
        for span in told.host[1:]:
            start, end = drawn[f"tool{span.name[1:]}"]
            # To the millisecond that is left for rounding.
            assert start - MS <= span.start <= span.end <= end + MS, seed
    assert honest or moved > 200
