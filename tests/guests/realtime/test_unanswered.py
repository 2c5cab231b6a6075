"""A caller who was still waiting when the call ended: how long at least, stated once, and never where it is not so."""

import json
from collections.abc import Callable

import pytest

from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, GraftPolicy
from grafter.core.sampling.everything import Drop
from grafter.core.sampling.first_token import FirstToken
from grafter.core.sampling.policies import SamplingPolicy
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.machine import Machine
from grafter.guests.realtime.stored_event import ALIVE, ENDED, STARTED, Side, StoredEvent, decode
from grafter.otlp.from_json import Oddities, trace_request_from_json
from tests.guests.realtime.hand import HOST, T0, VAD, WAIT, Call, joined, nano
from tests.rig import START, Peer, rig

UNANSWERED = "grafter.unanswered_ms"


def asked() -> Call:
    """The caller falls silent at 1,500; the detector says so at 2,000."""
    return Call().session().spoke(1000, 2000, "u1")


def slow_tool() -> Call:
    """An answer that only calls a tool, which has not come back."""
    return asked().created(2050, "r").asked_tool(2300, "r", "c").done(2350, "r", output=[Call.tool_item("c")])


def test_who_hangs_up_while_a_tool_runs_has_waited_at_least_so_long() -> None:
    """Silent since 1,500, the call ended at 6,200: 4,700 ms. It is no wait, and in no sum of waits."""
    got = joined(slow_tool().ended(6200))
    session = got.of("session")
    assert session[UNANSWERED] == 4700.0
    assert session["grafter.unanswered.sentence"] == "waited at least 4.70 s for an answer, then the call ended"
    assert session["grafter.unanswered.from"] == "speech_end"
    assert session["grafter.unanswered.from_unix_nano"] == nano(1500)
    assert session["grafter.unanswered.to_unix_nano"] == nano(6200)
    assert not [one for one in got.spans for key in one["a"] if key in (WAIT, "grafter.openai_ms", "grafter.app_ms")]


def heard() -> Call:
    return asked().created(2050, "r").sound(2400, "r").done(2900, "r").ended(6000)


def still_speaking() -> Call:
    return asked().created(2050, "r").starts(3000, "u2").ended(6000)


def cut_off() -> Call:
    """Nobody said that the call was over: a lost socket is no hang-up."""
    return asked().created(2050, "r")


def never_answers() -> Call:
    """An app that only listens: nothing was asked for, and OpenAI was told not to answer."""
    return Call().session(detection={**VAD, "create_response": False}).spoke(1000, 2000, "u1").ended(6000)


def still_listening() -> Call:
    """Somebody hums at 3,000 to 3,700 while 5 s of an answer play from 2,400 on, which nothing cuts."""
    call = asked().created(2050, "r").sound(2400, "r", lasts=5000).done(2900, "r")
    return call.spoke(3000, 4200, "u2").ended(6000)


def thrown_away() -> Call:
    return asked().starts(3000, "u2").client(3500, "input_audio_buffer.clear").server(
        3520, "input_audio_buffer.cleared"
    ).ended(6000)  # fmt: skip


def message(kind: str = "output_audio") -> dict[str, object]:
    return {"id": "item_r", "type": "message", "role": "assistant", "status": "completed", "content": [{"type": kind}]}


def read_out_by_the_app() -> Call:
    """OpenAI writes, and what speaks is the app's own."""
    call = Call().session(output_modalities=["text"]).spoke(1000, 2000, "u1").created(2050, "r")
    return call.done(2900, "r", output=[message("output_text")]).ended(6000)


def written_alone() -> Call:
    """One answer is asked for as text; nothing of it is posted but that it was begun."""
    return asked().created(2050, "r", output_modalities=["text"]).ended(6000)


def written_word_by_word() -> Call:
    kind = "response.output_text.delta"
    return asked().created(2050, "r").server(2300, kind, response_id="r", delta="hi").ended(6000)


def without_its_deltas() -> Call:
    """An app that posts what is small."""
    return asked().created(2050, "r").done(2900, "r", output=[message()]).ended(6000)


def without_its_items() -> Call:
    """Of an answer that is complete nobody says what it was."""
    return asked().created(2050, "r").done(2900, "r").ended(6000)


def by_its_words_alone() -> Call:
    kind = "response.output_audio_transcript.delta"
    return asked().created(2050, "r").server(2300, kind, response_id="r", delta="hi").ended(6000)


def played_by_openai() -> Call:
    """Somebody hums at 3,000 to 3,700, which nothing cuts; when the answer was over nobody says."""
    call = asked().created(2050, "r").server(2400, "output_audio_buffer.started", response_id="r")
    return call.done(2500, "r", output=[message()]).spoke(3000, 4200, "u2").ended(9000)


def read_out_long_ago() -> Call:
    """The same of an answer that has left before, and that an app reads out."""
    call = asked().created(2050, "r").done(2900, "r", output=[message("output_text")])
    return call.spoke(50_000, 51_000, "u2").spoke(70_000, 71_000, "u3").ended(80_000)


def one_after_another() -> Call:
    """Two answers of 4 s each come at once, and are heard until 10,400; somebody hums at 7,000 to 8,000."""
    call = asked().created(2050, "r").sound(2400, "r", lasts=4000).done(2500, "r", output=[message()])
    call.created(2600, "s").sound(2700, "s", lasts=4000).done(2800, "s", output=[{**message(), "id": "item_s"}])
    return call.spoke(7000, 8200, "u2").ended(12_000)


def in_a_format_of_its_own() -> Call:
    """G.711 in a session of PCM: 60 s come at once and are heard until 62,400; somebody hums at 50,000 to 51,000."""
    audio = {"output": {"format": {"type": "audio/pcmu"}}}
    call = asked().created(2050, "r", audio=audio).sound(2400, "r", lasts=10_000).done(2900, "r", output=[message()])
    return call.spoke(30_000, 31_000, "u2").spoke(50_000, 51_000, "u3").ended(70_000)


def taken_back_by_the_app() -> Call:
    """It comes no further from 2,600 on, and what OpenAI has of it is heard until 8,000; somebody hums at 3,000."""
    call = asked().created(2050, "r").server(2400, "output_audio_buffer.started", response_id="r")
    call.done(2600, "r", "cancelled", "client_cancelled").spoke(3000, 4200, "u2")
    return call.server(8000, "output_audio_buffer.stopped", response_id="r").ended(9000)


def asked_aside() -> Call:
    """What is asked for out of band answers nobody."""
    call = Call().session(detection={**VAD, "create_response": False}).spoke(1000, 2000, "u1")
    return call.ask(2100, response={"conversation": "none", "metadata": {"topic": "mood"}}).ended(6000)


def asked_in_doubt() -> Call:
    """One of two requests was refused, and nobody knows which."""
    call = Call().session(detection={**VAD, "create_response": False}).spoke(1000, 2000, "u1")
    call.client(2050, "session.update", session={}).ask(2100).refuses(2200, "unknown_parameter")
    return call.ended(6000)


def only_written_down() -> Call:
    """A session that transcribes has no model that could answer; its detector has no create_response either."""
    audio = {"input": {"turn_detection": VAD, "transcription": {"model": "gpt-4o-transcribe"}}}
    call = Call().server(0, "session.created", session={"id": "s", "type": "transcription", "audio": audio})
    call.server(40, "session.updated", session={"id": "s", "type": "transcription", "audio": audio})
    return call.spoke(1000, 2000, "u1").ended(9000)


def only_written_down_by_the_beta_api() -> Call:
    session = {"id": "s", "object": "realtime.transcription_session", "turn_detection": VAD}
    call = Call().server(0, "transcription_session.created", session=session)
    return call.spoke(1000, 2000, "u1").ended(9000)


NOTHING = [
    only_written_down, only_written_down_by_the_beta_api,
    heard, still_speaking, cut_off, never_answers, still_listening, thrown_away, read_out_by_the_app, written_alone,
    written_word_by_word, without_its_deltas, without_its_items, by_its_words_alone, played_by_openai,
    read_out_long_ago, one_after_another, in_a_format_of_its_own, taken_back_by_the_app, asked_aside, asked_in_doubt,
]  # fmt: skip


@pytest.mark.parametrize("call", NOTHING)
def test_who_heard_an_answer_or_waited_for_none_has_no_such_figure(call: Callable[[], Call]) -> None:
    got = joined(call())
    assert not [key for one in got.spans for key in one["a"] if "unanswered" in key]


def test_a_word_of_the_end_without_a_time_adds_nothing_to_what_was_seen() -> None:
    """That it was over arrived some time after it was: the last that was dated is the tool's call, at 2,350."""
    call = slow_tool()
    call.rows.append({"call": call.key, "ended": True})
    assert joined(call).of("session")[UNANSWERED] == 850.0


def recorded(*events: StoredEvent) -> dict[str, object]:
    """What the session's span says of a caller who waits from 1,500 on, once grafter has noted this."""
    machine = Machine("rtc_hand")
    (part,) = read_posts(slow_tool().body().encode(), True, GraftPolicy(), UnixNano(nano(9000))).parts
    for stored in (*decode(part.payload), *events):
        machine.feed(stored)
    machine = Machine.restored("rtc_hand", machine.state())
    (session,) = [ended.span for ended in machine.close() if ended.span.name.startswith("realtime")]
    return dict(session.attributes)


def note(ms: float, kind: str, **more: object) -> StoredEvent:
    return StoredEvent(UnixNano(nano(ms)), Side.GRAFTER, {"type": kind, **more})


def test_a_recorder_that_missed_something_knows_of_no_wait() -> None:
    """The call's socket says at 6,200 that it is over. Whoever was deaf since 1,500 may have missed an answer."""
    heard_all = recorded(note(6200, ENDED, by="close", deaf_until=nano(1400)))
    assert heard_all[UNANSWERED] == 4700.0
    assert UNANSWERED not in recorded(note(6200, ENDED, by="close", deaf_until=nano(1600)))
    assert UNANSWERED not in recorded(note(6200, ENDED, by="close", untimed=True, deaf_until=nano(6200)))


def test_a_recorder_of_which_nothing_more_was_heard_knows_of_no_wait() -> None:
    """Its process died some time after 2,350; that the call ended at 6,200 the app posts. An answer may have come."""
    began, over = note(0, STARTED), note(6200, ENDED, by="posted")
    listened = note(6300, ENDED, by="posted", untimed=True, deaf_until=nano(0), recorder=True)
    assert UNANSWERED not in recorded(began, over)
    assert recorded(began, over, listened)[UNANSWERED] == 4700.0
    assert UNANSWERED not in recorded(began, over, listened, note(6310, STARTED))


def test_a_second_recorder_that_never_heard_says_nothing_of_the_first() -> None:
    """The first one's process died; the next one began when the app posted the end, and had not connected by then."""
    began, again, over = note(0, STARTED), note(6100, STARTED), note(6200, ENDED, by="posted")
    never = note(6210, ENDED, by="posted", untimed=True, recorder=True)
    assert UNANSWERED not in recorded(began, again, over, never)
    listened = note(6220, ENDED, by="posted", untimed=True, deaf_until=nano(0), recorder=True)
    assert recorded(began, again, over, never, listened)[UNANSWERED] == 4700.0


def test_a_recorder_that_never_listened_takes_nothing_from_what_the_app_posts() -> None:
    """It was not let in before the call was over; all that is known the app has seen."""
    never = note(6300, ENDED, by="posted", untimed=True, recorder=True)
    assert recorded(note(0, STARTED), note(6200, ENDED, by="posted"), never)[UNANSWERED] == 4700.0


def test_of_what_was_thrown_away_nobody_knows_whether_it_was_said() -> None:
    """Something is heard at 3,000 and never committed, as all before it was: noise, or words that began a new wait."""
    assert UNANSWERED not in joined(slow_tool().starts(3000, "u2").stops(3800, "u2").ended(6200)).of("session")
    thrown = slow_tool().starts(3000, "u2").server(3800, "input_audio_buffer.cleared")
    assert UNANSWERED not in joined(thrown.ended(6200)).of("session")


def test_who_presses_the_button_again_waits_no_more() -> None:
    """Push to talk: released at 1,500, asked at 1,510; pressed again by 4,000, as its sound, emptying the buffer, or
    letting go of it says."""
    for pressed in ("input_audio_buffer.append", "input_audio_buffer.clear", "input_audio_buffer.commit"):
        call = Call().session(detection=None).client(1500, "input_audio_buffer.commit").committed(1550, "u1")
        call.client(1510, "response.create").created(1600, "r").client(4000, pressed)
        if pressed.endswith("clear"):
            call.server(4030, "input_audio_buffer.cleared")
        assert UNANSWERED not in joined(call.ended(6200)).of("session")
    waits = Call().session(detection=None).client(1500, "input_audio_buffer.commit").committed(1550, "u1")
    waits.client(1510, "response.create").created(1600, "r")
    assert joined(waits.ended(6200)).of("session")[UNANSWERED] == 4700.0


def test_the_last_words_count_though_their_time_is_not_known() -> None:
    """Push to talk: what was said last was committed at 4,000, by a request that came without its time."""
    call = Call().session(detection=None).client(1500, "input_audio_buffer.commit").committed(1550, "u1")
    call.raw(None, "client", {"type": "input_audio_buffer.commit"}).committed(4000, "u2")
    assert UNANSWERED not in joined(call.client(4010, "response.create").ended(6200)).of("session")


def test_that_somebody_listens_adds_nothing_to_what_was_seen() -> None:
    """Its end was posted without a time: 850 ms, up to the tool's call at 2,350, as without a recorder."""
    end = note(9000, ENDED, by="posted", untimed=True, deaf_until=nano(0))
    assert recorded(note(6000, ALIVE), end)[UNANSWERED] == 850.0


def test_an_answer_that_was_interrupted_before_the_question_is_none_to_it() -> None:
    """The caller breaks in at 3,000 and is silent from 3,700 on; the answer to that never comes; ended at 8,000."""
    call = asked().created(2050, "r").sound(2400, "r", lasts=5000).starts(3000, "u2")
    call.done(3010, "r", "cancelled", "turn_detected").stops(4200, "u2").committed(4202, "u2").created(4250, "s")
    assert joined(call.ended(8000)).of("session")[UNANSWERED] == 4300.0


def test_a_caller_who_broke_in_over_a_websocket_hears_nothing_of_what_was_truncated() -> None:
    """30 s of audio had come by 2,900; broken in at 5,000, silent from 6,000 on and never answered; ended at 12,000."""
    call = asked().created(2050, "r").sound(2400, "r", lasts=30_000).done(2900, "r", output=[message()])
    call.starts(5000, "u2").truncates(5020, "item_r", 2600).truncated(5060, "item_r", 2600)
    assert joined(call.stops(6500, "u2").committed(6502, "u2").ended(12_000)).of("session")[UNANSWERED] == 6000.0


def test_what_openai_plays_is_over_when_the_next_begins() -> None:
    """That the first had stopped was lost; the second stopped at 8,000; silent from 10,500 on, ended at 15,000."""
    call = asked().created(2050, "r").server(2400, "output_audio_buffer.started", response_id="r").done(2500, "r")
    call.spoke(4000, 5000, "u2").created(5050, "s").server(5400, "output_audio_buffer.started", response_id="s")
    call.done(5500, "s").server(8000, "output_audio_buffer.stopped", response_id="s").spoke(10_000, 11_000, "u3")
    assert joined(call.ended(15_000)).of("session")[UNANSWERED] == 4500.0


@pytest.mark.parametrize(("over", "kept"), [(6200, True), (2500, False)])
async def test_sampling_keeps_it_like_a_slow_turn(over: int, kept: bool) -> None:
    """4.7 s are over the limit of 1.5 s, 1.0 s are not."""
    rows = [{**row, "at": START / SECOND + float(str(row["at"])) - T0} for row in slow_tool().ended(over).rows]
    peer = Peer()
    policies = SamplingPolicy([FirstToken("first_token"), Drop("drop")])
    async with rig(peer, sampling=policies) as served:
        await served.host(trace_request_from_json(json.dumps(HOST).encode(), Oddities()))
        await served.realtime(*rows)
        await served.pass_time(60)
    said = [one.value.string_value for span, _ in peer.spans for one in span.attributes if one.key == "grafter.policy"]
    assert set(said) == ({"first_token"} if kept else set())
