"""Figures of calls that were worked out by hand, and what no figure may be made of; times in ms of the call."""

import random
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from grafter.core.model import GuestSpan, UnixNano
from grafter.core.policy import GraftPolicy
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.spans import STATE, map_realtime
from grafter.guests.realtime.stored_event import decode, encode
from tests.guests.realtime.hand import SUMMED, WAIT, WAIT_PARTS, Call

DATA = Path(__file__).parents[2] / "data" / "realtime_calls"
T0 = 1_795_000_000 * 10**9
BEGIN = 1_790_000_000_000_000_000
MS = 1_000_000
PCM = {"format": {"type": "audio/pcm", "rate": 24000}}
VAD = {"type": "server_vad", "silence_duration_ms": 500}
TOKEN, FROM, ERROR = "grafter.turn.first_token_ms", "grafter.turn.first_token_from", "grafter.turn.first_token.error_ms"


def recorded(name: str) -> dict[str, GuestSpan]:
    """The spans of a call of the folder, by their ids."""
    intake = read_posts((DATA / f"{name}.ndjson").read_bytes(), True, GraftPolicy(), UnixNano(T0 + 10**13))
    (mapped,) = map_realtime("rtc_case", [part.payload for part in intake.parts], GraftPolicy(), final=True)
    return {str(dict(span.attributes)["grafter.guest.span_id"]): span for span in mapped.guest.spans}


def of(spans: dict[str, GuestSpan], name: str) -> dict[str, object]:
    return dict(spans[name].attributes)


def barge_ins(spans: dict[str, GuestSpan], name: str, since: int = BEGIN) -> list[tuple[float, dict[str, object]]]:
    return [
        ((event.time - since) / MS, dict(event.attributes)) for event in spans[name].events if "barge_in" in event.name
    ]


def begun(call, detection: object = VAD):
    audio = {"input": {"turn_detection": detection, "transcription": None}, "output": PCM}
    return call.server(0, "session.created", session={"id": "sess_1", "model": "gpt-realtime", "audio": audio})


def spoke(call, start: float, stop: float, item: str):
    call.server(start, "input_audio_buffer.speech_started", item_id=item, audio_start_ms=int(start) - 300)
    return call.server(stop, "input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=int(stop))


def made(call, at: float, name: str, **more: object):
    return call.server(at, "response.created", response={"id": name, "conversation_id": "conv_1", **more})


def sound(call, at: float, name: str, ms: int, item: str | None = None):
    size = ms * 48
    return call.server(
        at, "response.output_audio.delta", response_id=name, item_id=item or f"i_{name}", delta_bytes=size
    )


def done(call, at: float, name: str, status: str = "completed", reason: str | None = None, **more: object):
    details = {"type": status, "reason": reason}
    response = {"id": name, "status": status, "status_details": details, "conversation_id": "conv_1", **more}
    return call.server(at, "response.done", response=response)


def answer(call, at: float, name: str, first: float, ms: int = 1000):
    return done(sound(made(call, at, name), first, name, ms), first + 100, name)


def tool(call, at: float, response: str, name: str = "c"):
    event = {"response_id": response, "item_id": f"f_{name}", "call_id": name, "name": "book", "arguments": "{}"}
    return call.server(at, "response.function_call_arguments.done", **event)


def output(call, at: float, name: str = "c", **more: object):
    item = {"type": "function_call_output", "call_id": name, "output": "ok"}
    return call.client(at, "conversation.item.create", item=item, **more)


def refused(call, at: float, code: str | None = None, param: str | None = None, event_id: str | None = None):
    error = {"type": "invalid_request_error", "code": code, "param": param, "event_id": event_id, "message": "x"}
    return call.server(at, "error", error=error)


def test_a_refused_request_is_no_cause() -> None:
    """Refused at 1,350 without an id; asked again at 60,000, first token at 60,400: 400 ms, not 59,100."""
    found = of(recorded("refused-ask"), "resp_2")
    assert (found[TOKEN], found[FROM]) == (400.0, "response.create")
    assert found["grafter.turn.first_token_from_unix_nano"] == T0 + 60_000 * MS


def test_the_apps_time_is_not_the_models() -> None:
    """A silent tool's output at 1,200 and a request at 61,200: first token at 61,700 is 500 ms. The detector's word at
    72,000, the request at 73,500, the first audio at 74,000: the caller waited 500 + 1,500 (the app) + 500."""
    spans = recorded("app-time")
    assert of(spans, "resp_2")[TOKEN] == 500.0
    found = of(spans, "resp_3")
    assert (found[TOKEN], found["grafter.turn.first_token_from_unix_nano"]) == (500.0, T0 + 73_500 * MS)
    wait = {key: value for key, value in found.items() if key.startswith("grafter.caller_wait") and key.endswith("_ms")}
    assert wait == {
        "grafter.caller_wait_ms": 2500.0,
        "grafter.caller_wait.endpointing_ms": 500.0,
        "grafter.caller_wait.relay_ms": 1500.0,
        "grafter.caller_wait.model_ms": 500.0,
    }


def test_an_interruption_long_after_the_response_was_done() -> None:
    """40 s of audio from 1,200 on: an "mhm" at 8,000 cuts nothing, who speaks at 20,000 does. Over SIP the audio plays
    from 30,500 until it is cleared at 110,100."""
    spans = recorded("barge-in-after-done")
    assert [(at, found["audio.elapsed_ms"]) for at, found in barge_ins(spans, "resp_1", T0)] == [(20_000.0, 18_700)]
    assert [(at, found["audio.elapsed_ms"]) for at, found in barge_ins(spans, "resp_2", T0)] == [(110_000.0, 79_600)]
    assert "grafter.realtime.misplaced_events" not in of(spans, "session")


def test_no_more_is_heard_than_there_was() -> None:
    """2,000 ms from 1,200 on were over at 3,200; who speaks at 9,000 interrupts nothing, whatever the client asks."""
    spans = recorded("truncated-past-its-end")
    assert barge_ins(spans, "resp_1") == []
    assert "grafter.realtime.barge_ins" not in of(spans, "session")


def test_tools_that_never_ran() -> None:
    """One that was cut off in its arguments was not asked for; one without an output ends with what is known of it."""
    spans = recorded("tools-that-never-ran")
    assert "call_cut" not in spans
    assert (spans["call_open"].start - T0) / MS == 5_300
    assert (spans["call_open"].end - T0) / MS == 5_500
    assert of(spans, "call_open")["grafter.end"] == "unknown"


def test_the_order_of_one_millisecond_is_that_of_cause() -> None:
    """Whichever post came first: the detector's word, the commit, the response."""
    spans = recorded("one-millisecond")
    assert "grafter.realtime.missing" not in of(spans, "u1")
    for name, speech in (("resp_1", "u1"), ("resp_2", "u2")):
        found = of(spans, name)
        assert (found[FROM], found[TOKEN], found["grafter.turn.speech_item"]) == ("speech_stopped", 500.0, speech)


def test_push_to_talk() -> None:
    """Audio from 1,000, let go at 2,500, first token at 3,000. The request came 10 ms after the button was let go."""
    spans = recorded("push-to-talk")
    assert ((spans["u1"].start - T0) / MS, (spans["u1"].end - T0) / MS) == (1_000, 2_500)
    found = of(spans, "resp_1")
    assert (found[TOKEN], found[ERROR], found["grafter.caller_wait_ms"]) == (500.0, 10.0, 500.0)
    assert found["grafter.caller_wait.from"] == "commit"


def test_heard_audio_is_bounded_on_a_plain_websocket() -> None:
    """First audio 1,200, speech 2,700: no more than 1,500 ms, though 3,000 had come."""
    ((at, found),) = barge_ins(recorded("no-truncate"), "resp_1", T0)
    assert (at, found["audio.elapsed_ms"], found["grafter.audio.heard_by"]) == (2_700.0, 1_500, "time")
    assert found["grafter.audio.heard_at_most"] is True


def test_a_request_that_a_cancel_overtook_makes_no_later_response(script) -> None:
    """Asked at 1,000 and cancelled at once; the caller speaks 30 s later, and the answer is the detector's."""
    call = begun(script()).client(1000, "response.create").client(1010, "response.cancel")
    spans = answer(spoke(call, 30_000, 31_000, "u"), 31_020, "r", 31_400).spans()
    assert (of(spans, "r")[FROM], of(spans, "r")[TOKEN]) == ("speech_stopped", 400.0)
    assert of(spans, "r")["grafter.caller_wait_ms"] == 900.0


@pytest.mark.parametrize("named", [True, False])
def test_a_request_that_is_refused_after_the_response_began(script, named) -> None:
    """Sent at 1,990, before the client knew that OpenAI had begun by itself: the detector is the cause."""
    call = spoke(begun(script()), 1000, 2000, "u").client(
        1995, "response.create", **({"event_id": "e"} if named else {})
    )
    made(call, 2010, "r")
    refused(call, 2050, "conversation_already_has_active_response", event_id="e" if named else None)
    found = of(done(sound(call, 2400, "r", 1000), 2500, "r").spans(), "r")
    assert (found[FROM], found[TOKEN]) == ("speech_stopped", 400.0)
    assert ERROR not in found


def test_an_error_that_may_be_about_two_requests_leaves_both_in_doubt(script) -> None:
    """Then the latency of what may have been asked for so is not stated."""
    call = begun(script()).client(1000, "response.create").client(1001, "conversation.item.create", item={"id": "i"})
    refused(call, 1050)
    found = of(answer(call, 1100, "r", 1400).spans(), "r")
    assert not {TOKEN, FROM} & set(found)


def test_an_output_that_was_refused_was_not_handed_back(script) -> None:
    """The second one was."""
    call = tool(made(begun(script()), 1000, "r"), 1200, "r")
    done(call, 1250, "r")
    output(call, 1500, event_id="a")
    refused(call, 1550, event_id="a")
    spans = output(call, 2500).spans()
    assert (spans["c"].end - BEGIN) / MS == 2500


def test_a_setting_that_was_refused_is_none(script) -> None:
    call = begun(script()).client(100, "session.update", session={"audio": {"output": {"voice": "nobody"}}})
    assert "grafter.realtime.voice" not in of(refused(call, 150, param="session.audio.output.voice").spans(), "session")


def test_after_a_tool_somebody_asked_who_is_not_seen(script) -> None:
    """A listener does not see the app's request: it lies between the output and the response, which is the error."""
    call = done(tool(made(spoke(begun(script()), 1000, 2000, "u"), 2010, "r"), 2300, "r"), 2310, "r")
    call.server(3000, "conversation.item.added", item={"type": "function_call_output", "call_id": "c", "output": "x"})
    found = of(answer(call, 3100, "r_2", 3500).spans(), "r_2")
    assert (found[FROM], found[TOKEN], found[ERROR]) == ("tool_output", 500.0, 100.0)
    assert (found["grafter.caller_wait_ms"], found["grafter.caller_wait.unknown_ms"]) == (2000.0, 500.0)
    call = done(tool(made(begun(script()), 2010, "r"), 2300, "r"), 2310, "r")
    call.server(3000, "conversation.item.added", item={"type": "function_call_output", "call_id": "c", "output": "x"})
    assert TOKEN in of(answer(call, 33_000, "r_2", 33_500).spans(), "r_2")


def test_only_the_first_sound_ends_a_wait(script) -> None:
    """ "One moment", and then the answer: the caller waited for the first."""
    call = spoke(begun(script()), 1000, 2000, "u")
    tool(sound(made(call, 2010, "r"), 2300, "r", 500), 2500, "r")
    output(done(call, 2510, "r"), 4000).client(4001, "response.create")
    spans = answer(call, 4050, "r_2", 4400).spans()
    assert of(spans, "r")["grafter.caller_wait_ms"] == 800.0
    assert "grafter.caller_wait_ms" not in of(spans, "r_2")
    assert of(spans, "r_2")["grafter.turn.speech_item"] == "u"


def test_heard_over_several_items(script) -> None:
    """The first item's 2,000 ms were heard whole, of the second 700."""
    call = sound(sound(made(begun(script()), 1000, "r"), 1200, "r", 2000, "a"), 1300, "r", 2000, "b")
    spoke(done(call, 1400, "r"), 4000, 5000, "u")
    call.server(4050, "conversation.item.truncated", item_id="b", audio_end_ms=700)
    ((at, found),) = barge_ins(call.spans(), "r")
    assert (at, found["audio.elapsed_ms"], found["grafter.audio.heard_by"]) == (4000.0, 2700, "truncated")


def test_who_speaks_before_any_sound_interrupts_nothing(script) -> None:
    call = made(begun(script()), 1000, "r").server(1100, "input_audio_buffer.speech_started", item_id="u")
    sound(call, 1200, "r", 100)
    assert barge_ins(done(call, 1250, "r", "cancelled", "turn_detected").spans(), "r") == []


def test_the_app_that_cuts_is_no_caller(script) -> None:
    """Nobody has spoken for ten seconds when the app cancels."""
    call = spoke(sound(made(begun(script()), 1000, "r"), 1200, "r", 30_000), 2000, 3000, "u")
    call.client(13_000, "response.cancel")
    assert barge_ins(done(call, 13_050, "r", "cancelled", "client_cancelled").spans(), "r") == []


def test_a_truncation_at_its_full_length_cuts_nothing(script) -> None:
    call = done(sound(made(begun(script()), 1000, "r"), 1200, "r", 1000), 1300, "r")
    spoke(call, 2100, 3000, "u")
    call.server(2150, "conversation.item.truncated", item_id="i_r", audio_end_ms=1000)
    assert barge_ins(call.spans(), "r") == []


def test_a_client_that_asks_for_more_than_there_was_is_not_believed(script) -> None:
    """The audio plays still, and the caller does interrupt it: what was heard is bounded by the time."""
    call = done(sound(made(begun(script()), 1000, "r"), 1200, "r", 4000), 1400, "r")
    call.server(3000, "input_audio_buffer.speech_started", item_id="u")
    call.client(3050, "conversation.item.truncate", item_id="i_r", audio_end_ms=57_340)
    ((at, found),) = barge_ins(refused(call, 3100, param="audio_end_ms").spans(), "r")
    assert (at, found["audio.elapsed_ms"], found["grafter.audio.heard_by"]) == (3000.0, 1800, "time")
    assert found["grafter.audio.truncate_past_end"] is True
    assert found["grafter.audio.heard_at_most"] is True


@pytest.mark.parametrize("client", [True, False])
def test_a_server_that_confirms_more_than_there_was_is_not_believed(script, client: bool) -> None:
    """One that is only compatible says back what it was asked for: at 3,050, of 4,000 ms that play from 1,200 on."""
    call = done(sound(made(begun(script()), 1000, "r"), 1200, "r", 4000), 1400, "r")
    call.server(3000, "input_audio_buffer.speech_started", item_id="u")
    if client:
        call.client(3050, "conversation.item.truncate", item_id="i_r", audio_end_ms=57_340)
    call.server(3060, "conversation.item.truncated", item_id="i_r", audio_end_ms=57_340)
    ((at, found),) = barge_ins(call.spans(), "r")
    assert (at, found["grafter.audio.heard_by"], found["grafter.audio.heard_at_most"]) == (3000.0, "time", True)
    assert found["audio.elapsed_ms"] == 1800
    assert found["grafter.audio.truncate_past_end"] is True


def test_a_server_that_confirms_more_than_there_was_after_its_end(script) -> None:
    """The audio was over at 5,200: who speaks at 9,000 interrupts nothing."""
    call = done(sound(made(begun(script()), 1000, "r"), 1200, "r", 4000), 1400, "r")
    call.server(9000, "input_audio_buffer.speech_started", item_id="u")
    call.server(9060, "conversation.item.truncated", item_id="i_r", audio_end_ms=57_340)
    assert barge_ins(call.spans(), "r") == []


def test_the_last_of_several_endings_counts(script) -> None:
    """A server that is only compatible says twice that the speech has ended, and only the second is where it did."""
    call = begun(script()).server(1000, "input_audio_buffer.speech_started", item_id="u", audio_start_ms=700)
    for at in (1800, 2600):
        call.server(at, "input_audio_buffer.speech_stopped", item_id="u", audio_end_ms=at)
    call.server(2610, "input_audio_buffer.speech_stopped", item_id="u", audio_end_ms=2600)
    spans = answer(call, 2620, "r", 3000).spans()
    assert (of(spans, "r")[TOKEN], of(spans, "r")["grafter.caller_wait_ms"]) == (400.0, 900.0)
    assert (spans["u"].end - BEGIN) / MS == 2100


def test_what_the_app_seeds_did_not_run(script) -> None:
    """Calls, outputs and MCP calls that no response has made: examples, and a conversation that is restored."""
    call = begun(script())
    items = [
        {"id": "f", "type": "function_call", "call_id": "c", "name": "book", "arguments": "{}", "status": "completed"},
        {"id": "o", "type": "function_call_output", "call_id": "c", "output": "ok"},
        {"id": "m", "type": "mcp_call", "name": "find", "server_label": "crm", "arguments": "{}", "output": "x"},
    ]
    for index, item in enumerate(items):
        call.client(100 + index, "conversation.item.create", item=item)
        call.server(200 + index, "conversation.item.added", item=item)
        call.server(300 + index, "conversation.item.done", item=item)
    assert set(answer(call, 5000, "r", 5300).spans()) == {"session", "r", "r/audio"}


def test_a_tool_that_openai_runs_is_no_reason_to_stop(script) -> None:
    item = {"id": "m", "type": "mcp_call", "name": "find", "server_label": "crm", "arguments": "{}", "output": "x"}
    call = made(begun(script()), 1000, "r").server(1100, "response.mcp_call.in_progress", item_id="m", response_id="r")
    call.server(1500, "response.mcp_call.completed", item_id="m", response_id="r")
    found = of(done(call, 1600, "r", output=[item]).spans(), "r")
    assert found["gen_ai.response.finish_reasons"] == ("stop",)


def test_client_events_that_are_numbered_anew_are_no_repeats(script) -> None:
    """An SDK that counts its ids from one after each reconnect asks twice, and is answered twice."""
    call = begun(script()).client(1000, "response.create", event_id="event_1")
    answer(call, 1050, "r", 1300).client(9000, "response.create", event_id="event_1")
    spans = answer(call, 9050, "r_2", 9400).spans()
    assert (of(spans, "r")[TOKEN], of(spans, "r_2")[TOKEN]) == (300.0, 400.0)


def test_no_figure_is_made_of_a_time_that_nobody_gave() -> None:
    """The spans stand at their arrival, marked, and say nothing of how long anything took."""
    kinds = [
        {"type": "session.created", "session": {"id": "s", "audio": {"input": {"turn_detection": VAD}, "output": PCM}}},
        {"type": "input_audio_buffer.speech_started", "item_id": "u", "audio_start_ms": 0},
        {"type": "input_audio_buffer.speech_stopped", "item_id": "u", "audio_end_ms": 1000},
        {"type": "response.created", "response": {"id": "r", "conversation_id": "c"}},
        {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta_bytes": 4800},
        {"type": "response.done", "response": {"id": "r", "status": "completed", "conversation_id": "c"}},
    ]
    for odd in range(1, len(kinds)):
        events = [{"at": None if n == odd else T0 / 1e9 + n, "event": kind} for n, kind in enumerate(kinds)]
        body = orjson.dumps({"call": "c", "events": events, "ended": True})
        (part,) = read_posts(body, False, GraftPolicy(), UnixNano(T0 + 10**11)).parts
        (mapped,) = map_realtime("c", [part.payload], GraftPolicy(), final=True)
        spans = {str(dict(span.attributes)["grafter.guest.span_id"]): span for span in mapped.guest.spans}
        marked = "u" if odd < 3 else "r"
        assert of(spans, marked)["grafter.odd_time"] is True
        assert not {TOKEN, FROM, "grafter.turn.first_audio_ms", "grafter.caller_wait_ms"} & set(of(spans, "r"))


def test_an_output_that_comes_as_the_caller_falls_silent_begins_nothing(script) -> None:
    """OpenAI answers speech by itself, an output it does not; and nobody was seen to ask."""
    call = tool(made(spoke(begun(script()), 1000, 2000, "u"), 2020, "r"), 2300, "r")
    output(spoke(done(call, 2310, "r"), 3000, 5000, "u_2"), 5001)
    spans = answer(call, 5030, "r_2", 5400).spans()
    found = of(spans, "r_2")
    assert (found[FROM], found[TOKEN], found["grafter.caller_wait_ms"]) == ("speech_stopped", 400.0, 900.0)
    assert "grafter.turn.after_tool" not in found


@pytest.mark.parametrize(("untimed", "found"), [("start", []), ("stop", [5000]), ("committed", [5000])])
def test_a_barge_in_is_at_the_callers_beginning_or_nowhere(script, untimed: str, found: list[int]) -> None:
    """What is missing a time afterwards takes nothing from it; and a beginning without one is not stood in for by the
    cut."""
    odd = {word: {"untimed": True} if word == untimed else {} for word in ("start", "stop", "committed")}
    call = sound(made(spoke(begun(script()), 1000, 2000, "u"), 2020, "r"), 2300, "r", 9000)
    call.server(5000, "input_audio_buffer.speech_started", item_id="u_2", audio_start_ms=4700, **odd["start"])
    details = {"type": "cancelled", "reason": "turn_detected"}
    given = {"id": "r", "status": "cancelled", "status_details": details, "conversation_id": "conv_1"}
    call.server(5007, "response.done", response=given)
    call.server(6000, "input_audio_buffer.speech_stopped", item_id="u_2", audio_end_ms=6000, **odd["stop"])
    spans = call.server(6001, "input_audio_buffer.committed", item_id="u_2", **odd["committed"]).spans()
    assert [at for at, _ in barge_ins(spans, "r")] == found


def test_a_stop_that_another_replaces_takes_its_missing_time_along(script) -> None:
    """Of a server that says it twice only the last one counts, and so does only its time."""
    call = begun(script()).server(1000, "input_audio_buffer.speech_started", item_id="u", audio_start_ms=700)
    call.server(2000, "input_audio_buffer.speech_stopped", item_id="u", audio_end_ms=2000, untimed=True)
    call.server(3000, "input_audio_buffer.speech_stopped", item_id="u", audio_end_ms=3000)
    spans = answer(call, 3020, "r", 3300).spans()
    assert (of(spans, "r")[TOKEN], of(spans, "r")["grafter.caller_wait_ms"]) == (300.0, 800.0)
    assert (spans["u"].end - BEGIN) / MS == 2500
    assert "grafter.odd_time" not in of(spans, "u")


def test_how_late_the_detectors_word_was_is_the_error_of_a_wait(script) -> None:
    """By the audio's own clock the second stop was 80 ms longer on its way than the first; how long that was nobody
    knows. After a pause in the audio that is sent, nothing is known of it at all."""
    call = answer(spoke(begun(script()), 1000, 2000, "u"), 2020, "r", 2300)
    call.server(9000, "input_audio_buffer.speech_started", item_id="u_2", audio_start_ms=8700)
    call.server(10_080, "input_audio_buffer.speech_stopped", item_id="u_2", audio_end_ms=10_000)
    answer(call, 10_100, "r_2", 10_400)
    call.server(20_000, "input_audio_buffer.speech_started", item_id="u_3", audio_start_ms=12_000)
    call.server(21_000, "input_audio_buffer.speech_stopped", item_id="u_3", audio_end_ms=13_000)
    spans = answer(call, 21_020, "r_3", 21_300).spans()
    wait, end = "grafter.caller_wait.error_ms", "grafter.speech_end.error_ms"
    assert [of(spans, name).get(wait) for name in ("r", "r_2", "r_3")] == [None, 80.0, None]
    assert [of(spans, name).get(end) for name in ("u", "u_2", "u_3", "r_2")] == [None, 80.0, None, 80.0]


def test_what_ends_before_it_begins_leaves_as_it_came(script) -> None:
    """A clock was set back: the spans say so, and no figure is made of them."""
    call = begun(script()).server(1000, "input_audio_buffer.speech_started", item_id="u", audio_start_ms=700)
    call.server(900, "input_audio_buffer.speech_stopped", item_id="u", audio_end_ms=2000)
    call.server(1500, "response.created", response={"id": "r", "conversation_id": "conv_1"})
    sound(call, 1600, "r", 100)
    spans = call.server(1400, "response.done", response={"id": "r", "status": "completed"}).spans()
    for name, length in (("u", -100), ("r", -100)):
        assert (spans[name].end - spans[name].start) / MS == length
        assert of(spans, name)["grafter.time.odd"] is True
    assert not {TOKEN, "grafter.turn.first_audio_ms", "grafter.caller_wait_ms"} & set(of(spans, "r"))
    assert "grafter.speech.end_unix_nano" not in of(spans, "u")


def test_a_truncate_that_nobody_answered_and_that_asks_for_too_much_leaves_a_bound(script) -> None:
    """Its client counts by another clock than its player's, so the time since the audio came is all that is known."""
    call = answer(spoke(begun(script()), 1000, 2000, "u"), 2020, "r", 2300, ms=9000)
    call.server(5000, "input_audio_buffer.speech_started", item_id="u_2", audio_start_ms=4700)
    spans = call.client(5010, "conversation.item.truncate", item_id="i_r", audio_end_ms=3000).spans()
    ((at, heard),) = barge_ins(spans, "r")
    assert (at, heard["audio.elapsed_ms"], heard["grafter.audio.heard_by"]) == (5000, 2710, "time")
    assert heard["grafter.audio.heard_at_most"] is True


def test_what_an_earlier_release_remembered_causes_nothing(script) -> None:
    """Its state is read as far as it says anything, and no figure begins before it."""
    call = spoke(begun(script()), 1000, 2000, "u")
    (first,) = map_realtime("call_key", [encode(call.stored_events)], GraftPolicy(), final=False)
    head = orjson.loads(orjson.dumps(first.head))
    for session in head[STATE]["machine"]["sessions"]:
        del session["version"]
        session["waiting"] = {"creates": [[BEGIN, None, {}, False]], "speech_at": BEGIN}
    late = answer(script(), 30_000, "r", 30_400)
    (second,) = map_realtime("call_key", [encode(late.stored_events)], GraftPolicy(), head, final=True)
    spans = {str(dict(span.attributes)["grafter.guest.span_id"]): span for span in second.guest.spans}
    assert {"session", "u", "r"} <= set(spans)
    assert not {TOKEN, "grafter.caller_wait_ms", "grafter.turn.speech_item"} & set(of(spans, "r"))


def test_a_post_that_was_overtaken_falsifies_nothing(script) -> None:
    """What the client sent comes after what the server answered, in another release: the same figures."""
    call = tool(made(spoke(begun(script()), 1000, 2000, "u"), 2010, "r"), 2300, "r")
    output(done(call, 2310, "r"), 3000).client(3001, "response.create")
    call.server(3050, "conversation.item.added", item={"type": "function_call_output", "call_id": "c", "output": "ok"})
    answer(call, 3100, "r_2", 3500)
    ours = [stored for stored in call.stored_events if stored.side.value == "client"]
    theirs = [stored for stored in call.stored_events if stored.side.value == "server"]
    (first,) = map_realtime("call_key", [encode(theirs)], GraftPolicy(), final=False)
    head = orjson.loads(orjson.dumps(first.head))
    (second,) = map_realtime("call_key", [encode(ours)], GraftPolicy(), head, final=True)
    late = {str(dict(span.attributes)["grafter.guest.span_id"]): span for span in second.guest.spans}
    whole = call.spans()
    assert first.guest.spans == ()
    assert (of(late, "r_2")[TOKEN], of(late, "r_2")["grafter.caller_wait_ms"]) == (499.0, 2000.0)
    assert {name: of(late, name) for name in late} == {name: of(whole, name) for name in whole}


def test_the_parts_that_stand_on_a_span_add_up_to_the_last_digit() -> None:
    """A recorder's clock counts nanoseconds, and attributes have three digits of a millisecond: of 300 calls with a
    tool, each event within a millisecond of 500 + 300 + 1,000 + 10 + 390, the parts are the wait and none is off by
    more than a microsecond."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2300, "resp_1", "call_1")
    call.done(2350, "resp_1", output=[call.tool_item("call_1")]).handed_back(3300, "call_1").ask(3310)
    call.created(3350, "resp_2").sound(3700, "resp_2").done(4200, "resp_2").ended(9000)
    (part,) = read_posts(call.body().encode(), True, GraftPolicy(), UnixNano(T0 + 10**13)).parts
    whole = decode(part.payload)
    for seed in range(300):
        rng = random.Random(seed)
        events = [replace(stored, at=UnixNano(stored.at + rng.randrange(MS))) for stored in whole]
        (mapped,) = map_realtime("rtc_hand", [encode(events)], GraftPolicy(), final=True)
        (said,) = [found for span in mapped.guest.spans if WAIT in (found := dict(span.attributes))]
        parts = {name: float(str(said.get(WAIT_PARTS + name, 0.0))) for name in SUMMED}
        wait = float(str(said[WAIT]))
        assert sum(round(value * 1000) for value in parts.values()) == round(wait * 1000), seed
        pieces = [piece.split(":") for piece in str(said["grafter.caller_wait.pieces"]).split()]
        for name, value in parts.items():
            exact = sum(int(length) for part_, length, *_ in pieces if f"{part_}_ms" == name)
            assert abs(value * MS - exact) <= 1_000, (seed, name)
