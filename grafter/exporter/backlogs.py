"""What ``grafter backlog`` asks: what waits for one exporter alone, and to give that up.

A backlog belongs to its exporter by name. Of one that is no longer configured nobody takes anything out, so it stays
until an exporter of that name is there again, or somebody says that it is not wanted.
"""

import logging
from collections.abc import Callable, Collection, Mapping

from grafter.core.model import JsonObject, UnixNano
from grafter.errors import RejectedError
from grafter.store.base import Store
from grafter.store.model import Settlement
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

DROPPED = "backlog_dropped"
"""The reason under which spans count that a command gave up."""
_PAGE = 64


class Backlogs:
    """Answers over a store. Methods raise UnavailableError and RejectedError."""

    def __init__(self, store: Store, exporters: Collection[str], metrics: Metrics, clock: Callable[[], int]) -> None:
        """``exporters``: the names of those that are configured."""
        self._store = store
        self._exporters = exporters
        self._metrics = metrics
        self._clock = clock

    async def answer(self, what: str, body: Mapping[str, object]) -> JsonObject:
        """To one command: a JSON object in, a JSON object out."""
        match what:
            case "list":
                return {"backlogs": self._list()}
            case "drop":
                exporter = body.get("exporter")
                if not isinstance(exporter, str) or not exporter:
                    raise RejectedError("expected the name of an exporter under exporter", reason="shape")
                return await self._drop(exporter)
        raise RejectedError(f"there is no command backlog {what}", reason="shape")

    def _list(self) -> list[JsonObject]:
        now = self._clock()
        return [
            {
                "exporter": name,
                "configured": name in self._exporters,
                "batches": one.batches,
                "spans": one.spans,
                "bytes": one.bytes,
                "oldest_seconds": None if one.oldest is None else (now - one.oldest) / 1e9,
            }
            for name, one in sorted(self._store.stats().backlogs.items())
            if one.batches
        ]

    async def _drop(self, exporter: str) -> JsonObject:
        spans = 0
        while claims := await self._store.claim_deferred(exporter, UnixNano(self._clock()), _PAGE, postponed=True):
            gone = await self._store.settle([Settlement(claim) for claim in claims], UnixNano(self._clock()))
            spans += sum(claim.state.host_spans for claim, own in zip(claims, gone, strict=True) if own)
        if spans:
            self._metrics.dropped_spans.labels(DROPPED).inc(spans)
            logger.warning("%d spans that waited for %s were dropped by command", spans, exporter)
        left = self._store.stats().backlogs.get(exporter)
        return {"exporter": exporter, "spans": spans, "left": 0 if left is None else left.spans}
