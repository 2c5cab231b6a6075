"""What the page says of a call, as plain data: verdict, problems, what is missing, and what a viewer may not see."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.calls.model import CallId, CallRow, PhoneView, TurnRow
from grafter.commands.demo.script import PlayedCall, Script
from grafter.core.call_latency import CallerTurn, CallLatency, Part, Side, Step
from grafter.otlp.reading import ReadSpan, read_spans
from grafter.web import pages, words
from grafter.web.access import Viewer
from grafter.web.call_view import CallView, PageQuery, call_view
from grafter.web.kinds import PARTS, Kind
from grafter.web.lanes import barge_ins
from grafter.web.links import links
from grafter.web.list_view import list_rows
from grafter.web.problems import Weight, problems, turn_sentence
from grafter.web.redaction import Sight, attribute, document, seen, text
from grafter.web.tree import Tree
from tests.web.double import LAST, MemoryCalls, joined, row_of

MS = 1_000_000
NOTHING = CallLatency((), (), (), None, None, None)


NOBODY, WHOLE = Sight(), PageQuery()


async def view_of(calls: MemoryCalls, name: str) -> CallView:
    key = calls.names[name]
    found = next(row for row in calls.rows if row.key == key)
    medians = await calls.recent_medians()
    return call_view(found, list(read_spans(calls.documents[key])), medians, NOBODY, WHOLE, {}, 0)


VERDICTS = {
    "quick": "Nothing was slow: the longest of 3 waits was 930 ms, in turn 3.",
    "slow tool": "Turn 3 took 2.93 s; 1.68 s of it was your tool book_slot.",
    "slow model": "Turn 2 took 2.87 s; 2.37 s of it was OpenAI's model.",
    "tool fails": "Your tool book_slot failed 2 times: HTTP 409.",
    "late media": "The media path came up late: 4.15 s from its beginning until it was connected.",
    "after hours": "3.40 s went by in the queue after-hours.",
    "no openai": "No span failed; how long the caller waited is not known.",
    "two tools": "Turn 1 took 2.93 s; 1.34 s of it was your tools insurance_check and record_lookup.",
    "patient detector": "Turn 1 took 1.69 s; 1.25 s of it was the voice detector, which waited for silence.",
    "slow network": "Turn 1 took 3.14 s; 1.92 s of it was your tool record_lookup.",
    "busy": "The call ended as busy.",
    "media fails": "The media path failed at +5.100 s.",
    "untraced tool": "Turn 1 took 3.36 s; 2.12 s of it was your tool transfer_quote.",
    "slow greeting": "The greeting took 4.99 s; 4.35 s of it was your app, until it asked for the greeting.",
    "running": "This call is running; its trace comes when it has ended.",
}


@pytest.mark.parametrize("name", VERDICTS)
async def test_the_verdict(calls: MemoryCalls, name: str) -> None:
    """One sentence, right for each kind of call."""
    assert (await view_of(calls, name)).verdict.sentence == VERDICTS[name]


async def test_what_is_not_known_of_a_running_call_is_not_said(calls: MemoryCalls) -> None:
    """Neither how long it is, nor that it was kept: both are open until its trace has left."""
    view = await view_of(calls, "running")
    assert (view.length, view.sampling, view.live) == ("", "", True)


async def test_every_problem_names_spans_that_are_there(calls: MemoryCalls) -> None:
    """Evidence is a row of the waterfall, whatever is folded."""
    for name in calls.names:
        view = await view_of(calls, name)
        rows = {row.id for row in view.rows}
        for problem in view.problems:
            assert problem.evidence
            assert {f"s-{each.id}" for each in problem.evidence} <= rows


async def test_problems_are_ranked(calls: MemoryCalls) -> None:
    """What is broken, then what was slow by the time that it cost, then notes."""
    for name in calls.names:
        weights = [problem.weight for problem in (await view_of(calls, name)).problems]
        assert weights == sorted(weights, reverse=True)
    long = await view_of(calls, "long")
    assert [problem.turn for problem in long.problems] == [47, 41, 35, None]
    assert long.problems[3].sentence == "5 more turns took over 1.5 s, up to 2.77 s: 5, 11, 17, 23, 29."


async def test_parts_add_up_on_the_page(calls: MemoryCalls) -> None:
    """What is drawn of a wait is as long as the wait."""
    for name in calls.names:
        for turn in (await view_of(calls, name)).turns:
            at = 0.0
            for piece in turn.pieces:
                assert piece.x == pytest.approx(at, abs=0.002)
                at = piece.x + piece.width
            assert turn.wait_ns is not None
            scale = turn.wait_ns / at
            assert turn.limit * scale == pytest.approx(1500 * MS, rel=0.001)


def turn(*parts: Part, error: int = 0, number: int = 2) -> CallerTurn:
    return CallerTurn(number, 0, sum(part.ns for part in parts), "speech_end", "delta", error, parts, b"", None, "")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (turn(Part("model", 1800 * MS, Side.OPENAI)), "Turn 2 took 1.80 s; 1.80 s of it was OpenAI's model."),
        (
            turn(Part("model", 1800 * MS, Side.OPENAI), error=120 * MS),
            "Turn 2 took 1.80 s (± 120 ms); 1.80 s of it was OpenAI's model.",
        ),
        (turn(Part("unknown", 1800 * MS, Side.UNKNOWN)), "Turn 2 took 1.80 s; nothing tells what it was spent on."),
        (
            turn(Part("tool", 900 * MS, Side.OPENAI, "web_search"), Part("model", 800 * MS, Side.OPENAI)),
            "Turn 2 took 1.70 s; 900 ms of it was OpenAI's tool web_search.",
        ),
        (
            turn(Part("endpointing", 1600 * MS, Side.APP)),
            "Turn 2 took 1.60 s; 1.60 s of it was your turn detection, which waited for silence.",
        ),
    ],
)
def test_a_turn_in_words(given: CallerTurn, sentence: str) -> None:
    """Whose it was, with the error where there is one; unknown is said to be unknown."""
    assert turn_sentence(given) == sentence


async def test_a_call_whose_spans_are_gone(calls: MemoryCalls) -> None:
    """What the call map remembers is shown, and why there is no more."""
    row = next(row for row in calls.rows if row.key == calls.names["slow tool"])
    for kept, sentence in ((True, "kept no longer"), (False, "sampled away by the policy drop")):
        view = call_view(replace(row, kept=kept, policy="drop"), [], {}, Sight(), PageQuery(), {}, 0)
        assert view.verdict.sentence == "Turn 3 took 2.93 s; 1.68 s of it was your tools."
        assert any(sentence in each.sentence for each in view.missing)
        assert [each.number for each in view.turns] == [1, 2, 3, 4]
        assert view.rows == ()


async def test_an_error_larger_than_its_figure_is_unknown(calls: MemoryCalls) -> None:
    """No figure whose error is larger than itself is stated."""
    assert words.stated(300 * MS, 20 * MS) == "300 ms ± 20 ms"
    assert words.stated(300 * MS, 301 * MS) == "unknown"
    assert words.stated(None) == "unknown"


def test_a_figure_stays_on_the_line_of_its_unit() -> None:
    """A phone is so narrow that many a figure ends its line."""
    assert words.unbroken("80 ms on the network, 1.58 s in 2 services") == (
        "80\u00a0ms on the network, 1.58\u00a0s in 2 services"
    )


@given(st.integers(0, 10**14))
def test_lengths_are_near_what_they_say(ns: int) -> None:
    """Rounded, never off by more than a half of the last digit that is shown."""
    shown = words.length(ns)
    units = {"ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
    parts = shown.split()
    value = sum(float(parts[at]) * units[parts[at + 1]] for at in range(0, len(parts), 2))
    last = parts[-2]
    step = units[parts[-1]] / (10 ** len(last.partition(".")[2])) if "." in last else units[parts[-1]]
    assert abs(value - ns) <= step * 0.51 or value == pytest.approx(ns, rel=0.051)


@given(st.text(max_size=400), st.integers(8, 200))
def test_plain_text_has_no_hidden_signs(given: str, longest: int) -> None:
    """One line, no longer than asked, nothing that turns, hides or breaks writing."""
    shown = words.plain(given, longest)
    assert len(shown) <= longest
    assert shown.isprintable() or all(each.isprintable() or each == "\u00a0" or each.isspace() for each in shown)
    assert not {*"\n\r\t\x00\u202e\u2066\u200b\u2028\ufeff"} & {*shown}


NUMBERS = ["+15550104037", "+1 (555) 010-4037", "0015550104037", "+44 20 7946 0958", "+49-30-901820"]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_hidden_wherever_they_stand(number: str) -> None:
    """In names, values, events and messages; their last four digits stay."""
    step = Step(
        bytes(8),
        b"",
        f"dial {number}",
        f"gw {number}",
        1,
        0,
        1,
        True,
        {"http.route": f"/c/{number}/x", "sip.from": f"sip:{number}@x", number: "y", "call.note": number},
        ((0, f"to {number}", {"ice.remote": number}),),
    )
    told = repr(seen([ReadSpan(step, bytes(16), False, f"no answer from {number}")], Sight(content=True)))
    digits = "".join(each for each in number if each.isdigit())
    assert number not in told
    assert digits[:-4] not in told.replace(" ", "").replace("-", "")
    assert digits[-4:] in told


def test_bare_digits_of_people_are_hidden() -> None:
    """Where the key says that it is a person's, digits without a plus are a number too; elsewhere they are an id."""
    assert attribute("call.from", "5550104037", Sight(content=True)) == "•••• 4037"
    assert attribute("caller.number", 15550104037, Sight(content=True)) == "•••• 4037"
    assert attribute("grafter.turn.speech_end_unix_nano", 1795884000000000000, Sight()) == 1795884000000000000
    assert attribute("call.id", "5550104037123", Sight()) == "5550104037123"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("gen_ai.response.id", True),
        ("grafter.match", True),
        ("http.response.status_code", True),
        ("gen_ai.input.messages", False),
        ("gen_ai.tool.call.arguments", False),
        ("error.message", False),
        ("exception.stacktrace", False),
        ("db.query.text", False),
        ("url.full", False),
        ("openai.agents.trace.metadata.patient", False),
        ("lk.user_transcript", False),
        ("patient.name", False),
        ("", False),
    ],
)
def test_only_what_is_known_to_be_harmless_is_shown(key: str, shown: bool) -> None:
    """A key that nobody knows may hold anything, so its text needs the role content; the key itself is named."""
    assert (attribute(key, "words", Sight()) == "words") == shown
    assert attribute(key, "words", Sight(content=True)) == "words"
    assert attribute(key, 7, Sight()) == 7


def test_the_document_is_hidden_as_the_page_is() -> None:
    """Values in lists and maps, links and events, and the status."""
    value = {"stringValue": "+15550104037 said so"}
    nested = {"kvlistValue": {"values": [{"key": "x", "value": {"arrayValue": {"values": [value]}}}]}}
    data: Mapping[str, Any] = {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "note", "value": value}]},
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "name": "dial +15550104037",
                                "traceId": "15550104037" * 2,
                                "attributes": [{"key": "a", "value": nested}, {"key": "gen_ai.x", "value": nested}],
                                "events": [{"name": "e", "attributes": [{"key": "b", "value": value}]}],
                                "links": [{"attributes": [{"key": "c", "value": value}]}],
                                "status": {"code": 2, "message": "+15550104037"},
                            }
                        ]
                    }
                ],
            }
        ]
    }
    told = repr(document(data, Sight()))
    assert "+1555" not in told
    assert "said so" not in told.replace("•••• 4037 said so", "said so" if "'a'" in told and "x" not in told else "")
    assert "'traceId': '1555010403715550104037'" in told
    assert document(data, Sight(numbers=True, content=True)) is data
    assert "+15550104037 said so" in repr(document(data, Sight(numbers=True, content=True)))


def test_masks_are_what_people_read() -> None:
    assert text("call +1 555 010 4037 now", Sight()) == "call •••• 4037 now"
    assert text("call +1 555 010 4037 now", Sight(numbers=True)) == "call +1 555 010 4037 now"


ROW = CallRow(
    key="k",
    start=1_795_884_000 * 10**9,
    end=1_795_884_060 * 10**9,
    outcome="completed",
    caller=PhoneView("4037"),
    callee=None,
    ids=(CallId("twilio", "CA12"), CallId("openai_live", "live_1")),
    traces=(bytes(range(16)),),
    guests=("trace_ab",),
    turns=(),
    errors=0,
    barge_ins=0,
    spans=0,
    unjoined=(),
    policy="",
    kept=True,
)


def test_links_have_times_and_only_what_the_call_has() -> None:
    """A template whose field this call lacks makes no link; a call with two traces has two."""
    templates = {
        "Honeycomb": "https://h.example/trace?trace_id={trace_id}&trace_start_ts={start}&trace_end_ts={end}",
        "OpenAI": "https://o.example/?t={openai_trace_id}",
        "Twilio": "https://t.example/{call_sid}",
        "Nothing": "",
    }
    assert ROW.end is not None
    made = {link.label: link.address for link in links(ROW, templates, ROW.end)}
    assert made["Honeycomb"] == (
        "https://h.example/trace?trace_id=000102030405060708090a0b0c0d0e0f"
        "&trace_start_ts=1795883940&trace_end_ts=1795884120"
    )
    assert made["OpenAI"] == "https://o.example/?t=trace_ab"
    assert made["Twilio"] == "https://t.example/CA12"
    assert "Nothing" not in made
    odd = replace(ROW, ids=(CallId("twilio", "CA/../?x=1&y"),), guests=(), traces=(bytes(16), bytes([1]) * 16))
    made = {link.label: link.address for link in links(odd, templates, ROW.end)}
    assert made["Twilio"] == "https://t.example/CA%2F..%2F%3Fx%3D1%26y"
    assert set(made) == {"Twilio", "Honeycomb, trace 1", "Honeycomb, trace 2"}


def test_a_list_row_says_the_slowest_wait() -> None:
    """The sentence of the longest wait, columns for all, and marks for what a filter could ask for."""
    turns = tuple(TurnRow(number, 0, wait, sentence=f"waited {wait}") for number, wait in ((1, 900.0), (2, 2100.0)))
    row = replace(ROW, turns=turns, errors=2, barge_ins=1, unjoined=("no OpenAI spans",), kept=False)
    (shown,) = list_rows([row], Sight(), ROW.start)
    assert shown.sentence == "Turn 2: waited 2100.0"
    assert [column.over for column in shown.columns] == [False, True]
    assert shown.waits == "2 waits, 1 over 1.5 s"
    assert [words for _, words in shown.marks] == ["2 errors", "interrupted 1 ×", "not joined", "sampled away"]
    many = replace(ROW, turns=tuple(TurnRow(number, 0, 100.0 * number) for number in range(1, 301)))
    (shown,) = list_rows([many], Sight(), ROW.start)
    assert len(shown.columns) <= 24
    assert all(column.x >= 0 and column.x + column.width <= 100 for column in shown.columns)


def test_letters_tell_kinds_apart() -> None:
    """No two kinds, and no two parts that stand side by side, have one letter."""
    assert len({kind.letter for kind in Kind}) == len(Kind)
    assert len({PARTS[name][0] for name in ("endpointing", "model", "tool", "relay", "playout", "unknown")}) == 6


@given(st.integers(-10, 2**64), st.integers(-10, 2**64))
def test_odd_times_make_no_figure(start: int, end: int) -> None:
    """A span that ends before it starts, or in the year 9999, is shown, and nothing is computed of it."""
    span = ReadSpan(Step(b"12345678", b"", "odd", "app", 1, max(start, 0), max(end, 0), False, {}), bytes(16), False)
    view = call_view(ROW, [span], {}, Sight(), PageQuery(span=b"12345678".hex()), {}, 0)
    assert len(view.rows) == 1
    if max(end, 0) < max(start, 0):
        assert view.rows[0].takes == "unknown"
    assert not [
        problem for problem in problems(Tree([span]), NOTHING, "completed", {}) if problem.weight is Weight.SLOW
    ]


async def test_an_hour_of_ten_thousand_spans_is_a_page() -> None:
    """Read, worked out and written within a second of a free processor, in less than 1.5 MB; and no page is refused."""
    script = Script("+15550104999")
    script.media()
    script.greet()
    for number in range(800):
        script.say(1000)
        if number % 3 == 1:
            script.tool("record_lookup", 300 + number * 7 % 1500, database=120, service="records")
        script.answer(340 + number * 7 % 900, audio=1500, pause=600)
    for number in range(6000):
        script.step(f"x{number}", "session", "voice", f"message {number % 40}", 400 + number * 500, 420 + number * 500)
    call = PlayedCall("hour", script, LAST)
    documents = await joined(call)
    row = row_of("hour", call, documents)
    spans = list(read_spans(documents))
    view = call_view(row, spans, {"wait_ms": 900.0}, Sight(), PageQuery(), {}, 0)
    page = pages.call_page(view, "0", csrf="", viewer=Viewer("", frozenset(), ""))
    assert len(spans) > 9_500
    assert len(page) < 1_500_000
    assert view.all_turns > 700
    assert "Page 1 of" not in page or view.waterfall.pages > 1


def test_a_chain_of_ten_thousand_spans_is_shown() -> None:
    """However deep spans hang, whatever fails among them: nobody waits for the square of their number."""
    spans = [
        ReadSpan(
            Step(
                number.to_bytes(8, "big"),
                (number - 1).to_bytes(8, "big") if number > 1 else b"",
                "step",
                "app",
                1,
                ROW.start + number * MS,
                ROW.start + (30_000 - number) * MS,
                number % 2 == 0,
                {},
            ),
            bytes(16),
            False,
        )
        for number in range(1, 10_001)
    ]
    view = call_view(ROW, spans, {}, NOBODY, PageQuery(span=(9_999).to_bytes(8, "big").hex()), {}, 0)
    assert view.waterfall.page == view.waterfall.pages == 50
    assert any(row.details for row in view.rows)


@pytest.mark.parametrize(("chosen", "through"), [("host", False), ("relay", True)])
def test_a_candidate_of_turn_that_is_not_used_is_no_relay(chosen: str, through: bool) -> None:
    """A browser gathers a candidate of every TURN server; only the chosen pair says what media goes through."""
    events = (
        (200 * MS, "webrtc.ice_candidate", {"type": "relay", "protocol": "udp"}),
        (4000 * MS, "webrtc.connection_state", {"state": "connected"}),
        (4010 * MS, "webrtc.candidate_pair", {"local": chosen, "remote": "srflx"}),
    )
    step = Step(b"12345678", b"", "webrtc.peer_connection", "page", 1, 0, 5000 * MS, False, {}, events=events)
    (late,) = problems(Tree([ReadSpan(step, bytes(16), False)]), NOTHING, "completed", {})
    assert late.sentence.startswith("The media path came up late: 4.00 s")
    assert ("TURN relay" in late.detail) is through


@pytest.mark.parametrize(("waited", "said"), [(4700.0, 1), (900.0, 0)])
def test_a_call_that_ended_on_a_waiting_caller_is_a_problem(waited: float, said: int) -> None:
    session = Step(
        b"12345678", b"", "realtime_session", "openai", 1, 0, 9000 * MS, False, {"grafter.unanswered_ms": waited}
    )
    found = problems(Tree([ReadSpan(session, bytes(16), False)]), NOTHING, "completed", {})
    expected = "The caller waited at least 4.70 s for an answer, then the call ended."
    assert [one.sentence for one in found] == [expected] * said


@pytest.mark.parametrize(("answered", "said"), [(4500, 1), (1400, 0), (500, 0)])
def test_one_moment_please_does_not_hide_a_late_answer(answered: int, said: int) -> None:
    """The caller heard a word after 500 ms, and the answer behind a tool when its audio came."""
    first, last = (Step(own, b"", "chat", "openai", 3, 0, MS, False, {}) for own in (b"answer 1", b"answer 2"))
    waited = turn(Part("model", 500 * MS, Side.OPENAI), number=1)
    waited = waited._replace(answer=first.span_id, answer_audio_ns=answered * MS, last_answer=last.span_id)
    tree = Tree([ReadSpan(step, bytes(16), False) for step in (first, last)])
    found = problems(tree, CallLatency((waited,), (), (), 0, 500 * MS, 0), "completed", {})
    expected = "In turn 1 the caller heard something after 500 ms, and the answer itself after 4.50 s."
    assert [(one.weight, one.sentence, one.turn) for one in found] == [(Weight.NOTE, expected, 1)] * said


@pytest.mark.parametrize(
    ("speech", "session", "why"),
    [
        ({}, {"grafter.realtime.turn_detection": "server_vad"}, "no end of speech with an answer after it was seen"),
        ({"grafter.speech.stopped_unix_nano": 5, "grafter.speech.end_unix_nano": 4}, {}, "no end of speech with an"),
        ({"grafter.speech.stopped_unix_nano": 5}, {}, "how long a silence the voice detector waits for was never told"),
        (
            {"grafter.speech.stopped_unix_nano": 5},
            {"grafter.realtime.turn_detection": "semantic_vad"},
            "semantic_vad does not say for how long it listened to silence",
        ),
    ],
)
def test_why_no_wait_is_known(speech: dict[str, Any], session: dict[str, Any], why: str) -> None:
    """Who posts events already is not told to post them, but what they lack."""
    guest = {"grafter.guest.trace_id": "rtc_1", "grafter.guest.span_id": "x"}
    spans = [
        ReadSpan(Step(own, parent, name, "openai", 1, 0, 9 * MS, False, {**guest, **said}), bytes(16), True)
        for own, parent, name, said in (
            (b"session1", b"", "realtime_session", session),
            (b"speech 1", b"session1", "user_speech", speech),
        )
    ]
    view = call_view(ROW, spans, {}, NOBODY, WHOLE, {}, 0)
    found = [one for one in view.missing if "waited" in one.sentence]
    assert [one.sentence.startswith(f"How long the caller waited is not known: {why}") for one in found] == [True]
    assert ("post its events" in found[0].remedy) is ("was seen" in found[0].sentence)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            {"lk.interrupted": True, "lk.playout.position": 0.9},
            ["The caller interrupted 1 answer, having heard 900 ms of it."],
        ),
        ({"turn.was_interrupted": True}, ["The caller interrupted 1 answer."]),
        ({"lk.interrupted": True, "lk.interruption.source": "programmatic"}, []),
        ({"turn.was_interrupted": True, "turn.ended_by_conversation_end": True}, []),
    ],
)
def test_an_interruption_that_only_a_framework_tells_of(said: dict[str, Any], sentence: list[str]) -> None:
    """As the list of calls counts it: at the end of what the caller heard of the turn."""
    spans = [
        ReadSpan(Step(own, parent, name, "agent", 1, 0, end * MS, False, attributes), bytes(16), False)
        for own, parent, name, end, attributes in (
            (b"the turn", b"", "agent_turn", 9, said),
            (b"speaking", b"the turn", "agent_speaking", 7, {}),
        )
    ]
    tree = Tree(spans)
    assert [one.sentence for one in problems(tree, NOTHING, "completed", {})] == sentence
    assert [one.at for one in barge_ins(tree)] == [7 * MS] * len(sentence)
