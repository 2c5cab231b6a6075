"""Whose time each wait was, of calls worked out by hand: each docstring is the calculation, in milliseconds.

The calls go the whole way, posts, store, join and export, and are read from what left.
"""

from grafter.core.call_latency import CallLatency, Side
from grafter.core.turns import latency
from tests.core.turn_steps import (
    CLIENT,
    CONSUMER,
    PRODUCER,
    SERVER,
    host_spans,
    inside,
    joined_steps,
    parts,
    step,
    told,
)
from tests.guests.realtime.hand import MS, Call


def with_tool(call: Call | None = None) -> Call:
    """Silent from 1,500, a tool from 2,300 to 3,300, asked again at 3,310, heard at 3,700."""
    call = (call or Call().session()).spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.asked_tool(2300, "resp_1", "call_1").done(2350, "resp_1", output=[call.tool_item("call_1")])
    call.handed_back(3300, "call_1").ask(3310).created(3350, "resp_2").sound(3700, "resp_2").done(4200, "resp_2")
    return call.ended(9000)


def sentences(found: CallLatency) -> list[str]:
    return [turn.sentence for turn in found.caller_turns]


def test_a_plain_answer() -> None:
    """Silent 1,500, the detector says so 2,000, heard 2,400: 900 = 500 + 400."""
    found = told(
        Call().session().spoke(1000, 2000, "u1").created(2050, "r").sound(2400, "r").done(2900, "r").ended(9000)
    )
    (turn,) = found.caller_turns
    assert parts(turn) == [("endpointing", 500), ("model", 400)]
    assert (turn.number, turn.start_word, turn.end_word, turn.answer_audio_ns) == (1, "speech_end", "delta", None)
    assert turn.sentence == "waited 0.90 s: 0.50 the voice detector, 0.40 the model"
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (0, 900 * MS, 0)
    assert found.greetings == ()
    (model,) = found.model_turns
    assert model.first_token_ns == 400 * MS


def test_a_tool_between_two_answers() -> None:
    """1,500 to 3,700: 500 silence, 300 the model to 2,300, 1,000 the tool, 10 the app, 390 the model: 2,200."""
    found = told(with_tool())
    (turn,) = found.caller_turns
    assert parts(turn) == [("endpointing", 500), ("model", 300), ("tool find", 1000), ("relay", 10), ("model", 390)]
    assert [part.side for part in turn.parts] == [Side.OPENAI, Side.OPENAI, Side.APP, Side.APP, Side.OPENAI]
    assert turn.sentence == (
        "waited 2.20 s: 0.50 the voice detector, 0.69 the model in two answers, 1.00 your tool find, 0.01 your app"
    )
    assert turn.answer_audio_ns == 2200 * MS
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (1010 * MS, 1190 * MS, 0)


def test_one_moment_please_hides_no_slow_tool() -> None:
    """Heard at 2,400 already: the wait is 900. The answer after the tool is heard at 6,000: 4,500 from the silence."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").sound(2400, "resp_1")
    call.asked_tool(2600, "resp_1", "call_1").done(2700, "resp_1", output=[call.tool_item("call_1")])
    call.handed_back(5600, "call_1").ask(5610).created(5650, "resp_2").sound(6000, "resp_2").done(6500, "resp_2")
    found = told(call.ended(9000))
    (turn,) = found.caller_turns
    assert parts(turn) == [("endpointing", 500), ("model", 400)]
    assert turn.answer_audio_ns == 4500 * MS
    assert turn.sentence.endswith("0.40 the model; the answer itself came after 4.50 s")
    stated = {one.name: one.attributes.get("grafter.answer_audio_ms") for one in joined_steps(call)}
    assert stated["chat gpt-realtime"] == 4500.0


def test_tools_at_the_same_time_count_once() -> None:
    """A 2,300 to 3,300, B 2,400 to 3,000, asked 3,310, heard 3,700: the tool that was last had 1,000 of it."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2300, "resp_1", "A")
    call.asked_tool(2400, "resp_1", "B", "look").done(2450, "resp_1", output=[call.tool_item("A"), call.tool_item("B")])
    call.handed_back(3000, "B").handed_back(3300, "A").ask(3310).created(3350, "resp_2").sound(3700, "resp_2")
    (turn,) = told(call.done(4200, "resp_2").ended(9000)).caller_turns
    assert parts(turn) == [("endpointing", 500), ("model", 300), ("tool find", 1000), ("relay", 10), ("model", 390)]


def test_tools_one_after_the_other() -> None:
    """Model 300, A 1,000, app 10, model 190 to 3,500, B 500, app 10, model 390: with 500 of silence 2,900."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2300, "resp_1", "A")
    call.done(2350, "resp_1", output=[call.tool_item("A")]).handed_back(3300, "A").ask(3310).created(3350, "resp_2")
    call.asked_tool(3500, "resp_2", "B", "look").done(3550, "resp_2", output=[call.tool_item("B", "look")])
    call.handed_back(4000, "B").ask(4010).created(4050, "resp_3").sound(4400, "resp_3").done(4900, "resp_3")
    found = told(call.ended(9000))
    assert [parts(turn) for turn in found.caller_turns] == [
        [
            ("endpointing", 500),
            ("model", 300),
            ("tool find", 1000),
            ("relay", 10),
            ("model", 190),
            ("tool look", 500),
            ("relay", 10),
            ("model", 390),
        ]
    ]
    assert sentences(found) == [
        "waited 2.90 s: 0.50 the voice detector, 0.88 the model in three answers, 1.00 your tool find, "
        "0.02 your app, 0.50 your tool look"
    ]
    assert len(found.model_turns) == 3


def test_push_to_talk() -> None:
    """The button is let go at 2,000, asked 2,040, heard 2,500: the wait begins at the commit, with no detector."""
    call = Call().session(detection=None).client(1000, "input_audio_buffer.append", audio="AAAA")
    call.client(2000, "input_audio_buffer.commit").ask(2040).committed(2060, "u1").created(2090, "r").sound(2500, "r")
    (turn,) = told(call.done(3000, "r").ended(9000)).caller_turns
    assert parts(turn) == [("relay", 40), ("model", 460)]
    assert (turn.start_word, turn.sentence) == ("commit", "waited 0.50 s: 0.04 your app, 0.46 the model")


def test_a_semantic_detector_says_no_end_of_speech() -> None:
    """It waits as long as it likes: when the caller fell silent nobody knows. The model's turn is known: 400."""
    call = Call().session(detection={"type": "semantic_vad"}).spoke(1000, 2000, "u1").created(2050, "r")
    found = told(call.sound(2400, "r").done(2900, "r").ended(9000))
    assert found.caller_turns == ()
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (None, None, None)
    assert [turn.first_token_ns for turn in found.model_turns] == [400 * MS]


def test_an_answer_out_of_band_is_no_turn() -> None:
    """Asked aside while the caller waits: it neither ends the wait nor counts as an answer."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "r").ask(2100, response={"conversation": "none"})
    call.created(2150, "aside", conversation_id=None, metadata={"topic": "x"})
    call.done(2300, "aside", conversation_id=None).sound(2400, "r").done(2900, "r")
    found = told(call.ended(9000))
    assert [parts(turn) for turn in found.caller_turns] == [[("endpointing", 500), ("model", 400)]]
    assert len(found.model_turns) == 1


def test_an_answer_that_was_cancelled_unheard() -> None:
    """resp_1 is cancelled at 2,200, asked again 2,250, heard 2,700: 500 + 200 of the first, which nobody asked for
    again before 2,250 (the app's 50), and 450 of the second."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").client(2150, "response.cancel")
    call.done(2200, "resp_1", "cancelled", "client_cancelled").ask(2250).created(2300, "resp_2").sound(2700, "resp_2")
    (turn,) = told(call.done(3000, "resp_2").ended(9000)).caller_turns
    assert parts(turn) == [("endpointing", 500), ("model", 200), ("relay", 50), ("model", 450)]


def test_the_greeting() -> None:
    """The session begins at 0, the app asks at 100, the caller hears it at 600."""
    call = Call().session().ask(100).created(150, "r").sound(600, "r").done(1500, "r")
    found = told(call.spoke(3000, 4000, "u1").created(4050, "r2").sound(4400, "r2").done(4900, "r2").ended(9000))
    assert parts(found.greetings[0]) == [("accept", 100), ("greeting", 500)]
    sentence = "heard the greeting 0.60 s after the session began: 0.10 your app, 0.50 the model"
    assert found.greetings[0].sentence == sentence
    assert [turn.number for turn in found.caller_turns] == [1]
    assert (found.app_ns, found.openai_ns) == (100 * MS, 1400 * MS)


def test_a_greeting_behind_a_tool() -> None:
    """Asked 100, a tool called 600, handed back 1,600, asked 1,610, heard 2,000: the app 100 + 1,000 + 10, the model
    500 + 390."""
    call = Call().session().ask(100).created(150, "looks").asked_tool(600, "looks", "call_1")
    call.done(650, "looks", output=[call.tool_item("call_1")]).handed_back(1600, "call_1").ask(1610)
    found = told(call.created(1650, "hello").sound(2000, "hello").done(2500, "hello").ended(9000))
    assert parts(found.greetings[0]) == [
        ("accept", 100),
        ("model", 500),
        ("tool find", 1000),
        ("relay", 10),
        ("greeting", 390),
    ]
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (1110 * MS, 890 * MS, 0)
    assert found.greetings[0].sentence == (
        "heard the greeting 2.00 s after the session began: 0.11 your app, 0.89 the model in two answers, "
        "1.00 your tool find"
    )


def test_a_greeting_that_was_asked_for_twice() -> None:
    """Asked 100, cancelled unheard 610, asked 700, heard 1,100: the app 100 + 90, the model 510 + 400."""
    call = Call().session().ask(100).created(150, "lost").client(600, "response.cancel")
    call.done(610, "lost", status="cancelled", reason="client_cancelled").ask(700).created(750, "hello")
    found = told(call.sound(1100, "hello").done(1500, "hello").ended(9000))
    assert parts(found.greetings[0]) == [("accept", 100), ("model", 510), ("relay", 90), ("greeting", 400)]


def test_what_came_before_a_greeting_and_led_nowhere_is_nobodys() -> None:
    """By SIP an answer whose audio came and that was never played, before the one that was: all 1,300 are nobody's."""
    call = Call().session().ask(100).created(150, "lost").server(500, "response.output_audio_transcript.delta",
        response_id="lost", item_id="i", output_index=0, content_index=0, delta="x").sound(500, "lost")  # fmt: skip
    call.done(610, "lost", status="cancelled", reason="client_cancelled").ask(700).created(750, "hello")
    call.sound(1000, "hello").server(1300, "output_audio_buffer.started", response_id="hello")
    found = told(call.done(1500, "hello").ended(9000))
    assert parts(found.greetings[0]) == [("unknown", 1300)]


def test_no_greeting_where_the_caller_spoke_first_or_the_beginning_was_not_seen() -> None:
    """An answer to speech is none; nor is the first answer of a call that somebody began to hear in the middle."""
    first = Call().session().spoke(1000, 2000, "u1").created(2050, "r").sound(2400, "r").done(2900, "r").ended(9000)
    joined_late = Call().ask(100).created(150, "r").sound(600, "r").done(1500, "r").ended(9000)
    assert told(first).greetings == ()
    assert told(joined_late).greetings == ()


def test_a_barge_in_begins_a_turn_of_its_own() -> None:
    """The caller hears the answer from 2,400 and interrupts it at 2,800: silent 3,300, heard again 4,300."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "r").sound(2400, "r", 3000).starts(2800, "u2")
    call.done(2850, "r", "cancelled", "turn_detected").stops(3800, "u2").committed(3802, "u2").created(3850, "r2")
    found = told(call.sound(4300, "r2").done(4900, "r2").ended(9000))
    assert [parts(turn) for turn in found.caller_turns] == [
        [("endpointing", 500), ("model", 400)],
        [("endpointing", 500), ("model", 500)],
    ]


def test_a_caller_who_hangs_up_has_no_wait() -> None:
    """What was never heard has no end: the answer is a model turn, and no caller turn."""
    found = told(Call().session().spoke(1000, 2000, "u1").created(2050, "r").ended(2300))
    assert found.caller_turns == ()
    assert len(found.model_turns) == 1


def test_beside_the_call_it_is_heard_when_openai_plays_it() -> None:
    """A recorder sees the buffer start at 2,700 after the first words at 2,400: 300 until it was played."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "r")
    call.server(2400, "response.output_audio_transcript.delta", response_id="r", item_id="i", delta="Yes")
    call.server(2700, "output_audio_buffer.started", response_id="r").done(2900, "r")
    (turn,) = told(call.server(4000, "output_audio_buffer.stopped", response_id="r").ended(9000)).caller_turns
    assert parts(turn) == [("endpointing", 500), ("model", 400), ("playout", 300)]
    assert turn.sentence == "waited 1.20 s: 0.50 the voice detector, 0.40 the model, 0.30 until it was played"


def test_an_mcp_servers_time_is_nobodys_that_is_known() -> None:
    """OpenAI calls the server itself, and whose it is nobody says: 2,450 to 3,500, on neither side; asked 3,560."""
    mcp = {"id": "m1", "type": "mcp_call", "name": "search", "server_label": "s", "arguments": "{}"}
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.server(2400, "response.output_item.added", response_id="resp_1", output_index=0, item=mcp)
    call.server(2450, "response.mcp_call_arguments.done", response_id="resp_1", item_id="m1", arguments="{}")
    call.server(2500, "response.mcp_call.in_progress", item_id="m1", output_index=0)
    call.server(3500, "response.mcp_call.completed", item_id="m1", output_index=0)
    call.done(3550, "resp_1", output=[mcp | {"output": "x"}]).ask(3560).created(3600, "resp_2").sound(4000, "resp_2")
    found = told(call.done(4500, "resp_2").ended(9000))
    (turn,) = found.caller_turns
    assert parts(turn) == [
        ("endpointing", 500),
        ("model", 450),
        ("tool search", 1050),
        ("relay", 60),
        ("model", 440),
    ]
    assert turn.parts[2].side is Side.UNKNOWN
    assert "1.05 the MCP tool search" in turn.sentence
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (60 * MS, 1390 * MS, 1050 * MS)


def test_an_mcp_server_that_an_answer_goes_on_from() -> None:
    """One answer calls the server 2,300 to 3,300 and speaks at 3,700: 500, the model 300 and 400, nobody's 1,000."""
    mcp = {"id": "m1", "type": "mcp_call", "name": "search", "server_label": "s", "arguments": "{}"}
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "r")
    call.server(2250, "response.output_item.added", response_id="r", output_index=0, item=mcp)
    call.server(2300, "response.mcp_call_arguments.done", response_id="r", item_id="m1", arguments="{}")
    call.server(3300, "response.mcp_call.completed", item_id="m1", output_index=0)
    call.server(3301, "response.output_item.done", response_id="r", output_index=0, item=mcp | {"output": "x"})
    found = told(call.sound(3700, "r").done(4000, "r").ended(9000))
    (turn,) = found.caller_turns
    assert parts(turn) == [("endpointing", 500), ("model", 300), ("tool search", 1000), ("model", 400)]
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (0, 1200 * MS, 1000 * MS)
    assert turn.sentence == "waited 2.20 s: 0.50 the voice detector, 0.70 the model, 1.00 the MCP tool search"


def test_who_is_answered_while_the_detector_listens_waits_once() -> None:
    """Nothing interrupts: silent 1,500, and again 3,300 to the detector's word at 3,800; the first answer is heard at
    3,700. From 3,300 on the caller waits for nothing, though a second answer comes at 5,000: once 2,200."""
    detector = {"type": "server_vad", "silence_duration_ms": 500, "interrupt_response": False}
    call = Call().session(detection=detector).spoke(1000, 2000, "u1").created(2050, "r1").starts(2800, "u2")
    call.sound(3700, "r1", lasts=50).done(3750, "r1").stops(3800, "u2").committed(3802, "u2").created(3850, "r2")
    found = told(call.sound(5000, "r2").done(5500, "r2").ended(9000))
    assert [turn.end - turn.start for turn in found.caller_turns] == [2200 * MS]
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (0, 2200 * MS, 0)


def test_who_speaks_again_and_has_the_unheard_answer_taken_back_begins_to_wait_anew() -> None:
    """Silent 1,500; says more from 6,800, and what was being answered is cancelled unheard. Silent again 7,000 to the
    detector's word at 7,500, heard 7,900: 900 = 500 + 400. What was waited before has no end, so it is no wait."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "r1").starts(6800, "u2")
    call.done(6820, "r1", "cancelled", "turn_detected").stops(7500, "u2").committed(7502, "u2").created(7550, "r2")
    found = told(call.sound(7900, "r2").done(8400, "r2").ended(9000))
    assert [parts(turn) for turn in found.caller_turns] == [[("endpointing", 500), ("model", 400)]]
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (0, 900 * MS, 0)


def test_who_speaks_while_waiting_goes_on_waiting_for_what_was_asked() -> None:
    """Nothing interrupts: silent 1,500, says more from 2,300, and hears the answer to the first at 2,600: 1,100. The
    second is silent 3,000 and answered 3,900: 900."""
    detector = {"type": "server_vad", "silence_duration_ms": 500, "interrupt_response": False}
    call = Call().session(detection=detector).spoke(1000, 2000, "u1").created(2050, "r1").starts(2300, "u2")
    call.sound(2600, "r1").done(2650, "r1").stops(3500, "u2").committed(3502, "u2").created(3550, "r2")
    found = told(call.sound(3900, "r2").done(4400, "r2").ended(9000))
    assert [parts(turn) for turn in found.caller_turns] == [
        [("endpointing", 500), ("model", 600)],
        [("endpointing", 500), ("model", 400)],
    ]


def test_who_speaks_while_a_tool_runs_waits_for_the_answer_that_is_heard_first() -> None:
    """A tool is called at 2,300; the caller says more, silent 3,300, and that is answered first, at 4,250: 950. What
    the tool led to comes after it, at 5,100, to somebody who has been answered."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "r1").asked_tool(2300, "r1", "c1")
    call.done(2350, "r1", output=[call.tool_item("c1")]).spoke(2800, 3800, "u2").created(3850, "r2")
    call.handed_back(4000, "c1").sound(4250, "r2").done(4600, "r2").ask(4700).created(4750, "r3").sound(5100, "r3")
    found = told(call.done(5500, "r3").ended(9000))
    assert [parts(turn) for turn in found.caller_turns] == [[("endpointing", 500), ("model", 450)]]


def test_an_app_that_answers_two_speeches_at_once() -> None:
    """It asks by itself, after the second: silent 3,300, asked 3,900, heard 4,300: 1,000 = 500 + 100 + 400."""
    detector = {"type": "server_vad", "silence_duration_ms": 500, "create_response": False}
    call = Call().session(detection=detector).spoke(1000, 2000, "u1").spoke(2800, 3800, "u2").ask(3900)
    found = told(call.created(3950, "r").sound(4300, "r").done(4600, "r").ended(9000))
    assert [parts(turn) for turn in found.caller_turns] == [[("endpointing", 500), ("relay", 100), ("model", 400)]]


def test_a_detector_whose_word_came_late() -> None:
    """The second word was 120 longer on its way than the first, so the caller may have waited so much longer."""
    call = (
        Call()
        .session()
        .starts(1000, "u1")
        .server(2000, "input_audio_buffer.speech_stopped", item_id="u1", audio_end_ms=2000)
        .committed(2002, "u1")
        .created(2050, "r")
        .sound(2400, "r")
        .done(2900, "r")
        .starts(5000, "u2")
    )
    call.server(6120, "input_audio_buffer.speech_stopped", item_id="u2", audio_end_ms=6000).committed(6122, "u2")
    found = told(call.created(6150, "r2").sound(6500, "r2").done(7000, "r2").ended(9000))
    assert [turn.error_ns for turn in found.caller_turns] == [0, 120 * MS]
    assert found.caller_turns[1].sentence.startswith("waited 0.88 s, perhaps 0.12 s longer: 0.50 the voice detector")


def test_a_wait_that_is_shorter_than_its_error_is_not_known() -> None:
    """The detector waits for 50 and its second word was 240 longer on its way than the first, and the answer is heard
    150 after it: a wait between 200 and 440 is no figure."""
    detector = {"type": "server_vad", "silence_duration_ms": 50}
    call = Call().session(detection=detector).spoke(1000, 2000, "u1").created(2050, "r").sound(2400, "r")
    call.done(2900, "r").starts(5000, "u2")
    call.server(6240, "input_audio_buffer.speech_stopped", item_id="u2", audio_end_ms=6000).committed(6242, "u2")
    found = told(call.created(6300, "r2").sound(6390, "r2").done(7000, "r2").ended(9000))
    assert [parts(turn) for turn in found.caller_turns] == [[("endpointing", 50), ("model", 400)]]
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (0, 450 * MS, 0)


# -- Live sessions


def live(*, paused: bool = False, **more: object) -> Call:
    """The caller is silent at 1,500 of the session's time, the model speaks at 2,200."""
    call = Call("live_1")
    session = {"id": "live_1", "model": "gpt-live-1.1", "status": "active", "expires_at": 1_795_007_200, **more}
    call.server(50, "session.started", session=session)
    call.server(1600, "session.input_transcript.delta", delta="hi", start_ms=600, end_ms=1500)
    if paused:
        call.server(1700, "session.paused").server(1900, "session.resumed")
    call.server(2300, "session.output_transcript.delta", delta="yes", start_ms=2200, end_ms=2600)
    return call.server(9000, "session.closed", reason="close_requested", session=session).ended(9100)


def test_a_live_session() -> None:
    """700 of the session's own time, and nothing else worked: it is the model's. In pieces nobody knows."""
    found = told(live())
    assert [parts(turn) for turn in found.caller_turns] == [[("model", 700)]]
    (turn,) = latency(joined_steps(live()), whole=False).caller_turns
    assert parts(turn) == [("unknown", 700)]


def test_a_pause_of_a_live_session_is_no_wait() -> None:
    """It slept in between: whether the session's time went on nobody says."""
    assert told(live(paused=True)).caller_turns == ()


def test_work_that_a_live_session_gave_away_is_unknown() -> None:
    """To the app itself, which no span shows; or to a model whose answer was under way then."""
    (turn,) = told(live(delegation={"type": "client"})).caller_turns
    assert parts(turn) == [("unknown", 700)]
    delegated = step("chat", 1700, 2100, gen_ai__operation__name="chat", grafter__guest__span_id="resp_1")
    (turn,) = latency([*joined_steps(live()), delegated]).caller_turns
    assert parts(turn) == [("unknown", 700)]


def test_a_live_session_that_was_drawn_on_another_clock_is_compared_with_no_work() -> None:
    """A model worked two hours later by the host's clock: by the session's, nobody knows."""
    steps = [
        one._replace(attributes={**one.attributes, "grafter.clock.method": "one_sided"}) for one in joined_steps(live())
    ]
    (turn,) = latency(steps).caller_turns
    assert parts(turn) == [("model", 700)]
    later = step("chat", 7_200_000, 7_200_100, gen_ai__operation__name="chat", grafter__guest__span_id="resp_1")
    (turn,) = latency([*steps, later]).caller_turns
    assert parts(turn) == [("unknown", 700)]


# -- inside a tool


def test_a_tools_network_and_service() -> None:
    """The tool had 1,000. The app's client span took 960 and the server's span, by another clock, 900: network 60."""
    app = host_spans(
        "gateway",
        ("a1", "2", 2305, 3295, 1, {"gen_ai.tool.call.id": "call_1", "gen_ai.tool.name": "find"}),
        ("a2", "a1", 2320, 3280, CLIENT, {}),
    )
    calendar = host_spans("calendar", ("b1", "a2", 99_000, 99_900, SERVER, {}))
    (turn,) = told(with_tool(), [app, calendar]).caller_turns
    (tool,) = [part for part in turn.parts if part.name == "tool"]
    assert inside(tool) == [("network", 60), ("service calendar", 900)]
    said = next(one for one in joined_steps(with_tool(), [app, calendar]) if one.name == "execute_tool find")
    assert {key: said.attributes.get(key) for key in ("grafter.tool.network_ms", "grafter.tool.service_ms")} == {
        "grafter.tool.network_ms": 60.0,
        "grafter.tool.service_ms": 900.0,
    }


def test_a_tools_queue() -> None:
    """Sent until 2,330, the tool had its result at 3,290: 960, of which the worker, by its own clock, worked 300. With
    the worker in the same service, the clock is one: it began 500 after the message was sent."""
    sent = ("a2", "a1", 2320, 2330, PRODUCER, {})
    tool = ("a1", "2", 2305, 3290, 1, {"gen_ai.tool.call.id": "call_1", "gen_ai.tool.name": "find"})
    apart = [
        host_spans("gateway", tool, sent),
        host_spans("worker", ("b1", "a2", 50_000, 50_300, CONSUMER, {"messaging.destination.name": "slots"})),
    ]
    together = [host_spans("gateway", tool, sent, ("b1", "a2", 2830, 3130, CONSUMER, {}))]
    for more, queue in ((apart, ("queue slots", 660)), (together, ("queue", 500))):
        (turn,) = told(with_tool(), more).caller_turns
        (part,) = [part for part in turn.parts if part.name == "tool"]
        assert inside(part) == [queue, (f"service {'worker' if more is apart else 'gateway'}", 300)]


TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": "call_1"}


def insides(*host: dict[str, object]) -> list[tuple[str, float]]:
    """What was inside the tool of 1,000 from 2,300 on."""
    (turn,) = told(with_tool(), host).caller_turns
    return inside(turn.parts[2])


def test_two_attempts_at_a_time_count_once() -> None:
    """Both sides of a hedged call, 2,400 to 2,800 and 2,450 to 2,850, under a span each: 400, of which 300 worked."""
    voice = host_spans(
        "voice",
        ("10", "2", 2310, 2900, 1, TOOL),
        ("20", "2", 2320, 2910, 1, TOOL),
        ("11", "10", 2400, 2800, CLIENT, {}),
        ("21", "20", 2450, 2850, CLIENT, {}),
    )
    crm = host_spans("crm", ("12", "11", 2450, 2750, SERVER, {}), ("22", "21", 2500, 2800, SERVER, {}))
    assert insides(voice, crm) == [("network", 100), ("service crm", 300)]


def test_calls_one_after_the_other_count_in_the_order_of_time() -> None:
    """The one at 2,400 hangs under the span that began later than that of the one at 2,900: 100 and 200 worked."""
    voice = host_spans(
        "voice",
        ("10", "2", 2310, 3290, 1, TOOL),
        ("30", "10", 2315, 3290, 1, {}),
        ("31", "30", 2900, 3200, CLIENT, {}),
        ("40", "10", 2320, 2700, 1, {}),
        ("41", "40", 2400, 2600, CLIENT, {}),
    )
    crm = host_spans("crm", ("32", "31", 2950, 3150, SERVER, {}), ("42", "41", 2450, 2550, SERVER, {}))
    assert insides(voice, crm) == [("network", 100), ("service crm", 100), ("network", 100), ("service crm", 200)]


def test_a_call_that_was_served_twice() -> None:
    """One CLIENT span of 800 with two attempts of 90 and 580: the network's are 130."""
    voice = host_spans("voice", ("10", "2", 2310, 3290, 1, TOOL), ("11", "10", 2400, 3200, CLIENT, {}))
    crm = host_spans("crm", ("12", "11", 2410, 2500, SERVER, {}), ("13", "11", 2600, 3180, SERVER, {}))
    assert insides(voice, crm) == [("network", 130), ("service crm", 90), ("service crm", 580)]


def test_who_asks_again_while_the_queue_works_counts_once() -> None:
    """Sent 2,330, worked 2,420 to 2,720 and asked about it 2,340 to 2,740: the queue 90, the work 300."""
    voice = host_spans(
        "voice",
        ("10", "2", 2310, 3290, 1, TOOL),
        ("11", "10", 2320, 2330, PRODUCER, {}),
        ("12", "11", 2420, 2720, CONSUMER, {}),
        ("13", "10", 2340, 2740, CLIENT, {}),
    )
    crm = host_spans("crm", ("14", "13", 2350, 2730, SERVER, {}))
    assert insides(voice, crm) == [("queue", 90), ("service voice", 300)]


def test_a_message_that_nobody_waits_for_says_nothing_of_a_queue() -> None:
    """After sending the tool asks its database until 3,280; what another service did with the message, much later, was
    not waited for. Nor is it known for which of two messages a tool waits."""
    tool = ("10", "2", 2310, 3290, 1, TOOL)
    sent, query = ("11", "10", 2320, 2330, PRODUCER, {}), ("13", "10", 2340, 3280, CLIENT, {})
    mail = host_spans("mail", ("12", "11", 7000, 7300, CONSUMER, {}))
    assert insides(host_spans("voice", tool, sent, query), mail) == []
    assert insides(host_spans("voice", tool, sent), mail) == [("queue", 660), ("service mail", 300)]
    other = ("15", "10", 2330, 2340, PRODUCER, {})
    both = host_spans("mail", ("12", "11", 7000, 7300, CONSUMER, {}), ("16", "15", 7000, 7300, CONSUMER, {}))
    assert insides(host_spans("voice", tool, sent, other), both) == []


def test_a_call_that_outlives_its_tool_says_nothing() -> None:
    """The app answers for the tool at 3,300 and calls on from 3,000 to 3,800: how much of it was the tool's?"""
    voice = host_spans("voice", ("10", "2", 2310, 3900, 1, TOOL), ("11", "10", 3000, 3800, CLIENT, {}))
    assert insides(voice, host_spans("crm", ("12", "11", 3050, 3750, SERVER, {}))) == []


def test_a_call_by_another_services_clock_is_not_judged_by_the_tools() -> None:
    """The tool runs in a worker whose clock is ten minutes ahead; it calls for 800, of which 650 are worked."""
    ahead = 600_000
    voice = host_spans("voice", ("10", "2", 2310, 3290, 1, TOOL))
    worker = host_spans(
        "worker",
        ("20", "10", ahead + 2320, ahead + 3280, SERVER, {}),
        ("11", "20", ahead + 2400, ahead + 3200, CLIENT, {}),
    )
    crm = host_spans("crm", ("12", "11", 2450, 3100, SERVER, {}))
    assert insides(voice, worker, crm) == [("network", 150), ("service crm", 650)]


def test_spans_that_cannot_be_inside_a_tool_say_nothing() -> None:
    """A server that worked 5,000 within a client's 960 is not believed; nor is a hop that is longer than the tool."""
    app = host_spans(
        "gateway",
        ("a1", "2", 2305, 3295, 1, {"gen_ai.tool.call.id": "call_1", "gen_ai.tool.name": "find"}),
        ("a2", "a1", 2320, 3280, CLIENT, {}),
    )
    long = host_spans("gateway", ("a1", "2", 2305, 5295, CLIENT, {"gen_ai.tool.call.id": "call_1"}))
    for more in (
        [app, host_spans("calendar", ("b1", "a2", 2321, 7321, SERVER, {}))],
        [long, host_spans("calendar", ("b1", "a1", 2321, 5000, SERVER, {}))],
    ):
        (turn,) = told(with_tool(), more).caller_turns
        assert all(part.within == () for part in turn.parts)


# -- frameworks that state their own


def test_livekits_turn() -> None:
    """Spoken at 5,000 after 2,000: 600 end of turn, 50 + 20 the app, 700 the model, 500 the tool in it, 100 the voice:
    1,970, and 30 of which nothing is said."""
    found = latency(
        [
            step("agent_turn", 4000, 6000, lk__e2e_latency=2.0, lk__end_of_turn_delay=0.6,
                 lk__on_user_turn_completed_delay=0.05, lk__speech__queue_wait=0.02, lk__response__ttft=0.7,
                 lk__response__ttfb=0.1),
            step("llm_node", 4100, 4900, "agent_turn", gen_ai__provider__name="openai"),
            step("function_tool", 4300, 4800, "agent_turn", gen_ai__operation__name="execute_tool",
                 gen_ai__tool__name="book"),
            step("agent_speaking", 5000, 5900, "agent_turn"),
        ]
    )  # fmt: skip
    (turn,) = found.caller_turns
    assert parts(turn) == [
        ("endpointing", 600), ("relay", 70), ("model", 700), ("tool book", 500), ("playout", 100), ("unknown", 30),
    ]  # fmt: skip
    assert (turn.start_word, turn.end_word) == ("user_stopped_speaking", "agent_speaking")
    assert turn.sentence == (
        "waited 2.00 s: 0.60 your turn detection, 0.07 your app, 0.70 the model, 0.50 your tool book, 0.10 the voice, "
        "0.03 unknown"
    )
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (1170 * MS, 700 * MS, 130 * MS)


def test_a_tool_that_openai_runs_in_livekits_turn_is_not_the_apps() -> None:
    """Spoken at 2,000 after 1,000, of which an MCP server had 300 and the app's own tool 200."""
    own: dict[str, str] = {"gen_ai__operation__name": "execute_tool"}
    found = latency(
        [
            step("agent_turn", 1000, 3000, lk__e2e_latency=1.0),
            step(
                "mcp", 1200, 1500, "agent_turn", **own, gen_ai__tool__type="extension", mcp__method__name="tools/call"
            ),
            step("book", 1500, 1700, "agent_turn", **own),
            step("agent_speaking", 2000, 2900, "agent_turn"),
        ]
    )
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (200 * MS, 0, 800 * MS)


def test_livekits_parts_that_do_not_fit_are_unknown() -> None:
    """1,500 of end of turn in a wait of 1,000: what overlaps there nobody says."""
    (turn,) = latency([step("agent_turn", 0, 2000, lk__e2e_latency=1.0, lk__end_of_turn_delay=1.5)]).caller_turns
    assert parts(turn) == [("unknown", 1000)]


def test_livekits_greeting() -> None:
    """Dispatched at 0, the session at 300, started at 500, heard at 1,200."""
    found = latency(
        [
            step("job_entrypoint", 0, 9000),
            step("agent_session", 300, 8000, "job_entrypoint"),
            step("session_start", 300, 500, "agent_session"),
            step("agent_speaking", 1200, 2000, "agent_session"),
        ]
    )
    assert parts(found.greetings[0]) == [("dispatch", 300), ("connect", 200), ("greeting", 700)]


def test_pipecats_turn() -> None:
    """1,400, of which the model's first token took 600 and the voice's first sound 250: 550 unknown."""
    (turn,) = latency(
        [
            step("turn", 0, 5000, turn__user_bot_latency_seconds=1.4),
            step("llm", 2000, 3000, "turn", metrics__ttfb=0.6, gen_ai__request__model="gpt-5"),
            step("tts", 2600, 3500, "turn", metrics__ttfb=0.25),
        ]
    ).caller_turns
    assert parts(turn) == [("model", 600), ("playout", 250), ("unknown", 550)]


def test_a_frameworks_word_counts_only_where_there_is_no_other() -> None:
    """LiveKit describes a call whose events grafter saw: the wait is counted once, by the events."""
    framework = [
        step("job_entrypoint", 0, 9000),
        step("agent_session", 300, 8000, "job_entrypoint"),
        step("agent_turn", 0, 5000, "agent_session", lk__e2e_latency=2.3),
        step("agent_speaking", 400, 900, "agent_turn"),
    ]
    both = latency([*joined_steps(with_tool()), *framework])
    assert [turn.end - turn.start for turn in both.caller_turns] == [2200 * MS]
    assert both.greetings == ()
    alone = latency(framework)
    assert [turn.end - turn.start for turn in alone.caller_turns] == [2300 * MS]
    assert alone.greetings


# -- agents, without audio


def test_the_time_of_an_agents_run() -> None:
    """The run takes 5,000: model 300 to 1,000 and 2,600 to 4,800 are 2,900; between them a tool of 1,000 and 600 of
    the app's own; 300 before and 200 after are unknown."""
    run = {"service": "voice", "openai__agents__span__id": "x"}
    found = latency(
        [
            step("session", 0, 9000),
            step("agent", 0, 5000, "session", **run, gen_ai__operation__name="invoke_agent"),
            step("chat", 300, 1000, "agent", own="c1", **run, gen_ai__operation__name="chat"),
            step("tool", 1100, 2100, "agent", **run, gen_ai__operation__name="execute_tool"),
            step("chat", 2600, 4800, "agent", own="c2", **run, gen_ai__operation__name="chat"),
        ]
    )
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (1600 * MS, 2900 * MS, 500 * MS)
    assert found.caller_turns == ()
    assert len(found.model_turns) == 2


def test_between_the_answers_of_a_run_measured_elsewhere_the_time_is_unknown() -> None:
    """OpenAI measured it: nobody says that it was the app that acted between two answers."""
    run = {"service": "openai", "openai__agents__span__id": "x"}
    found = latency(
        [
            step("session", 0, 9000),
            step("agent", 0, 3000, "session", **run, gen_ai__operation__name="invoke_agent"),
            step("chat", 0, 1000, "agent", own="c1", **run, gen_ai__operation__name="chat"),
            step("chat", 2000, 3000, "agent", own="c2", **run, gen_ai__operation__name="chat"),
        ]
    )
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (0, 2000 * MS, 1000 * MS)


def test_runs_at_the_same_time_do_not_stand_between_one_anothers_answers() -> None:
    """0 to 1,000 with a model 100 to 300, 500 to 2,000 with a model 1,500 to 1,700: 400 are OpenAI's. No run has two
    answers, so 1,600 are unknown."""
    run = {"service": "voice", "openai__agents__span__id": "x"}
    found = latency(
        [
            step("session", 0, 9000),
            step("a", 0, 1000, "session", **run, gen_ai__operation__name="invoke_agent"),
            step("chat", 100, 300, "a", own="c1", **run, gen_ai__operation__name="chat"),
            step("b", 500, 2000, "session", **run, gen_ai__operation__name="invoke_agent"),
            step("chat", 1500, 1700, "b", own="c2", **run, gen_ai__operation__name="chat"),
        ]
    )
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (0, 400 * MS, 1600 * MS)


def test_runs_one_after_the_other_in_whole_milliseconds() -> None:
    """The first answers until 400 and ends at 1,000, where the second begins with its answer, to 1,300 and from 1,500
    to 2,000: the 600 after the last answer of the first are unknown, the 200 between are the app's."""
    run = {"service": "voice", "openai__agents__span__id": "x"}
    found = latency(
        [
            step("session", 0, 9000),
            step("a", 0, 1000, "session", **run, gen_ai__operation__name="invoke_agent"),
            step("chat", 0, 400, "a", own="c1", **run, gen_ai__operation__name="chat"),
            step("b", 1000, 2000, "session", **run, gen_ai__operation__name="invoke_agent"),
            step("chat", 1000, 1300, "b", own="c2", **run, gen_ai__operation__name="chat"),
            step("chat", 1500, 2000, "b", own="c3", **run, gen_ai__operation__name="chat"),
        ]
    )
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (200 * MS, 1200 * MS, 600 * MS)


def test_the_time_of_another_providers_model_is_not_openais() -> None:
    """By LiteLLM 1,000 of Claude, then 500 of OpenAI's."""
    run = {"service": "voice", "openai__agents__span__id": "x"}
    chat = {**run, "gen_ai__operation__name": "chat"}
    found = latency(
        [
            step("session", 0, 9000),
            step("a", 0, 1500, "session", **run, gen_ai__operation__name="invoke_agent"),
            step("chat", 0, 1000, "a", own="c1", **chat, gen_ai__provider__name="anthropic"),
            step("chat", 1000, 1500, "a", own="c2", **chat, gen_ai__provider__name="openai"),
        ]
    )
    assert (found.app_ns, found.openai_ns, found.unknown_ns) == (0, 500 * MS, 1000 * MS)


def test_one_model_call_traced_by_both_sides_is_one_turn() -> None:
    """The host's span of the same answer hangs under the guest's, or had left before it."""
    guest = step("chat", 0, 900, own="guest", gen_ai__operation__name="chat", grafter__guest__span_id="r")
    under = step("gen_ai.client", 0, 1000, "guest", own="host", gen_ai__operation__name="chat")
    beside = step("gen_ai.client", 0, 1000, own="host", gen_ai__operation__name="chat")
    twin = step("chat", 0, 900, own="guest", gen_ai__operation__name="chat", grafter__guest__span_id="r",
                grafter__duplicate_of=beside.span_id.hex())  # fmt: skip
    assert [turn.span_id for turn in latency([guest, under]).model_turns] == [guest.span_id]
    assert [turn.span_id for turn in latency([beside, twin]).model_turns] == [guest.span_id]


def test_nothing_is_known_of_a_trace_without_a_call() -> None:
    """A web request has no waits, no turns, no sums."""
    assert latency([step("GET /", 0, 10, kind=SERVER)]) == CallLatency((), (), (), None, None, None)


def test_what_is_inside_a_greetings_tool() -> None:
    """The tool that looks the caller up asks the CRM from 700 to 1,500, which works 650 of it."""
    call = Call().session().ask(100).created(150, "looks").asked_tool(600, "looks", "call_1")
    call.done(650, "looks", output=[call.tool_item("call_1")]).handed_back(1600, "call_1").ask(1610)
    call.created(1650, "hello").sound(2000, "hello").done(2500, "hello").ended(9000)
    voice = host_spans("voice", ("10", "2", 610, 1590, 1, TOOL), ("11", "10", 700, 1500, CLIENT, {}))
    crm = host_spans("crm", ("12", "11", 750, 1400, SERVER, {}))
    stated = [step.attributes for step in joined_steps(call, [voice, crm])]
    assert [one["grafter.tool.network_ms"] for one in stated if "grafter.tool.network_ms" in one] == [150.0]
    assert [one["grafter.tool.service_ms"] for one in stated if "grafter.tool.service_ms" in one] == [650.0]
