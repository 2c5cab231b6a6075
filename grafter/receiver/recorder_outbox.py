"""What recorders heard and the store has not taken yet: handed on in batches, kept while the store is away.

The rules it keeps: what may end a turn is stored within a fraction of a second, everything else within seconds; while
the store does not take it, it is kept, within bounds, and tried again; one part that is refused costs no other.
"""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from grafter.consumer import Consumer
from grafter.core.model import Part
from grafter.core.policy import SECOND
from grafter.errors import RejectedError, UnavailableError
from grafter.logs import Throttle
from grafter.receiver.recording import Recording, Timing
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

# As much as one append should hold.
_BATCH_PARTS = 256
_BATCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RecorderLimits:
    """What recorders may take of this process."""

    burst: int = 200
    """Starts at once; beyond, twenty a second. A busy switchboard begins a few calls a second."""
    recorders: int = 5_000
    """Calls at a time."""
    # An event is about 300 bytes as it is kept, so this is an hour of some hundred calls, or minutes of thousands.
    waiting_bytes: int = 64 << 20
    """Of all calls together, while the store does not take it."""
    pending: int = 500
    """A call's events are made a part at this count while the store takes none, to know their size."""


@dataclass(slots=True, eq=False, repr=False)
class Outbox:
    """The way from recordings to the store. Times are those of the steady clock, in nanoseconds."""

    consumer: Consumer
    metrics: Metrics
    timing: Timing
    limits: RecorderLimits
    _waiting_bytes: int = 0
    _try_after: int = 0
    _throttle: Throttle = field(default_factory=Throttle)

    async def store(self, recordings: Iterable[Recording], now: int, *, everything: bool = False) -> None:
        """Hand on what is due. Never raises for what the store does."""
        if now < self._try_after and not everything:
            self.put_aside(recordings, now)
            return
        batch: list[tuple[Recording, Part]] = []
        size = 0
        for recording in recordings:
            if recording.parts and not everything:
                # It was refused before; first that.
                self._put_aside(recording, now)
            elif everything or self._is_due(recording, now):
                self.take(recording, now)
            for part in list(recording.parts):
                batch.append((recording, part))
                size += len(part.payload)
                if len(batch) >= _BATCH_PARTS or size >= _BATCH_BYTES:
                    await self._hand_on(batch, now)
                    batch, size = [], 0
        await self._hand_on(batch, now)

    def pause(self, now: int, seconds: float) -> None:
        """Try the store no more for so long."""
        self._try_after = now + int(seconds * SECOND)

    def put_aside(self, recordings: Iterable[Recording], now: int) -> None:
        """While the store does not take parts: keep what fits."""
        for recording in recordings:
            self._put_aside(recording, now)

    def take(self, recording: Recording, now: int) -> None:
        """Make a part of what a recording has heard."""
        part = recording.buffer.take()
        recording.taken = now
        if part is not None:
            recording.parts.append(part)
            self._waiting_bytes += len(part.payload)

    def forget(self, recording: Recording, parts: Collection[Part]) -> None:
        """These parts are stored, or never will be."""
        for part in parts:
            for at, one in enumerate(recording.parts):
                if one is part:
                    del recording.parts[at]
                    self._waiting_bytes -= len(part.payload)
                    break

    def left(self, ended: Iterable[Recording], now: int) -> list[Recording]:
        """Those that are not stored yet; one that waited too long is given up."""
        waiting = [recording for recording in ended if recording.parts or recording.buffer.pending]
        late = [one for one in waiting if now - one.stored >= self.timing.outage * SECOND]
        self.lose(late, "unavailable")
        return [one for one in waiting if one not in late]

    def lose(self, ended: Iterable[Recording], reason: str) -> None:
        """Give up what is left of ended recordings."""
        for recording in ended:
            count = len(recording.parts) + recording.buffer.pending
            self.metrics.recorder_lost_events.labels(reason).inc(count)
            _log.error("the end of a recorded call is lost", extra={"call": recording.call_id, "reason": reason})
            self.forget(recording, list(recording.parts))

    async def _hand_on(self, batch: list[tuple[Recording, Part]], now: int) -> None:
        if not batch:
            return
        try:
            await self.consumer.consume([part for _, part in batch])
        except UnavailableError as error:
            self.pause(now, max(error.retry_after, self.timing.tick))
            return
        except RejectedError as error:
            if len(batch) > 1:
                # One of them is refused; which one, only each alone can say.
                for one in batch:
                    await self._hand_on([one], now)
                return
            recording, part = batch[0]
            _log.error("the store refused events of a call", extra={"call": recording.call_id, "reason": error.reason})
            self.metrics.recorder_lost_events.labels("refused").inc()
            recording.missed()
            self.forget(recording, [part])
            return
        for recording, part in batch:
            recording.stored = now
            self.forget(recording, [part])

    def _is_due(self, recording: Recording, now: int) -> bool:
        buffer = recording.buffer
        if not buffer.pending:
            return False
        late = now - recording.taken >= self.timing.store * SECOND
        return late or buffer.urgent or recording.end is not None

    def _put_aside(self, recording: Recording, now: int) -> None:
        """The oldest is kept, for it has what began the call."""
        buffer = recording.buffer
        if buffer.pending < self.limits.pending:
            return
        if self._waiting_bytes < self.limits.waiting_bytes:
            self.take(recording, now)
            return
        count = buffer.pending
        buffer.take()
        recording.missed()
        self.metrics.recorder_lost_events.labels("unavailable").inc(count)
        if events := self._throttle.due(count=count):
            _log.error("recorded calls lose events: the store does not take them", extra={"events": events})
