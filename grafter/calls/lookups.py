"""Lookups by phone number: each stands in the log, and nobody may ask for many of them."""

import logging
from collections import OrderedDict, deque
from collections.abc import Sequence

from grafter.core.policy import SECOND
from grafter.errors import UnavailableError

logger = logging.getLogger(__name__)

_WINDOW_NS = 60 * SECOND
_MOST_WHO = 10_000


class Lookups:
    """Whoever has the page or the commands could try all numbers: so each of them has a rate."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._recent: OrderedDict[str, deque[int]] = OrderedDict()

    def admit(self, who: str, hashes: Sequence[str], now: int) -> None:
        """Count a lookup by number. Raises UnavailableError (reason ``rate``) where they come too often."""
        recent = self._recent.setdefault(who, deque())
        self._recent.move_to_end(who)
        if len(self._recent) > _MOST_WHO:
            self._recent.popitem(last=False)
        while recent and recent[0] <= now - _WINDOW_NS:
            recent.popleft()
        if len(recent) >= self._per_minute:
            seconds = max(1.0, (recent[0] + _WINDOW_NS - now) / SECOND)
            logger.warning("too many lookups by number", extra={"who": who, "number_hash": hashes[0]})
            message = f"more than {self._per_minute} lookups by number in a minute; again in {seconds:.0f} s"
            raise UnavailableError(message, retry_after=seconds, reason="rate")
        recent.append(now)

    def log(self, who: str, hashes: Sequence[str], found: int, what: str = "looked up") -> None:
        """The line of the audit: who, and the keyed hash of the number, never the number."""
        logger.info("a number was %s", what, extra={"who": who, "number_hash": hashes[0], "calls": found})
