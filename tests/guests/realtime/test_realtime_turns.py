"""One rule of the state machine each: what a response answers, how it ends, what was heard, what never came."""

import json
from pathlib import Path

import orjson
import pytest

from grafter.core.model import STATUS_ERROR, UnixNano
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.realtime.content import kept
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.spans import map_realtime
from grafter.guests.realtime.stored_event import Side, StoredEvent, encode

DATA = Path(__file__).parents[2] / "data" / "openai" / "realtime"
HOST = "4bf92f3577b34da6a3ce929d0e0e4736"
BEGIN = 1_790_000_000_000_000_000
OTHER_HOST = "0af7651916cd43dd8448eb211c80319c"


def begun(call, *, detection: object = None, transcription: object = None):
    audio = {"input": {"turn_detection": detection, "transcription": transcription}}
    return call.server(0, "session.created", session={"id": "sess_1", "model": "gpt-realtime", "audio": audio})


def made(call, at: float, name: str, **more: object):
    return call.server(at, "response.created", response={"id": name, "conversation_id": "conv_1", **more})


def done(call, at: float, name: str, status: str = "completed", **more: object):
    return call.server(
        at, "response.done", response={"id": name, "status": status, "conversation_id": "conv_1", **more}
    )


def said(call, at: float, name: str):
    return call.server(at, "response.output_audio.delta", response_id=name, item_id=f"item_{name}", delta_bytes=800)


def told(spans, name: str) -> dict[str, object]:
    return dict(spans[name].attributes)


def test_a_response_that_nobody_asked_for_has_no_latency(script) -> None:
    """That it began is no cause: what began it may have been long before."""
    call = said(made(begun(script()), 1000, "r"), 1300, "r")
    span = told(call.spans(), "r")
    assert not {"grafter.turn.first_token_ms", "grafter.turn.first_token_from", "grafter.turn.first_audio_ms"} & set(
        span
    )
    assert span["grafter.turn.first_delta_unix_nano"] == BEGIN + 1300 * 1_000_000


def test_push_to_talk_is_measured_from_the_clients_commit(script) -> None:
    """The commit ends the speech; without the audio that was sent before it, nobody says when it began."""
    call = begun(script()).client(1000, "input_audio_buffer.commit").client(1001, "response.create")
    call.server(1040, "input_audio_buffer.committed", item_id="u")
    spans = said(made(call, 1100, "r"), 1500, "r").spans()
    span = told(spans, "r")
    assert (span["grafter.turn.first_token_ms"], span["grafter.turn.first_token_from"]) == (500.0, "committed")
    assert span["grafter.turn.speech_item"] == "u"
    assert span["grafter.turn.speech_end_unix_nano"] == BEGIN + 1000 * 1_000_000
    assert (span["grafter.caller_wait_ms"], span["grafter.caller_wait.from"]) == (500.0, "commit")
    assert spans["u"].start == spans["u"].end
    assert "input_audio_buffer.speech_started" in told(spans, "u")["grafter.realtime.missing"]


def test_the_silence_that_a_semantic_detector_waited_is_not_known(script) -> None:
    call = begun(script(), detection={"type": "semantic_vad", "eagerness": "high"})
    call.server(1000, "input_audio_buffer.speech_started", item_id="u").server(
        2000, "input_audio_buffer.speech_stopped", item_id="u"
    )
    span = told(said(made(call, 2100, "r"), 2400, "r").spans(), "r")
    assert span["grafter.turn.first_token_ms"] == 400.0
    assert "grafter.turn.endpointing_ms" not in span
    assert "grafter.turn.speech_end_unix_nano" not in span


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("silence", [10**5, 10**15])
def test_a_detector_cannot_have_waited_since_before_the_speech(script, heard, silence) -> None:
    """Audio sent faster than it is spoken, or a setting that is none: when the caller fell silent is unknown."""
    detection = {"type": "server_vad", "silence_duration_ms": silence}
    call = begun(script(), detection=detection)
    if heard:
        call.server(1000, "input_audio_buffer.speech_started", item_id="u")
    call.server(2000, "input_audio_buffer.speech_stopped", item_id="u")
    spans = said(made(call, 2100, "r"), 2400, "r").spans()
    assert not {"grafter.speech.end_unix_nano", "grafter.speech.endpointing_ms"} & told(spans, "u").keys()
    assert not {"grafter.turn.speech_end_unix_nano", "grafter.turn.endpointing_ms"} & told(spans, "r").keys()
    assert told(spans, "r")["grafter.turn.first_audio_ms"] == 400.0


def test_an_idle_caller_is_no_speech(script) -> None:
    """The silence is what the response answers; the item that it is made into is no user_speech."""
    call = begun(script()).server(
        9000, "input_audio_buffer.timeout_triggered", item_id="u", audio_start_ms=1, audio_end_ms=2
    )
    call.server(9001, "input_audio_buffer.committed", item_id="u")
    spans = said(made(call, 9100, "r"), 9500, "r").spans()
    assert told(spans, "r")["grafter.turn.first_token_from"] == "idle_timeout"
    assert set(spans) == {"session", "r", "r/audio"}
    assert [event.name for event in spans["session"].events] == ["grafter.realtime.idle_timeout"]


def test_a_response_out_of_band_answers_nobody(script) -> None:
    """It is known by its null conversation, measured from its own request, and takes no speech from the next one."""
    call = begun(script())
    call.server(900, "input_audio_buffer.speech_started", item_id="u")
    call.server(1000, "input_audio_buffer.speech_stopped", item_id="u")
    wanted = {"conversation": "none", "metadata": {"topic": "triage"}}
    call.client(1010, "response.create", response=wanted)
    made(call, 1100, "answer")
    made(call, 1110, "aside", conversation_id=None, metadata={"topic": "triage"})
    call.server(1200, "response.output_text.delta", response_id="aside", item_id="x", delta="s")
    said(call, 1500, "answer")
    spans = done(done(call, 1600, "aside"), 1700, "answer").spans()
    assert told(spans, "aside")["grafter.turn.conversation"] == "none"
    assert told(spans, "aside")["grafter.turn.first_token_from"] == "response.create"
    assert told(spans, "aside")["grafter.turn.first_token_ms"] == 190.0
    assert told(spans, "aside")["grafter.response.metadata"] == '{"topic":"triage"}'
    assert told(spans, "answer")["grafter.turn.first_token_from"] == "speech_stopped"
    assert told(spans, "answer")["grafter.turn.first_token_ms"] == 500.0


def test_what_ended_last_is_what_is_answered(script) -> None:
    """A caller who speaks after the tool's output is answered; the output before it is not waited for again."""
    call = begun(script())
    call.client(1000, "conversation.item.create", item={"type": "function_call_output", "call_id": "c", "output": "x"})
    call.server(1100, "input_audio_buffer.speech_started", item_id="u")
    call.server(2000, "input_audio_buffer.speech_stopped", item_id="u")
    made(call, 2100, "r_1")
    made(done(call, 2500, "r_1"), 3000, "r_2")
    spans = call.spans()
    assert told(spans, "r_1")["grafter.turn.first_token_from"] == "speech_stopped"
    assert "grafter.turn.first_token_from" not in told(spans, "r_2")


def test_a_refused_request_is_not_the_next_responses(script) -> None:
    """An error that answers the client's response.create takes it back."""
    call = begun(script()).client(1000, "response.create", event_id="mine")
    call.server(
        1010, "error", error={"type": "invalid_request_error", "code": "busy", "event_id": "mine", "message": "no"}
    )
    spans = made(call, 5000, "r").spans()
    assert "grafter.turn.first_token_from" not in told(spans, "r")
    (event,) = spans["session"].events
    assert event.name == "grafter.realtime.error"
    assert dict(event.attributes) == {"error.type": "busy", "grafter.error.kind": "invalid_request_error"}
    assert told(spans, "session")["grafter.realtime.errors"] == 1


def test_a_figure_out_of_order_is_not_stated(script) -> None:
    """Where the clock jumped back between the speech and its answer, there is no negative latency."""
    first = begun(script())
    first.server(5000, "input_audio_buffer.speech_started", item_id="u")
    first.server(9000, "input_audio_buffer.speech_stopped", item_id="u")
    (mapped,) = map_realtime("call_key", [encode(first.stored_events)], GraftPolicy(), final=False)
    late = said(made(script(), 4000, "r"), 4300, "r")
    (mapped,) = map_realtime("call_key", [encode(late.stored_events)], GraftPolicy(), mapped.head, final=True)
    span = next(dict(span.attributes) for span in mapped.guest.spans if span.name.startswith("chat"))
    assert not {"grafter.turn.first_token_from", "grafter.turn.first_token_ms"} & set(span)


@pytest.mark.parametrize(
    ("status", "details", "reasons", "failed"),
    [
        ("completed", {}, ("stop",), False),
        ("cancelled", {"reason": "client_cancelled"}, ("client_cancelled",), False),
        ("incomplete", {"reason": "max_output_tokens"}, ("length",), False),
        ("incomplete", {"reason": "content_filter"}, ("content_filter",), False),
        ("failed", {"error": {"type": "server_error", "code": "overloaded", "message": "SECRET"}}, ("error",), True),
        ("failed", {"error": {"type": "Some Sentence"}}, ("error",), True),
    ],
)
def test_how_a_response_ends(script, status, details, reasons, failed) -> None:
    call = done(made(begun(script()), 1000, "r"), 2000, "r", status, status_details={"type": status, **details})
    spans = call.spans()
    span = told(spans, "r")
    assert span["grafter.response.status"] == status
    assert span["gen_ai.response.finish_reasons"] == reasons
    assert (spans["r"].status_code == STATUS_ERROR) is failed
    if failed:
        assert span["error.type"] in ("overloaded", "_OTHER")
        assert spans["r"].status_message == ""


def test_a_response_that_never_ends_is_told_as_far_as_it_came(script) -> None:
    spans = said(made(begun(script()), 1000, "r"), 1800, "r").server(9000, "response.hologram").spans()
    assert spans["r"].end - spans["r"].start == 800 * 1_000_000
    assert told(spans, "r")["grafter.realtime.missing"] == ("response.done",)
    assert told(spans, "session")["grafter.ended_by"] == "disconnect"
    assert told(spans, "session")["grafter.realtime.unknown_types"] == ("response.hologram",)


def test_a_response_that_was_only_done(script) -> None:
    """And twice, by a server that is only compatible: the last word counts."""
    spans = done(done(begun(script()), 2000, "r"), 3000, "r", "failed").spans()
    assert told(spans, "r")["grafter.realtime.missing"] == ("response.created",)
    assert told(spans, "r")["grafter.response.status"] == "failed"


def test_what_ended_after_a_response_began_is_not_what_it_answers(script) -> None:
    """A response whose beginning was not heard, and whose end comes after the caller has spoken again."""
    call = said(begun(script()), 1000, "r")
    call.server(2000, "input_audio_buffer.speech_started", item_id="u")
    call.server(3000, "input_audio_buffer.speech_stopped", item_id="u")
    done(call, 3010, "r", "cancelled", status_details={"reason": "turn_detected"})
    spans = said(made(call, 3020, "r_2"), 3500, "r_2").spans()
    assert "grafter.turn.speech_item" not in told(spans, "r")
    assert told(spans, "r_2")["grafter.turn.speech_item"] == "u"
    assert told(spans, "r_2")["grafter.turn.first_audio_ms"] == 500.0


def test_a_call_without_its_beginning_has_a_session(script) -> None:
    spans = said(made(script(), 700, "r"), 900, "r").spans()
    assert told(spans, "session")["grafter.realtime.missing"] == ("session.created",)
    assert spans["session"].start == spans["r"].start
    assert spans["session"].name == "realtime_session"


@pytest.mark.parametrize(
    ("kind", "side", "expected"),
    [("conversation.item.truncated", "server", "truncated"), ("conversation.item.truncate", "client", "truncate")],
)
def test_a_finished_response_can_still_be_interrupted(script, kind, side, expected) -> None:
    """Its audio plays on after response.done, so it is held until that is over."""
    call = done(said(made(begun(script()), 1000, "r"), 1300, "r"), 1500, "r")
    held = call.spans(final=False)
    assert held == {}
    call.server(2500, "input_audio_buffer.speech_started", item_id="u")
    getattr(call, side)(2510, kind, item_id="item_r", content_index=0, audio_end_ms=900)
    (event,) = call.spans()["r"].events
    assert (event.name, dict(event.attributes)) == (
        "gen_ai.audio.barge_in",
        {"audio.elapsed_ms": 900, "grafter.audio.heard_by": expected, "grafter.barge_in.by": "speech"},
    )


@pytest.mark.parametrize("pressed", [True, False])
def test_a_cut_that_no_speech_explains_is_a_button_or_the_app(script, pressed) -> None:
    """Push to talk: audio that begins where the answer is cut is the caller's; a program that cuts is no caller."""
    call = done(said(made(begun(script()), 1000, "r"), 1300, "r"), 1500, "r")
    call.client(2000, "conversation.item.truncate", item_id="item_r", content_index=0, audio_end_ms=700)
    if pressed:
        call.client(2020, "input_audio_buffer.append")
    by = [dict(event.attributes)["grafter.barge_in.by"] for event in call.spans()["r"].events]
    assert by == (["client"] if pressed else [])


@pytest.mark.parametrize(
    ("kind", "side"), [("conversation.item.truncated", "server"), ("conversation.item.truncate", "client")]
)
def test_a_cut_may_come_after_the_next_turn(script, kind, side) -> None:
    """A short "stop" is over, and answered, before anybody says how much of the interrupted answer was heard."""
    call = done(said(made(begun(script()), 1000, "r"), 1300, "r"), 1500, "r")
    call.server(2500, "input_audio_buffer.speech_started", item_id="u")
    call.server(2700, "input_audio_buffer.speech_stopped", item_id="u")
    made(call, 2720, "r_2")
    said(call, 2900, "r_2")
    done(call, 3100, "r_2")
    assert "r" not in call.spans(final=False)
    getattr(call, side)(3400, kind, item_id="item_r", content_index=0, audio_end_ms=900)
    spans = call.spans()
    (event,) = spans["r"].events
    assert (event.time, dict(event.attributes)["audio.elapsed_ms"]) == (spans["r"].start + 1500 * 1_000_000, 900)
    assert spans["r_2"].events == ()
    call = done(said(made(begun(script()), 1000, "r"), 1300, "r"), 1500, "r")
    call.server(2500, "input_audio_buffer.speech_started", item_id="u")
    call.server(2700, "input_audio_buffer.speech_stopped", item_id="u")
    done(said(made(call, 8000, "r_2"), 8050, "r_2"), 8100, "r_2")
    done(made(call, 13_100, "r_3"), 13_200, "r_3")
    assert "r" in call.spans(final=False)


def test_what_was_heard_is_bounded_where_nobody_says_it(script) -> None:
    """Cancelled because the caller spoke, and nobody says what had been played: no more than there was time for."""
    call = said(made(begun(script()), 1000, "r"), 1300, "r")
    call.server(2000, "input_audio_buffer.speech_started", item_id="u")
    done(call, 2010, "r", "cancelled", status_details={"reason": "turn_detected"})
    (event,) = call.spans()["r"].events
    assert dict(event.attributes) == {
        "audio.elapsed_ms": 700,
        "grafter.audio.heard_by": "time",
        "grafter.audio.heard_at_most": True,
        "grafter.barge_in.by": "speech",
    }


def test_silence_cannot_be_interrupted(script) -> None:
    """Cancelled before it said anything: the reason is told, and there is no barge-in."""
    call = done(made(begun(script()), 1000, "r"), 1200, "r", "cancelled", status_details={"reason": "turn_detected"})
    spans = call.spans()
    assert spans["r"].events == ()
    assert told(spans, "r")["gen_ai.response.finish_reasons"] == ("turn_detected",)


def test_talking_along_is_no_barge_in(script) -> None:
    """The caller speaks, and the response is heard to its end all the same."""
    call = begun(script(), detection={"type": "server_vad", "interrupt_response": False})
    made(call, 1000, "r").server(1200, "output_audio_buffer.started", response_id="r")
    call.server(1500, "input_audio_buffer.speech_started", item_id="u")
    done(call, 1600, "r").server(3000, "output_audio_buffer.stopped", response_id="r")
    assert call.spans()["r"].events == ()


def test_what_has_ended_leaves_before_the_call_ends(script) -> None:
    """In stream mode a turn leaves when nothing more can come of it, and a few seconds later, for posts may overtake
    each other and what has left cannot be put right; the session and what is open do not."""
    call = begun(script())
    made(call, 1000, "r_1").server(1200, "output_audio_buffer.started", response_id="r_1")
    done(call, 1500, "r_1").server(2500, "output_audio_buffer.stopped", response_id="r_1")
    assert set(call.spans(final=False)) == set()
    done(made(call, 7600, "r_2"), 7700, "r_2")
    assert set(call.spans(final=False)) == {"r_1", "r_1/audio"}
    call.own(200_000, "grafter.ended", by="posted")
    assert set(call.spans(final=False)) == {"r_1", "r_1/audio", "r_2", "session"}


def test_a_tool_that_is_never_answered_is_not_the_rest_of_the_call(script) -> None:
    """Nothing shows it at work after it was asked for."""
    call = made(begun(script()), 1000, "r")
    call.server(1200, "response.function_call_arguments.done", response_id="r", call_id="c", name="crm", arguments="{}")
    spans = done(call, 1300, "r").server(8000, "rate_limits.updated", rate_limits=[]).spans()
    assert spans["c"].name == "execute_tool crm"
    assert spans["c"].start == spans["r"].start + 200 * 1_000_000
    assert spans["c"].end <= spans["r"].end
    assert told(spans, "c")["grafter.realtime.missing"] == ("function_call_output",)
    assert told(spans, "c")["grafter.end"] == "unknown"


def test_an_output_without_its_call_is_history(script) -> None:
    """The app restores a conversation: nothing ran here, and nothing goes on from it."""
    call = begun(script())
    call.client(1000, "conversation.item.create", item={"type": "function_call_output", "call_id": "c", "output": "x"})
    spans = said(made(call, 1200, "r"), 1500, "r").spans()
    assert set(spans) == {"session", "r", "r/audio"}
    assert not {"grafter.turn.after_tool", "grafter.turn.first_token_ms"} & set(told(spans, "r"))


def test_tools_side_by_side(script) -> None:
    """Two calls of one response; the next one goes on from the output that came last."""
    call = made(begun(script()), 1000, "r")
    calls = [
        {"id": f"i{n}", "type": "function_call", "call_id": f"c{n}", "name": "crm", "arguments": "{}"} for n in (1, 2)
    ]
    done(call, 1300, "r", output=calls)
    for at, name in ((2000, "c2"), (2600, "c1")):
        call.client(
            at, "conversation.item.create", item={"type": "function_call_output", "call_id": name, "output": ""}
        )
    spans = said(made(call, 2700, "r_2"), 3000, "r_2").spans()
    assert {spans["c1"].parent_name, spans["c2"].parent_name} == {"r"}
    assert told(spans, "r")["grafter.response.tool_calls"] == 2
    assert told(spans, "r")["gen_ai.response.finish_reasons"] == ("tool_call",)
    assert told(spans, "r_2")["grafter.turn.after_tool"] == "c1"
    assert told(spans, "r_2")["grafter.turn.first_token_ms"] == 400.0


def test_an_mcp_servers_tool(script) -> None:
    """It runs at OpenAI's side: an extension, under its response, with the server's name and no content."""
    item = {"id": "m", "type": "mcp_call", "name": "find", "server_label": "crm", "arguments": '{"q": "SECRET"}'}
    call = made(begun(script()), 1000, "r")
    call.server(1100, "response.output_item.added", response_id="r", item={**item, "arguments": ""})
    call.server(1200, "response.mcp_call_arguments.done", response_id="r", item_id="m", arguments=item["arguments"])
    call.server(1250, "response.mcp_call.in_progress", item_id="m", output_index=0)
    call.server(1900, "response.mcp_call.completed", item_id="m", output_index=0)
    call.server(1910, "response.output_item.done", response_id="r", item={**item, "output": "SECRET"})
    spans = said(made(done(call, 1950, "r"), 2000, "r_2"), 2400, "r_2").spans()
    span = told(spans, "m")
    assert (spans["m"].name, spans["m"].parent_name) == ("execute_tool find", "r")
    assert spans["m"].end - spans["m"].start == 700 * 1_000_000
    assert (span["gen_ai.tool.type"], span["openai.agents.mcp.server"]) == ("extension", "crm")
    assert "SECRET" not in repr(spans)
    assert told(spans, "r_2")["grafter.turn.first_token_from"] == "tool_output"


def test_an_mcp_tool_that_fails(script) -> None:
    error = {"type": "http_error", "code": 503, "message": "SECRET"}
    call = made(begun(script()), 1000, "r").server(1250, "response.mcp_call.in_progress", item_id="m")
    call.server(1900, "response.mcp_call.failed", item_id="m")
    item = {"id": "m", "type": "mcp_call", "name": "find", "server_label": "crm", "arguments": "{}", "error": error}
    spans = call.server(1910, "response.output_item.done", response_id="r", item=item).spans()
    assert spans["m"].status_code == STATUS_ERROR
    assert told(spans, "m")["error.type"] == "http_error"
    assert "SECRET" not in repr(spans)


def test_an_mcp_servers_list_and_an_approval(script) -> None:
    call = begun(script()).server(100, "mcp_list_tools.in_progress", item_id="l")
    call.server(600, "mcp_list_tools.completed", item_id="l")
    tools = [{"name": "find", "description": "SECRET", "input_schema": {}}]
    call.server(
        610, "conversation.item.done", item={"id": "l", "type": "mcp_list_tools", "server_label": "crm", "tools": tools}
    )
    wanted = {"id": "a", "type": "mcp_approval_request", "name": "find", "server_label": "crm", "arguments": "{}"}
    done(made(call, 1000, "r"), 1300, "r", output=[wanted])
    answer = {"type": "mcp_approval_response", "approval_request_id": "a", "approve": False, "reason": "SECRET"}
    spans = call.client(5300, "conversation.item.create", item=answer).spans()
    assert (spans["l"].name, spans["l"].end - spans["l"].start) == ("tools/list", 500 * 1_000_000)
    assert told(spans, "l")["openai.agents.mcp.tools"] == ("find",)
    assert told(spans, "l")["mcp.method.name"] == "tools/list"
    assert (spans["a"].name, spans["a"].parent_name) == ("mcp_approval find", "r")
    assert spans["a"].end - spans["a"].start == 4000 * 1_000_000
    assert told(spans, "a")["grafter.mcp.approved"] is False
    # An approval is no run of the tool: sums of tools are not to find it.
    assert not {"gen_ai.tool.name", "gen_ai.operation.name", "gen_ai.tool.call.id"} & set(told(spans, "a"))
    assert "SECRET" not in repr(spans)


def test_a_transcript_comes_when_it_likes(script) -> None:
    """After the answer has begun, and it is waited for where the session transcribes."""
    call = begun(script(), transcription={"model": "whisper-1"})
    call.server(1000, "input_audio_buffer.speech_started", item_id="u")
    call.server(2000, "input_audio_buffer.speech_stopped", item_id="u")
    assert call.spans(final=False) == {}
    kind = "conversation.item.input_audio_transcription"
    # The next speech is over already.
    call.server(3000, "input_audio_buffer.speech_started", item_id="u_2")
    call.server(3500, "input_audio_buffer.speech_stopped", item_id="u_2")
    call.server(4000, f"{kind}.failed", item_id="u", error={"code": "audio_unintelligible", "message": "SECRET"})
    call.server(9000, "input_audio_buffer.speech_stopped", item_id="u_3")
    span = told(call.spans(final=False), "u")
    assert span["grafter.transcription.status"] == "failed"
    assert span["grafter.transcription.error_type"] == "audio_unintelligible"


def test_keys_on_the_phone(script) -> None:
    """They are told, and which they were only with content."""
    for content, expected in ((Content.NONE, {}), (Content.TEXT, {"digit": "7"})):
        call = script(content)
        begun(call).server(500, "input_audio_buffer.dtmf_event_received", event="7", received_at=1_790_000_000)
        spans = call.spans()
        (event,) = spans["session"].events
        assert (event.name, dict(event.attributes)) == ("grafter.realtime.dtmf", expected)
        assert told(spans, "session")["grafter.realtime.dtmf_keys"] == 1


def test_speech_that_was_thrown_away(script) -> None:
    call = begun(script()).server(1000, "input_audio_buffer.speech_started", item_id="u")
    spans = call.server(1700, "input_audio_buffer.cleared").spans()
    assert spans["u"].end - spans["u"].start == 700 * 1_000_000
    assert told(spans, "u")["grafter.speech.dropped"] is True


def test_one_id_for_two_things(script) -> None:
    """The first has it; the second is counted."""
    call = begun(script()).server(1000, "input_audio_buffer.speech_started", item_id="x")
    made(call, 1100, "x")
    spans = call.spans()
    assert set(spans) == {"session", "x"}
    assert spans["x"].name == "user_speech"
    assert told(spans, "session")["grafter.realtime.reused_ids"] >= 1


@pytest.mark.parametrize(
    ("by", "end"), [("close", 9000), ("posted", 9000), ("silence", 1300), ("disconnect", 1300), ("stopped", 9000)]
)
def test_what_ended_the_session(script, by, end) -> None:
    """A lost or silent socket is noticed late: the session ended with the last that was heard."""
    call = said(made(begun(script()), 1000, "r"), 1300, "r").own(9000, "grafter.ended", by=by)
    span = call.spans(final=False)["session"]
    assert dict(span.attributes)["grafter.ended_by"] == by
    assert span.end - span.start == end * 1_000_000


@pytest.mark.parametrize(("seconds", "until"), [(30, 30), (7 * 24 * 3600, 2)])
def test_an_end_of_which_nobody_says_when(seconds, until) -> None:
    """Of a call that runs it is the moment it arrives; a recording that is read later ended with its last event."""
    now = BEGIN + seconds * 10**9
    events = [{"at": BEGIN / 10**9 + n, "event": {"type": "rate_limits.updated", "event_id": f"e{n}"}} for n in (0, 2)]
    bodies = [orjson.dumps({"call": "c", **more}) for more in ({"events": events}, {"ended": True})]
    payloads = [part.payload for body in bodies for part in read_posts(body, False, GraftPolicy(), UnixNano(now)).parts]
    (mapped,) = map_realtime("c", payloads, GraftPolicy(), final=False)
    (session,) = mapped.guest.spans
    assert (session.end - session.start) / 10**9 == until
    assert dict(session.attributes)["grafter.ended_by"] == "posted"


def test_a_session_whose_time_was_over(script) -> None:
    call = script()
    call.server(0, "session.created", session={"id": "s", "expires_at": 1_790_000_060})
    call.server(59_000, "rate_limits.updated", rate_limits=[])
    assert told(call.spans(), "session")["grafter.ended_by"] == "expired"


def sessions(call):
    """A rollover: the second session begins while the first still answers."""
    for index, name in enumerate(("sess_1", "sess_2")):
        call.server(index * 1000, "session.created", session={"id": name, "model": f"model-{index + 1}"})
        made(call, index * 1000 + 100, f"r_{index + 1}", conversation_id=f"conv_{index + 1}")
    done(call, 1500, "r_1", conversation_id="conv_1")
    return done(call, 1600, "r_2", conversation_id="conv_2")


def test_a_second_session_is_a_second_guest(script) -> None:
    """With an id of its own under the key; events go to the session that knows what they name."""
    first, second = map_realtime("key", [encode(sessions(script()).stored_events)], GraftPolicy(), final=True)
    assert (first.guest.trace_id, second.guest.trace_id) == ("key", "key/sess_2")
    assert sorted(span.name for span in first.guest.spans) == ["chat model-1", "realtime_session model-1"]
    assert sorted(span.name for span in second.guest.spans) == ["chat model-2", "realtime_session model-2"]
    ended = [dict(one.guest.spans[0].attributes)["grafter.ended_by"] for one in (first, second)]
    assert ended == ["next_session", "disconnect"]
    assert first.guest.spans[0].end - first.guest.spans[0].start == 1500 * 1_000_000


def test_which_metadata_links_the_call(script) -> None:
    """The recorder's start before what was posted, before the session's own; late ones too; and a session
    without any is of the same host as the others."""

    def linked(*origins: str) -> list[str | None]:
        call = sessions(script())
        if "session" in origins:
            call.client(1700, "session.update", session={"tracing": {"metadata": {"trace_id": "1" * 32}}})
        if "posted" in origins:
            call.own(90_000, "grafter.metadata", origin="posted", metadata={"trace_id": OTHER_HOST, "order": 7})
        if "start" in origins:
            call.own(95_000, "grafter.metadata", origin="start", metadata={"trace_id": HOST})
        mapped = map_realtime("key", [encode(call.stored_events)], GraftPolicy(), final=True)
        return [one.guest.link and one.guest.link.host.hex() for one in mapped]

    assert linked() == [None, None]
    assert linked("posted") == [OTHER_HOST, OTHER_HOST]
    assert linked("start", "posted", "session") == [HOST, HOST]
    # Only the newest session was configured so, and the first is of the same call.
    assert linked("session") == ["1" * 32] * 2


def test_a_link_that_was_used_stays(script) -> None:
    call = begun(script()).own(1, "grafter.metadata", origin="posted", metadata={"trace_id": OTHER_HOST})
    (first,) = map_realtime("key", [encode(call.stored_events)], GraftPolicy(), final=False)
    late = script().own(2, "grafter.metadata", origin="start", metadata={"trace_id": HOST})
    (second,) = map_realtime(
        "key", [encode(late.stored_events)], GraftPolicy(metadata_keys=("a",)), first.head, final=True
    )
    assert second.guest.link is not None
    assert second.guest.link.host.hex() == OTHER_HOST
    assert second.head["metadata"] == {"trace_id": HOST}


def test_a_sip_header_only_points_at_a_host(script) -> None:
    """It comes from outside, so it is no link; and it is nothing at all beside one."""
    call = begun(script()).own(1, "grafter.sip", traceparent=f"00-{HOST}-00f067aa0ba902b7-01")
    (mapped,) = map_realtime("key", [encode(call.stored_events)], GraftPolicy(), final=True)
    assert mapped.guest.link is None
    assert mapped.weak is not None
    assert (mapped.weak.host.hex(), mapped.weak.how) == (HOST, "sip")
    call.own(2, "grafter.metadata", origin="posted", metadata={"trace_id": OTHER_HOST})
    (mapped,) = map_realtime("key", [encode(call.stored_events)], GraftPolicy(), final=True)
    assert mapped.weak is None


def test_metadata_that_names_no_host_is_said_to(script) -> None:
    call = begun(script()).own(1, "grafter.metadata", origin="posted", metadata={"trace_id": "nonsense", "tenant": "a"})
    policy = GraftPolicy(metadata_keys=("tenant",))
    (mapped,) = map_realtime("key", [encode(call.stored_events)], policy, final=True)
    assert "trace_id" in str(mapped.head["malformed"])
    assert dict(mapped.guest.spans[0].attributes)["openai.agents.trace.metadata.tenant"] == "a"


def test_a_call_of_which_only_metadata_is_known(script) -> None:
    """No event, no span; what was said is remembered."""
    call = script().own(1, "grafter.metadata", origin="start", metadata={"trace_id": HOST}).own(2, "grafter.started")
    (mapped,) = map_realtime("key", [encode(call.stored_events)], GraftPolicy(), final=True)
    assert mapped.guest.spans == ()
    assert mapped.guest.link is not None


def test_the_client_events_of_a_real_session() -> None:
    """What the Agents SDK's RealtimeSession sends, alone: a model and a link. What it asks for, nobody confirms."""
    events = json.loads((DATA / "py_realtime_client_events.json").read_bytes())["events"]
    stored_events = []
    for index, event in enumerate(events):
        stored = kept(event, Side.CLIENT, Content.NONE)
        assert stored is not None
        stored_events.append(StoredEvent(10**18 + index * 10**9, Side.CLIENT, stored))
    (mapped,) = map_realtime("key", [encode(stored_events)], GraftPolicy(), final=True)
    spans = {span.name: dict(span.attributes) for span in mapped.guest.spans}
    assert set(spans) == {"realtime_session gpt-realtime"}
    session = spans["realtime_session gpt-realtime"]
    assert session["grafter.realtime.turn_detection"] == "semantic_vad"
    assert session["grafter.realtime.voice"] == "ash"
    assert session["grafter.realtime.tools"] == ("lookup",)
    assert session["openai.agents.group_id"] == "conv_42"
    assert session["grafter.realtime.misplaced_events"] == 1
    assert mapped.guest.link is not None
    assert (mapped.guest.link.host.hex(), mapped.guest.link.span_id) == (HOST, bytes.fromhex("00f067aa0ba902b7"))


def test_usage_by_modality_and_of_what_was_cached(script) -> None:
    """All are subsets of the two totals; zeros are left out, and the split is told where it is more than text."""
    usage = {
        "total_tokens": 150,
        "input_tokens": 100,
        "output_tokens": 50,
        "input_token_details": {
            "text_tokens": 60,
            "audio_tokens": 40,
            "image_tokens": 0,
            "cached_tokens": 48,
            "cached_tokens_details": {"text_tokens": 32, "audio_tokens": 16, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": 10, "audio_tokens": 40},
    }
    span = told(done(made(begun(script()), 1000, "r"), 2000, "r", usage=usage).spans(), "r")
    assert {key: value for key, value in span.items() if "usage" in key or key == "grafter.realtime.extra"} == {
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.usage.cache_read.input_tokens": 48,
        "gen_ai.usage.text.cache_read.input_tokens": 32,
        "gen_ai.usage.audio.cache_read.input_tokens": 16,
        "gen_ai.usage.text.input_tokens": 60,
        "gen_ai.usage.audio.input_tokens": 40,
        "gen_ai.usage.text.output_tokens": 10,
        "gen_ai.usage.audio.output_tokens": 40,
    }


def test_the_beta_api_gives_the_same_spans(script) -> None:
    """An old client's names for the same events make no difference."""

    def call(delta: str, transcript: str):
        events = made(begun(script()).client(900, "response.create"), 1000, "r")
        events.server(1200, transcript, response_id="r", item_id="i", delta="Hi")
        events.server(1300, delta, response_id="r", item_id="i", delta="AAAA")
        return done(events, 2000, "r").spans()

    beta = call("response.audio.delta", "response.audio_transcript.delta")
    assert beta == call("response.output_audio.delta", "response.output_audio_transcript.delta")
    assert told(beta, "r")["grafter.turn.first_audio_ms"] == 400.0


@pytest.mark.parametrize("count", [2, 40, 63, 64])
def test_many_tools_at_once_each_end_by_their_own_output(script, count: int) -> None:
    """As many as may be open together are waited for, every one of them."""
    call = made(begun(script()), 1000, "r")
    for number in range(count):
        call.server(
            2000 + number,
            "response.function_call_arguments.done",
            response_id="r",
            item_id=f"i{number}",
            call_id=f"c{number}",
            name="lookup",
            arguments="{}",
        )
    for number in range(count):
        item = {"type": "function_call_output", "call_id": f"c{number}", "output": "ok"}
        call.client(5000 + number, "conversation.item.create", item=item)
    spans = call.spans()
    assert [(spans[f"c{n}"].end - spans[f"c{n}"].start) // 1_000_000 for n in range(count)] == [3000] * count
    assert not any("grafter.realtime.missing" in told(spans, f"c{n}") for n in range(count))
