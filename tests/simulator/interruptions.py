"""Answers that are cut, or seem to be: by the caller, by the program, too late, or not at all."""

from tests.simulator.scenes import Scenes
from tests.simulator.world import BargeIn, Moment, Response


class Interruptions(Scenes):
    """The scenes in which somebody speaks into an answer or takes it back."""

    def false_end(self) -> None:
        """The caller speaks on before any sound of the answer: nothing is interrupted."""
        first = self.answer(self.utter(), "cancelled before a sound")
        assert first.created is not None
        end = self.sound(first, latency=self.rng.uniform(700, 1800))
        self.model.finish(first, end)
        start = first.created.time - self.setup.up + self.rng.uniform(20, 150)
        second = self.speak(start, self.rng.uniform(400, 2000))
        assert second.started is not None
        first.sounding = first.silent_at = 0.0
        first.item = ""
        first.audio_ms = 0.0
        self.model.cut(first, second.started.time + self.rng.uniform(0.5, 2), "turn_detected")
        response = self.answer(second, "after a cancelled answer")
        self.close(response, self.sound(response))

    def long_answer(self, kind: str) -> tuple[Response, float]:
        """An answer of several seconds, and when in it the caller has heard some and not all."""
        if self.heard and self.rng.random() < 0.2:  # The app's own greeting, or prompt.
            response = self.asked(self.ask(self.now), kind)
        else:
            response = self.answer(self.utter(), kind)
        length = self.rng.uniform(3000, 12000) if self.rng.random() < 0.9 else self.rng.uniform(70_000, 120_000)
        self.model.finish(response, self.sound(response, length))
        self.mark_heard(response)
        start = self.wire.arrival(response.sounding) if self.setup.mediated else response.sounding
        return response, start + self.rng.uniform(0.1, 0.7) * (response.audio_ms - 900) + 200

    def mhm_then_barge_in(self) -> None:
        self.barge_in(mhm=True)

    def barge_in(self, *, mhm: bool = False) -> None:
        first, at = self.long_answer("barge-in")
        if mhm:  # Nothing is cut by it, so it is not what interrupted.
            mumbled = self.speak(at, self.rng.uniform(350, 500), kind="mhm")
            assert mumbled.committed is not None
            at = self.wire.arrival(mumbled.committed.time) + self.rng.uniform(50, 300)
            if at > first.silent_at - 700:
                self.settle(first)
                self.heard = False
                self.now = max(self.now, at + 300)
                return
        if self.setup.detector == "none":
            self.stop_answer(first, at, at, None, "client_cancelled")
            second = self.speak(at + self.rng.uniform(1, 15), self.rng.uniform(500, 2000))
        else:
            second = self.speak(at, self.rng.uniform(500, 2000))
            assert second.started is not None
            noticed = self.wire.arrival(second.started.time)
            reason = "turn_detected" if self.setup.interrupt else "client_cancelled"
            self.stop_answer(first, noticed, at, second.started, reason)
        response = self.answer(second, "after a barge-in")
        self.close(response, self.sound(response))

    def stop_answer(
        self, response: Response, at: float, began: float | None, started: Moment | None, reason: str
    ) -> None:
        """The answer is cut, by the server at the detector's start or by the app at ``at``; ``began``: by the caller.

        On a WebSocket the app stops its player and truncates, or does not; with media beside the socket the server
        clears its own buffer, in VAD mode by itself, else on ``output_audio_buffer.clear`` after ``response.cancel``.
        """
        rng, setup, wire = self.rng, self.setup, self.wire
        assert response.done is not None
        by_server = reason == "turn_detected" and started is not None
        server = started.time + rng.uniform(0.3, 2) if started is not None and by_server else at + setup.up + 1
        running = response.done.time > server
        first: Moment | None = None
        if running and not by_server:
            first = wire.client(at, "response.cancel")
        truncate = truncated = cleared = None
        if setup.mediated:
            if not by_server:
                first = first or wire.client(at, "output_audio_buffer.clear")
                if first.event["type"] == "response.cancel":
                    wire.client(at + 0.1, "output_audio_buffer.clear")
            stop = server + rng.uniform(0, 3)
            heard = stop - response.sounding
            self.model.drop(response, server)
            cleared = response.ended = wire.server(stop, "output_audio_buffer.cleared", response_id=response.id)
            if rng.random() < 0.7:
                truncated = self._truncated(response, stop + 1, heard)
        else:
            stop = at + setup.react
            heard = stop - response.sounding
            if rng.random() < 0.65 or (first is None and started is None):
                asked, accepted = self._truncation(response, heard)
                truncate = self._truncate(response, stop, asked)
                first = first or truncate
                if accepted:
                    truncated = self._truncated(response, stop + setup.up + 1, asked)
                else:
                    wire.refuse(truncate, "invalid_value", "audio_end_ms")
        response.silent_at = stop
        if running:
            self.model.cut(response, server, reason)
        self.now = max(self.now, wire.arrival(stop) + setup.up)
        noticed = started or first
        if began is not None and noticed is not None:
            shown = running or cleared is not None or truncated is not None
            by_app = started is not None and not by_server and (running or cleared is not None)
            response.barge_in = BargeIn(began, noticed, heard, cleared, truncate, truncated, shown, by_app)

    def _truncation(self, response: Response, heard: float) -> tuple[int, bool]:
        """What the app asks for: mostly what was heard; some count by the wall clock, some past the end."""
        whole = int(response.audio_ms)
        choice = self.rng.random()
        if choice < 0.7:
            return int(heard), True
        if choice < 0.85:
            return min(whole, int(heard + self.rng.uniform(50, 400))), True
        return whole + int(self.rng.uniform(100, 9000)), False

    def _truncate(self, response: Response, at: float, ms: int) -> Moment:
        fields = {"item_id": response.item, "content_index": 0, "audio_end_ms": ms}
        return self.wire.client(at, "conversation.item.truncate", **fields)

    def _truncated(self, response: Response, at: float, ms: float) -> Moment:
        fields = {"item_id": response.item, "content_index": 0, "audio_end_ms": int(ms)}
        return self.wire.server(at, "conversation.item.truncated", **fields)

    def program_cut(self) -> None:
        """The app cuts the answer, and nobody spoke: no barge-in."""
        response, at = self.long_answer("cut by the program")
        self.stop_answer(response, at, None, None, "client_cancelled")
        self.now += self.rng.uniform(2500, 4000)

    def late_truncate(self) -> None:
        """The caller speaks after the answer is over, and the app truncates all the same: at its length, or past it."""
        first = self.answer(self.utter(), "truncated when it was over")
        self.close(first, self.sound(first))
        speech = self.utter()
        assert speech.started is not None
        at = self.wire.arrival(speech.started.time) + self.setup.react
        if self.rng.random() < 0.5:
            self._truncate(first, at, int(first.audio_ms))
            self._truncated(first, at + self.setup.up + 1, int(first.audio_ms))
        else:
            past = self._truncate(first, at, int(first.audio_ms + self.rng.uniform(300, 5000)))
            self.wire.refuse(past, "invalid_value", "audio_end_ms")
        response = self.answer(speech, "after a late truncate")
        self.close(response, self.sound(response))

    def back_channel(self) -> None:
        """The caller says mhm while the answer is heard, and nothing is cut."""
        response, at = self.long_answer("mhm")
        self.speak(at, self.rng.uniform(350, 600), kind="mhm")
        self.settle(response)
        self.heard = False
        self.now = max(self.now, self.wire.arrival(self.record.moments[-1].time) + 500)
