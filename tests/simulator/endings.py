"""How calls end before they are over: the caller hangs up, one ending a method.

Each begins when all is quiet and gives the moment at which the caller hangs up; what it has played past that never
happens. Its name is the kind under which its figures are counted.
"""

from collections.abc import Callable

from tests.simulator.interruptions import Interruptions
from tests.simulator.world import Moment, Noise, Response, Speech


class Endings(Interruptions):
    """The last scene of a call."""

    def within(self, begin: float, end: float) -> float:
        return self.rng.uniform(begin, max(begin, end))

    def spoken(self, response: Response, latency: float | None = None) -> Response:
        """It speaks to its end, unless the caller hangs up."""
        self.model.finish(response, self.sound(response, latency=latency) + 2)
        return response

    # Before an answer.

    def before_answer(self) -> float:
        speech = self.utter()
        response = self.spoken(self.answer(speech, "before an answer"))
        return self.within(speech.end, response.sounding)

    def long_before_answer(self) -> float:
        """OpenAI takes its time."""
        speech = self.utter()
        response = self.spoken(self.answer(speech, "before a slow answer"), self.rng.uniform(4_000, 20_000))
        return self.within(speech.end + 1_500, response.sounding)

    def never_answered(self) -> float:
        """No word of an answer ever comes, or nobody has asked for one yet."""
        return self.within((speech := self.utter()).end, speech.end + 12_000)

    def while_a_tool_runs(self) -> float:
        speech = self.utter()
        response = self.answer(speech, "while a tool runs")
        at = self.first_token(response)
        for number in range(self.rng.choice((1, 1, 2))):
            at = self.model.call(response, at, number).whole[-1].time + self.rng.uniform(5, 40)
        self.model.finish(response, at)
        following = self.spoken(self.follow(response, list(response.tools), "after the tool"))
        return self.within(at if self.rng.random() < 0.8 else speech.end, following.sounding)

    def while_an_mcp_tool_runs(self) -> float:
        speech = self.utter()
        response = self.answer(speech, "while an mcp tool runs")
        response.mcp = True
        tool = self.model.call(response, self.first_token(response), mcp=True)
        end = self.model.run_mcp(response, tool, tool.whole[-1].time + self.rng.uniform(1, 30), 0)
        self.model.finish(response, self.model.say(response, end + self.rng.uniform(50, 600), 2_000, 1) + 2)
        return self.within(speech.end, response.sounding)

    def after_a_failure(self) -> float:
        """The model fails; the app asks again, or does not."""
        speech = self.utter()
        first = self.answer(speech, "failed")
        assert first.created is not None
        done = self.model.finish(
            first, first.created.time + self.rng.uniform(30, 900), "failed", self.rng.choice(("server_error", "limit"))
        )
        if self.rng.random() < 0.5:
            return self.within(speech.end, done.time + 8_000)
        again = self.asked(self.ask(self.wire.arrival(done.time) + self.rng.uniform(5, 3_000)), "asked again")
        again.answers, again.answers_unsure = speech, True
        return self.within(speech.end, self.spoken(again).sounding)

    def taken_back(self) -> float:
        """The app gives its answer up before any of it was heard."""
        speech = self.utter()
        response = self.answer(speech, "taken back by the app")
        assert response.created is not None
        at = self.wire.arrival(response.created.time) + self.rng.uniform(10, 200)
        self.wire.client(at, "response.cancel")
        self.model.finish(response, at + self.setup.up + 2, "cancelled", "client_cancelled")
        return self.within(speech.end, at + 6_000)

    def beside_another(self) -> float:
        """What is written out of band meanwhile answers nobody."""
        speech = self.utter()
        response = self.spoken(self.answer(speech, "before an answer"), self.rng.uniform(1_500, 6_000))
        assert response.created is not None
        ask = self.ask(
            self.wire.arrival(response.created.time) + self.rng.uniform(1, 100),
            conversation="none",
            metadata={"topic": "notes"},
            output_modalities=["text"],
        )
        beside = self.asked(ask, "out of band", beside=True, metadata={"topic": "notes"})
        beside.out_of_band = True
        done = self.model.finish(beside, self.model.write(beside, self.first_token(beside, 150.0)))
        done.event["response"] |= {"conversation_id": None, "metadata": {"topic": "notes"}}
        return self.within(speech.end, response.sounding)

    def unasked(self) -> float:
        """The app only listens: nobody owes the caller an answer."""
        self.record.listens_only = not self.setup.create or self.setup.detector == "none"
        return self.within((speech := self.utter()).end, speech.end + 8_000)

    # The caller speaks on.

    def in_speech(self) -> float:
        """In the middle of a sentence: who speaks does not wait."""
        speech = self.utter()
        return self.within(speech.start + 20, speech.end - 20)

    def several_pieces(self) -> float:
        """The caller says more while waiting, and nothing of an answer to what was said before is heard."""
        speech = self.utter()
        for _ in range(self.rng.randint(1, 3)):
            assert speech.committed is not None
            self.now = self.wire.arrival(speech.committed.time) + self.rng.uniform(5, 400)
            if not speech.button and self.setup.create:
                self.false_start(speech)
            speech = self.utter()
        response = self.spoken(self.answer(speech, "to several pieces"), self.rng.uniform(700, 5_000))
        begun = speech.end if self.rng.random() < 0.85 else speech.start
        return self.within(begun, response.sounding)

    def false_start(self, speech: Speech) -> None:
        """An answer begins, and the caller speaks before anything of it is heard: taken back, or it fails later."""
        response = self.answer(speech, "cancelled before a sound")
        assert response.created is not None
        if self.setup.interrupt:
            # What the caller says next begins 60 to 140 ms and a way after ``now``, and cancels it.
            self.now = max(self.now, self.wire.arrival(response.created.time) + 1)
            self.model.finish(
                response, self.now + self.setup.up + self.rng.uniform(141, 145), "cancelled", "turn_detected"
            )
        else:
            self.now = max(self.now, self.wire.arrival(response.created.time + 2))
            self.model.finish(response, response.created.time + 1, "failed", "server_error")

    # Sounds that are no speech.

    def noise(self, at: float, length: float) -> Noise:
        """The detector hears something; it is thrown away, by the app or by the server itself."""
        rng, wire, item = self.rng, self.wire, self.wire.name("item_n")
        started = wire.server(
            at + self.setup.up + rng.uniform(60, 140),
            "input_audio_buffer.speech_started",
            item_id=item,
            audio_start_ms=int(max(0.0, at - self.base - self.setup.prefix)),
        )
        over: list[Moment] = []
        stop = at + length + self.setup.up + self.setup.silence + rng.uniform(0, 4)
        if rng.random() < 0.4 and "input_audio_buffer.committed" not in self.setup.left_out:
            end = int(at + length + self.setup.silence - self.base)
            over.append(wire.server(stop, "input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=end))
        else:
            clear = wire.client(wire.arrival(started.time) + length, "input_audio_buffer.clear")
            over.append(wire.server(clear.time + self.setup.up + 1, "input_audio_buffer.cleared"))
        noise = Noise(item, at, at + length, started, tuple(over))
        self.record.noises.append(noise)
        return noise

    def noise_while_waiting(self) -> float:
        """It takes back the answer that had begun, where the detector may do that; the app may ask again."""
        speech = self.utter()
        response = self.answer(speech, "noise while waiting")
        assert response.created is not None
        noise = self.noise(
            self.wire.arrival(response.created.time) + self.rng.uniform(1, 300), self.rng.uniform(50, 400)
        )
        if not self.setup.interrupt:
            self.spoken(response, self.rng.uniform(1_500, 6_000))
            return self.within(speech.end, response.sounding)
        self.model.finish(response, noise.started.time + self.rng.uniform(0.5, 2), "cancelled", "turn_detected")
        over = self.wire.arrival(noise.over[-1].time)
        if self.rng.random() < 0.5:
            return self.within(speech.end, over + 8_000)
        again = self.asked(self.ask(over + self.rng.uniform(5, 2_000)), "asked again after noise")
        again.answers, again.answers_unsure = speech, True
        return self.within(speech.end, self.spoken(again).sounding)

    def noise_alone(self) -> float:
        """Nobody waits, something is heard, and the caller hangs up."""
        self.plain()
        noise = self.noise(self.now, self.rng.uniform(50, 600))
        return self.within(noise.end, noise.end + 5_000)

    # Answers that were heard.

    def after_a_greeting(self) -> float:
        """The app speaks first; the caller says nothing."""
        response = self.spoken(self.asked(self.ask(self.now), "asked by the app alone"))
        response.answers_unsure = not self.heard
        return self.within(self.now, response.silent_at + 4_000)

    def greeted_then_waiting(self) -> float:
        greeting = self.asked(self.ask(self.now), "asked by the app alone")
        greeting.answers_unsure = not self.heard
        self.close(greeting, self.sound(greeting))
        return self.before_answer()

    def in_an_answer(self) -> float:
        return self.long_answer("heard in part")[1]

    def after_an_answer(self) -> float:
        self.plain()
        return self.now + self.rng.uniform(0, 9_000)

    def after_a_filler(self) -> float:
        """ "One moment, please" was heard, the tool was not."""
        response = self.answer(self.utter(), "spoken before the tool")
        at = self.model.say(response, self.first_token(response), self.rng.uniform(500, 1_200)) + 50
        self.mark_heard(response)
        tool = self.model.call(response, at, 1)
        self.model.finish(response, tool.whole[-1].time + 20)
        return self.within(self.quiet_at(response), response.silent_at + 9_000)

    def after_interruptions(self) -> float:
        """The caller breaks in on one answer after another; the last question is not answered in time."""
        for _ in range(self.rng.randint(1, 3)):
            response, at = self.long_answer("interrupted")
            if self.setup.detector == "none":
                self.stop_answer(response, at, at, None, "client_cancelled")
                speech = self.speak(at + self.rng.uniform(1, 15), self.rng.uniform(500, 2_000))
            else:
                speech = self.speak(at, self.rng.uniform(500, 2_000))
                assert speech.started is not None
                noticed = self.wire.arrival(speech.started.time)
                reason = "turn_detected" if self.setup.interrupt else "client_cancelled"
                self.stop_answer(response, noticed, at, speech.started, reason)
            last = self.answer(speech, "after an interruption")
            self.close(last, self.sound(last))
        return self.within(speech.end, last.sounding)

    def over_the_answer(self) -> float:
        """The caller says a word over the answer, which goes on and is heard."""
        response, at = self.long_answer("mhm")
        speech = self.speak(at, self.rng.uniform(350, 600), kind="mhm")
        return self.within(speech.end, response.silent_at + 3_000)

    # The app's own voice.

    def read_out(self) -> float:
        """OpenAI writes, the app speaks, and no event shows that."""
        speech = self.utter()
        response = self.answer(speech, "read out by the app")
        response.text = True
        done = self.model.finish(response, self.model.write(response, self.first_token(response)))
        begin = self.wire.arrival(done.time) + self.rng.uniform(150, 1_500)
        response.voice = begin, begin + self.rng.uniform(800, 5_000)
        return self.within(speech.end, response.voice[1] + 2_000)

    def written(self) -> float:
        """OpenAI writes, and nobody reads it out: in a chat beside the call, say."""
        response = self.answer(self.utter(), "written only")
        response.text = True
        done = self.model.finish(response, self.model.write(response, self.first_token(response)))
        return self.within(done.time, done.time + 9_000)

    # Another session.

    def after_a_reconnect(self) -> float:
        """The socket is lost while the caller waits; the next session knows what was said, and has not heard it."""
        speech = self.utter()
        self.now += self.rng.uniform(3_000, 6_000)
        self.wire.session += 1
        self.open_session()
        self.history()
        return self.within(max(speech.end, self.record.openings[-1].time + 200), self.now + 6_000)


def endings_for(party: Endings) -> list[tuple[str, Callable[[], float]]]:
    """The endings that a call of this kind can have, the usual ones more often."""
    setup = party.setup
    usual = [party.before_answer, party.long_before_answer, party.while_a_tool_runs, party.after_interruptions]
    found: list[Callable[[], float]] = [
        *usual * 2,
        party.never_answered,
        party.while_an_mcp_tool_runs,
        party.after_a_failure,
        party.taken_back,
        party.beside_another,
        party.in_speech,
        party.several_pieces,
        party.after_a_greeting,
        party.greeted_then_waiting,
        party.in_an_answer,
        party.after_an_answer,
        party.after_a_filler,
        party.read_out,
        party.written,
        party.after_a_reconnect,
    ]
    if not setup.create or setup.detector == "none":
        found.append(party.unasked)
    if setup.detector == "server_vad":
        found += [party.noise_while_waiting, party.noise_alone]
    if setup.detector != "none" and not setup.interrupt and not setup.create:
        found.append(party.over_the_answer)
    return [(ending.__name__, ending) for ending in found]
