"""What a reader of the socket saw of a call, and how it posted that.

Server events reach the observer in the order in which they were sent (one TCP stream), later by the network's delay and
its jitter; client events are seen when the app sends them. A recorder sees no client event. Figures are on this clock.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from tests.simulator.world import T0, Interval, Moment, Record

TRACE_ID = "d0" * 16
ARRIVALS = 0x0B5E
"""Of the chance that says when events arrive: the same for all who observe a call."""


Shuffle = Literal["no", "ties", "posts", "all"]
Said = Literal["then", "later", "never"]
SHUFFLES: tuple[Shuffle, ...] = ("no", "no", "ties", "ties", "posts", "all")


@dataclass(slots=True)
class View:
    """How this observer reads and writes."""

    both: bool
    """Sees client events too; False: a recorder."""
    tick: float
    """Resolution of its clock in milliseconds."""
    unit: Literal["s", "ms", "rfc3339"] = "s"
    undated: int = 0
    """So many events are posted without ``at``."""
    hung_up: float | None = None
    """It saw nothing from this share of the call on."""
    repeats: float = 0.0
    """Share of the lines that are posted twice."""
    shuffle: Shuffle = "no"
    """What is posted in another order than it was seen: events of one moment, whole posts, everything."""
    lines: bool = True
    """Posted as NDJSON; False: as envelopes of several events."""
    ended: Said = "then"
    """Its posts say when the call ended; that it did, in a post of its own without a time; or nothing of it."""
    sound: bool = True
    """It posts audio deltas."""
    words: bool = True
    """It posts the deltas of text and transcripts."""
    drains: bool = True
    """It reads what is on its way when the caller hangs up."""
    sides: bool = True
    """Its posts say who sent an event; an event's type says it too."""

    @classmethod
    def drawn(cls, rng: random.Random) -> "View":
        undated = rng.choice((0,) * 18 + (1, 3))
        return cls(
            both=rng.random() < 0.75,
            tick=rng.choice((1.0, 1.0, 1.0, 0.001, 0.1)),
            unit=rng.choice(("s",) * 12 + ("ms", "rfc3339")),
            undated=undated,
            hung_up=rng.uniform(0.3, 0.99) if rng.random() < 0.12 else None,
            # Without a time there is no order but that of the posts, and no telling of a repeat from another event.
            repeats=0.0 if undated else rng.choice((0.0, 0.0, 0.0, 0.1, 1.0)),
            shuffle="no" if undated else rng.choice(SHUFFLES),
            lines=rng.random() < 0.7,
            ended="then" if rng.random() < 0.8 else "never",
            sides=rng.random() < 0.9,
        )

    def date(self, at: float) -> object:
        """A moment as this observer writes it under ``at``."""
        if self.unit == "ms":
            return round(T0 * 1000 + at, 3)
        if self.unit == "rfc3339":
            second, micro = divmod(round(at * 1000), 1_000_000)
            minute, second = divmod(T0 % 60 + second, 60)
            hour, minute = divmod(T0 // 60 % 60 + minute, 60)
            assert T0 // 86_400 == 20_775  # 2026-11-18
            return f"2026-11-18T{T0 // 3600 % 24 + hour:02}:{minute:02}:{second:02}.{micro:06}Z"
        return round(T0 + at / 1000, 6)


@dataclass(slots=True)
class Posts:
    """What was posted of one call."""

    key: str
    body: bytes
    seen: list[Moment] = field(default_factory=list)
    """In the order in which it was seen."""
    end: bytes = b""
    """A post of its own behind the others, by whoever knows only that the call is over."""
    over: Interval | None = None
    """When the call ended, as far as the posts say it; None: they do not say that it is over."""
    gaps: list[Interval] = field(default_factory=list)
    """When the observer was deaf."""


def observe(record: Record, view: View) -> Posts:
    """Post what was seen. Changes the record's moments: ``at``, ``seen`` and ``dated`` say what the observer knows."""
    rng = random.Random(record.seed ^ ARRIVALS)
    seen = arrive(record, view, rng)
    for moment in rng.sample(seen, min(view.undated, len(seen))):
        moment.dated = False
    key = f"rtc_{record.seed}"
    lines: list[dict[str, Any]] = []
    for moment in _posted_order(seen, view, rng):
        line: dict[str, Any] = {"event": moment.event} | ({"from": moment.side} if view.sides else {})
        if moment.dated:
            line["at"] = view.date(moment.at)
        lines.append(line)
        if rng.random() < view.repeats:
            lines.append(line)
    end = seen[-1].at + 1 if record.hung_up is None else record.hung_up
    posts = Posts(key, _body(key, lines, view, seen[0].at, end if view.ended == "then" else None), seen)
    if view.ended == "later":
        # That it was over by then, at the earliest when the last was seen that has a time.
        posts.end = orjson.dumps({"call": key, "ended": True})
        last = max((m.at for m in seen if m.dated), default=seen[0].at)
        posts.over = last, max(last, end)
    elif view.ended == "then":
        posts.over = end, max(end, seen[-1].at)
    return posts


def arrive(record: Record, view: View, rng: random.Random) -> list[Moment]:
    """What reaches the observer, in that order. Changes the record's moments: ``at`` and ``seen``."""
    setup = record.setup
    latest = 0.0
    for moment in sorted(record.moments, key=lambda m: (m.time, m.order)):
        at = moment.time
        if moment.side == "server":
            latest = at = max(latest, at + setup.down + rng.uniform(0, setup.jitter))
        moment.at = at // view.tick * view.tick if view.tick == 1.0 else round(at, 4 if view.tick < 0.1 else 1)
        moment.seen = (view.both or moment.side == "server") and not _kept_back(moment, view)
        if record.hung_up is not None and not view.drains and moment.at > record.hung_up:
            moment.seen = False
    seen = sorted((m for m in record.moments if m.seen), key=lambda m: (m.at, m.time, m.order))
    if view.hung_up is not None:
        keep = max(1, int(len(seen) * view.hung_up))
        for moment in seen[keep:]:
            moment.seen = False
        del seen[keep:]
    return seen


def _kept_back(moment: Moment, view: View) -> bool:
    """It saw this, and does not post it."""
    kind = moment.event["type"]
    if kind in ("response.output_audio.delta", "response.audio.delta"):
        return not view.sound
    return not view.words and kind.endswith(("text.delta", "transcript.delta"))


def _posted_order(seen: list[Moment], view: View, rng: random.Random) -> list[Moment]:
    if view.shuffle == "all":
        return rng.sample(seen, len(seen))
    if view.shuffle == "ties":
        # Only events of one side: what the app sent and what it got in one moment may have either order.
        return sorted(seen, key=lambda m: (m.at, rng.random()))
    if view.shuffle == "posts":
        posts = [seen[n : n + 7] for n in range(0, len(seen), 7)]
        rng.shuffle(posts)
        return [moment for post in posts for moment in post]
    return seen


def _body(key: str, lines: list[dict[str, Any]], view: View, begin: float, end: float | None) -> bytes:
    metadata = {"trace_id": TRACE_ID}
    if view.lines:
        documents: list[dict[str, Any]] = [{"call": key, "at": view.date(begin), "metadata": metadata}]
        documents += [{"call": key, **line} for line in lines]
    else:
        documents = [{"call": key, "metadata": metadata, "events": lines[n : n + 40]} for n in range(0, len(lines), 40)]
    if end is not None:
        documents.append({"call": key, "ended": True, "at": view.date(end)})
    return b"\n".join(orjson.dumps(document) for document in documents)
