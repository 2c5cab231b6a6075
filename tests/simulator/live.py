"""A session of the Live API: it pauses when nobody speaks, resumes when the caller does, and counts its own seconds.

There are no turns on this wire, only fragments of transcript on the session's own timeline (``start_ms``, ``end_ms``):
what is judged is little: pauses as marks on the session, its seconds, and how long after the caller's last words the
model began to speak. From the types of the openai package 3.57; ``SessionUsage``: "When present, the active and paused
breakdown adds up to this total", "Do not sum values across usage events".
"""

import random
from dataclasses import dataclass, field

from tests.simulator.observer import Posts
from tests.simulator.truth import Expected, Figure, Mark, Truth, Word
from tests.simulator.wire import Wire
from tests.simulator.world import Event, Moment, Record, Setup


@dataclass(slots=True)
class Turn:
    """When the caller spoke and the model after it, on the session's timeline."""

    caller: tuple[int, int]
    model: tuple[int, int]
    heard: list[Moment] = field(default_factory=list)
    """The caller's fragments."""
    spoken: list[Moment] = field(default_factory=list)


@dataclass(slots=True)
class Live:
    """One Live session and what happened in it."""

    record: Record
    wire: Wire
    rng: random.Random
    turns: list[Turn] = field(default_factory=list)
    usages: list[Moment] = field(default_factory=list)
    pauses: list[Moment] = field(default_factory=list)
    resumes: list[Moment] = field(default_factory=list)

    @classmethod
    def played(cls, seed: int) -> "Live":
        """The Live call of this seed."""
        rng = random.Random(seed)
        record = Record(seed, Setup.drawn(rng))
        record.setup.left_out = frozenset()
        live = cls(record, Wire(rng, record), rng)
        live._play()
        return live

    def _play(self) -> None:
        rng, wire = self.rng, self.wire
        session: Event = {"id": f"live_{self.record.seed}", "model": "gpt-live-1.1", "status": "active"}
        session["expires_at"] = 1_795_007_200
        wire.server(50, "session.started", session=session)
        now, paused = 600, 0
        breakdown = rng.random() < 0.8
        for _ in range(rng.randint(1, 5)):
            if rng.random() < 0.4:
                length = rng.randint(3_000, 40_000)
                self.pauses.append(wire.server(now + 800, "session.paused"))
                self.resumes.append(wire.server(now + 800 + length, "session.resumed"))
                paused += length
                now += 800 + length
            self._turn(now + rng.randint(100, 2000))
            now = self.turns[-1].model[1] + 1800
            self._usage("session.usage.updated", now - 500, paused, breakdown)
        self._usage("session.closed", now, paused, breakdown, reason="close_requested", session=session)

    def _turn(self, start: int) -> None:
        end = start + self.rng.randint(400, 4000)
        begin = end + self.rng.randint(150, 1800)
        turn = Turn((start, end), (begin, begin + self.rng.randint(500, 5000)))
        for word, span, put in (("input", turn.caller, turn.heard), ("output", turn.model, turn.spoken)):
            at = span[0]
            while at < span[1]:
                stop = span[1] if span[1] - at < 500 else at + self.rng.randint(200, 450)
                time = 60 + stop + self.rng.uniform(60, 130)
                fields = {"delta": "word ", "start_ms": at, "end_ms": stop}
                put.append(self.wire.server(time, f"session.{word}_transcript.delta", **fields))
                at = stop
        self.turns.append(turn)

    def _usage(self, type_: str, now: int, paused: int, breakdown: bool, **fields: object) -> None:
        usage: Event = {"seconds": now // 1000}
        if breakdown:
            usage |= {"active_seconds": now // 1000 - paused // 1000, "paused_seconds": paused // 1000}
        self.usages.append(self.wire.server(60 + now, type_, usage=usage, **fields))

    def truth(self, posts: Posts) -> Truth:
        """Of the last usage that was seen, the pauses that were seen, and the first words of each answer."""
        truth, kind = Truth(self.record.seed), "live"
        truth.spans.append(Expected("session", kind))
        for name, moments in (("paused", self.pauses), ("resumed", self.resumes)):
            seen = [m for m in moments if m.seen]
            if all(m.dated for m in seen):
                truth.marks.append(Mark("session", f"grafter.live.{name}", kind, tuple(m.at for m in seen)))
        usage: Event = next((m.event["usage"] for m in reversed(self.usages) if m.seen), {})
        if all(m.dated for m in self.usages):
            for name in ("active_seconds", "paused_seconds"):
                if name in usage:
                    value = usage[name] * 1000.0
                    truth.figures.append(Figure("session", f"grafter.session.{name}", kind, [(value, value)], True))
        for turn in self.turns:
            spoken, reply = f"input_{turn.caller[0]}", f"output_{turn.model[0]}"
            if turn.heard[0].seen:
                truth.spans.append(Expected(spoken, kind))
            if turn.spoken[0].seen:
                truth.spans.append(Expected(reply, kind))
                value = float(turn.model[0] - turn.caller[1])
                truth.figures.append(Figure(reply, "grafter.turn.first_audio_ms", kind, [(value, value)], True))
                truth.words.append(Word(reply, "grafter.turn.speech_item", kind, frozenset((spoken,)), True))
        return truth
