"""The reference call, from the greeting to the end, over each transport: every span of it."""

import re

from grafter.core.model import SPAN_KIND_CLIENT, guest_span_id
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.realtime.spans import map_realtime
from grafter.guests.realtime.stored_event import encode

SESSION = {
    "id": "sess_1",
    "type": "realtime",
    "model": "gpt-realtime",
    "expires_at": 1_790_003_600,
    "instructions": "You answer a clinic's phone.",
    "output_modalities": ["audio"],
    "tools": [{"type": "function", "name": "insurance_check", "parameters": {}}],
    "tracing": {
        "workflow_name": "Clinic",
        "group_id": "call_7",
        "metadata": {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"},
    },
    "audio": {
        "input": {
            "format": {"type": "audio/pcmu"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500, "interrupt_response": True},
            "transcription": {"model": "gpt-4o-mini-transcribe"},
        },
        "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
    },
}


def response(name: str, status: str = "in_progress", **more: object) -> dict[str, object]:
    return {"response": {"id": name, "status": status, "conversation_id": "conv_1", **more}}


def message(name: str, text: str = "hello") -> dict[str, object]:
    content = [{"type": "output_audio", "transcript": text}]
    return {"id": name, "type": "message", "role": "assistant", "status": "completed", "content": content}


def usage(given: int, audio: int, cached: int = 0) -> dict[str, object]:
    return {
        "total_tokens": given + audio + 5,
        "input_tokens": given,
        "output_tokens": audio + 5,
        "input_token_details": {
            "text_tokens": given - 40,
            "audio_tokens": 40,
            "image_tokens": 0,
            "cached_tokens": cached,
            "cached_tokens_details": {"text_tokens": cached, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": 5, "audio_tokens": audio},
    }


CALL = {
    "id": "item_f",
    "type": "function_call",
    "call_id": "call_9",
    "name": "insurance_check",
    "arguments": '{"member": "SECRET 12"}',
    "status": "completed",
}


def websocket(call):
    """The app's own socket to OpenAI: it plays the audio, cuts it off, and sees both sides."""
    call.server(0, "session.created", session=SESSION)
    call.client(100, "response.create", event_id="create_1")
    call.server(150, "response.created", **response("resp_1"))
    call.server(160, "rate_limits.updated", rate_limits=[{"name": "requests", "limit": 100, "remaining": 99}])
    call.server(400, "response.output_item.added", response_id="resp_1", item={**message("item_1"), "content": []})
    call.server(430, "response.output_audio_transcript.delta", response_id="resp_1", item_id="item_1", delta="Hi")
    call.server(450, "response.output_audio.delta", response_id="resp_1", item_id="item_1", delta="A" * 4000)
    call.server(
        900, "response.done", **response("resp_1", "completed", output=[message("item_1")], usage=usage(100, 50))
    )

    call.server(3000, "input_audio_buffer.speech_started", item_id="item_u1", audio_start_ms=2700)
    call.server(5000, "input_audio_buffer.speech_stopped", item_id="item_u1", audio_end_ms=5000)
    call.server(5001, "input_audio_buffer.committed", item_id="item_u1", previous_item_id="item_1")
    call.server(5010, "response.created", **response("resp_2"))
    call.server(
        5150,
        "conversation.item.input_audio_transcription.completed",
        item_id="item_u1",
        content_index=0,
        transcript="SECRET Am I covered?",
        usage={"type": "tokens", "input_tokens": 20, "output_tokens": 6, "total_tokens": 26},
    )
    call.server(5200, "response.output_item.added", response_id="resp_2", item={**CALL, "arguments": ""})
    call.server(5250, "response.function_call_arguments.delta", response_id="resp_2", item_id="item_f", delta="{")
    call.server(
        5300,
        "response.function_call_arguments.done",
        response_id="resp_2",
        item_id="item_f",
        call_id="call_9",
        name="insurance_check",
        arguments=CALL["arguments"],
    )
    call.server(5310, "response.output_item.done", response_id="resp_2", item=CALL)
    call.server(5320, "response.done", **response("resp_2", "completed", output=[CALL], usage=usage(200, 0, cached=64)))

    handed_back = {"type": "function_call_output", "call_id": "call_9", "output": "SECRET yes"}
    call.client(6900, "conversation.item.create", item=handed_back)
    call.client(6901, "response.create", event_id="create_2")
    call.server(6940, "conversation.item.added", item={**handed_back, "id": "item_o"})
    call.server(6950, "response.created", **response("resp_3"))
    call.server(7300, "response.output_audio.delta", response_id="resp_3", item_id="item_3", delta="A" * 40000)
    call.server(
        8000, "response.done", **response("resp_3", "completed", output=[message("item_3")], usage=usage(300, 90))
    )

    call.server(8600, "input_audio_buffer.speech_started", item_id="item_u2", audio_start_ms=8300)
    call.client(8610, "conversation.item.truncate", item_id="item_3", content_index=0, audio_end_ms=1200)
    call.server(8650, "conversation.item.truncated", item_id="item_3", content_index=0, audio_end_ms=1200)
    call.server(9500, "input_audio_buffer.speech_stopped", item_id="item_u2", audio_end_ms=9500)
    call.server(9510, "input_audio_buffer.committed", item_id="item_u2")
    call.server(9520, "response.created", **response("resp_4"))
    call.server(9980, "response.output_audio.delta", response_id="resp_4", item_id="item_4", delta="A" * 4000)
    call.server(
        10500, "response.done", **response("resp_4", "completed", output=[message("item_4")], usage=usage(400, 20))
    )
    return call.own(12000, "grafter.ended", by="close")


TREE = """\
realtime_session gpt-realtime 0 +12000
    grafter.realtime.model = gpt-realtime
    grafter.realtime.conversation_id = conv_1
    grafter.ended_by = close
    grafter.realtime.type = realtime
    grafter.realtime.expires_at = 1790003600
    grafter.realtime.voice = marin
    grafter.realtime.modalities = ('audio',)
    grafter.realtime.audio.input.format = audio/pcmu
    grafter.realtime.audio.output.format = audio/pcmu
    grafter.realtime.turn_detection = server_vad
    grafter.realtime.turn_detection.silence_duration_ms = 500
    grafter.realtime.transcription_model = gpt-4o-mini-transcribe
    grafter.realtime.tools = ('insurance_check',)
    openai.agents.workflow_name = Clinic
    openai.agents.group_id = call_7
    grafter.realtime.responses = 4
    grafter.realtime.user_turns = 2
    grafter.realtime.barge_ins = 1
    openai.agents.trace.metadata = {"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}
  chat gpt-realtime CLIENT 150 +750
      gen_ai.agent.name = Clinic
      grafter.response.status = completed
      gen_ai.response.finish_reasons = ('stop',)
      gen_ai.usage.input_tokens = 100
      gen_ai.usage.output_tokens = 55
      gen_ai.usage.text.input_tokens = 60
      gen_ai.usage.audio.input_tokens = 40
      gen_ai.usage.text.output_tokens = 5
      gen_ai.usage.audio.output_tokens = 50
      grafter.response.audio_bytes = 3000
      grafter.turn.first_token_ms = 330.0
      gen_ai.response.time_to_first_chunk = 0.33
      grafter.turn.first_audio_ms = 350.0
      grafter.turn.first_token_from = response.create
      grafter.turn.first_token_from_unix_nano = 100
      grafter.turn.first_delta_unix_nano = 430
      grafter.turn.first_audio_unix_nano = 450
      grafter.turn.first_audio_at = delta
      grafter.greeting_ms = 450.0
      grafter.greeting.from = session
      grafter.greeting.from_unix_nano = 0
      grafter.greeting.to = delta
      grafter.greeting.to_unix_nano = 450
      grafter.greeting.accept_ms = 100.0
      grafter.greeting.greeting_ms = 350.0
      grafter.greeting.pieces = accept:100000000 greeting:350000000:0662ff128ffe3442
      grafter.realtime.rate_limits = [{"name":"requests","limit":100,"remaining":99}]
    assistant_speech 450 +0
        grafter.end = unknown
  user_speech 3000 +1500
      grafter.speech.audio_start_ms = 2700
      grafter.speech.audio_end_ms = 5000
      grafter.speech.endpointing_ms = 500
      grafter.speech.end_unix_nano = 4500
      grafter.speech.stopped_unix_nano = 5000
      grafter.speech.committed_unix_nano = 5001
      grafter.transcription.status = completed
      grafter.transcription.model = gpt-4o-mini-transcribe
      grafter.transcription.usage.input_tokens = 20
      grafter.transcription.usage.output_tokens = 6
  chat gpt-realtime CLIENT 5010 +310
      gen_ai.agent.name = Clinic
      grafter.response.status = completed
      gen_ai.response.finish_reasons = ('tool_call',)
      grafter.response.tool_calls = 1
      gen_ai.usage.input_tokens = 200
      gen_ai.usage.output_tokens = 5
      gen_ai.usage.cache_read.input_tokens = 64
      gen_ai.usage.text.input_tokens = 160
      gen_ai.usage.audio.input_tokens = 40
      grafter.turn.first_token_ms = 250.0
      gen_ai.response.time_to_first_chunk = 0.25
      grafter.turn.first_token_from = speech_stopped
      grafter.turn.first_token_from_unix_nano = 5000
      grafter.turn.first_delta_unix_nano = 5250
      grafter.turn.speech_item = item_u1
      grafter.turn.speech_end_unix_nano = 4500
      grafter.turn.endpointing_ms = 500
    execute_tool insurance_check 5300 +1600
        gen_ai.agent.name = Clinic
        grafter.time_of = app
        gen_ai.tool.name = insurance_check
        gen_ai.tool.type = function
        gen_ai.tool.call.id = call_9
        grafter.arguments.sha256 = 5084d274a9fcb4688cd83b81db87c8a1978875f5a1da74a1d8edca4b91624bdb
  chat gpt-realtime CLIENT 6950 +1050
      @ gen_ai.audio.barge_in 8600 audio.elapsed_ms=1200 grafter.audio.heard_by=truncated grafter.barge_in.by=speech
      gen_ai.agent.name = Clinic
      grafter.response.status = completed
      gen_ai.response.finish_reasons = ('stop',)
      gen_ai.usage.input_tokens = 300
      gen_ai.usage.output_tokens = 95
      gen_ai.usage.text.input_tokens = 260
      gen_ai.usage.audio.input_tokens = 40
      gen_ai.usage.text.output_tokens = 5
      gen_ai.usage.audio.output_tokens = 90
      grafter.response.audio_bytes = 30000
      grafter.turn.first_token_ms = 399.0
      gen_ai.response.time_to_first_chunk = 0.399
      grafter.turn.first_audio_ms = 399.0
      grafter.turn.first_token_from = response.create
      grafter.turn.first_token_from_unix_nano = 6901
      grafter.turn.first_delta_unix_nano = 7300
      grafter.turn.first_audio_unix_nano = 7300
      grafter.turn.first_audio_at = delta
      grafter.turn.speech_item = item_u1
      grafter.turn.speech_end_unix_nano = 4500
      grafter.turn.endpointing_ms = 500
      grafter.turn.after_tool = call_9
      grafter.caller_wait_ms = 2800.0
      grafter.caller_wait.from = speech_end
      grafter.caller_wait.from_unix_nano = 4500
      grafter.caller_wait.to = delta
      grafter.caller_wait.to_unix_nano = 7300
      grafter.caller_wait.endpointing_ms = 500.0
      grafter.caller_wait.model_ms = 699.0
      grafter.caller_wait.tool_ms = 1600.0
      grafter.caller_wait.relay_ms = 1.0
      grafter.caller_wait.pieces = endpointing:500000000 model:300000000:4b71a8997d9ff515 tool:1600000000:70f4c2fe2852d86e relay:1000000 model:399000000:4090e614e482e1f6
    assistant_speech 7300 +1200
  user_speech 8600 +400
      grafter.speech.audio_start_ms = 8300
      grafter.speech.audio_end_ms = 9500
      grafter.speech.endpointing_ms = 500
      grafter.speech.end_unix_nano = 9000
      grafter.speech.stopped_unix_nano = 9500
      grafter.speech.committed_unix_nano = 9510
  chat gpt-realtime CLIENT 9520 +980
      gen_ai.agent.name = Clinic
      grafter.response.status = completed
      gen_ai.response.finish_reasons = ('stop',)
      gen_ai.usage.input_tokens = 400
      gen_ai.usage.output_tokens = 25
      gen_ai.usage.text.input_tokens = 360
      gen_ai.usage.audio.input_tokens = 40
      gen_ai.usage.text.output_tokens = 5
      gen_ai.usage.audio.output_tokens = 20
      grafter.response.audio_bytes = 3000
      grafter.turn.first_token_ms = 480.0
      gen_ai.response.time_to_first_chunk = 0.48
      grafter.turn.first_audio_ms = 480.0
      grafter.turn.first_token_from = speech_stopped
      grafter.turn.first_token_from_unix_nano = 9500
      grafter.turn.first_delta_unix_nano = 9980
      grafter.turn.first_audio_unix_nano = 9980
      grafter.turn.first_audio_at = delta
      grafter.turn.speech_item = item_u2
      grafter.turn.speech_end_unix_nano = 9000
      grafter.turn.endpointing_ms = 500
      grafter.caller_wait_ms = 980.0
      grafter.caller_wait.from = speech_end
      grafter.caller_wait.from_unix_nano = 9000
      grafter.caller_wait.to = delta
      grafter.caller_wait.to_unix_nano = 9980
      grafter.caller_wait.endpointing_ms = 500.0
      grafter.caller_wait.model_ms = 480.0
      grafter.caller_wait.pieces = endpointing:500000000 model:480000000:c02964424870e93b
    assistant_speech 9980 +0
        grafter.end = unknown
"""  # noqa: E501


def test_the_whole_call_over_a_websocket(script, tree) -> None:
    """Each event of the reference call stands where it belongs, with the figures that a support engineer asks for."""
    assert tree(list(websocket(script()).spans().values())) == TREE


def test_parents_and_ids_follow_the_guest(script) -> None:
    """Responses and speech hang under the session, a tool under its response; ids are those of the rule."""
    spans = websocket(script()).spans()
    parents = {name: span.parent_name for name, span in spans.items()}
    assert parents == {
        "session": "",
        "resp_1": "session",
        "item_u1": "session",
        "resp_2": "session",
        "call_9": "resp_2",
        "resp_3": "session",
        "item_u2": "session",
        "resp_4": "session",
        "resp_1/audio": "resp_1",
        "resp_3/audio": "resp_3",
        "resp_4/audio": "resp_4",
    }
    for name, span in spans.items():
        assert span.span_id == guest_span_id("call_key", name)
        assert span.parent == (guest_span_id("call_key", span.parent_name) if span.parent_name else None)


def test_what_stands_on_every_span(script) -> None:
    """The conversation is the app's own group on each, so that backends that group by it have one call."""
    for name, span in websocket(script()).spans().items():
        told = dict(span.attributes)
        assert told["gen_ai.conversation.id"] == "call_7"
        assert told["gen_ai.realtime_session.id"] == "sess_1"
        assert told["grafter.guest.trace_id"] == "call_key"
        assert told["grafter.guest.span_id"] == name
        if span.kind == SPAN_KIND_CLIENT:
            assert told["gen_ai.operation.name"] == "chat"
            assert told["gen_ai.provider.name"] == "openai"
            assert told["gen_ai.request.model"] == "gpt-realtime"
            assert told["gen_ai.response.id"] == name
        assert len(told) == len(span.attributes)


def test_the_guest_names_its_host(script) -> None:
    """The link is what the session's tracing metadata says; session, conversation and group identify it."""
    (mapped,) = map_realtime("call_key", [encode(websocket(script()).stored_events)], GraftPolicy(), final=True)
    assert mapped.guest.link is not None
    assert mapped.guest.link.host.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert mapped.guest.conversation_ids == {"sess_1", "conv_1", "call_7"}


def test_what_was_said_stands_where_the_policy_lets_it(script) -> None:
    """With text, transcripts, arguments, results and instructions are on the spans; with none, nowhere."""
    spans = websocket(script(Content.TEXT)).spans()
    told = {name: dict(span.attributes) for name, span in spans.items()}
    assert told["item_u1"]["gen_ai.input.messages"] == (
        '[{"role":"user","parts":[{"type":"text","content":"SECRET Am I covered?"}]}]'
    )
    assert told["call_9"]["gen_ai.tool.call.arguments"] == '{"member":"SECRET 12"}'
    assert told["call_9"]["gen_ai.tool.call.result"] == '"SECRET yes"'
    assert "hello" in str(told["resp_3"]["gen_ai.output.messages"])
    assert "clinic" in str(told["session"]["gen_ai.system_instructions"])
    assert "SECRET" not in repr(websocket(script()).spans())
    # Stored under a wider rule, released under a narrower one.
    assert "SECRET" not in repr(websocket(script(Content.TEXT)).spans(policy=GraftPolicy()))


def webrtc(call):
    """The caller's browser or phone has the audio; a sideband socket sees when it is played, and no client events."""
    call.server(0, "session.created", session=SESSION)
    call.server(3000, "input_audio_buffer.speech_started", item_id="item_u1", audio_start_ms=2700)
    call.server(5000, "input_audio_buffer.speech_stopped", item_id="item_u1", audio_end_ms=5000)
    call.server(5010, "response.created", **response("resp_1"))
    call.server(5200, "response.function_call_arguments.delta", response_id="resp_1", item_id="item_f", delta="{")
    call.server(5310, "response.output_item.done", response_id="resp_1", item=CALL)
    call.server(5320, "response.done", **response("resp_1", "completed", output=[CALL]))
    call.server(6900, "conversation.item.added", item={"type": "function_call_output", "call_id": "call_9"})
    call.server(6950, "response.created", **response("resp_2"))
    call.server(7100, "response.content_part.added", response_id="resp_2", item_id="item_2", part={"type": "audio"})
    call.server(7120, "response.output_audio_transcript.delta", response_id="resp_2", item_id="item_2", delta="You")
    call.server(7200, "output_audio_buffer.started", response_id="resp_2")
    call.server(9000, "input_audio_buffer.speech_started", item_id="item_u2", audio_start_ms=8700)
    call.server(9020, "output_audio_buffer.cleared", response_id="resp_2")
    details = {"type": "cancelled", "reason": "turn_detected"}
    call.server(9030, "response.done", **response("resp_2", "cancelled", status_details=details, output=[]))
    return call


def test_barge_in_where_openai_plays_the_audio(script) -> None:
    """Over WebRTC and SIP the caller heard what was played until it was cut; no client event is needed."""
    spans = webrtc(script()).spans()
    told = dict(spans["resp_2"].attributes)
    (event,) = spans["resp_2"].events
    assert event.name == "gen_ai.audio.barge_in"
    assert dict(event.attributes) == {
        "audio.elapsed_ms": 1820,
        "grafter.audio.heard_by": "time",
        "grafter.barge_in.by": "speech",
    }
    assert told["gen_ai.response.finish_reasons"] == ("turn_detected",)
    assert told["grafter.response.status"] == "cancelled"
    assert (told["grafter.turn.first_token_ms"], told["grafter.turn.first_audio_ms"]) == (220.0, 300.0)
    assert told["grafter.turn.first_audio_at"] == "output_audio_buffer"
    # Nobody saw the app ask for it: somewhere between the output and the response's beginning.
    assert (told["grafter.turn.first_token_from"], told["grafter.turn.first_token.error_ms"]) == ("tool_output", 50.0)
    # The caller heard nothing between: 4500 to 7200, of which 50 ms cannot be told from the app's or the model's.
    assert told["grafter.caller_wait_ms"] == 2700.0
    parts = {
        key.rsplit(".", 1)[1]: value for key, value in told.items() if re.match(r"grafter.caller_wait.\w+_ms", key)
    }
    assert parts == {
        "endpointing_ms": 500.0,
        "model_ms": 310.0,
        "tool_ms": 1590.0,
        "unknown_ms": 220.0,
        "playout_ms": 80.0,
    }
    assert spans["call_9"].parent_name == "resp_1"
    assert spans["call_9"].end - spans["call_9"].start == 1590 * 1_000_000


def test_the_servers_word_on_what_was_heard_is_the_last(script) -> None:
    """A truncation that follows the cut replaces the figure, and there is one barge-in all the same."""
    call = webrtc(script())
    call.server(9050, "conversation.item.truncated", item_id="item_2", content_index=0, audio_end_ms=1600)
    (event,) = call.spans()["resp_2"].events
    assert dict(event.attributes)["audio.elapsed_ms"] == 1600
