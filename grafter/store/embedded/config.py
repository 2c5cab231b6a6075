"""``extensions.store.embedded``: its keys, and how it is opened."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grafter.config.model import Flag, Model, PositiveDuration, Word
from grafter.config.units import Duration

if TYPE_CHECKING:
    from grafter.store.embedded import store as embedded


class EmbeddedStore(Model):
    """A store in this process."""

    directory: Word = "./grafter-data"
    """Where it keeps its files; one process at a time."""
    memory: Flag = False
    """True: nothing is written to disk, and a stop forgets what is held."""
    fsync: Literal["interval", "always"] = "interval"
    """When written bytes are forced to disk: every `fsync_interval`, or before each answer. Either survives the end of
    the process; a power cut costs at most the interval."""
    fsync_interval: PositiveDuration = Duration.parse("1s")
    """For `fsync: interval`."""

    def describe(self) -> str:
        return f"embedded, {'in memory' if self.memory else self.directory}"

    def open(
        self, common: dict[str, Any], memory_bytes: int | None, exporters: Sequence[str] = ()
    ) -> AbstractAsyncContextManager["embedded.EmbeddedStore"]:
        """The store, until left; ``common``: what every store takes, ``memory_bytes``: what the process may
        use, ``exporters``: to whom traces leave."""
        from grafter.store.embedded.opening import opened
        from grafter.store.embedded.part_reader import affordable

        return opened(
            None if self.memory else Path(self.directory),
            fsync=self.fsync,
            fsync_interval=self.fsync_interval.seconds,
            recent_bytes=affordable(memory_bytes),
            exporters=exporters,
            **common,
        )
