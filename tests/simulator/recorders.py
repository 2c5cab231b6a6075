"""grafter's own recorder as the observer of a simulated call: its real code, over a socket and a clock that are played.

What it missed is known here by what happened to it, and not by what it says of that: it began late, its connection was
lost for a while, the store refused a part, grafter was stopped, or its process died with what was not stored yet.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import orjson
from aiohttp import WSMessage, WSMsgType

from grafter.consumer import Consumer
from grafter.core.model import DedupeKey, NamedLink, Part, UnixNano
from grafter.core.policy import GraftPolicy
from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.stored_event import decode
from grafter.receiver.openai_api import ApiAnswer, Reply, Socket
from grafter.receiver.recorder import Recorders
from grafter.receiver.recorder_outbox import Outbox, RecorderLimits
from grafter.receiver.recording import Timing
from grafter.tasks import task_group
from grafter.telemetry import Metrics
from tests.simulator.observer import ARRIVALS, TRACE_ID, Posts, View, arrive
from tests.simulator.world import T0, Interval, Moment, Record

_AT_ONCE = RetryPolicy(initial_interval=1e-6, max_interval=1e-6, multiplier=1.0, randomization_factor=0.0)
_TIMING = Timing(tick=0.0, retry=_AT_ONCE, accept_retry=_AT_ONCE)
_POLICY = GraftPolicy()
_METRICS = Metrics()
_LIMITS = RecorderLimits()
_STEPS = (0.0, 300.0, 5_500.0)
"""How long after an event the store is given its turn, in milliseconds: at once, after a tick, and after the longest
that anything waits for it."""
_SILENCE = 91_000.0
_MOST_TURNS = 100_000
"""Far more than any call takes: a recorder that never ends is a failure, and no test that hangs."""

Ending = Literal["close", "posted", "silence"]


@dataclass(slots=True)
class Life:
    """What becomes of a recorder; moments on the app's clock, which is its own."""

    begins: float = 0.0
    lost: Interval | None = None
    """Its connection, from when to when."""
    refused: int | None = None
    """The number of the part that the store refuses for good."""
    dies: float | None = None
    stops: float | None = None
    """grafter is stopped, in order."""
    again: float | None = None
    """After it died or was stopped: when another process begins to listen to the same call."""
    ending: Ending = "close"
    """How it learns of the end: its socket is closed; the app posts it; it does not, and the socket stays silent."""
    posted: bool = False
    """The app posts when the call ended, whoever else knows of it."""

    @classmethod
    def drawn(cls, rng: random.Random, record: Record) -> "Life":
        assert record.hung_up is not None
        over = record.hung_up
        last = max((s.start for s in record.speeches), default=over / 2)

        def some_time() -> float:
            """Most of what matters happens round the last words."""
            return rng.uniform(0, over) if rng.random() < 0.4 else min(over, max(0.0, rng.gauss(last, 2_000)))

        life = cls(ending=rng.choice(("close",) * 5 + ("posted",) * 3 + ("silence",)))
        life.posted = life.ending == "posted" or rng.random() < 0.3
        match rng.choice(("well",) * 6 + ("late", "lost", "lost", "refused", "dies", "dies", "dies", "stops")):
            case "late":
                life.begins = some_time()
            case "lost":
                begin = some_time()
                life.lost = begin, begin + rng.uniform(100, 6_000)
            case "refused":
                life.refused = rng.randint(1, 4)
            case "dies":
                life.dies, life.posted = some_time(), rng.random() < 0.8
            case "stops":
                life.stops, life.posted = some_time(), rng.random() < 0.8
        broken = life.dies if life.dies is not None else life.stops
        if broken is not None and rng.random() < 0.3:
            life.again = broken + rng.uniform(100, 6_000)
        return life


def record_call(record: Record, view: View, life: Life) -> tuple[Posts, list[bytes]]:
    """Record a call that ends: what was seen of it, and the parts that are stored. Changes the record's moments."""
    rng = random.Random(record.seed ^ ARRIVALS)
    coming = arrive(record, view, rng)
    stage = _Stage(record, coming, life, rng)
    asyncio.run(stage.play())
    stage.mark_seen()
    posts = Posts(stage.key, b"", [moment for moment in coming if moment.seen], gaps=stage.gaps())
    posts.over = stage.over()
    return posts, [part.payload for part in stage.stored]


@dataclass(slots=True)
class _Stage:
    """One call's socket, clock and store."""

    record: Record
    coming: list[Moment]
    life: Life
    rng: random.Random
    now: float = 0.0
    stored: list[Part] = field(default_factory=list)
    lost: list[Part] = field(default_factory=list)
    """Refused for good."""
    posted: tuple[Part, ...] = ()
    """By the app, which says when the call ended."""
    taken: int = 0
    """How often the recorder had something stored."""
    alive: bool = True
    until: float | None = None
    """When this process dies or stops."""
    closes: float = field(init=False)

    def __post_init__(self) -> None:
        setup, over = self.record.setup, self.record.hung_up
        assert over is not None
        last = self.coming[-1].at if self.coming else 0.0
        self.closes = max(last, over + setup.down + self.rng.uniform(0, setup.jitter))

    @property
    def key(self) -> str:
        return f"rtc_{self.record.seed}"

    @property
    def over_at(self) -> float:
        assert self.record.hung_up is not None
        return self.record.hung_up

    # The store.

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        if not self.alive:
            raise UnavailableError("dead")
        if all(part in self.posted for part in parts):
            self.stored += parts
            return
        self.taken += 1
        if self.life.refused is not None and self.taken == self.life.refused + 1:
            self.lost += parts
            raise RejectedError("refused", reason="too_large")
        self.stored += parts

    # The clock.

    def steady(self) -> int:
        return round(self.now * 1e6)

    def wall(self) -> int:
        return T0 * 10**9 + self.steady()

    async def until_then(self, at: float) -> None:
        """Time passes, and whoever has something to do does it."""
        begin = self.now
        for step in _STEPS:
            if begin + step < at:
                self.now = max(self.now, begin + step)
                await _turns()
        self.now = max(self.now, at)
        await _turns()

    # The call.

    async def play(self) -> None:
        broken = self.life.dies if self.life.dies is not None else self.life.stops
        await self.listen(self.life.begins, broken)
        if broken is not None and self.life.again is not None and self.life.again < self.over_at:
            self.alive = True
            await self.listen(self.life.again, None)
        elif broken is not None and self.life.posted:
            self.alive = True
            await self.post_end(self)

    async def post_end(self, consumer: Consumer) -> None:
        """The app says when the call ended."""
        body = orjson.dumps({"call": self.key, "ended": True, "at": round(T0 + self.over_at / 1000, 6)})
        self.posted = read_posts(body, False, _POLICY, UnixNano(self.wall())).parts
        await consumer.consume(self.posted)

    async def listen(self, begins: float, until: float | None) -> None:
        """One process, until the call or it has ended."""
        self.now, self.until = max(self.now, begins), until
        async with task_group() as tasks:
            outbox = Outbox(self, _METRICS, _TIMING, _LIMITS)
            recorders = Recorders(
                self, outbox, _METRICS, _POLICY, {"": self.connect}, tasks, _TIMING, self.wall, self.steady
            )
            await recorders.start(self.key, metadata={"trace_id": TRACE_ID})
            tending = tasks.create_task(recorders.tend())
            try:
                for _ in range(_MOST_TURNS):
                    if not len(recorders):
                        break
                    await self.next_thing(recorders)
                assert not len(recorders), self.life
                await _turns()
            finally:
                tending.cancel()
                await asyncio.wait([tending])
                await recorders.close(1.0 if self.alive else 0.0)

    async def next_thing(self, recorders: Recorders) -> None:
        """The socket moves on by itself; here is what ends the recorder from outside."""
        if self.until is not None and self.now >= self.until:
            self.alive = self.life.dies is None
            await recorders.close(1.0 if self.alive else 0.0)
        elif self.now >= self.over_at and self.life.posted:
            await self.post_end(recorders.ended_by(self))
            await _turns()
        elif self.now >= self.closes and self.life.ending != "close":
            await self.until_then(self.now + _SILENCE)
        else:
            await _turns()

    # The socket.

    async def connect(self, call_id: str) -> ApiAnswer:
        lost = self.life.lost
        if lost is not None and lost[0] <= self.now < lost[1]:
            await self.until_then(min(lost[1], self.closes))
        if self.now >= self.closes:
            self.now += 5_000
            return ApiAnswer(Reply.NOT_FOUND, 404)
        return ApiAnswer(Reply.CONNECTED, socket=cast(Socket, _Played(self, self.now)))

    def stops_at(self) -> tuple[float, bool]:
        """When this socket falls silent next, and whether it ends then."""
        found = [(self.closes, self.life.ending == "close")]
        if self.life.lost is not None and self.now < self.life.lost[0]:
            found.append((self.life.lost[0], True))
        if self.until is not None:
            found.append((self.until, False))
        if self.life.posted:
            found.append((self.over_at, False))
        return min(found)

    # What is known of it.

    def gaps(self) -> list[Interval]:
        """When nothing was heard, or what was heard is lost."""
        life, found = self.life, []
        if life.begins > 0:
            found.append((0.0, life.begins))
        if life.lost is not None and life.lost[0] < (self.over_at if life.posted else self.closes):
            found.append(life.lost)
        broken = life.dies if life.dies is not None else life.stops
        if broken is not None:
            heard_again = life.again is not None and life.again < self.over_at
            found.append((broken, life.again if heard_again and life.again is not None else self.closes))
        for part in self.lost:
            times = [(stored.at - T0 * 10**9) / 1e6 for stored in decode(part.payload)]
            # Until it was refused, which is within seconds of when it was heard.
            found.append((min(times), max(times)))
        return found

    def over(self) -> Interval | None:
        """When the call ended, as far as somebody says it."""
        life = self.life
        broken = life.dies is not None or life.stops is not None
        heard_to_the_end = not broken or (life.again is not None and life.again < self.over_at)
        if life.posted:
            return self.over_at, self.over_at
        if heard_to_the_end and life.ending == "close":
            seen = [m.at for m in self.coming if m.seen]
            told = life.lost is None or not life.lost[0] < self.closes <= life.lost[1]
            return (self.over_at if told else max(seen, default=0.0), self.closes)
        return None

    def mark_seen(self) -> None:
        """Only what is stored was seen, as far as anybody knows."""
        exact: set[int] = set()
        runs: list[tuple[int, int]] = []
        for part in self.stored:
            for stored in decode(part.payload):
                exact.add(stored.at)
                if stored.last:
                    runs.append((stored.at, stored.last))
        for moment in self.coming:
            at = T0 * 10**9 + round(moment.at * 1e6)
            in_run = moment.event["type"].endswith("audio.delta") and any(a <= at <= b for a, b in runs)
            moment.seen = at in exact or in_run


class _Played:
    """One connection: what comes on it, each at its time."""

    close_code: int | None = None

    def __init__(self, stage: _Stage, since: float) -> None:
        self.stage = stage
        self.left = [moment for moment in stage.coming if moment.at >= since]
        self.closing = asyncio.Event()

    async def receive(self) -> WSMessage:
        stage = self.stage
        stop, ends = stage.stops_at()
        if self.left and self.left[0].at < stop:
            moment = self.left.pop(0)
            await stage.until_then(moment.at)
            return WSMessage(WSMsgType.TEXT, _raw(moment), None)
        await stage.until_then(stop)
        if ends:
            self.close_code = 1006 if stop < stage.closes else 1000
            return WSMessage(WSMsgType.CLOSED, None, None)
        await self.closing.wait()
        return WSMessage(WSMsgType.CLOSED, None, None)

    async def ping(self, message: bytes = b"") -> None:
        """The peer lives."""

    async def pong(self, message: bytes = b"") -> None:
        """Nobody waits for it."""

    async def close(self) -> None:
        self.closing.set()


def _raw(moment: Moment) -> str:
    """The event as it stands on the socket, with its sound."""
    event = dict(moment.event)
    size = event.pop("delta_bytes", None)
    if size is not None:
        event["delta"] = "A" * (4 * (size // 3))
    return orjson.dumps(event).decode()


async def _turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)
