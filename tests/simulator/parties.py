"""The caller, the detector and the app: what each does on the socket, one act a method.

Acts take and give times, in milliseconds on the app's clock. The app reacts to an event when it has certainly arrived
(``Wire.arrival``), so that jitter never turns cause and effect round.
"""

import random
from typing import Any

from tests.simulator.wire import Answering, Wire
from tests.simulator.world import Event, Moment, Record, Response, Speech, Tool


class Parties:
    """Everybody in one call."""

    def __init__(self, rng: random.Random, record: Record) -> None:
        self.rng = rng
        self.record = record
        self.setup = record.setup
        self.wire = Wire(rng, record)
        self.model = Answering(self.wire)
        self.now = 0.0
        """The app's clock: everything before it is over."""
        self.base = 0.0
        """When the caller's audio begins to be written in this session; the zero of all ``audio_*_ms``."""
        self.heard = True
        """The caller has heard an answer since the last speech, or has not spoken."""

    # The session.

    def open_session(self) -> None:
        """``session.created``, then whatever the app wants otherwise."""
        rng, wire = self.rng, self.wire
        start = self.now + rng.uniform(20, 200)
        self.record.openings.append(wire.server(start, "session.created", session=self.session_object()))
        self.base = start + self.setup.down + rng.uniform(0, 100)
        self.now = self.base + rng.uniform(600, 1500)

    def session_object(self) -> Event:
        """What the server says of the session; a beta server says it in the flat shape."""
        setup = self.setup
        pcm = setup.bytes_per_ms == 48
        session: Event = {"id": f"sess_{self.record.seed}_{self.wire.session}", "model": "gpt-realtime"}
        session["expires_at"] = 1_795_007_200
        detection: Event | None = None
        if setup.detector != "none":
            detection = {"type": setup.detector}
            detection |= {"create_response": setup.create, "interrupt_response": setup.interrupt}
            if setup.detector == "server_vad" and setup.announced == "whole":
                detection |= {"silence_duration_ms": setup.silence, "prefix_padding_ms": setup.prefix, "threshold": 0.5}
        if setup.announced == "nothing":
            return session
        if setup.beta:
            session["output_audio_format"] = "pcm16" if pcm else "g711_ulaw"
            return session | {"object": "realtime.session", "turn_detection": detection}
        output = {"format": {"type": "audio/pcm", "rate": 24000} if pcm else {"type": "audio/pcmu"}, "voice": "marin"}
        audio = {"input": {"turn_detection": detection}, "output": output}
        return session | {"object": "realtime.session", "type": "realtime", "audio": audio}

    # The caller.

    def speak(self, start: float, length: float, *, stop: str = "sent", kind: str = "speech") -> Speech:
        """The caller speaks; the detector's ``stop`` is ``sent``, ``repeated``, ``left_out`` or comes ``never``."""
        if self.setup.detector == "none":
            return self.hold_button(start, length)
        rng, setup, wire = self.rng, self.setup, self.wire
        speech = self._new_speech(start, length, kind)
        heard = start + setup.up + rng.uniform(60, 140)
        position = int(max(0.0, start - self.base - setup.prefix))
        speech.started = wire.server(
            heard, "input_audio_buffer.speech_started", item_id=speech.item, audio_start_ms=position
        )
        if stop == "never":
            return speech
        wait = float(setup.silence) if setup.detector == "server_vad" else rng.uniform(250, 1500)
        if stop == "repeated":
            speech.stopped_before = self._stop(
                speech, start + length * 0.5 + setup.up + wait, start + length * 0.5 + wait
            )
            speech.end += wait + 400
        at = speech.end + setup.up + wait + rng.uniform(0, 4)
        if stop != "left_out":
            speech.stopped = self._stop(speech, at, speech.end + wait)
        at += rng.uniform(0, 2)
        fields: dict[str, Any] = {"item_id": speech.item, "previous_item_id": None}
        speech.committed = wire.server(at, "input_audio_buffer.committed", **fields)
        self._user_item(speech, at + 0.5)
        self._transcribe(speech, at)
        return speech

    def hold_button(self, start: float, length: float) -> Speech:
        """Push to talk. On a WebSocket the appends are the speech; beside the socket, media are no events."""
        rng, setup, wire = self.rng, self.setup, self.wire
        speech = self._new_speech(start, length, "button")
        speech.button = True
        speech.silence = 0
        speech.silence_known = True
        if setup.mediated:
            wire.client(start, "input_audio_buffer.clear")
            wire.server(start + setup.up + 1, "input_audio_buffer.cleared")
        else:
            steps = max(2, int(length / 200))
            appends = [
                wire.client(start + length * n / steps, "input_audio_buffer.append", audio_bytes=9600)
                for n in range(steps)
            ]
            speech.first_append = appends[0]
        speech.commit = wire.client(speech.end, "input_audio_buffer.commit")
        at = speech.end + setup.up + rng.uniform(0, 3)
        speech.committed = wire.server(at, "input_audio_buffer.committed", item_id=speech.item, previous_item_id=None)
        self._user_item(speech, at + 0.5)
        return speech

    def _new_speech(self, start: float, length: float, kind: str) -> Speech:
        setup = self.setup
        silence = setup.silence if setup.detector == "server_vad" else None
        speech = Speech(
            item=self.wire.name("item_u"),
            start=start,
            end=start + length,
            session=self.wire.session,
            silence=silence,
            silence_known=setup.announced == "whole",
            kind=kind,
        )
        self.record.speeches.append(speech)
        self.heard = False
        return speech

    def _stop(self, speech: Speech, at: float, until: float) -> Moment:
        """``audio_end_ms`` is the end of the audio sent to the model, and so includes the silence."""
        end = int(until - self.base)
        return self.wire.server(at, "input_audio_buffer.speech_stopped", item_id=speech.item, audio_end_ms=end)

    def _user_item(self, speech: Speech, at: float) -> None:
        content = [{"type": "input_audio", "transcript": None}]
        item = {"id": speech.item, "type": "message", "role": "user", "status": "completed", "content": content}
        self.wire.item_added(at, item)

    def _transcribe(self, speech: Speech, at: float) -> None:
        """Runs beside the response, "so this event may come before or after the Response events"."""
        if self.rng.random() < 0.3:
            at += self.rng.uniform(150, 2000)
            usage = {"type": "duration", "seconds": 1.0}
            fields = {"item_id": speech.item, "content_index": 0, "transcript": "words", "usage": usage}
            self.wire.server(at, "conversation.item.input_audio_transcription.completed", **fields)

    # The answer.

    def ask(self, time: float, **response: Any) -> Moment:
        """The app's ``response.create``."""
        return self.wire.client(time, "response.create", **({"response": response} if response else {}))

    def answer(self, speech: Speech, kind: str) -> Response:
        """A response to this speech begins: by OpenAI itself, or when the app asks for it."""
        rng, setup = self.rng, self.setup
        assert speech.committed is not None
        if speech.button or not setup.create:
            last = speech.end if speech.button else self.wire.arrival(speech.committed.time)
            think = rng.choice((rng.uniform(1, 20), rng.uniform(1, 20), rng.uniform(200, 2500)))
            response = self.asked(self.ask(last + think), kind)
        else:
            response = self.model.begin(speech.committed.time + rng.uniform(1, 25), kind)
            response.cause = speech.stopped or speech.committed
            response.word = "speech_stopped" if speech.stopped else "committed"
        response.answers = speech
        return response

    def asked(self, ask: Moment, kind: str, **extra: Any) -> Response:
        """The response that an accepted ``response.create`` gets."""
        response = self.model.begin(ask.time + self.setup.up + self.rng.uniform(1, 25), kind, **extra)
        response.cause = ask
        response.word = "response.create"
        return response

    def sound(self, response: Response, audio_ms: float | None = None, latency: float | None = None) -> float:
        """It speaks; the caller hears it unless somebody cuts it first. Gives when its item is whole."""
        at = self.first_token(response, latency)
        return self.model.say(response, at, self.rng.uniform(600, 4000) if audio_ms is None else audio_ms)

    def first_token(self, response: Response, latency: float | None = None) -> float:
        """When its first token comes."""
        assert response.created is not None
        wait = self.rng.choice((self.rng.uniform(120, 700), self.rng.uniform(120, 700), self.rng.uniform(700, 2500)))
        return response.created.time + (wait if latency is None else latency)

    def settle(self, response: Response) -> None:
        """Until it is over, its audio too, and a moment of quiet has passed."""
        assert response.done is not None
        over = self.wire.arrival(response.done.time)
        if response.audio_ms and response.heard_from is not None:
            over = max(over, self.quiet_at(response))
            self.mark_heard(response)
        self.now = max(self.now, over) + self.rng.uniform(420, 2500)

    def quiet_at(self, response: Response) -> float:
        """When the app can tell that it is silent again."""
        return self.wire.arrival(response.silent_at) if self.setup.mediated else response.silent_at

    def mark_heard(self, response: Response) -> None:
        """Its audio is heard; if it is the first that is since the caller spoke, it ends the caller's wait."""
        if not self.heard and response.answers is not None:
            response.opens = True
        self.heard = True

    # Tools.

    def hand_back(self, tool: Tool, time: float) -> None:
        """The app gives the tool's output; an output that was refused before does not count."""
        tool.output = self.wire.client(time, "conversation.item.create", item=self.output_item(tool.call_id))
        tool.output_seen = self.output_added(tool.call_id, time)

    def output_added(self, call_id: str, time: float) -> Moment:
        """The server's item of a tool's output."""
        item = self.output_item(call_id) | {"id": self.wire.name("item_o"), "status": "completed"}
        return self.wire.item_added(time + self.setup.up + self.rng.uniform(0, 3), item)

    @staticmethod
    def output_item(call_id: str) -> Event:
        return {"type": "function_call_output", "call_id": call_id, "output": "ok"}

    def follow(self, response: Response, tools: list[Tool], kind: str, *, again: float | None = None) -> Response:
        """The tools run, their outputs go back, the app asks: the next response of the same turn.

        ``again``: the first output is refused, and accepted so much later.
        """
        rng = self.rng
        assert response.done is not None
        ready = self.wire.arrival(max(tool.whole[-1].time for tool in tools))
        last = self.wire.arrival(response.done.time)
        for tool in tools:
            at = ready + rng.choice((rng.uniform(1, 30), rng.uniform(30, 600), rng.uniform(600, 4000)))
            if again is not None:
                item = self.output_item(tool.call_id)
                first = self.wire.client(at, "conversation.item.create", item=item)
                tool.refused = (first, self.wire.refuse(first, "invalid_value"))
                at += again
            self.hand_back(tool, at)
            last = max(last, at)
        relay = rng.choice((rng.uniform(0.5, 5), rng.uniform(0.5, 5), rng.uniform(200, 3000)))
        following = self.asked(self.ask(last + relay), kind)
        following.answers = response.answers
        following.earlier = [*response.earlier, response]
        following.after = tools
        return following
