"""A Live call from the greeting to the end, and one rule each of what becomes of its events."""

import random

import orjson
import pytest

from grafter.core.model import UnixNano, guest_span_id
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.spans import map_realtime
from grafter.guests.realtime.stored_event import encode

BEGIN = 1_790_000_000_000_000_000
MS = 1_000_000
SESSION = {
    "id": "live_1",
    "model": "gpt-live-1",
    "status": "active",
    "expires_at": 1_790_003_600,
    "instructions": "You answer a clinic's phone.",
    "audio": {"output": {"voice": "marin"}},
    "delegation": {
        "type": "responses",
        "responses": {"model": "gpt-5.5", "tools": [{"type": "function", "name": "book_slot"}, {"type": "web_search"}]},
    },
}
CALL = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "book_slot", "arguments": '{"day": 3}'}
USAGE = {
    "input_tokens": 300,
    "input_tokens_details": {"cached_tokens": 128, "cache_write_tokens": 0},
    "output_tokens": 40,
    "output_tokens_details": {"reasoning_tokens": 24},
    "total_tokens": 340,
}


def begun(call):
    return call.server(0, "session.started", session=SESSION)


def heard(call, at: float, start: int, end: int, text: str = "words ", side: str = "input"):
    return call.server(at, f"session.{side}_transcript.delta", start_ms=start, end_ms=end, delta=text)


def spoke(call, at: float, start: int, end: int, text: str = "answer "):
    return heard(call, at, start, end, text, "output")


def delegated(call, at: float, name: str = "del_1", **more: object):
    delegation = {"id": name, "type": "delegation", "target": "responses", **more}
    return call.server(at, "session.delegation.created", delegation=delegation, offset_ms=int(at) - 100)


def inner(call, at: float, kind: str, delegation: str | None = "del_1", **event: object):
    return call.server(at, "response.event", delegation_id=delegation, event={"type": kind, **event})


def made(call, at: float, name: str, delegation: str | None = "del_1", **more: object):
    response = {"id": name, "status": "in_progress", "model": "gpt-5.5-2026-08-01", **more}
    return inner(call, at, "response.created", delegation, response=response)


def done(call, at: float, name: str, delegation: str | None = "del_1", status: str = "completed", **more: object):
    response = {"id": name, "status": status, "model": "gpt-5.5-2026-08-01", "usage": USAGE, **more}
    return inner(call, at, f"response.{status}", delegation, response=response)


def told(spans, name: str) -> dict[str, object]:
    return dict(spans[name].attributes)


def whole_call(call):
    """The caller asks for a slot; the backend calls a tool and answers; the model says it; the caller hangs up."""
    begun(call)
    heard(call, 1300, 800, 1100, "I need ")
    heard(call, 1800, 1100, 1600, "a slot.")
    delegated(call, 2000, response_id="resp_1")
    spoke(call, 2150, 2100, 2600, "One moment.")
    made(call, 2200, "resp_1")
    inner(call, 2210, "response.in_progress", response={"id": "resp_1", "status": "in_progress"})
    inner(call, 2400, "response.output_item.added", item={**CALL, "arguments": "", "status": "in_progress"})
    inner(call, 2420, "response.function_call_arguments.delta", item_id="fc_1", delta='{"day')
    inner(call, 2500, "response.function_call_arguments.done", item_id="fc_1", arguments='{"day": 3}')
    inner(call, 2510, "response.output_item.done", item={**CALL, "status": "completed"})
    done(call, 2520, "resp_1")
    made(call, 4100, "resp_2", previous_response_id="resp_1")
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    inner(call, 4300, "response.output_item.added", item=item)
    inner(call, 4310, "response.output_text.delta", item_id="msg_1", delta="Booked")
    text = [{"type": "output_text", "text": "Booked for nine."}]
    inner(call, 4400, "response.output_item.done", item={**item, "status": "completed", "content": text})
    done(call, 4450, "resp_2")
    spoke(call, 4900, 4800, 5200, "You are booked ")
    spoke(call, 5100, 5200, 5900, "for nine.")
    call.server(6000, "session.usage.updated", usage={"seconds": 6}, context_window={"usage_ratio": 0.25})
    heard(call, 7000, 6300, 6600, "Thanks.")
    return call.server(8000, "session.closed", reason="remote_hangup", session=SESSION, usage={"seconds": 7.5})


def test_a_whole_call(script, tree) -> None:
    """The session, what was said on both sides, two responses of the backend and the tool between them."""
    (mapped,) = map_realtime("live_1", [encode(whole_call(script()).stored_events)], GraftPolicy(), final=True)
    assert (
        tree(mapped.guest.spans)
        == """\
realtime_session gpt-live-1 0 +8000
    grafter.realtime.model = gpt-live-1
    grafter.ended_by = close
    grafter.realtime.type = live
    grafter.realtime.expires_at = 1790003600
    grafter.realtime.voice = marin
    grafter.realtime.tools = ('book_slot', 'web_search')
    grafter.live.delegation.target = responses
    grafter.live.delegation.model = gpt-5.5
    grafter.live.audio_seconds = 7.5
    grafter.live.context_window.usage_ratio = 0.25
    grafter.live.close_reason = remote_hangup
    grafter.realtime.responses = 2
    grafter.realtime.user_turns = 2
  user_speech 900 +800
      grafter.speech.audio_start_ms = 800
      grafter.speech.audio_end_ms = 1600
      grafter.speech.end_unix_nano = 1700
  assistant_speech 2200 +500
      grafter.speech.audio_start_ms = 2100
      grafter.speech.audio_end_ms = 2600
      grafter.turn.first_audio_unix_nano = 2200
      grafter.turn.first_audio_at = output_transcript
      grafter.turn.audio_ended_unix_nano = 2700
      grafter.turn.first_audio_ms = 500.0
      grafter.turn.first_token_from = input_transcript
      grafter.turn.first_token_from_unix_nano = 1700
      grafter.turn.speech_item = input_800
      grafter.turn.speech_end_unix_nano = 1700
  chat gpt-5.5-2026-08-01 CLIENT 2200 +320
      gen_ai.agent.name = realtime
      grafter.live.delegation.id = del_1
      grafter.response.status = completed
      gen_ai.response.finish_reasons = ('tool_call',)
      grafter.response.tool_calls = 1
      gen_ai.usage.input_tokens = 300
      gen_ai.usage.output_tokens = 40
      gen_ai.usage.cache_read.input_tokens = 128
      gen_ai.usage.reasoning.output_tokens = 24
      grafter.turn.first_token_ms = 420.0
      gen_ai.response.time_to_first_chunk = 0.42
      grafter.turn.first_token_from = delegation
      grafter.turn.first_token_from_unix_nano = 2000
      grafter.turn.first_delta_unix_nano = 2420
    execute_tool book_slot 2510 +1590
        gen_ai.agent.name = realtime
        grafter.time_of = app
        gen_ai.tool.name = book_slot
        gen_ai.tool.type = function
        gen_ai.tool.call.id = call_1
        grafter.arguments.sha256 = 5fa671ada70a44cdf19480560b0d6f8d15b2174a196eae39d09216e04a43140c
        grafter.realtime.missing = ('function_call_output',)
  chat gpt-5.5-2026-08-01 CLIENT 4100 +350
      gen_ai.agent.name = realtime
      grafter.live.delegation.id = del_1
      grafter.response.status = completed
      gen_ai.response.finish_reasons = ('stop',)
      gen_ai.usage.input_tokens = 300
      gen_ai.usage.output_tokens = 40
      gen_ai.usage.cache_read.input_tokens = 128
      gen_ai.usage.reasoning.output_tokens = 24
      grafter.turn.first_delta_unix_nano = 4310
      grafter.turn.after_tool = call_1
  assistant_speech 4900 +1100
      grafter.speech.audio_start_ms = 4800
      grafter.speech.audio_end_ms = 5900
      grafter.turn.first_audio_unix_nano = 4900
      grafter.turn.first_audio_at = output_transcript
      grafter.turn.audio_ended_unix_nano = 6000
  user_speech 6400 +300
      grafter.speech.audio_start_ms = 6300
      grafter.speech.audio_end_ms = 6600
      grafter.speech.end_unix_nano = 6700
"""
    )


def test_its_ids(script) -> None:
    """Every span has the id that a later release, or another process, would give it."""
    spans = whole_call(script()).spans()
    assert spans.keys() == {
        "session", "input_800", "output_2100", "resp_1", "call_1", "resp_2", "output_4800", "input_6300",
    }  # fmt: skip
    assert all(span.span_id == guest_span_id("call_key", name) for name, span in spans.items())


def test_what_was_said_stands_on_spans_where_the_policy_says_so(script) -> None:
    spans = whole_call(script(Content.TEXT)).spans()
    message = {"role": "user", "parts": [{"type": "text", "content": "I need a slot."}]}
    assert orjson.loads(told(spans, "input_800")["gen_ai.input.messages"]) == [message]
    answer = {"role": "assistant", "parts": [{"type": "text", "content": "You are booked for nine."}]}
    assert orjson.loads(told(spans, "output_4800")["gen_ai.output.messages"]) == [answer]
    assert orjson.loads(told(spans, "call_1")["gen_ai.tool.call.arguments"]) == {"day": 3}
    assert "Booked for nine." in told(spans, "resp_2")["gen_ai.output.messages"]
    assert "clinic" in told(spans, "session")["gen_ai.system_instructions"]


@pytest.mark.parametrize(
    ("pause", "utterances"),
    [(1000, {"input_1000"}), (1001, {"input_1000", "input_2501"})],
)
def test_a_second_of_silence_parts_two_utterances(script, pause: int, utterances: set[str]) -> None:
    """By the session's own time, however late the fragments are told."""
    call = heard(heard(begun(script()), 4000, 1000, 1500), 4001, 1500 + pause, 3000)
    assert call.spans().keys() - {"session"} == utterances


def test_an_answer_in_between_parts_two_utterances(script) -> None:
    """Without a second of silence: the caller says something, is answered, and says something again."""
    call = heard(begun(script()), 1600, 1000, 1500)
    spoke(call, 1700, 1600, 1800)
    heard(call, 2100, 1900, 2000)
    spoke(call, 2200, 2050, 2300)
    assert call.spans().keys() - {"session"} == {"input_1000", "input_1900", "output_1600", "output_2050"}


def test_who_speaks_over_whom(script) -> None:
    """The two sides may overlap, and neither ends the other's utterance: nothing says that it was cut off."""
    call = begun(script())
    spoke(call, 1100, 1000, 1500)
    heard(call, 1900, 1400, 1700)
    spoke(call, 1600, 1500, 2400)
    spans = call.spans()
    assert spans.keys() == {"session", "input_1400", "output_1000"}
    assert spans["output_1000"].events == ()
    assert "grafter.turn.first_audio_ms" not in told(spans, "output_1000")


def test_an_answer_is_measured_from_what_was_said_before_it(script) -> None:
    """Not from what the caller says into it, and each question has one answer."""
    call = begun(script())
    heard(call, 2000, 1000, 1500)
    spoke(call, 2100, 2000, 2200)
    heard(call, 2600, 2100, 2300)
    spoke(call, 5100, 5000, 5200)
    spoke(call, 7100, 7000, 7200)
    spans = call.spans()
    measured = {name: told(spans, name).get("grafter.turn.first_audio_ms") for name in spans if "output" in name}
    assert measured == {"output_2000": 500.0, "output_5000": 2700.0, "output_7000": None}


def test_a_question_that_is_told_after_its_answer_began_still_counts(script) -> None:
    """A transcript is slower than an answer may be."""
    call = spoke(begun(script()), 2100, 2000, 2200)
    heard(call, 2500, 1000, 1500)
    assert told(call.spans(), "output_2000")["grafter.turn.first_audio_ms"] == 500.0


def test_the_sessions_time_begins_when_everything_leaves_it_possible(script) -> None:
    """Reflected audio says it best; a text of the model's, which may be known before it is spoken, not at all."""
    call = heard(begun(script()), 2500, 1000, 2000)
    spoke(call, 2600, 9000, 9100)
    call.server(3040, "session.output_audio.delta", delta="AAAA", start_ms=3000, end_ms=3100)
    spans = call.spans()
    assert (spans["input_1000"].start - BEGIN) // MS == 1040
    assert (spans["output_9000"].start - BEGIN) // MS == 9040


@pytest.mark.parametrize("odd", [10**17, 7 * 24 * 3_600_000, -5, 0.5, "x"])
def test_a_position_that_is_no_time_of_a_session_moves_nothing(script, odd: object) -> None:
    """Wherever it stands: one odd event must not stretch a call over half a century."""
    call = heard(begun(script()), 2500, 1000, 2000)
    call.server(2600, "session.delegation.created", delegation={"id": "d", "target": "client"}, offset_ms=odd)
    call.server(2700, "session.output_audio.delta", delta="AAAA", start_ms=odd, end_ms=odd)
    heard(call, 2800, odd, odd)
    spans = call.spans()
    assert (spans["input_1000"].start - BEGIN) // MS == 1500
    assert spans["session"].start == BEGIN


def test_a_listener_that_comes_late(script) -> None:
    """Nothing is shown again: the end tells the configuration, and the session says what it missed."""
    call = heard(script(), 20_000, 19_000, 19_500)
    call.server(30_000, "session.closed", reason="expired", session=SESSION, usage={"seconds": 30.0})
    spans = call.spans()
    assert spans["session"].name == "realtime_session gpt-live-1"
    session = told(spans, "session")
    assert session["grafter.realtime.missing"] == ("session.started",)
    assert (session["grafter.ended_by"], session["grafter.live.close_reason"]) == ("expired", "expired")
    assert spans["session"].start <= spans["input_19000"].start


@pytest.mark.parametrize(
    ("reason", "ended_by"),
    [
        ("close_requested", "close"),
        ("remote_hangup", "close"),
        ("content", "close"),
        ("expired", "expired"),
        ("connection_lost", "disconnect"),
        ("of tomorrow", "close"),
        (None, "close"),
    ],
)
def test_the_close_says_what_ended_it(script, reason: object, ended_by: str) -> None:
    """Without waiting for whoever listened to say that no more will come."""
    call = begun(script()).server(5000, "session.closed", reason=reason, session=SESSION, usage={"seconds": 5})
    assert told(call.spans(final=False), "session")["grafter.ended_by"] == ended_by


def test_a_call_that_just_stops_keeps_what_it_had(script) -> None:
    spans = heard(begun(script()), 2000, 1000, 1500).spans()
    assert told(spans, "session")["grafter.ended_by"] == "disconnect"
    assert "input_1000" in spans


def test_two_works_at_once_are_kept_apart(script) -> None:
    """Items name no response; their delegation does."""
    call = begun(script())
    for number in (1, 2):
        made(delegated(call, 1000 + number, f"del_{number}"), 1100 + number, f"resp_{number}", f"del_{number}")
    for number in (2, 1):
        item = {**CALL, "id": f"fc_{number}", "call_id": f"call_{number}"}
        inner(call, 1200 + number, "response.output_item.added", f"del_{number}", item=item)
        inner(call, 1300 + number, "response.output_text.delta", f"del_{number}", item_id=f"msg_{number}", delta="x")
        inner(call, 1400 + number, "response.output_item.done", f"del_{number}", item=item)
    done(done(call, 1500, "resp_1"), 1501, "resp_2", "del_2")
    made(call, 2000, "resp_3", "del_2")
    spans = call.spans()
    assert {spans[f"call_{n}"].parent_name for n in (1, 2)} == {"resp_1", "resp_2"}
    assert spans["call_2"].parent_name == "resp_2"
    assert told(spans, "resp_2")["grafter.turn.first_token_ms"] == 300.0
    # Only the second work went on, so only its tool is known to have ended.
    assert (spans["call_2"].end - BEGIN) // MS == 2000
    assert told(spans, "resp_3")["grafter.turn.after_tool"] == "call_2"


def test_work_that_names_no_delegation(script) -> None:
    """It is the only response, or nobody's: nothing is guessed between two."""
    call = made(begun(script()), 1000, "resp_1", None)
    inner(call, 1100, "response.output_text.delta", None, item_id="msg_1", delta="x")
    made(call, 1200, "resp_2", None)
    inner(call, 1300, "response.output_text.delta", None, item_id="msg_2", delta="x")
    inner(call, 1400, "response.output_item.done", None, item=CALL)
    spans = call.spans()
    assert told(spans, "resp_1")["grafter.turn.first_delta_unix_nano"] == BEGIN + 1100 * MS
    assert "grafter.turn.first_token_ms" not in told(spans, "resp_2")
    assert spans["call_1"].parent_name == "session"


def test_a_tool_ends_when_its_output_is_handed_over(script) -> None:
    """Where the client's side is seen: to the moment, and the next response is measured from it."""
    call = made(delegated(begun(script()), 1000), 1100, "resp_1")
    inner(call, 1200, "response.output_item.done", item=CALL)
    done(call, 1210, "resp_1")
    call.client(
        3000, "response.item.create", item={"type": "function_call_output", "call_id": "call_1", "output": "ok"}
    )
    call.client(3001, "response.create")
    made(call, 3200, "resp_2", previous_response_id="resp_1")
    inner(call, 3500, "response.output_text.delta", item_id="msg_1", delta="x")
    spans = call.spans()
    assert (spans["call_1"].end - BEGIN) // MS == 3000
    assert "grafter.realtime.missing" not in told(spans, "call_1")
    second = told(spans, "resp_2")
    assert (second["grafter.turn.first_token_from"], second["grafter.turn.first_token_ms"]) == ("tool_output", 500.0)


def test_a_custom_tool_is_a_tool(script) -> None:
    call = made(delegated(begun(script(Content.TEXT)), 1000), 1100, "resp_1")
    item = {"id": "ct_1", "type": "custom_tool_call", "call_id": "call_1", "name": "note", "input": "as you like"}
    inner(call, 1200, "response.output_item.done", item=item)
    output = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "noted"}
    call.client(1900, "response.item.create", item=output)
    span = told(call.spans(), "call_1")
    assert span["gen_ai.tool.name"] == "note"
    assert (span["gen_ai.tool.call.arguments"], span["gen_ai.tool.call.result"]) == ('"as you like"', '"noted"')


def test_a_tool_of_openais_own(script) -> None:
    """It runs from where its item is added to where it is done."""
    call = made(delegated(begun(script()), 1000), 1100, "resp_1")
    item = {"id": "ws_1", "type": "web_search_call", "status": "in_progress"}
    inner(call, 1200, "response.output_item.added", item=item)
    inner(call, 1250, "response.web_search_call.searching", item_id="ws_1")
    inner(call, 2200, "response.output_item.done", item={**item, "status": "failed"})
    span = call.spans()["ws_1"]
    assert (span.name, span.parent_name, (span.end - span.start) // MS) == ("execute_tool web_search", "resp_1", 1000)
    assert dict(span.attributes)["error.type"] == "tool_error"


def test_an_mcp_tool_of_delegated_work(script) -> None:
    call = made(delegated(begun(script()), 1000), 1100, "resp_1")
    item = {"id": "mcp_1", "type": "mcp_call", "name": "find", "server_label": "crm", "arguments": "{}"}
    inner(call, 1200, "response.output_item.added", item=item)
    inner(call, 1210, "response.mcp_call.in_progress", item_id="mcp_1")
    inner(call, 1910, "response.mcp_call.completed", item_id="mcp_1")
    inner(call, 1920, "response.output_item.done", item={**item, "output": "found"})
    span = call.spans()["mcp_1"]
    assert (span.name, span.parent_name, (span.end - span.start) // MS) == ("execute_tool find", "resp_1", 700)


def test_a_response_that_failed(script) -> None:
    call = made(delegated(begun(script()), 1000), 1100, "resp_1")
    inner(call, 1190, "error", code="server_error", message="no", param=None)
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    done(call, 1200, "resp_1", status="failed", error=error)
    span = call.spans()["resp_1"]
    assert (dict(span.attributes)["error.type"], span.status_code) == ("rate_limit_exceeded", 2)
    assert [event.name for event in span.events] == ["grafter.realtime.error"]
    assert "slow down" not in repr(span)


def test_a_response_that_is_cut_short(script) -> None:
    call = made(delegated(begun(script()), 1000), 1100, "resp_1")
    done(call, 1200, "resp_1", status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert told(call.spans(), "resp_1")["gen_ai.response.finish_reasons"] == ("length",)


def test_a_decision_is_a_question_to_a_model(script) -> None:
    """From the delegation to the answer, with its tokens; one that a transcript triggered is a moment."""
    decision = {"model": "gpt-decide", "usage": USAGE, "answers": [{"type": "choice", "choice": "SECRET"}]}
    event = {"type": "decision.completed", "decision": decision}
    call = begun(script())
    call.server(1000, "session.delegation.created", delegation={"id": "del_1", "target": "decisions"}, offset_ms=900)
    call.server(1400, "decision.event", delegation_id="del_1", event=event)
    call.server(2000, "decision.event", trigger_id="trig_1", source_event_id="event_0", event=event)
    spans = call.spans()
    asked, triggered = spans["del_1"], spans["trig_1"]
    assert asked.name == triggered.name == "decision gpt-decide"
    assert ((asked.end - asked.start) // MS, triggered.end - triggered.start) == (400, 0)
    assert told(spans, "del_1")["gen_ai.usage.input_tokens"] == 300
    assert "gen_ai.response.id" not in told(spans, "del_1")
    assert "SECRET" not in repr(spans)


def test_work_that_the_app_does_itself(script) -> None:
    """That it was asked is told, and that something was said to the model; not when the work was over."""
    call = begun(script())
    call.server(1000, "session.delegation.created", delegation={"id": "del_1", "target": "client"}, offset_ms=900)
    call.server(2500, "session.commentary.appended", start_ms=2400, end_ms=2400, client_event_id="c")
    spans = call.spans()
    assert spans.keys() == {"session"}
    assert [(event.name, (event.time - BEGIN) // MS) for event in spans["session"].events] == [
        ("grafter.live.delegation", 1000),
        ("grafter.live.commentary_appended", 2500),
    ]


def test_keys_on_the_phone(script) -> None:
    """Whose they were, and not which: a digit may be of a PIN."""
    call = begun(script())
    call.server(1000, "transport.dtmf.received", event="7")
    call.server(2000, "transport.dtmf.sent", event="8")
    call.server(3000, "transport.dtmf.send", event="9")
    call.client(3000, "transport.dtmf.send", event="9")
    span = call.spans()["session"]
    assert [dict(event.attributes) for event in span.events] == [
        {},
        {"grafter.dtmf.direction": "sent"},
        {"grafter.dtmf.direction": "sent"},
    ]
    attributes = dict(span.attributes)
    assert attributes["grafter.realtime.dtmf_keys"] == 1
    assert "grafter.realtime.misplaced_events" not in attributes


def test_an_error_is_counted_and_said(script) -> None:
    error = {"type": "invalid_request_error", "code": "unknown_parameter", "message": "SECRET", "client_event_id": "c"}
    span = begun(script()).server(1000, "error", error=error).spans()["session"]
    assert dict(span.attributes)["grafter.realtime.errors"] == 1
    assert [dict(event.attributes)["error.type"] for event in span.events] == ["unknown_parameter"]
    assert "SECRET" not in repr(span)


def test_a_second_session_under_one_key_is_a_second_guest(script) -> None:
    call = heard(begun(script()), 2000, 1000, 1500)
    call.server(9000, "session.started", session={**SESSION, "id": "live_2"})
    heard(call, 12_000, 1000, 1500)
    first, second = map_realtime("call_key", [encode(call.stored_events)], GraftPolicy(), final=True)
    assert (first.guest.trace_id, second.guest.trace_id) == ("call_key", "call_key/live_2")
    assert [len(each.guest.spans) for each in (first, second)] == [2, 2]
    assert dict(first.guest.spans[0].attributes)["grafter.ended_by"] == "next_session"


def test_each_session_under_one_key_says_itself_what_ended_it(script) -> None:
    """A connection that was lost, and the fork that went on from it."""
    call = begun(script()).server(5000, "session.closed", reason="connection_lost", session=SESSION)
    call.server(6000, "session.started", session={**SESSION, "id": "live_2"})
    call.server(9000, "session.closed", reason="remote_hangup", session={**SESSION, "id": "live_2"})
    first, second = map_realtime("call_key", [encode(call.stored_events)], GraftPolicy(), final=False)
    ended = [dict(span.attributes)["grafter.ended_by"] for one in (first, second) for span in one.guest.spans]
    assert ended == ["disconnect", "close"]


def test_a_recorded_session_is_called_by_its_key(script) -> None:
    """So that an anchor with the same session id is found, though no event has told it."""
    call = heard(script(), 2000, 1000, 1500)
    (mapped,) = map_realtime("live_1", [encode(call.stored_events)], GraftPolicy(), final=True)
    assert mapped.guest.conversation_ids == {"live_1"}
    for span in mapped.guest.spans:
        assert dict(span.attributes)["gen_ai.conversation.id"] == "live_1"


@pytest.mark.parametrize("order", ["as it came", "backwards", "shuffled"])
def test_the_order_in_which_audio_is_posted_changes_nothing(tree, order: str) -> None:
    """Events are ordered by their times. The fastest of them says when the session's time began, wherever it stands:
    here the last one but one, which was 50 ms on its way, and the others 100."""
    lag = [100] * 20
    lag[-2] = 50
    events = [
        {"at": (BEGIN // MS + start + lag[start // 100]) / 1000, "event": {"type": kind, "start_ms": start, **more}}
        for start in range(0, 2000, 100)
        for kind, more in [("session.output_audio.delta", {"delta": "AAAA", "end_ms": start + 100})]
    ]
    if order == "backwards":
        events.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(events)
    said = {"type": "session.output_transcript.delta", "event_id": "e", "delta": "x", "start_ms": 500, "end_ms": 900}
    events.append({"at": BEGIN // MS / 1000 + 2.5, "event": said})
    intake = read_posts(orjson.dumps({"call": "call_key", "events": events}), False, GraftPolicy(), UnixNano(BEGIN))
    (mapped,) = map_realtime("call_key", [part.payload for part in intake.parts], GraftPolicy(), final=True)
    speech = next(span for span in mapped.guest.spans if span.name == "assistant_speech")
    assert round((speech.start - BEGIN) / MS) == 550


def test_events_that_an_app_posts(script) -> None:
    """A Live session of the app's own socket, as it stood there; its close says that no more will come."""
    events = [
        {"at": 1_790_000_000 + at, "event": event}
        for at, event in (
            (0, {"type": "session.start", "session": {"model": "gpt-live-1", "delegation": {"type": "client"}}}),
            (1, {"type": "session.started", "event_id": "e1", "session": SESSION}),
            (2, {"type": "session.input_audio.append", "audio": "AAAA"}),
            (5, {"type": "session.input_transcript.delta", "event_id": "e2", "delta": "x", "start_ms": 1, "end_ms": 9}),
            (9, {"type": "session.closed", "event_id": "e3", "reason": "close_requested", "session": SESSION}),
        )
    ]
    post = {"call": "call_key", "metadata": {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, "events": events}
    intake = read_posts(orjson.dumps(post), False, GraftPolicy(), UnixNano(BEGIN + 10**10))
    (part,) = intake.parts
    assert part.guest is not None
    assert (part.guest.ended, part.guest.top_level, part.guest.head) == (True, True, True)
    assert intake.kinds == {"event": 4, "audio": 1, "metadata": 1}
    (mapped,) = map_realtime("call_key", [part.payload], GraftPolicy(), final=False)
    assert {span.name for span in mapped.guest.spans} == {"realtime_session gpt-live-1", "user_speech"}
    session = next(span for span in mapped.guest.spans if span.parent is None)
    assert "grafter.realtime.misplaced_events" not in dict(session.attributes)


def test_a_pause_is_no_wait(script) -> None:
    """The session sleeps between what the caller said and what the model says: nobody's time, so no figure."""
    call = begun(script())
    heard(call, 1800, 1100, 1600)
    call.server(2000, "session.paused").server(62_000, "session.resumed")
    spoke(call, 63_000, 62_900, 63_200)
    usage = {"seconds": 63, "active_seconds": 3, "paused_seconds": 60}
    spans = call.server(64_000, "session.usage.updated", usage=usage).spans()
    assert [event.name for event in spans["session"].events] == ["grafter.live.paused", "grafter.live.resumed"]
    session = told(spans, "session")
    assert (session["grafter.session.active_seconds"], session["grafter.session.paused_seconds"]) == (3.0, 60.0)
    assert "grafter.turn.first_audio_ms" not in told(spans, "output_62900")


def test_after_a_pause_the_sessions_time_is_dated_anew(script) -> None:
    """Whether it went on while the session slept or stood still: what is said afterwards is drawn when it was said."""
    for slept_ms in (60_000, 0):
        call = begun(script())
        heard(call, 1800, 1100, 1600)
        call.server(2000, "session.paused").server(62_000, "session.resumed")
        spans = heard(call, 63_000, 2_300 + slept_ms, 2_800 + slept_ms).spans()
        assert (spans["input_1100"].start - BEGIN) // MS == 1300
        assert (spans[f"input_{2_300 + slept_ms}"].end - BEGIN) // MS == 63_000


def test_a_translations_audio_dates_its_time(script) -> None:
    """What was heard before anybody's words came."""
    call = script().server(0, "session.created", session={"id": "sess_1", "type": "translation", "model": "m"})
    call.server(1000, "session.output_audio.delta", elapsed_ms=900)
    spans = call.server(1400, "session.input_transcript.delta", elapsed_ms=1000, delta="hello").spans()
    assert (spans["input_1000"].start - BEGIN) // MS == 1100


def test_a_translation_says_where_its_fragments_belong(script) -> None:
    """Its deltas have ``elapsed_ms`` in place of a beginning and an end; and it answers nothing."""
    call = script().server(0, "session.created", session={"id": "sess_1", "type": "translation", "model": "m"})
    call.server(1000, "session.input_transcript.delta", elapsed_ms=800, delta="hello")
    call.server(1300, "session.output_transcript.delta", elapsed_ms=1200, delta="hallo")
    spans = call.spans()
    assert set(spans) == {"session", "input_800", "output_1200"}
    assert (spans["input_800"].start - BEGIN) // MS == 1000
    assert "grafter.turn.first_audio_ms" not in told(spans, "output_1200")


def test_a_first_word_without_its_time_makes_no_figure(script) -> None:
    """A later one without it takes nothing away."""
    for odd, figure in ((0, None), (1, 300.0)):
        call = made(begun(script()).client(1700, "response.create"), 1800, "resp_1", None)
        for index in (0, 1):
            more = {"untimed": True} if index == odd else {}
            inner(call, 2000 + index, "response.output_text.delta", None, item_id="msg_1", delta="x", **more)
        assert told(call.spans(), "resp_1").get("grafter.turn.first_token_ms") == figure


def test_a_response_that_the_client_asked_for_is_measured_from_that(script) -> None:
    """It works for no delegation; a request that was refused made nothing."""
    call = begun(script()).client(900, "response.create", event_id="a")
    call.server(950, "error", error={"type": "invalid_request_error", "code": "busy", "event_id": "a"})
    call.client(1900, "response.create", event_id="b")
    made(call, 2000, "resp_1", None)
    inner(call, 2300, "response.output_text.delta", None, item_id="msg_1", delta="x")
    found = told(call.spans(), "resp_1")
    assert (found["grafter.turn.first_token_ms"], found["grafter.turn.first_token_from"]) == (400.0, "response.create")
