"""Start and stop of the store of one process, in a directory or in memory.

What was held before the start is summed up on a thread while receivers already append, then taken in. Until it is taken
in nothing may be claimed: a key that is held now may have older parts, or may have left.

A process that is killed leaves what it has written to the kernel, and that is all there at the next start. A power cut
takes what was not brought to the disk yet: also what says of a trace that it has left. So a file names the boot in
which a process works, and says when one ended in order (``BootMark``). Linux only: elsewhere no boot has a name, and
nothing is known.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from grafter.core.model import Key, UnixNano
from grafter.core.policy import Waits
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.embedded.directory import Files, Reserve, open_files
from grafter.store.embedded.index import Index
from grafter.store.embedded.metadata_db import MetadataDB
from grafter.store.embedded.part_reader import RECENT_BYTES, RecentRecords
from grafter.store.embedded.segment_file import Damage, Record
from grafter.store.embedded.segments import SegmentLog
from grafter.store.embedded.settling import Begun
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.embedded.writer import Op
from grafter.store.model import Outcome
from grafter.store.records import Place, RecordError, RecordType

_LOG = logging.getLogger(__name__)

SEGMENT_BYTES = 64 << 20
LETTER_BYTES = 64 << 20
# A trace that ends with its root is released soon after ``after_root``.
_RECENT_MARGIN = 2_000_000_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ENDED = "ended"
_ANSWERED = frozenset({Outcome.ACCEPTED, Outcome.REFUSED})
_ROW_KEYS = 10_000


@asynccontextmanager
async def opened(
    directory: Path | None,
    *,
    waits: Waits,
    max_bytes: int,
    max_trace_bytes: int,
    lease_ns: int,
    guests_apart: bool,
    fsync: str = "interval",
    fsync_interval: float = 1.0,
    clock: Callable[[], int] = time.time_ns,
    segment_bytes: int = SEGMENT_BYTES,
    letter_bytes: int = LETTER_BYTES,
    drop_oldest_letters: bool = False,
    recent_bytes: int = RECENT_BYTES,
    exporters: Sequence[str] = (),
) -> AsyncIterator[EmbeddedStore]:
    """Open the store in a directory, which is made when it is missing; None keeps everything in memory.

    ``fsync``: ``interval`` brings what was written to the disk every ``fsync_interval`` seconds, ``always`` before
    append returns. Past ``letter_bytes`` of dead letters the oldest go (``drop_oldest_letters``), or no more are taken.
    ``recent_bytes`` bounds what is kept in memory of the records written last. ``clock`` (Unix nanoseconds) says how
    old memories are at start. ``exporters``: to whom traces leave; after a power cut, which takes what ``interval`` had
    not brought to the disk yet, an intent stands for each of them. On leaving, what is queued is written and brought to
    the disk; what is held stays.

    Raises StoreError when the directory cannot be used.
    """
    if fsync not in ("interval", "always"):
        raise ValueError(f"fsync is {fsync!r}, expected 'interval' or 'always'")

    ledger = partial(
        MetadataDB,
        remember=waits.remember,
        remember_limit=waits.remember_limit,
        remember_bytes=waits.remember_bytes,
        letter_bytes=letter_bytes,
        drop_oldest_letters=drop_oldest_letters,
        task_lease=lease_ns,
    )

    def index() -> Index:
        return Index(
            files.metadata,
            waits,
            apart=guests_apart,
            max_trace_bytes=max_trace_bytes,
            lease=lease_ns,
            arrival=0 if files.log is None else files.log.arrival,
            keeps_objects=files.log is None,
        )

    if directory is None:
        files = Files(ledger(None), Reserve(None, 0))
    else:
        files = await asyncio.to_thread(open_files, directory, segment_bytes, ledger)
    boot = BootMark(directory)
    with ExitStack() as left:
        left.callback(files.release)
        left.callback(lambda: boot.end() if files.synced else None)
        left.callback(files.close)
        begun = Begun(directory)
        left.callback(begun.close)
        store = EmbeddedStore(
            files,
            begun,
            index(),
            RecentRecords(recent_bytes, waits.after_root + _RECENT_MARGIN),
            moment=UnixNano(max(clock(), files.metadata.moment())),
            max_bytes=max_bytes,
            fsync_interval=None if fsync == "always" else fsync_interval,
        )

        try:
            _begin(store, index(), boot, exporters, lasting=fsync == "always")
            yield store
        finally:
            await store.stop()


def _begin(store: EmbeddedStore, older: Index, boot: "BootMark", exporters: Sequence[str], *, lasting: bool) -> None:
    """Begin to write, and to read into ``older``, which is empty, what was held before."""
    seen_to = partial(boot.begin, lasting=lasting)
    log = store.log if store.log is not None and store.log.segments else None
    if log is not None:
        recovery = Recovery(store, log, exporters if boot.cut_off else (), seen_to)
        store.older = older
        store.recovering = asyncio.get_running_loop().create_task(recovery.run(older), name="store.recovery")
    store.writer.start()
    if log is None:
        store.open_for_claims()
    if log is None or not boot.cut_off:
        seen_to()


class Recovery:
    """Made before anything is written to the log: what it has then is what is recovered."""

    def __init__(
        self, store: EmbeddedStore, log: SegmentLog, left_to: Sequence[str], seen_to: Callable[[], None]
    ) -> None:
        """``left_to``: exporters to which whatever was due may have left, for a power cut took the last that was
        written. An intent stands for it from now on; when those are on the disk ``seen_to`` is called, on a thread."""
        self._store = store
        self._log = log
        self._segments = list(log.segments.values())
        self._left_to = left_to
        self._seen_to = seen_to
        self._may_have_left: dict[str, list[tuple[Key, int]]] = {}
        self._latest = 0
        """When the last part of what was held came."""
        self._nobodys: list[tuple[Key, int]] = []
        """Batches of which nothing says for whom they wait."""

    async def run(self, older: Index) -> None:
        """Read on a thread into ``older``, which is empty, and have the store's own index take it in; ends early, at
        the next record, when the store is stopping."""
        store = self._store
        try:
            damage = await asyncio.get_running_loop().run_in_executor(store.pool, self._rebuild, older)
        except Exception:  # noqa: BLE001  # without it this would end unseen, and claims wait for ever
            _LOG.exception("what was held before the start cannot be read; nothing is released")
            store.writer.up = False
            return
        if damage is not None and not store.writer.stopping:
            self._take_in(older, damage)
            if self._left_to:
                await self._write_intents()
            store.open_for_claims()

    def _rebuild(self, older: Index) -> Damage | None:
        """Sum up the old segments, on a thread; None when the writer is stopping. Raises OSError and sqlite3.Error."""
        damage = Damage()
        for segment in self._segments:
            for record in self._log.scan(segment, damage):
                if self._store.writer.stopping:
                    return None
                try:
                    _replay(older, record, segment.number)
                except RecordError as error:
                    damage.records += 1
                    _LOG.error("a record in %s cannot be read: %s", segment.path.name, error)
        self._latest = max([entry.last for entry in older.table.entries.values()], default=0)
        older.placement.recall(self._store.moment)
        for exporter in self._left_to:
            self._may_have_left[exporter] = _intend_all(older, exporter, self._store.moment)
        older.due_queue.refill(older.table.entries)
        self._nobodys = [
            (key, entry.arrival)
            for key, entry in older.table.entries.items()
            if entry.facts & records.DEFERRED and not entry.waits_for
        ]
        return damage

    def _take_in(self, older: Index, damage: Damage) -> None:
        store, index = self._store, self._store.index
        nobodys = sum([older.table.entries[key].host_spans for key, _ in self._nobodys])
        spans = older.table.spans - nobodys - sum([one.spans for one in older.table.backlogs.values()])
        store.recovered_spans += spans
        store.counts.lost_records += damage.records
        store.counts.torn_bytes += damage.torn
        if damage.records:
            _LOG.error(
                "%d damaged records (%d bytes) of the store are lost; everything else was read",
                damage.records,
                damage.bytes,
            )
            if nobodys:
                _LOG.error(
                    "among them those that say for which exporter %d put off spans waited: these are lost", nobodys
                )
        _LOG.info(
            "recovered %d spans of %d traces; %d bytes were never acknowledged and are cut off",
            spans,
            len(older.table.entries),
            damage.torn,
        )
        guests = index.absorb(older)
        self._store.older, self._segments = None, []
        for key, host in index.placement.stray_guests(guests, store.moment):
            move = index.placement.move_all(key, host)
            row = (RecordType.PARTS, records.move_body(move))
            # Where this fails it stays under its own key, and is released from there.
            store.write_about([key], row, partial(index.move, move)).add_done_callback(lambda done: done.exception())
        if self._nobodys:
            # A power cut took what came behind them: for whom they wait, and the settlement of what they are of.
            row = (RecordType.SETTLE, [records.encode_keys(self._nobodys)])
            store.writer.submit(Op(self._forget_nobodys, [row])).add_done_callback(lambda done: done.exception())
        # It is in the ledger too, unless that was damaged.
        store.moment = UnixNano(max(store.moment, self._latest))

    async def _write_intents(self) -> None:
        traces = max(map(len, self._may_have_left.values()))
        if traces:
            _LOG.warning(
                "the machine ended while grafter was at work, and what was written last is gone: %d traces that were "
                "due may have left, and are sent marked grafter.resend=true",
                traces,
            )
        rows = [
            (RecordType.OUTCOME, [records.encode_outcome(exporter, Outcome.INTENDED, keys[i : i + _ROW_KEYS])])
            for exporter, keys in self._may_have_left.items()
            for i in range(0, len(keys), _ROW_KEYS)
        ]
        self._may_have_left = {}
        try:
            for row in rows:
                await self._store.writer.submit(Op(lambda _: None, [row]))
            await asyncio.get_running_loop().run_in_executor(self._store.pool, self._sync)
        except (OSError, UnavailableError) as error:
            # They stand in memory, and the next start does the same again.
            _LOG.warning("that traces may have left could not be written: %s", error)

    def _sync(self) -> None:
        self._log.sync()
        self._seen_to()

    def _forget_nobodys(self, _: list[Place]) -> None:
        for key, up_to in self._nobodys:
            self._store.index.settle(key, up_to, None)


def _intend_all(index: Index, exporter: str, now: UnixNano) -> list[tuple[Key, int]]:
    """Let an intent stand for each key that was due, where no answer of the exporter's does."""
    intended = []
    for key, entry in index.table.entries.items():
        attempt = entry.attempt
        if attempt is not None and attempt.outcomes.get(exporter) in _ANSWERED:
            continue
        if entry.facts & records.DEFERRED:
            # A batch of a backlog waits for nothing but its exporter.
            if entry.waits_for != exporter:
                continue
        elif attempt is None and index.due_queue.compute_due(key, entry) > now:
            continue
        up_to = entry.up_to
        index.outcome(key, up_to, exporter, Outcome.INTENDED)
        intended.append((key, up_to))
    return intended


def _replay(index: Index, record: Record, segment: int) -> None:
    """Apply one record. Raises RecordError for what this version cannot read."""
    if record.version > records.VERSION:
        raise RecordError(f"it has version {record.version}, this grafter reads {records.VERSION}")
    match record.type:
        case RecordType.PARTS:
            parts = records.decode_parts(record.body)
            for move in parts.moves:
                index.move(move)
            for key, row, (_, guest) in zip(parts.keys, parts.rows, records.guests_of(record.body, parts), strict=True):
                index.restore(key, row, segment, record.offset, guest)
        case RecordType.OUTCOME:
            exporter, outcome, keys = records.decode_outcome(record.body)
            for key, up_to in keys:
                index.outcome(key, up_to, exporter, outcome)
        case RecordType.SETTLE:
            for key, up_to in records.decode_keys(record.body):
                index.settle(key, up_to, None)
        case _:
            raise RecordError(f"it has the unknown type {record.type}")


def boot_id() -> str:
    """The name of this boot of the machine; empty where it has none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


class BootMark:
    """The file of one directory."""

    def __init__(self, directory: Path | None, boot: str | None = None) -> None:
        """``boot``: the name of this boot; None: the machine's own."""
        self._directory = directory
        self._boot = boot_id() if boot is None else boot
        self.cut_off = False
        """The machine ended while a process was at work here, and since then nobody has seen to what follows."""
        if directory is None:
            return
        with suppress(OSError, ValueError):
            last = (directory / "boot").read_text("ascii").strip()
            self.cut_off = bool(self._boot) and last not in ("", _ENDED, self._boot)

    def begin(self, *, lasting: bool) -> None:
        """What there was to see to is done. Unless ``lasting``, something may be written that is not on the disk."""
        if self._boot and (self.cut_off or not lasting):
            self._write(_ENDED if lasting else self._boot)
        self.cut_off = False

    def end(self) -> None:
        """All of it is on the disk, and nothing more is written. What is not seen to by then is left for the next."""
        if not self.cut_off:
            self._write(_ENDED)

    def _write(self, text: str) -> None:
        if self._directory is None:
            return
        path = self._directory / "boot"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                # In place: on a full disk there is no room for another file, and what is cut off is no name of a boot.
                os.pwrite(fd, f"{text:<40}\n".encode("ascii"), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _LOG.warning("after a power cut it will not be known that there was one: %s: %s", path, error.strerror)
