"""Calls whose figures were worked out by hand: who asked, what is answered, what never ran, which ending counts.

Each call is written in milliseconds since it began; its docstring is the calculation. What apps really send (no
event ids, refused requests, restored history) is the subject, and the rule is one: a figure is right, or it is absent.
"""

import json
import random
from itertools import permutations

import pytest

from grafter.core.model import UnixNano
from grafter.core.policy import GraftPolicy
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.spans import map_realtime
from tests.guests.realtime.hand import (
    AUDIO,
    CHUNK,
    END,
    ENDPOINTING,
    FIGURES,
    SPEECH,
    SPEECH_END,
    TOKEN,
    TOKEN_AT,
    TOKEN_FROM,
    VAD,
    WAIT,
    Call,
    joined,
    nano,
)  # fmt: skip

ACTIVE = "conversation_already_has_active_response"


# -- who asked


def test_two_requests_refused_in_a_row_ask_for_nothing_later() -> None:
    """resp_1: stopped 2,000, sound 2,600: 600 ms. resp_2: the only ask that stands is 60,000; sound 60,400: 400 ms."""
    call = Call().session().spoke(1000, 2000, "u1").created(2100, "resp_1").ask(2300).refuses(2350, ACTIVE)
    call.ask(2400).refuses(2450, ACTIVE).sound(2600, "resp_1").done(3000, "resp_1")
    got = joined(
        call.ask(60_000).created(60_100, "resp_2").sound(60_400, "resp_2").done(61_000, "resp_2").ended(62_000)
    )
    assert (got.of("resp_1")[TOKEN], got.of("resp_1")[TOKEN_FROM]) == (600.0, "speech_stopped")
    assert (got.of("resp_2")[TOKEN], got.of("resp_2")[TOKEN_AT]) == (400.0, nano(60_000))


def test_the_request_that_an_error_names_is_the_one_refused() -> None:
    """Asks A 5,000 and B 5,010; the error names A. Sound 5,500: 490 ms from B."""
    call = Call().session().ask(5000, event_id="A").ask(5010, event_id="B").refuses(5050, "invalid_value", "A")
    got = joined(call.created(5100, "resp_1").sound(5500, "resp_1").done(6000, "resp_1").ended(7000))
    assert (got.of("resp_1")[TOKEN], got.of("resp_1")[TOKEN_AT]) == (490.0, nano(5010))


def test_a_request_that_came_to_nothing_asks_for_no_answer_to_speech() -> None:
    """Asked 5,000, cancelled 5,010, there was nothing to cancel. The caller stops at 12,000, sound 12,500."""
    call = Call().session().ask(5000).client(5010, "response.cancel").refuses(5060, "response_cancel_not_active")
    call.spoke(11_000, 12_000, "u1").created(12_050, "resp_1").sound(12_500, "resp_1").done(13_000, "resp_1")
    got = joined(call.ended(14_000)).of("resp_1")
    assert (got.get(TOKEN), got.get(TOKEN_FROM)) in [(500.0, "speech_stopped"), (None, None)]
    assert got[WAIT] == 1000.0


def test_a_cancelled_answer_uses_its_own_request_up() -> None:
    """Asked 5,000 and cancelled at once; OpenAI began and ended resp_1. Asked again 9,000, sound 9,400: 400 ms."""
    call = Call().session().ask(5000).client(5020, "response.cancel").created(5100, "resp_1")
    call.done(5110, "resp_1", "cancelled", "client_cancelled")
    got = joined(call.ask(9000).created(9100, "resp_2").sound(9400, "resp_2").done(9900, "resp_2").ended(11_000))
    assert TOKEN not in got.of("resp_1")
    assert (got.of("resp_2")[TOKEN], got.of("resp_2")[TOKEN_AT]) == (400.0, nano(9000))


def test_a_setting_that_was_refused_changes_no_wait() -> None:
    """The detector's silence stays 500 (1,200 was refused): stopped 5,000, speech over 4,500, sound 5,400: wait 900."""
    setting = {
        "type": "realtime",
        "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 1200}}},
    }
    call = (
        Call().session().client(500, "session.update", session=setting).refuses(600, "invalid_value", None, "session")
    )
    call.spoke(3000, 5000, "u1").created(5050, "resp_1").sound(5400, "resp_1").done(6000, "resp_1")
    got = joined(call.ended(7000))
    assert (got.of("resp_1")[ENDPOINTING], got.of("resp_1")[SPEECH_END]) == (500, nano(4500))
    assert got.wait("resp_1") == {"ms": 900.0, "endpointing": 500.0, "model": 400.0}


def test_a_setting_counts_from_the_servers_own_word() -> None:
    """1,200 is accepted at 600: stopped 5,000, speech ended 3,800, sound 5,400: wait 1,600. Asked for again (300) at
    4,990 and accepted only at 5,020, after the detector had decided: still 1,200."""
    slow = {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 1200}}}
    fast = {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 300}}}
    call = Call().session().client(500, "session.update", session={"audio": slow})
    call.server(600, "session.updated", session={"id": "sess_1", "type": "realtime", "audio": slow})
    call.starts(2000, "u1").client(4990, "session.update", session={"audio": fast}).stops(5000, "u1")
    call.server(5020, "session.updated", session={"id": "sess_1", "type": "realtime", "audio": fast})
    got = joined(call.created(5050, "resp_1").sound(5400, "resp_1").done(6000, "resp_1").ended(7000))
    assert got.of("resp_1")[SPEECH_END] == nano(3800)
    assert got.wait("resp_1") == {"ms": 1600.0, "endpointing": 1200.0, "model": 400.0}


def test_an_output_that_was_refused_ends_no_tool() -> None:
    """Tool from 3,000; the output of 3,500 was refused, that of 4,000 taken: 1,000. Asked 4,010, sound 4,400: 390."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(3000, "resp_1", "call_1")
    call.done(3100, "resp_1", output=[call.tool_item("call_1")]).hand_back(3500, "call_1").refuses(
        3550, "invalid_value"
    )
    got = joined(
        call.handed_back(4000, "call_1").ask(4010).created(4100, "resp_2").sound(4400, "resp_2").done(5000, "resp_2")
        .ended(6000)
    )  # fmt: skip
    assert got.tools() == {"call_1": (3000.0, 4000.0)}
    assert got.of("resp_2")[TOKEN] == 390.0
    assert got.wait("resp_2") == {
        "ms": 2900.0, "endpointing": 500.0, "model": 1390.0, "tool": 1000.0, "relay": 10.0,
    }  # fmt: skip


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("asked", [3602.0, 3610.0])
def test_an_output_that_is_given_again_before_the_error_comes(asked: float, shown: bool) -> None:
    """Tool from 3,000; its output of 3,500 is refused at 3,605, and was given again at 3,600: that one was taken,
    whether or not the server says of items that it takes them, for what is taken nobody gives again. Tool 600; asked
    before or after the error; sound 4,000. The wait from 1,500: 500 + 1,000 model, 600 tool, the app's, the model's."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(3000, "resp_1", "call_1")
    call.done(3100, "resp_1", output=[call.tool_item("call_1")]).hand_back(3500, "call_1").hand_back(3600, "call_1")
    call.refuses(3605, "invalid_value").ask(asked)
    if shown:
        call.added(3700, id="out_1", type="function_call_output", call_id="call_1", output="{}")
    got = joined(call.created(3720, "resp_2").sound(4000, "resp_2").done(5000, "resp_2").ended(6000))
    assert got.tools() == {"call_1": (3000.0, 3600.0)}
    assert (got.of("resp_2")[TOKEN], got.of("resp_2")[TOKEN_FROM]) == (4000.0 - asked, "response.create")
    assert got.wait("resp_2") == {
        "ms": 2500.0, "endpointing": 500.0, "model": 5000.0 - asked, "tool": 600.0, "relay": asked - 3600.0,
    }  # fmt: skip


def test_a_restored_call_and_its_output_are_not_given_twice() -> None:
    """A server that never says that it takes an item. History of 100 and 110 names one call in two items, which says
    nothing of the error at 3,550: the output of 3,500 is given again at 4,000, so it was about that. Tool: 1,000."""
    call = Call().session().client(100, "conversation.item.create", item=Call.tool_item("call_h"))
    call.hand_back(110, "call_h").spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(3000, "resp_1", "call_1")
    call.done(3100, "resp_1", output=[call.tool_item("call_1")]).hand_back(3500, "call_1")
    call.refuses(3550, "invalid_value").hand_back(4000, "call_1").ask(4010).created(4100, "resp_2")
    got = joined(call.sound(4400, "resp_2").done(5000, "resp_2").ended(6000))
    assert got.tools() == {"call_1": (3000.0, 4000.0)}
    assert (got.of("resp_2")[TOKEN], got.of("resp_2")[TOKEN_AT]) == (390.0, nano(4010))


def two_tools() -> Call:
    """Both asked for at 3,000; outputs at 3,500 and 3,510, and an error at 3,560 that says of neither that it is it."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.asked_tool(3000, "resp_1", "call_1").asked_tool(3000, "resp_1", "call_2")
    call.done(3100, "resp_1", output=[call.tool_item("call_1"), call.tool_item("call_2")])
    return call.hand_back(3500, "call_1").hand_back(3510, "call_2").refuses(3560, "invalid_value")


def test_the_first_of_two_outputs_was_refused_if_the_second_is_taken_after_the_error() -> None:
    """The server takes what it gets in order, and takes call_2's at 3,570: so it was call_1's that it refused, which
    is given again at 3,700. Asked 3,710, sound 4,100: 390."""
    call = two_tools().added(3570, id="o2", type="function_call_output", call_id="call_2", output="{}")
    call.handed_back(3700, "call_1").ask(3710).created(3750, "resp_2").sound(4100, "resp_2").done(5000, "resp_2")
    got = joined(call.ended(6000))
    assert got.tools() == {"call_1": (3000.0, 3700.0), "call_2": (3000.0, 3510.0)}
    assert (got.of("resp_2")[TOKEN], got.of("resp_2")[TOKEN_AT]) == (390.0, nano(3710))


def test_of_two_outputs_the_refused_one_is_given_again() -> None:
    """The server never says that it takes an item; call_2's output comes again at 3,700, so the error was about it."""
    call = two_tools().hand_back(3700, "call_2").ask(3710).created(3750, "resp_2").sound(4100, "resp_2")
    got = joined(call.done(5000, "resp_2").ended(6000))
    assert got.tools() == {"call_1": (3000.0, 3500.0), "call_2": (3000.0, 3700.0)}
    assert (got.of("resp_2")[TOKEN], got.of("resp_2")[TOKEN_AT]) == (390.0, nano(3710))


def test_a_refused_commit_refuses_no_request() -> None:
    """An empty buffer is committed (3,000) and refused; the ask of 3,010 stands, sound 3,500: 490 ms or nothing."""
    call = Call().session(0, None).client(3000, "input_audio_buffer.commit").ask(3010)
    call.refuses(3100, "input_audio_buffer_commit_empty").created(3120, "resp_1").sound(3500, "resp_1")
    assert joined(call.done(4000, "resp_1").ended(5000)).of("resp_1").get(TOKEN) in (490.0, None)


def test_an_error_long_after_an_answer_began_undoes_nothing() -> None:
    """Asked 1,000, resp_1 from 1,100, sound 1,500: 500 ms; a commit is refused at 9,000 without an id."""
    call = Call().session().ask(1000).created(1100, "resp_1").sound(1500, "resp_1").done(2000, "resp_1")
    call.client(8950, "input_audio_buffer.commit").refuses(9000, "input_audio_buffer_commit_empty")
    assert joined(call.ended(10_000)).of("resp_1")[TOKEN] == 500.0


# -- what is answered


def test_a_silent_tool_long_ago_is_no_part_of_a_wait() -> None:
    """The output of 3,000 needed no answer. The caller stops at 60,000, sound 60,600: 600 and 1,100 = 500 + 600."""
    call = Call().session().ask(500).created(600, "resp_1").asked_tool(2000, "resp_1", "call_1").done(2100, "resp_1")
    call.handed_back(3000, "call_1").spoke(58_000, 60_000, "u1").created(60_050, "resp_2").sound(60_600, "resp_2")
    got = joined(call.done(61_000, "resp_2").ended(62_000))
    assert (got.of("resp_2")[TOKEN], got.of("resp_2")[TOKEN_FROM]) == (600.0, "speech_stopped")
    assert got.wait("resp_2") == {"ms": 1100.0, "endpointing": 500.0, "model": 600.0}


def test_an_app_that_thinks_is_not_the_model() -> None:
    """create_response false: stopped 2,000, asked 3,500, sound 4,000: first token 500; wait 500 + 1,500 + 500."""
    call = Call().session(0, {**VAD, "create_response": False}).spoke(1000, 2000, "u1").ask(3500)
    got = joined(call.created(3550, "resp_1").sound(4000, "resp_1").done(5000, "resp_1").ended(6000))
    assert (got.of("resp_1")[TOKEN], got.of("resp_1")[TOKEN_FROM]) == (500.0, "response.create")
    assert got.wait("resp_1") == {"ms": 2500.0, "endpointing": 500.0, "relay": 1500.0, "model": 500.0}


@pytest.mark.parametrize("kind", ["function", "mcp"])
@pytest.mark.parametrize("pieces", [True, False])
def test_a_call_whose_pieces_are_left_out_has_no_first_token(kind: str, pieces: bool) -> None:
    """Asked by a speech until 1,000; the first of the arguments at 1,280, all at 1,300, sound at 3,700: the first token
    is 280 ms. Who posts no pieces of arguments shows only that it was no later than 1,300: none, and never 2,700."""
    call = Call().session().spoke(500, 1000, "u1").created(1050, "resp_1")
    told = {"response_id": "resp_1", "item_id": "i1", **({"call_id": "c1"} if kind == "function" else {})}
    name = f"response.{kind}_call_arguments"
    if pieces:
        call.server(1280, f"{name}.delta", delta="{", **told)
    call.server(1300, f"{name}.done", arguments="{}", **told).sound(3700, "resp_1").done(4000, "resp_1")
    got = joined(call.ended(9000)).of("resp_1")
    assert (got.get(TOKEN), got.get(CHUNK)) == ((280.0, 0.28) if pieces else (None, None))
    assert got[AUDIO] == 2700.0


def test_two_tools_at_once_are_waited_for_once() -> None:
    """Both asked for at 2,600, back 3,500 and 4,600; asked 4,610, sound 5,000. The wait of 3,500 from 1,500 is
    500 silence + 600 model + 2,000 tools + 10 app + 390 model."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.asked_tool(2600, "resp_1", "call_1").asked_tool(2600, "resp_1", "call_2", "book")
    call.done(2650, "resp_1", output=[call.tool_item("call_1"), call.tool_item("call_2", "book")])
    call.handed_back(3500, "call_1").handed_back(4600, "call_2", 5).ask(4610).created(4700, "resp_2")
    got = joined(call.sound(5000, "resp_2").done(6000, "resp_2").ended(7000))
    assert got.tools() == {"call_1": (2600.0, 3500.0), "call_2": (2600.0, 4600.0)}
    assert got.of("resp_2")[TOKEN] == 390.0
    assert got.wait("resp_2") == {
        "ms": 3500.0, "endpointing": 500.0, "model": 990.0, "tool": 2000.0, "relay": 10.0,
    }  # fmt: skip
    assert WAIT not in got.of("resp_1")


def test_after_one_moment_please_the_wait_is_over() -> None:
    """resp_1 speaks at 2,600 and then calls a tool: the wait is 1,100 and stands on it; resp_2 has none of its own."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").sound(2600, "resp_1", 800)
    call.asked_tool(3000, "resp_1", "call_1").done(3100, "resp_1", output=[call.tool_item("call_1")])
    call.handed_back(6000, "call_1").ask(6500).created(6550, "resp_2").sound(7000, "resp_2").done(8000, "resp_2")
    got = joined(call.ended(9000))
    assert got.wait("resp_1") == {"ms": 1100.0, "endpointing": 500.0, "model": 600.0}
    assert (WAIT in got.of("resp_2"), got.of("resp_2")[TOKEN]) == (False, 500.0)


def test_a_greeting_and_a_typed_question_answer_no_speech() -> None:
    """Greeting: asked 200, sound 800: 600. Speech 2,000-3,000 answered at 3,500. Typed 10,000, asked 10,010, sound
    10,510: 500, and no caller waited by voice."""
    call = Call().session().ask(200).created(300, "resp_1").sound(800, "resp_1").done(1200, "resp_1")
    call.spoke(2000, 3000, "u1").created(3050, "resp_2").sound(3500, "resp_2").done(4000, "resp_2")
    typed = {"id": "t1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    call.client(10_000, "conversation.item.create", item=typed).added(10_005, **typed).ask(10_010)
    call.created(10_100, "resp_3").sound(10_510, "resp_3").done(11_000, "resp_3")
    got = joined(call.ended(12_000))
    assert [got.of(f"resp_{n}")[TOKEN] for n in (1, 2, 3)] == [600.0, 500.0, 500.0]
    assert [got.of(f"resp_{n}").get(WAIT) for n in (1, 2, 3)] == [None, 1000.0, None]


def test_a_caller_who_goes_on_is_answered_once() -> None:
    """u1 stops 2,000, resp_1 begins and is cancelled by u2 (2,300) before any sound; u2 stops 4,000, sound 4,500.
    First token 500, the wait 1,000 from 3,500, and nothing was interrupted."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").starts(2300, "u2")
    call.done(2310, "resp_1", "cancelled", "turn_detected").stops(4000, "u2").committed(4002, "u2")
    got = joined(call.created(4050, "resp_2").sound(4500, "resp_2").done(5000, "resp_2").ended(6000))
    assert (got.of("resp_2")[TOKEN], got.of("resp_2")[SPEECH], got.of("resp_2")[WAIT]) == (500.0, "u2", 1000.0)
    assert (got.barge_ins(), TOKEN in got.of("resp_1")) == ([], False)


def test_the_apps_time_after_a_tool_is_its_own() -> None:
    """Tool 2,500-4,000; asked 5,500; sound 6,000. Wait 4,500 = 500 + (500 + 500) model + 1,500 tool + 1,500 app."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2500, "resp_1", "call_1")
    call.done(2600, "resp_1", output=[call.tool_item("call_1")]).handed_back(4000, "call_1").ask(5500)
    got = joined(call.created(5600, "resp_2").sound(6000, "resp_2").done(7000, "resp_2").ended(8000))
    assert got.of("resp_2")[TOKEN] == 500.0
    assert got.wait("resp_2") == {
        "ms": 4500.0, "endpointing": 500.0, "model": 1000.0, "tool": 1500.0, "relay": 1500.0,
    }  # fmt: skip


def test_a_recorder_that_sees_no_client_states_no_model_time_after_a_tool() -> None:
    """Output seen at 4,040, who asked when is not: a first token only with an error that reaches down to the truth (at
    most from created 5,600: 400), or none. The wait from 1,500 to 6,000 is known: 4,500."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2500, "resp_1", "call_1")
    call.done(2600, "resp_1", output=[call.tool_item("call_1")])
    call.added(4040, id="out_1", type="function_call_output", call_id="call_1", output="{}")
    got = joined(call.created(5600, "resp_2").sound(6000, "resp_2").done(7000, "resp_2").ended(8000))
    have = got.of("resp_2")
    if TOKEN in have:
        assert have[TOKEN_FROM] == "tool_output"
        assert have[TOKEN] - have["grafter.turn.first_token.error_ms"] <= 400.0
    wait = got.wait("resp_2")
    assert wait.pop("ms") == 4500.0
    assert sum(wait.values()) == 4500.0


# -- what never ran, what never ended


def test_tools_of_a_cancelled_answer_end_when_the_next_begins() -> None:
    """Two whole calls at 2,500 in an answer that is cancelled at 2,700; no output; the next answer begins at 6,050."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.asked_tool(2500, "resp_1", "call_1").asked_tool(2550, "resp_1", "call_2").starts(2690, "u2")
    call.done(2700, "resp_1", "cancelled", "turn_detected", [call.tool_item("call_1"), call.tool_item("call_2")])
    call.stops(6000, "u2").committed(6002, "u2").created(6050, "resp_2").sound(6500, "resp_2").done(7000, "resp_2")
    got = joined(call.ended(600_000))
    assert all(end <= 6050 for _, end in got.tools().values())
    assert [got.of(c).get(END) for c in ("call_1", "call_2")] == ["unknown", "unknown"]
    assert got.wait("resp_2") == {"ms": 1000.0, "endpointing": 500.0, "model": 500.0}


def test_an_incomplete_call_is_no_tool() -> None:
    """The answer fails in the middle of the arguments: by the item, and by response.done alone."""
    call = Call().session().ask(500).created(600, "resp_1")
    call.server(
        900, "response.output_item.added", response_id="resp_1", output_index=0,
        item=call.tool_item("call_1", status="in_progress"),
    )  # fmt: skip
    call.done(1000, "resp_1", "failed", None, [call.tool_item("call_1", status="incomplete")])
    assert joined(call.ended(9000)).tools() == {}


@pytest.mark.parametrize(
    ("status", "reason"), [("cancelled", "turn_detected"), ("incomplete", "max_output_tokens"), ("failed", None)]
)
@pytest.mark.parametrize("cut", ["incomplete", "in_progress", None])
def test_a_call_that_was_cut_off_is_not_counted_either(status: str, reason: str | None, cut: str | None) -> None:
    """One call was whole and one was cut: the answer says that it asked for one tool, as many as there are spans."""
    whole, broken = Call.tool_item("call_1"), Call.tool_item("call_2", status=cut or "")
    if cut is None:
        del broken["status"]
    call = Call().session().spoke(500, 1000, "u1").created(1050, "resp_1").asked_tool(1300, "resp_1", "call_1")
    got = joined(call.done(1500, "resp_1", status, reason, output=[whole, broken]).ended(9000))
    assert set(got.tools()) == {"call_1"}
    assert got.of("resp_1")["grafter.response.tool_calls"] == 1


def test_speech_that_is_thrown_away_ends_with_its_buffer() -> None:
    """Started 1,000, the app clears the buffer 3,000 (server 3,050): no stop, no answer; the call goes on to 60,000."""
    call = Call().session().starts(1000, "u1").client(3000, "input_audio_buffer.clear")
    got = joined(call.server(3050, "input_audio_buffer.cleared").ended(60_000))
    start, end = got.times("u1") or (0, 0)
    assert start == 1000.0
    assert end <= 3050.0
    assert got.of("u1")[END] == "unknown"
    assert not {SPEECH_END, "grafter.speech.end_unix_nano", ENDPOINTING} & set(got.of("u1"))


def test_a_session_that_ends_in_the_middle_of_everything() -> None:
    """Speech from 5,000, sound to 4,000, a tool at 4,100, no ends; posts stop and the app says ended at 600,000."""
    call = Call().session().ask(1000).created(1100, "resp_1").sound(1500, "resp_1", 400).sound(4000, "resp_1", 400)
    got = joined(call.asked_tool(4100, "resp_1", "call_1").starts(5000, "u1").ended(600_000))
    assert got.of("u1")[END] == "unknown"
    assert all((got.times(one) or (0, 1e9))[1] <= 5000.0 for one in ("u1", "resp_1", "resp_1/audio", "call_1"))
    assert got.of("call_1")[END] == "unknown"


def test_a_second_speech_ends_one_that_never_stopped() -> None:
    """u1 from 1,000 without a stop; u2 from 9,000: one mouth, so u1 is over by 9,000, and nothing waited on it."""
    call = Call().session().starts(1000, "u1").spoke(9000, 10_000, "u2").created(10_050, "resp_1")
    got = joined(call.sound(10_500, "resp_1").done(11_000, "resp_1").ended(12_000))
    assert (got.times("u1") or (0, 1e9))[1] <= 9000.0
    assert got.of("resp_1")[SPEECH] == "u2"
    assert got.of("resp_1")[WAIT] == 1000.0


# -- restored history


def seeded(call: Call, ms: float, by_client: bool = True) -> Call:
    items = [
        call.tool_item("call_old"),
        {"id": "o1", "type": "function_call_output", "call_id": "call_old", "output": "{}"},
        {"id": "m1", "type": "mcp_call", "name": "search", "server_label": "s", "arguments": "{}", "output": "x"},
        {
            "id": "a1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_audio", "transcript": "x", "audio": "AAAA"}],
        },
    ]  # fmt: skip
    for n, item in enumerate(items):
        if by_client:
            call.client(ms + n, "conversation.item.create", item=item)
        call.added(ms + 20 + n, **item)
    return call


@pytest.mark.parametrize("by_client", [True, False], ids=["tap", "recorder"])
@pytest.mark.parametrize("at", [-50, 100, 20_000], ids=["before", "after", "between"])
def test_seeded_items_are_nobodys_run(at: float, by_client: bool) -> None:
    """A tool call, its output, an MCP call and few-shot speech are created around other answers: only the two answers
    (600 from the ask, 500 from the end of speech) are drawn."""
    call = Call().session()
    call.ask(1000).created(1100, "resp_1").sound(1600, "resp_1").done(2000, "resp_1")
    seeded(call, at, by_client).spoke(29_000, 30_000, "u1").created(30_050, "resp_2").sound(30_500, "resp_2")
    got = joined(call.done(31_000, "resp_2").ended(32_000))
    assert got.tools() == {}
    assert [got.of(f"resp_{n}").get(TOKEN) for n in (1, 2)] == [600.0, 500.0]
    assert got.wait("resp_2") == {"ms": 1000.0, "endpointing": 500.0, "model": 500.0}
    assert sorted(s["name"] for s in got.named("assistant_speech")) == ["assistant_speech"] * 2
    assert got.barge_ins() == []


@pytest.mark.parametrize("since", [3_000, 60_000], ids=["open", "left"])
def test_a_session_is_not_drawn_on_by_the_history_of_the_next(since: int) -> None:
    """The socket broke at 2,500, and the next session is given what was said, a tool and its output too: the first is
    over with its last event, its tool ran once, and the second's answer is measured by the second's speech."""
    call = Call().session().spoke(500, 1000, "u1").created(1050, "r1").asked_tool(1300, "r1", "c1")
    call.done(1350, "r1", output=[Call.tool_item("c1")]).handed_back(2000, "c1").ask(2001).created(2050, "r2")
    call.sound(2400, "r2").done(2500, "r2")
    call.server(since, "session.created", session={"id": "sess_2", "type": "realtime"})
    for item in (Call.tool_item("c1"), {"id": "o1", "type": "function_call_output", "call_id": "c1", "output": "{}"}):
        call.client(since + 10, "conversation.item.create", item=item).added(since + 50, **item)
    call.spoke(since + 2000, since + 3000, "u2").created(since + 3050, "r3", conversation_id="conv_2")
    got = joined(call.sound(since + 3500, "r3").done(since + 4000, "r3", conversation_id="conv_2").ended(since + 5000))
    ends = {(one["startTimeUnixNano"], one["endTimeUnixNano"]) for one in got.named("realtime_session")}
    assert ends == {(str(nano(0)), str(nano(2500))), (str(nano(since)), str(nano(since + 5000)))}
    assert got.tools() == {"c1": (1300.0, 2000.0)}
    assert got.of("r3")[TOKEN] == 500.0


def test_an_output_of_a_call_of_yesterday_is_history() -> None:
    """Only the output is restored (its call was compacted away): no tool, and the ask of 1,000 is the cause."""
    call = Call().session().handed_back(500, "call_gone").ask(1000).created(1100, "resp_1").sound(1400, "resp_1")
    got = joined(call.done(2000, "resp_1").ended(3000))
    assert (got.tools(), got.of("resp_1")[TOKEN], got.of("resp_1")[TOKEN_FROM]) == ({}, 400.0, "response.create")
    assert "grafter.turn.after_tool" not in got.of("resp_1")


# -- several endings


def test_the_last_of_two_stops_counts() -> None:
    """Stopped 2,000 and again 2,300 before the answer: ended 1,800, first token 500 from 2,300, wait 1,000."""
    call = Call().session().starts(1000, "u1").stops(2000, "u1").stops(2300, "u1").created(2350, "resp_1")
    got = joined(call.sound(2800, "resp_1").done(3000, "resp_1").ended(4000))
    assert (got.of("resp_1")[TOKEN], got.of("resp_1")[SPEECH_END]) == (500.0, nano(1800))
    assert got.of("resp_1")[WAIT] == 1000.0
    assert got.times("u1") == (1000.0, 1800.0)


def test_a_stop_that_is_repeated_after_the_answer_began_makes_no_figure() -> None:
    """Stopped 2,000, answer from 2,050, sound 2,500; the same stop once more at 2,700: 500 and 1,000, or nothing."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").sound(2500, "resp_1")
    call.server(2700, "input_audio_buffer.speech_stopped", item_id="u1", audio_end_ms=2000)
    got = joined(call.done(3000, "resp_1").ended(4000)).of("resp_1")
    assert got.get(TOKEN) in (500.0, None)
    assert got.get(WAIT) in (1000.0, None)


def test_the_last_response_done_has_the_usage() -> None:
    """10 + 2 tokens at 3,000, 100 + 20 at 3,001: a sum over the trace says 100 and 20."""
    call = Call().session().ask(1000).created(1100, "resp_1").sound(1500, "resp_1").done(3000, "resp_1")
    got = joined(call.done(3001, "resp_1", tokens=(100, 20)).ended(4000))
    assert (got.total("gen_ai.usage.input_tokens"), got.total("gen_ai.usage.output_tokens")) == (100, 20)


def test_what_is_said_twice_is_one_thing() -> None:
    """Every server event comes again 3 ms later under an id of its own: one span each, the figures of the first."""
    call = Call().session()
    for late in (0, 3):
        call.starts(1000 + late, "u1").server(
            2000 + late, "input_audio_buffer.speech_stopped", item_id="u1", audio_end_ms=2000
        ).committed(2010 + late, "u1").created(2050 + late, "resp_1")
        call.server(
            2400 + late, "conversation.item.input_audio_transcription.completed", item_id="u1", content_index=0,
            transcript="x", usage={"type": "duration", "seconds": 1},
        )  # fmt: skip
        call.done(3000 + late, "resp_1")
    got = joined(call.sound(2500, "resp_1").ended(4000))
    assert (len(got.named("chat")), len(got.named("user_speech"))) == (1, 1)
    assert got.of("resp_1")[TOKEN] == pytest.approx(500.0, abs=3)
    assert got.of("resp_1")[WAIT] == pytest.approx(1000.0, abs=3)
    assert got.total("gen_ai.usage.input_tokens") == 10


# -- order


TIED = ["speech_stopped", "committed", "item", "created"]


@pytest.mark.parametrize("order", list(permutations(TIED)), ids="-".join)
def test_events_of_one_millisecond_in_every_order(order: tuple[str, ...]) -> None:
    """All of them at 3,000, in each order of arrival: ended 2,500, sound 3,500: first token 500, wait 1,000."""
    call = Call().session().starts(1000, "u1")
    for one in order:
        if one == "speech_stopped":
            call.stops(3000, "u1")
        elif one == "committed":
            call.committed(3000, "u1")
        elif one == "created":
            call.created(3000, "resp_1")
        else:
            call.added(3000, id="u1", type="message", role="user", content=[{"type": "input_audio"}])
    got = joined(call.sound(3500, "resp_1").done(4000, "resp_1").ended(5000))
    have = got.of("resp_1")
    assert (have[TOKEN], have[TOKEN_FROM], have[SPEECH], have[WAIT]) == (500.0, "speech_stopped", "u1", 1000.0)


TOOL_TIED = ["asked", "done", "back", "ask", "created"]


@pytest.mark.parametrize("order", list(permutations(TOOL_TIED))[::7], ids="-".join)
def test_a_tool_that_takes_no_time_in_every_order(order: tuple[str, ...]) -> None:
    """All at 3,000: the tool takes 0 ms, sound 3,500: first token 500; wait 2,000 from 1,500 = 500 + 1,500 model."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    for one in order:
        if one == "asked":
            call.asked_tool(3000, "resp_1", "call_1")
        elif one == "done":
            call.done(3000, "resp_1", output=[call.tool_item("call_1")])
        elif one == "back":
            call.hand_back(3000, "call_1")
        elif one == "ask":
            call.ask(3000)
        else:
            call.created(3000, "resp_2")
    got = joined(call.sound(3500, "resp_2").done(4000, "resp_2").ended(5000))
    assert got.tools() == {"call_1": (3000.0, 3000.0)}
    assert got.of("resp_2")[TOKEN] == 500.0
    assert got.wait("resp_2") == {"ms": 2000.0, "endpointing": 500.0, "model": 1500.0}


def test_client_ids_that_begin_again_are_other_events() -> None:
    """An SDK that reconnects numbers from 1 again; both asks carry event_1, as the server's first event does."""
    call = Call().session().ask(2000, event_id="event_1").created(2100, "resp_1").sound(2500, "resp_1")
    call.done(3000, "resp_1").ask(9000, event_id="event_1").created(9100, "resp_2").sound(9300, "resp_2")
    got = joined(call.done(9900, "resp_2").ended(11_000))
    assert [got.of(f"resp_{n}").get(TOKEN) for n in (1, 2)] == [500.0, 300.0]


def test_server_ids_that_begin_again_are_other_events() -> None:
    """A server that is only compatible numbers from 1 again in each session; a call that reconnects has two."""
    call = Call().session().spoke(1000, 2000, "u1").created(2100, "resp_1").sound(2500, "resp_1").done(3000, "resp_1")
    call.count = 0
    call.session(20_000, id="sess_2").spoke(21_000, 22_000, "u2").created(22_100, "resp_2", conversation_id="conv_2")
    call.sound(22_600, "resp_2").done(23_000, "resp_2", conversation_id="conv_2")
    got = joined(call.ended(24_000))
    assert [got.of(f"resp_{n}").get(TOKEN) for n in (1, 2)] == [500.0, 600.0]
    assert [got.of(f"resp_{n}").get(WAIT) for n in (1, 2)] == [1000.0, 1100.0]


def test_sound_in_the_millisecond_of_its_request_has_no_figure() -> None:
    """Nothing answers in 0 ms; all that is known is less than a millisecond."""
    call = Call().session().ask(2000).created(2000, "resp_1").sound(2000, "resp_1").done(3000, "resp_1")
    have = joined(call.ended(4000)).of("resp_1")
    assert (TOKEN in have, AUDIO in have, CHUNK in have) == (False, False, False)


def every_call() -> list[Call]:
    """Calls with all kinds of figures, for what must hold of each."""
    tool = (
        Call("rtc_tool").session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2600, "resp_1", "call_1")
    )
    tool.done(2650, "resp_1", output=[tool.tool_item("call_1")]).handed_back(4600, "call_1", 5).ask(4610)
    tool.created(4700, "resp_2").sound(5000, "resp_2", 3000).done(6000, "resp_2").starts(6500, "u2")
    tool.truncates(6510, "item_resp_2", 1400).truncated(6550, "item_resp_2", 1400).stops(8000, "u2")
    tool.committed(8002, "u2").created(8050, "resp_3").sound(8500, "resp_3").done(9000, "resp_3").ended(10_000)
    refused = Call("rtc_refused").session(0, {**VAD, "create_response": False}).ask(200).created(300, "resp_1")
    refused.ask(400).refuses(450, ACTIVE).sound(900, "resp_1", 500).done(1000, "resp_1").spoke(2000, 4000, "u1")
    refused.ask(5500).created(5550, "resp_2").sound(6000, "resp_2").done(7000, "resp_2").ended(8000)
    sip = Call("rtc_sip").session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    sip.server(2500, "response.output_audio_transcript.delta", response_id="resp_1", item_id="a1", delta="x")
    sip.server(2700, "output_audio_buffer.started", response_id="resp_1").done(3500, "resp_1").starts(6000, "u2")
    sip.server(6100, "output_audio_buffer.cleared", response_id="resp_1").truncated(6110, "a1", 3400)
    sip.stops(8000, "u2").committed(8002, "u2").created(8050, "resp_2")
    sip.server(8400, "output_audio_buffer.started", response_id="resp_2").done(9000, "resp_2")
    sip.server(9900, "output_audio_buffer.stopped", response_id="resp_2").ended(12_000)
    return [tool, refused, sip]


def figures(call: Call) -> dict[tuple[str, str], object]:
    got = joined(call)
    found = {
        (str(s["a"]["grafter.guest.span_id"]), key): v
        for s in got.guests() for key, v in s["a"].items() if key in FIGURES
    }  # fmt: skip
    found |= {(response, "barge_in"): (at, heard) for response, at, heard in got.barge_ins()}
    found |= {(tool, "tool"): times for tool, times in got.tools().items()}
    return found


@pytest.mark.parametrize("number", range(3))
def test_posts_in_any_order_say_the_same(number: int) -> None:
    """40 orders of the lines of each call; all have arrived when the call is read, so nothing may differ."""
    call = every_call()[number]
    want = figures(call)
    assert len(want) > 5
    for seed in range(40):
        assert figures(call.shuffled(random.Random(seed))) == want


@pytest.mark.parametrize("number", range(3))
def test_repeated_lines_say_the_same(number: int) -> None:
    """Some lines of each call come twice or three times, byte for byte, anywhere later."""
    call = every_call()[number]
    want = figures(call)
    for seed in range(40):
        chance, other = random.Random(seed), Call(call.key)
        other.rows = [*call.rows, *chance.choices(call.rows, k=8)]
        assert figures(other.shuffled(chance)) == want


OPTIONAL = (
    "committed", "conversation.item.added", "conversation.item.done", "output_item.done", "ended",
    "response.done", "audio_transcript", "truncated", "item.truncate", "stopped", "output_audio_buffer.stopped",
)  # fmt: skip


@pytest.mark.parametrize("number", range(3))
def test_without_its_optional_events_a_figure_vanishes_or_stays(number: int) -> None:
    """60 draws of lines left out (committed, item events, done, truncations): each figure that is still stated is that
    of the whole call, or says an error that reaches the truth. What was heard may fall back on a looser bound."""
    call = every_call()[number]
    want = figures(call)
    for seed in range(60):
        chance, other = random.Random(seed), Call(call.key)
        gone: list[str] = []
        for row in call.rows:
            kind = str((row.get("event") or {"type": "ended" if "ended" in row else ""})["type"])  # type: ignore[index]
            if kind.endswith(OPTIONAL) and "speech_stopped" not in kind and chance.random() < 0.5:
                gone.append(kind)
                continue
            other.rows.append(row) if row not in other.rows else None
        got = figures(other)
        wrong = {k: (v, want.get(k)) for k, v in got.items() if v != want.get(k)}
        loose = {k for k in wrong if k[1] in ("barge_in", "tool")}
        assert set(wrong) <= loose, (gone, wrong)


# -- asked again, and what is all there is to know


@pytest.mark.parametrize(
    ("status", "reason", "until"), [("cancelled", "client_cancelled", 2250), ("failed", None, 2450)], ids=str
)
def test_an_answer_that_was_not_heard_is_part_of_the_wait(status: str, reason: str | None, until: int) -> None:
    """Stopped 2,000; resp_1 ends unheard at ``until``; asked again 3,000, sound 3,500. The wait of 2,000 from 1,500 is
    500 silence + (until - 2,000) model + (3,000 - until) app + 500 model."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").done(until, "resp_1", status, reason)
    got = joined(call.ask(3000).created(3050, "resp_2").sound(3500, "resp_2").done(4000, "resp_2").ended(5000))
    assert got.of("resp_2")[TOKEN] == 500.0
    assert got.wait("resp_2") == {
        "ms": 2000.0, "endpointing": 500.0, "model": until - 1500.0, "relay": 3000.0 - until,
    }  # fmt: skip


def test_a_tool_so_quick_that_its_request_is_refused() -> None:
    """Tool 2,500-2,510; asked 2,515 while resp_1 is open: refused; asked again 2,650, sound 3,000: 350. The wait of
    1,500 is 500 + 500 model + 10 tool + 140 app + 350 model."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2500, "resp_1", "call_1")
    call.handed_back(2510, "call_1", 20).ask(2515).refuses(2560, ACTIVE).done(2600, "resp_1")
    got = joined(call.ask(2650).created(2700, "resp_2").sound(3000, "resp_2").done(4000, "resp_2").ended(5000))
    assert got.of("resp_2")[TOKEN] == 350.0
    assert got.wait("resp_2") == {
        "ms": 1500.0, "endpointing": 500.0, "model": 850.0, "tool": 10.0, "relay": 140.0,
    }  # fmt: skip


def test_hello_while_a_tool_works() -> None:
    """u2 asks (stopped 4,000) while the tool of u1 runs, and is answered at 4,500: wait 1,000. What the tool brings is
    sound at 8,500, asked for at 8,010: 490, and the caller has been answered by then."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2500, "resp_1", "call_1")
    call.done(2600, "resp_1").spoke(3000, 4000, "u2").created(4050, "resp_2").sound(4500, "resp_2", 800)
    call.done(5000, "resp_2").handed_back(8000, "call_1").ask(8010).created(8050, "resp_3").sound(8500, "resp_3")
    got = joined(call.done(9000, "resp_3").ended(10_000))
    assert [got.of(f"resp_{n}").get(WAIT) for n in (1, 2, 3)] == [None, 1000.0, None]
    assert got.of("resp_3")[TOKEN] == 490.0
    assert got.tools() == {"call_1": (2500.0, 8000.0)}


@pytest.mark.parametrize("client", [True, False])
def test_speech_is_answered_and_not_the_output_of_that_moment(client: bool) -> None:
    """Nothing is known of the session's settings. u2 stops at 8,000, the tool's output is given at 8,005, nobody asks,
    and resp_2 begins at 8,030: OpenAI begins by itself after speech and never after an output. Sound 8,400: 400 from
    the speech, by at most the 30 in which somebody unseen may have asked; for a recorder, too."""
    call = Call().server(0, "session.created", session={"id": "sess_1"}).spoke(1000, 2000, "u1")
    call.created(2050, "resp_1").asked_tool(2500, "resp_1", "call_1").done(2600, "resp_1").spoke(7000, 8000, "u2")
    if client:
        call.hand_back(8005, "call_1")
    call.added(8010, id="o1", type="function_call_output", call_id="call_1", output="{}").created(8030, "resp_2")
    got = joined(call.sound(8400, "resp_2").done(9000, "resp_2").ended(10_000)).of("resp_2")
    assert (got[TOKEN], got[TOKEN_FROM], got[TOKEN_AT]) == (400.0, "speech_stopped", nano(8000))
    assert (got["grafter.turn.first_token.error_ms"], got[SPEECH]) == (30.0, "u2")


def test_an_output_long_after_an_unanswered_speech_is_asked_about_by_somebody() -> None:
    """The same settings; u2 stops at 4,000 and is not answered, the output comes at 8,000 and resp_2 begins at 8,050:
    OpenAI would have begun at once. Sound 8,400: 400 from the output, by at most 50."""
    call = Call().server(0, "session.created", session={"id": "sess_1"}).spoke(1000, 2000, "u1")
    call.created(2050, "resp_1").asked_tool(2500, "resp_1", "call_1").done(2600, "resp_1").spoke(3000, 4000, "u2")
    call.handed_back(8000, "call_1").created(8050, "resp_2").sound(8400, "resp_2").done(9000, "resp_2")
    got = joined(call.ended(10_000)).of("resp_2")
    assert (got[TOKEN], got[TOKEN_FROM], got["grafter.turn.first_token.error_ms"]) == (400.0, "tool_output", 50.0)


def test_an_ask_that_was_lost_asks_for_nothing() -> None:
    """Asked 2,500 and nothing came of it, not even an error; asked 6,000, sound 6,400: 400."""
    call = Call().session().ask(2500).ask(6000).created(6100, "resp_1").sound(6400, "resp_1").done(7000, "resp_1")
    assert joined(call.ended(9000)).of("resp_1")[TOKEN] == 400.0


def test_a_server_that_breaks_down_asks_for_nothing() -> None:
    """Asked 5,000, server_error; the caller stops at 21,000 and hears 21,500: 500 from there."""
    call = Call().session().ask(5000)
    call.server(5050, "error", error={"type": "server_error", "code": None, "message": "x", "event_id": None})
    call.spoke(20_000, 21_000, "u1").created(21_050, "resp_1").sound(21_500, "resp_1").done(22_000, "resp_1")
    got = joined(call.ended(23_000)).of("resp_1")
    assert (got[TOKEN], got[TOKEN_FROM], got[WAIT]) == (500.0, "speech_stopped", 1000.0)


def test_two_speeches_and_one_ask() -> None:
    """create_response false: u1 to 4,000, u2 to 6,000; asked 7,000, sound 7,500: the wait is from u2's end, 5,500."""
    call = Call().session(0, {**VAD, "create_response": False}).spoke(3000, 4000, "u1").spoke(5000, 6000, "u2")
    got = joined(call.ask(7000).created(7050, "resp_1").sound(7500, "resp_1").done(8000, "resp_1").ended(9000))
    assert got.of("resp_1")[SPEECH] == "u2"
    assert got.wait("resp_1") == {"ms": 2000.0, "endpointing": 500.0, "relay": 1000.0, "model": 500.0}


def test_asks_side_by_side_are_told_apart_by_their_metadata() -> None:
    """Asked 5,000 in the conversation and 5,001 out of band; the second begins first. Sound 5,600: 600 from 5,000."""
    call = Call().session().ask(5000, response={"metadata": {"n": "1"}})
    call.ask(5001, response={"metadata": {"n": "2"}, "conversation": "none"})
    call.created(5100, "resp_2", metadata={"n": "2"}, conversation_id=None).created(5200, "resp_1", metadata={"n": "1"})
    call.sound(5600, "resp_1").done(6000, "resp_1", metadata={"n": "1"}).done(6100, "resp_2", conversation_id=None)
    assert joined(call.ended(7000)).of("resp_1")[TOKEN] == 600.0


def test_a_session_that_is_joined_in_the_middle() -> None:
    """No session.created: the silence is not known, so no end of speech and no wait; 500 from the stop, by at most the
    50 in which somebody unseen may have asked."""
    call = Call().spoke(1000, 2000, "u1").created(2050, "resp_1").sound(2500, "resp_1", 3000, "a1").done(3000, "resp_1")
    got = joined(call.starts(4000, "u2").truncated(4050, "a1", 1500).stops(5000, "u2").ended(6000))
    have = got.of("resp_1")
    assert have[TOKEN] == 500.0
    assert have.get("grafter.turn.first_token.error_ms", 0) <= 50
    assert not {SPEECH_END, WAIT, ENDPOINTING} & set(have)
    assert got.barge_ins() == [("resp_1", 4000.0, 1500)]


WAITED = (*(f"grafter.caller_wait.{one}_ms" for one in ("tool", "relay", "playout")), TOKEN, AUDIO, WAIT, ENDPOINTING)
MARGIN = {"grafter.caller_wait.tool": 5, "grafter.caller_wait.relay": 5, "grafter.turn": 2}
"""What lies between two events that say the same: an output and its item, a stop and its commit."""


@pytest.mark.parametrize("number", range(3))
def test_a_line_that_is_lost_falsifies_nothing(number: int) -> None:
    """Each line of each call is lost in its turn: what is still stated is as far from the truth as its own error says,
    measured from the event beside the lost one where that says the same; and the parts still add up to the wait."""
    call = every_call()[number]
    true = figures(call)
    for lost in range(len(call.rows)):
        other = Call(call.key)
        other.rows = call.rows[:lost] + call.rows[lost + 1 :]
        got = joined(other)
        for span in got.guests():
            name, have = str(span["a"]["grafter.guest.span_id"]), span["a"]
            for key in WAITED:
                if key in have and (name, key) in true:
                    error = have.get(key.replace("_ms", ".error_ms"), 0)
                    error += max((ms for begin, ms in MARGIN.items() if key.startswith(begin)), default=0)
                    assert abs(have[key] - true[name, key]) <= error, (call.rows[lost], name, key, have[key])
            if WAIT in have:
                wait = got.wait(name)
                assert sum(v for k, v in wait.items() if k != "ms") == pytest.approx(wait["ms"]), call.rows[lost]


def test_a_response_that_is_done_again_a_minute_later_was_over() -> None:
    """Done 1,500, another answer from 2,050, done again 60,000 with more tokens: 500 ms long, those tokens."""
    call = Call().session().ask(900).created(1000, "resp_1").sound(1200, "resp_1").done(1500, "resp_1")
    call.ask(2000).created(2050, "resp_2").sound(2400, "resp_2").done(3000, "resp_2")
    got = joined(call.done(60_000, "resp_1", tokens=(99, 9)).ended(61_000))
    assert got.times("resp_1") == (1000.0, 1500.0)
    assert got.of("resp_1")["gen_ai.usage.input_tokens"] == 99


def released(call: Call, batches: list[list[dict[str, object]]]) -> dict[str, dict[str, object]]:
    """The figures of the spans as they leave, post by post, each as it was when its span left."""
    head: dict[str, object] | None = None
    found: dict[str, dict[str, object]] = {}
    for number, batch in enumerate(batches, 1):
        body = "".join(json.dumps(row) + "\n" for row in batch).encode()
        parts = [part.payload for part in read_posts(body, True, GraftPolicy(), UnixNano(nano(20_000))).parts]
        mapped = map_realtime(call.key, parts, GraftPolicy(), head, final=number == len(batches))
        head = json.loads(json.dumps(mapped[0].head, default=dict))
        for span in (span for one in mapped for span in one.guest.spans):
            have = dict(span.attributes)
            name = str(have["grafter.guest.span_id"])
            assert name not in found, f"{name} left twice"
            found[name] = have | {event.name: event.attributes for event in span.events if "barge" in event.name}
    return found


@pytest.mark.parametrize("slowest", [2, 8])
@pytest.mark.parametrize("number", range(3))
def test_posts_that_overtake_one_another_falsify_nothing(number: int, slowest: int) -> None:
    """The app's posts come up to 2 s and up to 8 s late, the recorder's up to 1 s, in posts of one to four events, and
    spans leave as they end: what has left is what the whole call says, or says how wrong it may be."""
    call = every_call()[number]
    whole = released(call, [call.rows])
    for seed in range(30):
        chance = random.Random(seed)
        delay = {
            "server": chance.choice((0, chance.random())),
            "client": chance.choice((0, chance.uniform(0, slowest))),
        }

        def arrives(row: dict[str, object], chance: random.Random = chance, late: dict[str, float] = delay) -> float:
            known = late.get(str(row.get("from")), 10.0 if "ended" in row else 0.0)
            return float(str(row["at"])) + known + chance.uniform(0, 0.4)

        rows = sorted(call.rows, key=arrives)
        batches = []
        while rows:
            size = chance.randint(1, 4)
            batches.append(rows[:size])
            rows = rows[size:]
        for name, have in released(call, batches).items():
            for key in (TOKEN, AUDIO, WAIT, ENDPOINTING):
                if key in have:
                    error = have.get(key.replace("_ms", ".error_ms"), 0)
                    assert abs(have[key] - whole[name][key]) <= error, (seed, name, key)
            assert have.get("gen_ai.audio.barge_in") in (None, whole[name].get("gen_ai.audio.barge_in"))
