"""Small calls written down by hand, for tests of the truth itself."""

from typing import Any

from tests.simulator.observer import Posts, View
from tests.simulator.run import truth_of
from tests.simulator.truth import Truth
from tests.simulator.world import Interval, Moment, Record, Response, Setup, Side, Speech

PLAIN = Setup(
    transport="websocket",
    detector="server_vad",
    silence=500,
    prefix=300,
    create=True,
    interrupt=True,
    announced="whole",
    up=20,
    down=30,
    jitter=0,
    react=5,
    buffer=40,
    bytes_per_ms=48,
    deltas=True,
    beta=False,
    left_out=frozenset(),
    client_ids=False,
)
APP = View(both=True, tick=1.0)
RECORDER = View(both=False, tick=1.0)


class Hand:
    """A call written by hand: moments by their time after T0 in milliseconds."""

    def __init__(self, setup: Setup = PLAIN) -> None:
        self.record = Record(0, setup)

    def at(self, time: float, side: Side, type_: str, **fields: Any) -> Moment:
        moment = Moment(time, len(self.record.moments), side, {"type": type_, **fields}, at=time, seen=True)
        self.record.moments.append(moment)
        return moment

    def truth(self, view: View = APP) -> Truth:
        """Seen without any delay, for the times by hand are the observer's."""
        seen = sorted((m for m in self.record.moments if view.both or m.side == "server"), key=lambda m: m.at)
        for moment in self.record.moments:
            moment.seen = moment in seen
        return truth_of(self.record, view, Posts("hand", b"", seen))

    def speech(self, start: float, stop: float, item: str = "u1") -> Speech:
        speech = Speech(item, start, stop - 500, 1, 500, True)
        speech.started = self.at(start, "server", "input_audio_buffer.speech_started", item_id=item)
        speech.stopped = self.at(stop, "server", "input_audio_buffer.speech_stopped", item_id=item)
        self.record.speeches.append(speech)
        return speech

    def response(self, created: float, first: float | None, done: float, cause: Moment, **known_: Any) -> Response:
        response = Response(f"resp_{len(self.record.responses) + 1}", 1, "by hand", cause, **known_)
        response.created = self.at(created, "server", "response.created", response={"id": response.id})
        if first is not None:
            response.first_delta = self.at(first, "server", "response.output_audio.delta", response_id=response.id)
        response.done = self.at(done, "server", "response.done", response={"id": response.id})
        self.record.responses.append(response)
        return response


def right(truth: Truth, owner: str, name: str) -> list[Interval] | None:
    """The right values of a figure, None where it is not judged."""
    found = [f.right for f in truth.figures if (f.owner, f.name) == (owner, name)]
    return found[0] if found else None
