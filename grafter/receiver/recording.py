"""One recorded call: a socket that is kept open while the call may live, and what is heard on it.

It only listens: what it sends are pings, pongs and the closing frame. Whatever the peer does, the recording ends by
itself at some time and says why; what it heard waits in ``buffer`` for whoever stores it (recorder_outbox.py).
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

import aiohttp
import orjson
from aiohttp import WSMsgType

from grafter.core.model import Part, UnixNano
from grafter.core.policy import SECOND
from grafter.core.retry import RetryPolicy
from grafter.guests.json_values import mapping_of
from grafter.guests.realtime.event_buffer import EventBuffer
from grafter.guests.realtime.event_types import CLOSED
from grafter.guests.realtime.live.talking import ended_by
from grafter.guests.realtime.records import LIVE_IDS
from grafter.guests.realtime.stored_event import Side
from grafter.logs import log_bug
from grafter.receiver.openai_api import ApiAnswer, Reply, Socket
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

Clock = Callable[[], int]
"""Nanoseconds."""
Connect = Callable[[str], Awaitable[ApiAnswer]]
"""One attempt to open the sideband of a call, by its id."""

# Of a close by the peer: normal, going away, and no code at all. Any other is worth a new attempt, whose answer says
# whether the call still lives.
_CLOSED_FOR_GOOD = frozenset({1000, 1001, 1005})
_SESSIONS = frozenset({"session.created", "session.started", "session.updated"})
_ERROR = "error"
# OpenAI ends a Realtime session after an hour; an end that is further away than this is no end of a call, and nothing
# that lives longer is one.
_FARTHEST_EXPIRY_NS = 48 * 3600 * SECOND


_RETRY = RetryPolicy(initial_interval=0.375, max_interval=11.25, multiplier=2.0, randomization_factor=1 / 3)
_ACCEPT_RETRY = replace(_RETRY, max_interval=2.25)


class End(StrEnum):
    """Why a recorder ended. The value is a metric label."""

    CLOSE = "close"
    """The peer closed, or knows the call no more."""
    EXPIRED = "expired"
    """The session's time is over."""
    SILENCE = "silence"
    """Nothing came, though the socket lives."""
    POSTED = "posted"
    """The app, or the carrier's final status, said that the call is over."""
    STOPPED = "stopped"
    """grafter stops; the call goes on without it."""
    DISCONNECT = "disconnect"
    """The peer could not be reached for too long, or says that the call was cut off."""
    NOT_ACCEPTED = "not_accepted"
    """The peer never knew the call."""
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused"
    FAILED = "failed"
    """A bug of grafter's."""

    @property
    def ended_by(self) -> str | None:
        """What an ENDED event says; None: no such event, for the call goes on and may be recorded again."""
        match self:
            case End.CLOSE | End.EXPIRED | End.SILENCE | End.POSTED:
                return self.value
            case End.STOPPED:
                return None
        return "disconnect"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a recorder waits for what, in seconds."""

    silence: float = 90.0
    """Without an event though the socket lives."""
    not_accepted: float = 60.0
    """For a call that the peer does not know yet."""
    outage: float = 600.0
    """For a peer that cannot be reached, or does not take the connection, since it was last heard."""
    retry: RetryPolicy = _RETRY
    accept_retry: RetryPolicy = _ACCEPT_RETRY
    """For a call that is not accepted yet, whose first seconds are wanted."""
    steady: float = 15.0
    """A connection that was heard for this long makes the failures before it count no more."""
    ping: float = 20.0
    """Without a frame, after which the peer is asked for one; after twice that the socket is dead."""
    expiry_grace: float = 5.0
    """Past the session's ``expires_at``, a whole second of another clock, in which the peer may close by itself."""
    tick: float = 0.25
    """Between two rounds of what is urgent."""
    store: float = 5.0
    """Longest that anything waits to be stored."""
    bug: float = 5.0
    """After a failure of grafter's own, before storing is tried again."""


@dataclass(slots=True, eq=False, repr=False)
class Recording:
    """One call. ``listen`` is to run as a task; the rest is for whoever owns that task."""

    call_id: str
    buffer: EventBuffer
    connect: Connect
    timing: Timing
    wall: Clock
    steady: Clock
    read_kind: Callable[[str], None]
    """Gets the type of each event."""
    metrics: Metrics
    tasks: asyncio.TaskGroup
    """Runs what must not be waited for."""
    parts: list[Part] = field(default_factory=list)
    """Taken from ``buffer`` and not stored yet."""
    announced: list[Mapping[str, object]] = field(default_factory=list)
    """What starts have brought of it."""
    end: End | None = None
    end_timed: bool = False
    """The call's own socket said that it is over, at that moment."""
    task: asyncio.Task[None] | None = None
    stored: int = field(init=False)
    """When something of it was stored for the last time; steady clock, as the next."""
    taken: int = field(init=False)
    """When something was taken for the last time."""
    _offset: int = field(init=False)
    _heard: int = field(init=False)
    _connected: int = field(init=False)
    _last_frame: int = field(init=False)
    _expires_at: int = field(init=False)
    _pinged: int = 0
    _socket: Socket | None = None
    _established: bool = False
    _listening: bool = False
    """By a connection that was not lost."""
    _whole_since: int = 0
    """Of what was heard since then nothing was lost; steady clock."""
    _closed: End | None = None

    def __post_init__(self) -> None:
        # Events are timed by one reading of the wall clock and a clock that only goes forward, so that no step of the
        # wall clock stretches a turn or turns two events round.
        now = self.steady()
        self._offset = self.wall() - now
        self.stored = self.taken = self._heard = self._connected = self._last_frame = now
        self._expires_at = self.now + _FARTHEST_EXPIRY_NS

    @property
    def now(self) -> UnixNano:
        return UnixNano(self.steady() + self._offset)

    @property
    def deaf_until(self) -> UnixNano | None:
        """Since when it has listened without a break and lost nothing; this moment where it does not listen, None where
        it never did."""
        if not self._established:
            return None
        return UnixNano(self._whole_since + self._offset) if self._listening else self.now

    def missed(self) -> None:
        """Something of what it heard is lost."""
        self._whole_since = self.steady()

    def finish(self, end: End) -> None:
        """End it from outside; the first end counts."""
        if self.end is None:
            self.end = end
            if self.task is not None:
                self.task.cancel()

    def check(self, now: int) -> None:
        """End it where its time is over, and see to it that a dead socket is noticed. ``now`` is the steady clock."""
        if self.end is not None:
            return
        timing = self.timing
        if now + self._offset >= self._expires_at + _ns(timing.expiry_grace):
            self.finish(End.EXPIRED)
        elif self._socket is not None:
            if now - max(self._heard, self._connected) >= _ns(timing.silence):
                self.finish(End.SILENCE)
            elif now - self._last_frame >= _ns(2 * timing.ping):
                self._last_frame = now
                self._spawn(self._close(self._socket))
            elif now - max(self._last_frame, self._pinged) >= _ns(timing.ping):
                self._pinged = now
                self._spawn(self._ping(self._socket))

    async def listen(self) -> None:
        """Listen until the call is over, or is known to be out of reach; ``end`` says which. Never raises."""
        try:
            end = await self._listen()
        except Exception as error:  # noqa: BLE001  # one call's bug must not end the others' recorders
            log_bug(_log, "recorder failed", error)
            end = End.FAILED
        if self.end is None:
            self.end = end

    async def _listen(self) -> End:
        failures = 0
        while True:
            answer = await self.connect(self.call_id)
            self.metrics.recorder_connects.labels(answer.reply.value).inc()
            if answer.socket is not None:
                code = await self._read(answer.socket)
                if self._closed is not None:
                    self.end_timed = True
                    return self._closed
                if not self._established:
                    # Let in only to hear that it may not listen: no call of this kind is there, or not yet.
                    answer = ApiAnswer(Reply.NOT_FOUND, reason="refused by an event")
                elif code in _CLOSED_FOR_GOOD:
                    self.end_timed = True
                    return End.CLOSE
                else:
                    _log.info("recorder lost its connection", extra={"call": self.call_id, "code": code})
                self._listening = False
                if self._heard - self._connected >= _ns(self.timing.steady):
                    # One that breaks as soon as it is there, whatever it shows first, is no better than none.
                    failures = 0
            end, seconds = self._wait_after(answer, failures)
            if end is not None:
                return end
            failures += 1
            await asyncio.sleep(seconds)

    def _wait_after(self, answer: ApiAnswer, failures: int) -> tuple[End | None, float]:
        """The end, or seconds until another attempt makes sense."""
        timing = self.timing
        waited = (self.steady() - self._heard) / SECOND
        limit, retry = timing.outage, timing.retry
        gone = End.DISCONNECT
        match answer.reply:
            case Reply.NOT_FOUND if self._established:
                return End.CLOSE, 0.0
            case Reply.NOT_FOUND:
                limit, retry, gone = timing.not_accepted, timing.accept_retry, End.NOT_ACCEPTED
            case Reply.UNAUTHORIZED:
                # Someone must act, so it says what OpenAI's own answer would: but never the key, and not their words.
                _log.error(
                    "the key of receivers.openai.projects may not listen to calls: it must be a standard key of the"
                    " project that the call belongs to",
                    extra={"call": self.call_id, "answer": answer.reason},
                )
                return End.UNAUTHORIZED, 0.0
            case Reply.REFUSED if self._may_pass(answer):
                limit, retry, gone = timing.not_accepted, timing.accept_retry, End.REFUSED
            case Reply.REFUSED:
                _log.error("recorder was refused", extra={"call": self.call_id, "answer": answer.reason})
                return End.REFUSED, 0.0
        seconds = retry.wait(failures + 1, random.random(), answer.retry_after)
        if waited + seconds > limit:
            # One call may be announced under two ids, one of which is never accepted: nothing is wrong with that.
            level = logging.INFO if gone is End.NOT_ACCEPTED else logging.WARNING
            _log.log(level, "recorder gives up", extra={"call": self.call_id, "answer": answer.reason or "closed"})
            return gone, 0.0
        return None, seconds

    def _may_pass(self, answer: ApiAnswer) -> bool:
        """A Live session may be there all the same: nothing is written about what is answered before it is accepted."""
        return self.call_id.startswith(LIVE_IDS) and not self._established and 400 <= answer.status < 500

    async def _read(self, socket: Socket) -> int | None:
        """Read until the socket ends; its close code, None where it ended without."""
        # Per event: this loop is all there is between the socket and the buffer.
        receive, add, read_kind, steady, offset = (
            socket.receive,
            self.buffer.add,
            self.read_kind,
            self.steady,
            self._offset,
        )
        self._socket = socket
        self._listening = True
        refused = False
        self._last_frame = self._connected = self._whole_since = steady()
        try:
            while True:
                message = await receive()
                kind = message.type
                now = self._last_frame = steady()
                if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                    if not self._established:
                        refused = _is_error(message.data)
                        if refused:
                            # It may be all that comes, and then it is of no call.
                            read_kind(_ERROR)
                            continue
                        self._established = True
                    self._heard = now
                    name = add(message.data, UnixNano(now + offset), Side.SERVER)
                    read_kind(name)
                    if name in _SESSIONS:
                        self._read_session(message.data)
                    elif name == CLOSED:
                        # The last that a Live session says, whatever its socket does afterwards.
                        self._closed = _END_OF[ended_by(_member(message.data, "reason"))]
                        return socket.close_code
                elif kind is WSMsgType.PING:
                    await socket.pong(message.data)
                elif kind is not WSMsgType.PONG:
                    return socket.close_code
        except (ConnectionError, aiohttp.ClientError):
            return None
        finally:
            self._socket = None
            self._established |= not refused
            await socket.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self.tasks.create_task(work, name="recorder: frame")

    async def _ping(self, socket: Socket) -> None:
        # The reader finds out by itself what became of the connection.
        with suppress(ConnectionError, aiohttp.ClientError):
            await socket.ping()

    async def _close(self, socket: Socket) -> None:
        with suppress(ConnectionError, aiohttp.ClientError):
            await socket.close()

    def _read_session(self, raw: bytes | str) -> None:
        expires_at = mapping_of(_member(raw, "session")).get("expires_at")
        if isinstance(expires_at, (int, float)) and 0 < expires_at < 1 << 33:
            at = int(expires_at * SECOND)
            # One that is past, or years away, says more of a clock than of the call.
            if self.now < at <= self.now + _FARTHEST_EXPIRY_NS:
                self._expires_at = at


_END_OF = {"close": End.CLOSE, "expired": End.EXPIRED, "disconnect": End.DISCONNECT}


def _member(raw: bytes | str, name: str) -> object:
    """A member of an event; None where there is none."""
    try:
        return mapping_of(orjson.loads(raw)).get(name)
    except ValueError:
        return None


def _is_error(raw: bytes | str) -> bool:
    return _member(raw, "type") == _ERROR


def _ns(seconds: float) -> int:
    return int(seconds * SECOND)
