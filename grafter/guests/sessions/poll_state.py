"""How far the reading of one session has come, and when it is polled again.

OpenAI publishes a turn's trace some time after the turn, says nowhere how long that takes, and may add to a trace that
it has published. So after an event (the webhook, or a command) the session is polled at growing intervals until
grafter forgets the host. The first polls go on behind the last trace that is known and wait for the one that the event
promised; the later ones read all from the beginning, for a turn that was not published is skipped by the list, and
later stands before others that were.

What was read is known again by digests, and their number is bounded. So the later polls of a long session begin where
they are still all known: what is published or changed before the last thousand traces or so is not found.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import orjson

from grafter.core.policy import HOUR, MINUTE, SECOND
from grafter.guests.json_values import count_of, mapping_of, text_of
from grafter.guests.sessions.intake import DIGEST_CHARACTERS

QUICK = 30 * SECOND
"""Polls this soon after the event are for the trace that it promised."""
_POLLS = (0, 3 * SECOND, 10 * SECOND, QUICK, 2 * MINUTE, 10 * MINUTE, HOUR, 4 * HOUR, 12 * HOUR)

# A thousand digests and a page, twice; with them the blob is within TASK_BYTES whatever the cursors are.
_GENERATION = 1_000
_MOST_SEEN = 2_400
_MOST_FAILURES = 1_000
_MOST_PROMISES = 1_000
_VERSION = 1
_DIGESTS = ("seen", "older")


@dataclass(frozen=True, slots=True)
class Answered:
    """What an event came to, for whoever asked for it in another process."""

    event: int
    """When the event was put; those that were put before it are answered too."""
    outcome: str
    """What OpenAI's answer came to; the receiver's word."""
    traces: int = 0
    skipped: int = 0
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What a task remembers of its session."""

    event: int = 0
    """When the event was put that is being answered; Unix nanoseconds."""
    run: int = 0
    """Events so far; names the promise."""
    since: int = 0
    """The first event whose promise has not been kept."""
    opened: bool = False
    """It was stored that more will come."""
    closed: bool = False
    """… and that it has come."""
    reading: bool = False
    """A look has begun, and has not come to the end of the list."""
    after: str = ""
    """The cursor of the look that has begun; empty: the beginning."""
    last: str = ""
    """The last trace of the list, as far as it is known."""
    failures: int = 0
    """Failed attempts in a row."""
    found: int = 0
    """Traces that were new since the event."""
    seen: tuple[str, ...] = ()
    """Digests of traces that are stored, the oldest first."""
    older: tuple[str, ...] = ()
    """Those of before, the next to be forgotten."""
    floor: str = ""
    """The cursor behind which every stored trace is known by its digest."""
    middle: str = ""
    """The same without ``older``."""
    forward: bool = False
    """The look that has begun goes on behind the last trace."""
    answered: Answered | None = None
    """The last event that was answered."""
    over: bool = False
    """Nothing is left to do but to tell so."""

    @property
    def known(self) -> frozenset[str]:
        """Digests of traces that are stored."""
        return frozenset((*self.older, *self.seen))

    def encode(self) -> bytes:
        written = {"v": _VERSION} | {member.name: getattr(self, member.name) for member in fields(self)}
        for name in _DIGESTS:
            written[name] = "".join(written[name])
        if self.answered is None:
            del written["answered"]
        return orjson.dumps(written)

    @classmethod
    def decode(cls, blob: bytes) -> "Progress":
        """What ``encode`` made; a beginning from anything else. Never raises."""
        try:
            written = mapping_of(orjson.loads(blob))
        except orjson.JSONDecodeError:
            return cls()
        if written.get("v") != _VERSION:
            return cls()
        digests = {name: _digests(written.get(name)) for name in _DIGESTS}
        return cls(**_members(cls, written) | digests | {"answered": _answered(written.get("answered"))})

    def promised(self, event: int) -> "Progress":
        """An event came: what it promises is waited for, from behind what is known.

        Nothing more will come for the promise of an event before it that nothing was found for, such as that of a turn
        that had only begun: whatever keeps this one keeps that one too.
        """
        run = self.run + 1
        return replace(
            self,
            event=event,
            run=run,
            since=run if self.closed or not self.since else max(self.since, run - _MOST_PROMISES),
            opened=False,
            closed=False,
            reading=False,
            failures=0,
            found=0,
            over=False,
        )

    def begun(self, now: int) -> "Progress":
        """A look begins, unless one goes on."""
        if self.reading:
            return self
        forward = now - self.event < QUICK
        return replace(self, reading=True, forward=forward, after=self.last if forward else self.floor)

    def read(self, after: str, digests: Iterable[str]) -> "Progress":
        """A page is stored."""
        came = tuple(digests)
        seen = (*self.seen, *came)[-_MOST_SEEN:]
        progress = replace(
            self,
            after=after,
            found=self.found + len(came),
            seen=seen,
            # Only where a later look finds more than a thousand at once.
            older=self.older[max(0, len(self.older) + len(seen) - _MOST_SEEN) :],
            failures=0,
        )
        return replace(progress, last=after)._turned() if self.forward else progress

    def ended(self) -> "Progress":
        return replace(
            self, reading=False, last=self.after or self.last, closed=self.closed or self.found > 0, failures=0
        )._turned()

    def _turned(self) -> "Progress":
        """Everything that is known stands before ``last``: forget the older ones when there are many, and remember
        where they ended."""
        if len(self.seen) < _GENERATION:
            return self
        return replace(self, floor=self.middle, middle=self.last, older=self.seen, seen=())

    def afresh(self) -> "Progress":
        """The cursor is void: the next poll begins at the beginning."""
        return replace(self, reading=False, after="", last="", floor="", middle="")

    def answering(self, outcome: str, skipped: int = 0, *, linked: bool = False) -> "Progress":
        """The event has its answer."""
        return replace(self, answered=Answered(self.event, outcome, self.found, skipped, linked))

    def done(self) -> "Progress":
        return replace(self, over=True)

    def failed(self) -> "Progress":
        """An attempt failed; the next one goes on where it stood."""
        return replace(self, failures=min(self.failures + 1, _MOST_FAILURES))

    def next_poll(self, now: int, remember: int) -> int | None:
        """The moment of the next poll; None after the last one."""
        passed = now - self.event
        for offset in (*_POLLS, remember):
            if passed < offset <= remember and (offset >= QUICK or not self.closed):
                return self.event + offset
        return None


def _members(kind: type, written: Mapping[str, object]) -> dict[str, Any]:
    """The members of a record that are counts, texts and flags, as they were written; what is none of its own type has
    its first value."""
    found: dict[str, Any] = {}
    for member in fields(kind):
        value = written.get(member.name)
        if isinstance(value, bool) and member.type is bool:
            found[member.name] = value
        elif member.type is int:
            found[member.name] = count_of(value) or 0
        elif member.type is str:
            found[member.name] = text_of(value) or ""
    return found


def _digests(written: object) -> tuple[str, ...]:
    text = text_of(written) or ""
    return tuple(text[i : i + DIGEST_CHARACTERS] for i in range(0, len(text), DIGEST_CHARACTERS))


def _answered(written: object) -> Answered | None:
    members = _members(Answered, mapping_of(written))
    return Answered(**members) if members["outcome"] and "event" in mapping_of(written) else None
