"""What a peer refuses for good is kept with its reason: it is never lost in silence."""

import logging
from collections.abc import Callable, Sequence

from grafter.consumer import OutTrace, Result
from grafter.core.model import Key, UnixNano
from grafter.logs import Throttle
from grafter.otlp import build
from grafter.processor.quarantine import count_pushed_out
from grafter.store.base import Store
from grafter.store.model import DeadLetter
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

_NAMED = 5

Refused = tuple[Key, OutTrace, Result]
"""Under which key it is held, what left, and what was said of it."""


class RefusedTraces:
    def __init__(self, store: Store, metrics: Metrics, clock: Callable[[], int]) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._throttle = Throttle()

    async def keep(self, exporter: str, refused: Sequence[Refused]) -> int:
        """How many of them are kept, the first ones; there was no room for the others. Raises UnavailableError."""
        now = UnixNano(self._clock())
        parts = [(key, result.reason, result.part or trace) for key, trace, result in refused]
        letters = [
            DeadLetter(key, exporter, reason, now, part.spans, build.request([part])) for key, reason, part in parts
        ]
        added = await self._store.add_dead_letters(letters)
        count_pushed_out(self._metrics, added.pushed_out)
        kept = letters[: added.kept]
        for letter in kept:
            self._metrics.dead_spans.labels(exporter, "refused").inc(letter.spans)
        if kept:
            logger.error(
                "%s refused %d traces for good; they are in the dead-letter box (%s): %s",
                exporter,
                len(kept),
                _named(kept),
                kept[0].reason,
            )
        left = letters[len(kept) :]
        # They are brought again and again.
        if left and self._throttle.due(exporter):
            logger.error(
                "the dead-letter box is full: %d traces that %s refused stay held (%s); see `grafter dead list`: %s",
                len(left),
                exporter,
                _named(left),
                left[0].reason,
            )
        return added.kept


def _named(letters: Sequence[DeadLetter]) -> str:
    """Their trace ids, as many as a line of a log can have."""
    ids = [letter.key.hex() for letter in letters[:_NAMED]]
    return ", ".join(ids) + (f" and {len(letters) - _NAMED} more" if len(letters) > _NAMED else "")
