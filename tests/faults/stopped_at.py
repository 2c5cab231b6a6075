"""grafter that gets a SIGTERM, as from outside, at a moment of its work that $STOPPED_AT names.

Run as ``python -m tests.faults.stopped_at run --config FILE``, in grafter's place.
"""

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

from grafter.cli import main, root
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.redis.store import RedisStore

START = ("config", "store")
"""While the config is read, and when the store is there and no door is."""
WORK = ("append", "claim", "read", "record", "settle")
"""What it asks of its store for a trace, in this order: the stop comes as it asks, and as it has the answer."""
MOMENTS = (*START, *(f"{when} {what}" for what in WORK for when in ("before", "after")))
STORES = (EmbeddedStore, RedisStore)

_left, _stored = 1, False


def stop() -> None:
    """The first time that it comes here."""
    global _left
    if _left:
        _left -= 1
        os.kill(os.getpid(), signal.SIGTERM)


def stopping(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same work, behind a stop."""

    @functools.wraps(work)
    def stopped(*args: Any, **more: Any) -> Any:
        stop()
        return work(*args, **more)

    return stopped


def at_work(name: str, work: Callable[..., Any], moment: str) -> Callable[..., Any]:
    """The same work, and a stop if this is the moment; not while it looks in vain for what is due."""

    @functools.wraps(work)
    async def asked(*args: Any, **more: Any) -> Any:
        global _stored
        if moment == f"before {name}" and (_stored or name == "append"):
            stop()
        found = await work(*args, **more)
        _stored |= name == "append"
        if moment == f"after {name}" and found != []:
            stop()
        return found

    return asked


if __name__ == "__main__":
    at = os.environ["STOPPED_AT"]
    if at == "config":
        root.read_config = stopping(root.read_config)
    for store in STORES:
        if at == "store":
            store.hmac_secret = stopping(store.hmac_secret)  # type: ignore[method-assign]
        for what in WORK:
            setattr(store, what, at_work(what, getattr(store, what), at))
    main()
