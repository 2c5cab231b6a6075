"""The truth of small calls, worked out by hand as the cases are, and the judge's word on them."""

import pytest

from tests.simulator.hand import RECORDER, Hand, right
from tests.simulator.judge import Span, Verdict, judge
from tests.simulator.truth import PARTS, Cut, Truth
from tests.simulator.world import T0, BargeIn, Response, Speech, Tool


def part(name: str) -> str:
    return f"grafter.caller_wait.{name}_ms"


def test_by_hand_a_model_turn_begins_where_the_app_asks() -> None:
    """Case 02: speech stopped at 72,000, the app asks at 73,500, first token 74,000: 500 ms are the model's, 1,500 the
    app's, and the caller fell silent at 71,500."""
    hand = Hand()
    speech = hand.speech(70_000, 72_000)
    ask = hand.at(73_500, "client", "response.create")
    response = hand.response(73_600, 74_000, 75_000, ask, word="response.create", answers=speech, opens=True)
    response.first_audio, response.audio_ms, response.silent_at = response.first_delta, 800, 74_900
    truth = hand.truth()
    assert right(truth, "resp_1", "grafter.turn.first_token_ms") == [(500, 500)]
    assert right(truth, "resp_1", "grafter.caller_wait_ms") == [(2_500, 2_500)]
    assert [right(truth, "resp_1", part(p)) for p in PARTS] == [
        [(500, 500)],
        [(500, 500)],
        [(0, 0)],
        [(1_500, 1_500)],
        [(0, 0)],
        [(0, 0)],
    ]


def test_by_hand_the_demo() -> None:
    """Case 19: silent at 3,500, stopped 4,000, function call whole 4,315, output 5,995, asked 5,998, audio 6,430:
    2,930 ms = 500 endpointing + 315 and 432 model + 1,680 tool + 3 relay."""
    hand = Hand()
    speech = hand.speech(2_000, 4_000)
    assert speech.stopped is not None
    first = hand.response(4_050, 4_200, 4_320, speech.stopped, word="speech_stopped", answers=speech)
    whole = hand.at(4_315, "server", "response.function_call_arguments.done")
    tool = Tool("call_1", "find", "f1", whole=[whole], output=hand.at(5_995, "client", "conversation.item.create"))
    first.tools.append(tool)
    hand.record.tools.append(tool)
    ask = hand.at(5_998, "client", "response.create")
    second = hand.response(6_050, 6_430, 7_000, ask, word="response.create", answers=speech, opens=True)
    second.first_audio, second.audio_ms, second.silent_at = second.first_delta, 900, 7_500
    second.earlier, second.after = [first], [tool]
    truth = hand.truth()
    assert right(truth, "resp_2", "grafter.caller_wait_ms") == [(2_930, 2_930)]
    values = [(right(truth, "resp_2", part(p)) or [(0.0, 0.0)])[0] for p in PARTS]
    assert values == [(500, 500), (747, 747), (1_680, 1_680), (3, 3), (0, 0), (0, 0)]
    assert right(truth, "resp_1", "grafter.caller_wait_ms") == []
    (span,) = [s for s in truth.spans if s.owner == "call_1"]
    assert (span.start, span.end, span.open) == ((4_315, 4_315), (5_995, 5_995), False)


def test_by_hand_push_to_talk() -> None:
    """Case 12: appends from 1,000 on, the button let go at 2,500, asked at 2,510, first token 3,000: 490 ms from the
    request, 500 from the release, which the case takes for the same gesture."""
    hand = Hand()
    speech = Speech("u1", 1_000, 2_500, 1, 0, True, button=True)
    speech.first_append = hand.at(1_000, "client", "input_audio_buffer.append")
    speech.commit = hand.at(2_500, "client", "input_audio_buffer.commit")
    ask = hand.at(2_510, "client", "response.create")
    speech.committed = hand.at(2_600, "server", "input_audio_buffer.committed", item_id="u1")
    hand.record.speeches.append(speech)
    hand.response(2_650, 3_000, 3_500, ask, word="response.create", answers=speech)
    truth = hand.truth()
    (span,) = [s for s in truth.spans if s.owner == "u1"]
    assert (span.start, span.end) == ((1_000, 1_000), (2_500, 2_500))
    assert right(truth, "resp_1", "grafter.turn.speech_end_unix_nano") == [(2_500, 2_500)]
    assert right(truth, "resp_1", "grafter.turn.first_token_ms") == [(490, 490), (500, 500)]
    assert not any(f.knowable for f in hand.truth(RECORDER).figures if f.name == "grafter.turn.first_token_ms")


def test_by_hand_a_tool_that_never_answers() -> None:
    """Case 07: asked for at 5,300, no output, the next answer begins at 9,000: not drawn past that, end unknown."""
    hand = Hand()
    speech = hand.speech(3_000, 4_500)
    assert speech.stopped is not None
    hand.response(5_000, 5_100, 5_500, speech.stopped, word="speech_stopped", answers=speech)
    tool = Tool("call_open", "transfer", "f2", whole=[hand.at(5_300, "server", "response.output_item.done")])
    hand.record.tools.append(tool)
    ask = hand.at(8_900, "client", "response.create")
    tool.until = hand.response(9_000, 9_400, 10_000, ask, word="response.create").created
    (span,) = [s for s in hand.truth().spans if s.owner == "call_open"]
    assert (span.start, span.end, span.open) == ((5_300, 5_300), (5_300, 9_000), True)


def cut_of(hand: Hand) -> Cut:
    return next(c for c in hand.truth().cuts if c.owner == "resp_1")


def answer_from(hand: Hand, first: float, audio_ms: float, done: float) -> Response:
    response = hand.response(first - 200, first, done, hand.at(first - 210, "client", "response.create"))
    response.first_audio, response.audio_ms = response.first_delta, audio_ms
    response.silent_at = first + audio_ms
    return response


def test_by_hand_heard_audio_without_a_truncate() -> None:
    """Case 13: first audio 1,200, the caller speaks at 2,700: at most 1,500 ms were heard, and that is a bound."""
    hand = Hand()
    response = answer_from(hand, 1_200, 3_000, 2_750)
    speech = hand.speech(2_700, 4_000, "u2")
    assert speech.started is not None
    response.barge_in = BargeIn(2_600, speech.started, heard=1_440)
    cut = cut_of(hand)
    assert (cut.must, cut.when, cut.heard, cut.bound) == (True, (2_600, 2_700), (1_440, 1_500), True)


def test_by_hand_heard_audio_by_the_server() -> None:
    """Case 03: the server truncates at 18,700; beside it, a buffer that was cleared 79,600 ms after it started."""
    hand = Hand()
    response = answer_from(hand, 1_200, 40_000, 5_000)
    speech = hand.speech(20_000, 21_000, "u3")
    assert speech.started is not None
    truncated = hand.at(20_100, "server", "conversation.item.truncated", item_id="a1", audio_end_ms=18_700)
    response.barge_in = BargeIn(19_900, speech.started, heard=18_700, truncated=truncated)
    assert cut_of(hand).heard == (18_700, 18_700)

    hand = Hand()
    response = answer_from(hand, 30_400, 90_000, 40_000)
    response.started = hand.at(30_500, "server", "output_audio_buffer.started", response_id="resp_1")
    speech = hand.speech(110_000, 111_000, "u4")
    assert speech.started is not None
    response.ended = hand.at(110_100, "server", "output_audio_buffer.cleared", response_id="resp_1")
    response.barge_in = BargeIn(109_900, speech.started, heard=79_600, cut=response.ended)
    cut = cut_of(hand)
    assert (cut.heard, cut.bound) == ((79_600, 79_600), False)


# The judge.


def spans_for(truth: Truth, wait: float | None, **attributes: object) -> list[Verdict]:
    at = T0 * 10**9
    more = {} if wait is None else {"grafter.caller_wait_ms": wait}
    span = Span("resp_1", "chat", at, at, {"grafter.guest.span_id": "resp_1", **more, **attributes})
    return judge(truth, [span])


@pytest.mark.parametrize(
    ("wait", "more", "finding"),
    [
        (2_930.0, {}, "right"),
        (2_928.5, {}, "right"),
        (2_400.0, {}, "wrong"),
        (2_400.0, {"grafter.caller_wait.error_ms": 600.0}, "right"),
        (None, {}, "left out"),
    ],
)
def test_a_figure_is_judged(wait: float | None, more: dict[str, object], finding: str) -> None:
    """Right within its own error or 2 ms; what could be known and is not stated counts as left out."""
    hand = Hand()
    speech = hand.speech(2_000, 4_000)
    assert speech.stopped is not None
    response = hand.response(
        4_050, 6_430, 7_000, speech.stopped, word="speech_stopped", answers=speech, opens=True, audio_ms=500.0
    )
    response.first_audio = response.first_delta
    found = [v for v in spans_for(hand.truth(), wait, **more) if v.what == "grafter.caller_wait_ms"]
    assert [v.finding for v in found] == [finding]


def test_what_does_not_exist_is_invented() -> None:
    """A wait without a speech, and a span of something that did not happen."""
    hand = Hand()
    hand.response(1_000, 1_500, 2_000, hand.at(900, "client", "response.create"), word="response.create")
    found = {v.what: v.finding for v in spans_for(hand.truth(), 500.0)}
    assert found["grafter.caller_wait_ms"] == "invented"
    assert found["gen_ai.audio.barge_in"] == "absent"
    stray = judge(hand.truth(), [Span("call_x", "execute_tool find", 0, 0, {})])
    assert [(v.what, v.finding) for v in stray if v.owner == "call_x"] == [("span execute_tool", "invented")]


def test_parts_that_do_not_add_up_are_wrong() -> None:
    """The sum is exact."""
    hand = Hand()
    hand.response(1_000, 1_500, 2_000, hand.at(900, "client", "response.create"), word="response.create")
    parts = {"grafter.caller_wait.model_ms": 400.0, "grafter.caller_wait.unknown_ms": 99.0}
    found = {v.what: v.finding for v in spans_for(hand.truth(), 500.0, **parts)}
    assert found["sum of the parts of the wait"] == "wrong"


@pytest.mark.parametrize(
    ("heard", "more", "finding"),
    [
        (1_500, {"grafter.audio.heard_at_most": True}, "right"),
        (1_500, {}, "wrong"),
        (1_440, {}, "right"),
        (1_500, {"audio.elapsed.error_ms": 60.0}, "right"),
        (3_000, {"grafter.audio.heard_at_most": True}, "wrong"),
        (None, {}, "left out"),
    ],
)
def test_heard_audio_is_judged(heard: int | None, more: dict[str, object], finding: str) -> None:
    """Where nothing says what was heard, what time allows is right only when it says that it is a bound."""
    hand = Hand()
    response = answer_from(hand, 1_200, 3_000, 2_750)
    speech = hand.speech(2_700, 4_000, "u2")
    assert speech.started is not None
    response.barge_in = BargeIn(2_600, speech.started, heard=1_440)
    stated = more if heard is None else {"audio.elapsed_ms": heard, **more}
    event = ("gen_ai.audio.barge_in", T0 * 10**9 + 2_700 * 10**6, stated)
    found = {v.what: v.finding for v in judge(hand.truth(), [Span("resp_1", "chat", 0, 0, {}, (event,))])}
    assert (found["gen_ai.audio.barge_in"], found["audio.elapsed_ms"]) == ("right", finding)
