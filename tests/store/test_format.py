"""A directory that an earlier version left is opened with everything in it.

``data/format_1`` was written by the version before the embedded store had a folder of its own: the segment file as it
was, in hex, and the rows of its SQLite file.
"""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from grafter.core.calls import CallNote
from grafter.core.model import Envelope, Facts, GuestFacts, Key, Source, SpanId, TraceId, UnixNano, guest_key
from grafter.core.policy import SECOND, Waits
from grafter.store import records
from grafter.store.embedded import opening as embedded
from grafter.store.embedded.segment_file import Damage
from grafter.store.embedded.segments import SegmentLog
from grafter.store.model import DeadLetter, Memory, Outcome, Task
from grafter.store.records import RecordType
from tests.store.contract import LEASE, START, texts

DATA = Path(__file__).parent / "data" / "format_1"
HELD, TRIED, SETTLED = Key(bytes([2]) * 16), Key(bytes([3]) * 16), Key(bytes([1]) * 16)
NOW = UnixNano(START + 20_000 * SECOND)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    (path / "segment-00000001.log").write_bytes(bytes.fromhex((DATA / "segment-00000001.hex").read_text()))
    database = sqlite3.connect(path / "ledger.sqlite")
    database.executescript((DATA / "ledger.sql").read_text() + "PRAGMA user_version = 1;")
    database.close()
    return path


async def test_what_an_earlier_version_stored_is_there(directory: Path) -> None:
    """Parts, moves, links, exports, memories, dead letters, dedupe keys, tasks, calls and the secret."""
    traceparent = f"00-{'1' * 32}-{'2' * 16}-01"
    async with embedded.opened(
        directory,
        waits=Waits(remember=1 << 60),
        max_bytes=1 << 30,
        max_trace_bytes=1 << 20,
        lease_ns=LEASE,
        guests_apart=False,
        clock=lambda: START,
    ) as store:
        await store.recovered()
        claims = {claim.key: claim for claim in await store.claim(NOW, 10)}
        assert set(claims) == {HELD, TRIED, guest_key("trace_b")}
        (parts,) = await store.read([claims[HELD]])
        assert texts(parts) == ["held", "stray", "linked"]
        assert (parts[0].envelope, parts[0].span_ids) == (Envelope(b"resource", b"scope"), bytes([2]) * 8)
        assert [part.guest for part in parts[1:]] == [
            GuestFacts("trace_a", Source.SDK, head=True, ids=(SpanId(b"12345678"),), parents=(SpanId(b"87654321"),)),
            GuestFacts("trace_a", Source.SDK, host=TraceId(HELD), sampled=True),
        ]
        assert claims[TRIED].outcomes == {"otlp": Outcome.INTENDED, "other": Outcome.ACCEPTED}
        assert claims[TRIED].state.facts == Facts.ROOT | Facts.ANCHOR
        assert await store.recall([SETTLED, HELD], NOW) == [Memory(SETTLED, b"memory 1"), None]
        assert await store.seen(["webhook-1", "webhook-2"], NOW) == [True, False]
        letter = DeadLetter(Key(bytes([9]) * 16), "otlp", "refused", START, 2, b"request")
        assert await store.dead_letters(5) == [letter]
        assert await store.find_task("pull", "resp_1") == Task("pull", "resp_1", START, b"blob", put_at=START)
        assert await store.find_calls(["rtc_1"], START) == [CallNote("rtc_1", START, traceparent=traceparent)]
        assert store.hmac_secret() == bytes(32)


def test_records_are_written_byte_for_byte_as_then(directory: Path) -> None:
    """Each record that was read is made again of what it says, and is the same: a version of then can read it."""
    log = SegmentLog.opened(directory, 1 << 20)
    kinds = []
    for record in log.scan(log.segments[1], Damage()):
        kinds.append(RecordType(record.type))
        body = bytes(record.body)
        match kinds[-1]:
            case RecordType.PARTS:
                parts = records.decode_parts(record.body)
                (_, _, end) = records.PARTS_HEAD.unpack_from(body)
                table = records.PARTS_HEAD.size + len(parts.rows) * (records.KEY_BYTES + records.ROW.size)
                again = b"".join(records.parts_body(parts.keys, parts.rows, [body[table:end]], end, parts.moves))
            case RecordType.OUTCOME:
                again = records.encode_outcome(*records.decode_outcome(record.body))
            case RecordType.SETTLE:
                again = records.encode_keys(records.decode_keys(record.body))
        assert again == body
    log.close()
    assert set(kinds) == set(RecordType)
    assert records.VERSION == 1


def test_facts_of_a_guest_are_read_by_a_version_that_knows_no_other_names() -> None:
    """Who named its host stands behind all else: the facts without it are what they were, and so is what follows."""
    facts = GuestFacts("trace_a", Source.SDK, host=TraceId(HELD), ids=(SpanId(b"12345678"),))
    named = replace(facts, how="api", anchor=SpanId(b"87654321"))
    assert records.encode_guest(named).startswith(records.encode_guest(facts))
    assert records.decode_guest(records.encode_guest(named)) == named
