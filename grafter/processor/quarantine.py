"""Traces that cannot leave, and their way into the dead-letter box: none is lost in silence.

What a peer refuses for good is kept with its reason. One that cannot be read or assembled is set aside alone, tried
again a few times, and then kept as it is: a bug that one odd trace meets, or a damaged block of the disk, must not hold
up the traces that fell due beside it.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from grafter.consumer import OutTrace, Piece, Result
from grafter.core.model import Key, UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.logs import Throttle
from grafter.otlp import build
from grafter.store.base import Store
from grafter.store.model import Claim, DeadLetter, Settlement, StoredPart
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

FULL_BOX_SECONDS = 60
"""After which what a full dead-letter box did not take is brought again."""
_TRIES = 5
# One end may be anybody's doing, and two a coincidence.
DEATHS = 3
# 2, 4, 8 … seconds: a disk that hiccups or a store that is short for a moment has time to come back.
_BACKOFF = 2 * SECOND
# More keys than this in trouble at once is no longer an odd trace; the oldest count is given up.
_MAX_KEYS = 10_000
# Trace ids that one line of the log has.
_MOST_IDS = 5


Refused = tuple[Key, OutTrace, Result]
"""Under which key it is held, what left, and what was said of it."""


class RefusedTraces:
    def __init__(self, store: Store, metrics: Metrics, clock: Callable[[], int]) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._throttle = Throttle()

    async def keep(self, exporter: str, refused: Sequence[Refused]) -> int:
        """How many of them are kept, the first ones; there was no room for the others. What the peer took of those was
        counted as sent, and goes out once more with the rest: it counts as recovered. Raises UnavailableError."""
        now = UnixNano(self._clock())
        parts = [(key, result.reason, result.part or trace) for key, trace, result in refused]
        letters = [
            DeadLetter(key, exporter, reason, now, part.spans, build.request([part])) for key, reason, part in parts
        ]
        added = await self._store.add_dead_letters(letters)
        _count_pushed_out(self._metrics, added.pushed_out)
        kept = letters[: added.kept]
        for letter in kept:
            self._metrics.dead_spans.labels(exporter, "refused").inc(letter.spans)
        if kept:
            logger.error(
                "%s refused %d traces for good; they are in the dead-letter box (%s): %s",
                exporter,
                len(kept),
                _ids(kept),
                kept[0].reason,
            )
        left = letters[len(kept) :]
        # They are brought again and again.
        if left and self._throttle.due(exporter):
            logger.error(
                "the dead-letter box is full: %d traces that %s refused stay held (%s); see `grafter dead list`: %s",
                len(left),
                exporter,
                _ids(left),
                left[0].reason,
            )
        for _, trace, result in refused[len(kept) :]:
            self._metrics.recovered_spans.inc(taken_of(trace, result))
        return added.kept


def taken_of(trace: OutTrace, result: Result) -> int:
    """How many spans of a trace that was refused the peer took all the same."""
    return 0 if result.part is None else trace.spans - result.part.spans


def _count_pushed_out(metrics: Metrics, spans: int) -> None:
    """Letters that had to go for newer ones are lost, as whoever set the box up wanted: counted, and said."""
    if spans:
        metrics.dropped_spans.labels("dead_letters_full").inc(spans)
        logger.error("the dead-letter box is full: its oldest letters, %d spans, were dropped", spans)


class Quarantine:
    def __init__(self, store: Store, metrics: Metrics, clock: Callable[[], int]) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._failures: dict[Key, int] = {}

    async def read(self, claims: Sequence[Claim], made: Callable[[Claim, Sequence[StoredPart]], _T]) -> list[_T | None]:
        """What ``made``, which may raise UnavailableError too, makes of the parts of each claim; None for one that
        cannot be read while others can: it is set aside. Raises UnavailableError where none can."""
        try:
            return [made(claim, own) for claim, own in zip(claims, await self._store.read(claims), strict=True)]
        except UnavailableError:
            if len(claims) == 1:
                raise
        found: list[_T | None] = []
        failures: list[tuple[Claim, UnavailableError]] = []
        for claim in claims:
            try:
                (own,) = await self._store.read([claim])
                found.append(made(claim, own))
            except UnavailableError as error:
                found.append(None)
                failures.append((claim, error))
        if len(failures) == len(claims):
            raise failures[0][1]
        for claim, failure in failures:
            await self._unreadable(claim, failure, UnixNano(self._clock()))
        return found

    async def _unreadable(self, claim: Claim, error: Exception, now: UnixNano) -> None:
        """In the end it is given up, and counted."""
        if await self._again(claim, error, now):
            return
        spans = claim.state.host_spans + claim.state.guest_spans
        if all(await self._store.settle([Settlement(claim)], now)):
            what = _named(claim)
            logger.error("%s cannot be read and is given up, %d spans: %s", what, spans, error)
            self._metrics.dropped_spans.labels("backlog_unreadable" if claim.waits_for else "unreadable").inc(spans)

    async def assembling(self, claim: Claim, parts: Sequence[StoredPart], error: Exception, now: UnixNano) -> None:
        """It could not be assembled. In the end its parts go to the dead-letter box as they came."""
        if await self._again(claim, error, now):
            return
        reason = f"could not be assembled: {type(error).__name__}"
        await self._to_dead_letters(claim, parts, reason, "unassembled", now, error)

    async def deadly(self, claims: Sequence[Claim], now: UnixNano) -> list[Claim]:
        """The claims without those on which processes ended too often: these go to the dead-letter box as they came."""
        left = [claim for claim in claims if claim.deaths < DEATHS]
        # A kill leaves hundreds of traces like this: one line, and not one each.
        if suspects := [claim for claim in left if claim.deaths]:
            logger.warning(
                "%d traces are tried apart from others, trace %s among them: up to %d processes ended while at"
                " work on each",
                len(suspects),
                suspects[0].key.hex(),
                max(claim.deaths for claim in suspects),
            )
        for claim in claims:
            if claim.deaths >= DEATHS:
                (parts,) = await self._store.read([claim])
                await self._to_dead_letters(claim, parts, f"ended the process {claim.deaths} times", "deadly", now)
        return left

    async def _to_dead_letters(
        self,
        claim: Claim,
        parts: Sequence[StoredPart],
        reason: str,
        label: str,
        now: UnixNano,
        error: Exception | None = None,
    ) -> None:
        """Keep the parts as dead letters, and settle the claim; where the box is full it stays held."""
        host = [part for part in parts if part.envelope is not None]
        spans = sum(part.spans for part in parts)
        letters = []
        if host:
            trace = OutTrace(claim.key, cast("tuple[Piece, ...]", tuple(host)), sum(part.spans for part in host))
            letters.append(DeadLetter(claim.key, "none", reason, now, trace.spans, build.request([trace])))
        letters += [
            DeadLetter(claim.key, "none", f"{reason} (OpenAI items)", now, part.spans, part.payload)
            for part in parts
            if part.guest is not None
        ]
        added = await self._store.add_dead_letters(letters, together=True)
        _count_pushed_out(self._metrics, added.pushed_out)
        if added.kept < len(letters):
            logger.error("trace %s %s, and stays held: the dead-letter box is full", claim.key.hex(), reason)
            await self._store.postpone([(claim, UnixNano(now + FULL_BOX_SECONDS * SECOND))])
            return
        logger.error("trace %s %s; it is in the dead-letter box as it came", claim.key.hex(), reason, exc_info=error)
        if all(await self._store.settle([Settlement(claim)], now)):
            self._metrics.dead_spans.labels("none", label).inc(spans)

    async def _again(self, claim: Claim, error: Exception, now: UnixNano) -> bool:
        failures = self._failures.pop(claim.key, 0) + 1
        if failures > _TRIES:
            return False
        if len(self._failures) >= _MAX_KEYS:
            del self._failures[next(iter(self._failures))]
        self._failures[claim.key] = failures
        if failures == 1:
            logger.warning("%s is set aside and tried again", _named(claim), exc_info=error)
        await self._store.postpone([(claim, UnixNano(now + (_BACKOFF << (failures - 1))))])
        return True


def _named(claim: Claim) -> str:
    return f"a batch that waits for {claim.waits_for}" if claim.waits_for else f"trace {claim.key.hex()}"


def _ids(letters: Sequence[DeadLetter]) -> str:
    """Their trace ids, as many as a line of a log can have."""
    ids = [letter.key.hex() for letter in letters[:_MOST_IDS]]
    return ", ".join(ids) + (f" and {len(letters) - _MOST_IDS} more" if len(letters) > _MOST_IDS else "")
