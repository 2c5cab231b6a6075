"""Sums that late guests state beside a host that has left: of waits or of runs, whichever was stated first.

Both may lie within each other, so they are never added up (see ``latencies``). Guests that come late leave under keys
of their own, two of them perhaps in one moment, or from two replicas, and none knows what another one states. So before
the first sums of a host leave, what they are of is noted in the store under the host's id. A note that stands never
changes, whoever asks: who finds the other kind there states no sums. The note of a release that never arrives stands
too; then a sum is missing rather than there twice.
"""

from collections.abc import Awaitable, Callable

from grafter.core.memory_blobs import decode_trace
from grafter.core.model import TraceId, UnixNano, guest_key
from grafter.processor.release_result import Assembled
from grafter.store.base import Store

# No id of OpenAI's, nor a rule's, begins so.
_NOTE = "grafter.sums "


class SumsBeside:
    """Asks the store, also a full one, and has a release made again that lost."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def agreed(
        self, host: TraceId, out: Assembled, again: Callable[[str], Awaitable[Assembled]], now: UnixNano
    ) -> Assembled:
        """What leaves, once it is known that nobody has stated sums of the other kind beside this host; else what
        ``again`` makes of the same when it is told what those are of. Repeated, the answer is the same.

        Raises UnavailableError when the store cannot be asked.
        """
        if not out.summed or out.trace is None:
            return out
        stated = await self._by_older(host, now) or out.summed
        stands = await self._store.first_link(f"{_NOTE}{host.hex()}", stated, now)
        return out if stands == out.summed else await again(stands)

    async def _by_older(self, host: TraceId, now: UnixNano) -> str:
        """What an older version stated beside the host: it left a memory, under a guest's key of no guest."""
        (memory,) = await self._store.recall([guest_key(f"\0sums:{host.hex()}")], now)
        known = None if memory is None else decode_trace(memory.blob)
        return "" if known is None else known.summed
