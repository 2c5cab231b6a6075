"""``extensions.store``: which store there is, what all stores have in common, and how the one is opened."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, TypeAlias

from grafter.config.model import Component, Model, PositiveDuration, PositiveSize
from grafter.config.problems import Finding
from grafter.config.units import Duration, Size
from grafter.core.policy import GraftPolicy, Mode
from grafter.store.embedded.config import EmbeddedStore
from grafter.store.redis.config import RedisStore

if TYPE_CHECKING:
    from grafter.store.embedded import store as embedded
    from grafter.store.redis import store as shared

    OpenedStore: TypeAlias = embedded.EmbeddedStore | shared.RedisStore


class DeadLetterBox(Model):
    """Where spans go that a backend refuses for good; `grafter dead` lists them and sends them again."""

    max_bytes: PositiveSize = Size.parse("64MiB")
    """Bytes that it may hold."""
    when_full: Literal["hold", "drop_oldest"] = "hold"
    """`hold`: what is refused then stays held, until there is room. `drop_oldest`: the oldest letters are dropped and
    counted."""


class StoreExtension(Component):
    """What holds traces until they are released."""

    embedded: EmbeddedStore = EmbeddedStore()
    """A store in this process."""
    redis: RedisStore | None = None
    """A Redis that replicas share, in place of `embedded`; null: none."""
    max_bytes: PositiveSize = Size.parse("4GiB")
    """Live bytes past which the doors refuse."""
    max_trace_bytes: PositiveSize = Size.parse("64MiB")
    """Bytes past which one trace is released early."""
    dead_letters: DeadLetterBox = DeadLetterBox()
    """Where spans go that a backend refuses for good."""
    lease: PositiveDuration = Duration.parse("10s")
    """How long a trace belongs to a process that went silent."""

    @property
    def shared(self) -> bool:
        """Whether several processes may use it at a time; the embedded one belongs to one process."""
        return self.redis is not None

    def describe(self) -> str:
        return f"{(self.redis or self.embedded).describe()}, up to {self.max_bytes}"

    def findings(self) -> Iterator[Finding]:
        """A trace fits into the store, and there is one store."""
        if self.max_trace_bytes > self.max_bytes:
            larger = f"{self.max_trace_bytes} is more than max_bytes, {self.max_bytes}"
            yield Finding(("max_trace_bytes",), larger, also=(("max_bytes",),))
        if self.redis is not None and self.embedded != EmbeddedStore():
            both = "stands beside embedded; a store is one or the other"
            yield Finding(("redis",), both, also=(("embedded",),))

    def open(
        self,
        policy: GraftPolicy,
        memory_bytes: int | None,
        replica: bytes = b"",
        exporters: Sequence[str] = (),
        waiting: Callable[[str], None] | None = None,
        goodbye_seconds: float = 2.0,
    ) -> AbstractAsyncContextManager["OpenedStore"]:
        """The store, until left. ``memory_bytes``: what the process may use, None where that is not known;
        ``replica``: by which a store that is shared knows this process; ``exporters``: to whom traces leave.
        ``waiting``: is told, again and again, why a server cannot be used yet, and that is waited for as long as it
        takes; None: for half a minute. ``goodbye_seconds``: how long leaving may wait for a server.

        Raises OSError, with a message for people, when it cannot be used.
        """
        common = {
            "waits": policy.waits,
            "max_bytes": self.max_bytes,
            "max_trace_bytes": self.max_trace_bytes,
            "lease_ns": int(self.lease),
            "guests_apart": policy.mode is Mode.STREAM,
            "letter_bytes": int(self.dead_letters.max_bytes),
            "drop_oldest_letters": self.dead_letters.when_full == "drop_oldest",
        }
        if self.redis is not None:
            return self.redis.open({**common, "goodbye_seconds": goodbye_seconds}, replica, waiting)
        return self.embedded.open(common, memory_bytes, exporters)


def error_of(store: "OpenedStore") -> str:
    """What is wrong with the store now, for people; empty when nothing is."""
    if store.error:
        return store.error
    if not store.up:
        return "not taking parts"
    if store.full:
        return "full"
    if warning := getattr(store, "warning", ""):
        return str(warning)
    unreadable = store.stats().unreadable
    return f"{unreadable} held traces wait for the newer version of grafter that wrote them" if unreadable else ""
