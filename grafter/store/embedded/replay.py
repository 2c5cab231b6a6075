"""Reading records back: at start, into an index of its own, and what a record says of its guests."""

import logging
from collections.abc import Callable, Iterator, Sequence

from grafter.core.model import Key, guest_key
from grafter.store import records
from grafter.store.embedded.index import Index
from grafter.store.embedded.segments import Damage, Record, Segment, SegmentLog
from grafter.store.records import GUEST, ROW, RecordError, RecordType

_LOG = logging.getLogger(__name__)


def rebuild(
    log: SegmentLog,
    segments: Sequence[Segment],
    index: Index,
    clock: Callable[[], int],
    stopping: Callable[[], bool],
) -> Damage | None:
    """Sum up the old segments; None when it was told to stop. Raises OSError and sqlite3.Error."""
    damage = Damage()
    for segment in segments:
        for record in log.scan(segment, damage):
            if stopping():
                return None
            try:
                _replay(index, record, segment.number)
            except RecordError as error:
                damage.records += 1
                _LOG.error("a record in %s cannot be read: %s", segment.path.name, error)
    index.links.recall(clock())
    index.table.agenda.refill(index.table.entries)
    return damage


def _replay(index: Index, record: Record, segment: int) -> None:
    """Apply one record. Raises RecordError for what this version cannot read."""
    if record.version > records.VERSION:
        raise RecordError(f"it has version {record.version}, this grafter reads {records.VERSION}")
    match record.type:
        case RecordType.PARTS:
            parts = records.decode_parts(record.body)
            for move in parts.moves:
                index.move(move)
            for key, row, (_, guest) in zip(parts.keys, parts.rows, guests_of(record.body, parts), strict=True):
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


def guests_of(body: memoryview, parts: records.Parts) -> Iterator[tuple[Key | None, bytes | None]]:
    """Of each part its guest's key and encoded facts; None for a host's part."""
    for row in parts.rows:
        if not row[21] & (GUEST >> 8):
            yield None, None
            continue
        _, _, _, _, _, _, at, length, _ = ROW.unpack(row)
        facts = bytes(body[at : at + length])
        yield guest_key(records.decode_guest(facts).guest), facts
