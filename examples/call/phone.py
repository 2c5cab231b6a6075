"""A caller with a phone: hears and says 20 ms of mu-law at a time, and listens before she speaks."""

from collections.abc import Callable, Iterator

FRAME = 160
PAUSE_MS = 300
"""So long is it quiet before she takes an answer for over."""
SILENCE, SPEECH = b"\xff" * FRAME, b"\x10" * FRAME

Tick = Iterator[None]


class Phone:
    """What the caller hears and says, frame by frame."""

    def __init__(self) -> None:
        self.speaks = False
        self.heard_ms = 0
        """Of all answers together."""
        self.answers = 0
        """That were heard to their end."""
        self.buffer: list[bytes | str] = []
        """Audio that is still to be played, and the marks between."""
        self.quiet_ms = PAUSE_MS
        """Since the last sound of an answer."""

    def say(self, ms: int) -> Tick:
        self.speaks = True
        for _ in range(ms // 20):
            yield
        self.speaks = False

    def wait(self, ms: int) -> Tick:
        yield from [None] * (ms // 20)

    def until(self, holds: Callable[["Phone"], bool]) -> Tick:
        while not holds(self):
            yield

    def play(self) -> list[str]:
        """Let 20 ms pass; the marks that were reached."""
        reached = []
        while self.buffer and isinstance(mark := self.buffer[0], str):
            reached.append(mark)
            self.buffer.pop(0)
        if self.buffer:
            self.buffer.pop(0)
            self.heard_ms += 20
            self.quiet_ms = 0
        elif self.quiet_ms < PAUSE_MS:
            self.quiet_ms += 20
            self.answers += self.quiet_ms == PAUSE_MS
        return reached

    def clear(self) -> list[str]:
        """What waits is not played; its marks."""
        dropped = [each for each in self.buffer if isinstance(each, str)]
        self.buffer.clear()
        self.quiet_ms = PAUSE_MS
        return dropped


def maria(phone: Phone) -> Tick:
    """Listens to the greeting, asks, breaks in on the answer, asks for a slot, thanks, hangs up."""
    yield from phone.until(lambda phone: phone.answers == 1)
    yield from phone.say(400)
    heard = phone.heard_ms
    yield from phone.until(lambda phone: phone.heard_ms >= heard + 300)
    yield from phone.say(400)
    answers = phone.answers
    yield from phone.until(lambda phone: phone.answers == answers + 1)
    yield from phone.say(300)
    yield from phone.until(lambda phone: phone.answers == answers + 2)
