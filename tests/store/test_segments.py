"""The segmented log: what was written is read, and damage costs what it touches and no more."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from grafter.store.embedded.segment_file import CRC, HEADER_BYTES, MARK, RECORD, START, Damage, salt_of
from grafter.store.embedded.segments import SegmentLog
from grafter.store.model import StoreError
from tests.steps import at_most_steps


@contextmanager
def log_in(directory: Path, segment_bytes: int = 1 << 20) -> Iterator[SegmentLog]:
    log = SegmentLog.opened(directory, segment_bytes)
    try:
        yield log
    finally:
        log.close()


def write(log: SegmentLog, *bodies: bytes) -> list[tuple[int, int]]:
    return log.write([(1, 1, [body]) for body in bodies])


def read_all(directory: Path) -> tuple[list[bytes], Damage]:
    """What a process that starts now finds."""
    damage = Damage()
    with log_in(directory) as log:
        return [
            bytes(record.body) for segment in list(log.segments.values()) for record in log.scan(segment, damage)
        ], damage


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Writes past ``limit`` fail as they would on a full disk, part of the way included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_records_are_read_where_they_were_written(tmp_path: Path) -> None:
    """A body is found at the place that write named, whole, after a restart too; one may be of many buffers."""
    bodies = [b"", b"a", os.urandom(5000), os.urandom(3 << 20)]
    with log_in(tmp_path) as log:
        places = write(log, *bodies)
        places += log.write([(2, 1, [b"x" * 2000, b"y" * 3000]), (2, 1, [b"a", b"b", b"c"])])
        bodies += [b"x" * 2000 + b"y" * 3000, b"abc"]
        for (number, offset), body in zip(places, bodies, strict=True):
            assert log.read(log.segments[number], offset, len(body)) == body
    found, damage = read_all(tmp_path)
    assert found == bodies
    assert damage == Damage()


def test_a_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    """Segments stay near their size, a larger record gets in whole, and reading has the order of writing."""
    bodies = [bytes([i]) * 300 for i in range(20)] + [b"x" * 5000] + [bytes([i]) * 300 for i in range(20)]
    with log_in(tmp_path, 1000) as log:
        for body in bodies:
            write(log, body)
        assert all(segment.size < 7000 for segment in log.segments.values())
        assert len(log.segments) > 10
        assert log.disk_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert read_all(tmp_path)[0] == bodies


def test_each_process_writes_into_its_own_segments(tmp_path: Path) -> None:
    """A restart begins a new segment with its first write, and not before; arrival numbers begin above all earlier."""
    arrivals = []
    for i in range(3):
        with log_in(tmp_path) as log:
            arrivals.append(log.arrival)
            assert len(log.segments) == i
            write(log, b"x")
            assert log.newest == i + 1
    assert [later - earlier >= 1 << 40 for earlier, later in pairwise(arrivals)] == [True, True]


@settings(max_examples=60)
@given(data=st.data())
def test_a_torn_tail_is_cut_and_nothing_else(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wherever a write ended early, what was written before it is read, and what follows later is appended after it."""
    directory = tmp_path_factory.mktemp("log")
    bodies = data.draw(st.lists(st.binary(max_size=60), min_size=1, max_size=6))
    with log_in(directory) as log:
        ends = [offset + len(body) for body, (_, offset) in zip(bodies, write(log, *bodies), strict=True)]
    (path,) = directory.iterdir()
    cut = data.draw(st.integers(ends[0] - len(bodies[0]) - HEADER_BYTES, ends[-1]))
    os.truncate(path, cut)
    whole = [body for body, end in zip(bodies, ends, strict=True) if end <= cut]
    found, damage = read_all(directory)
    assert found == whole
    assert damage.records == 0
    assert damage.torn == cut - max(
        [end for end in ends if end <= cut], default=ends[0] - len(bodies[0]) - HEADER_BYTES
    )
    with log_in(directory) as log:
        write(log, b"next")
    assert read_all(directory) == ([*whole, b"next"], Damage())


@given(data=st.data())
def test_a_flipped_byte_costs_one_record(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wherever a byte of a record changes, that record alone is lost, and it is counted unless it was the last."""
    directory = tmp_path_factory.mktemp("log")
    bodies = [
        bytes([65 + i]) * size for i, size in enumerate(data.draw(st.lists(st.integers(0, 50), min_size=2, max_size=6)))
    ]
    with log_in(directory) as log:
        places = write(log, *bodies)
    (path,) = directory.iterdir()
    hit = data.draw(st.integers(0, len(bodies) - 1))
    start = places[hit][1] - HEADER_BYTES
    at = data.draw(st.integers(start, places[hit][1] + len(bodies[hit]) - 1))
    raw = bytearray(path.read_bytes())
    raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    found, damage = read_all(directory)
    assert found == bodies[:hit] + bodies[hit + 1 :]
    assert damage.records == (hit < len(bodies) - 1)


def test_damage_at_the_end_of_a_segment_that_was_finished_is_counted(tmp_path: Path) -> None:
    """Where the writer said how far a segment goes, an unreadable end is a loss and not a torn write."""
    with log_in(tmp_path, 100) as log:
        write(log, b"a" * 100)
        write(log, b"b" * 100)
    first = min(tmp_path.iterdir())
    raw = bytearray(first.read_bytes())
    raw[-1] ^= 1
    first.write_bytes(raw)
    found, damage = read_all(tmp_path)
    assert found == [b"b" * 100]
    assert (damage.records, damage.torn) == (1, 0)


def test_bytes_inside_a_payload_are_not_taken_for_a_record(tmp_path: Path) -> None:
    """A search for the next record does not believe a copy of one from elsewhere."""
    other = tmp_path / "other"
    other.mkdir()
    with log_in(other) as log:
        write(log, b"forged")
    forged = next(other.iterdir()).read_bytes()[-HEADER_BYTES - 6 :]
    mine = tmp_path / "mine"
    mine.mkdir()
    with log_in(mine) as log:
        (_, offset), _ = write(log, b"x" * 10 + forged + b"x" * 10, b"last")
    (path,) = mine.iterdir()
    raw = bytearray(path.read_bytes())
    raw[offset - HEADER_BYTES] ^= 1
    path.write_bytes(raw)
    assert read_all(mine)[0] == [b"last"]


def test_a_mark_across_two_blocks_is_found(tmp_path: Path) -> None:
    """The search for the next record reads in blocks and misses nothing between them."""
    with log_in(tmp_path) as log:
        (_, offset), *_ = write(log, b"x" * ((1 << 20) - HEADER_BYTES + 1 - 2), b"next")
    (path,) = tmp_path.iterdir()
    raw = bytearray(path.read_bytes())
    raw[offset - HEADER_BYTES] ^= 1
    path.write_bytes(raw)
    found, damage = read_all(tmp_path)
    assert found == [b"next"]
    assert damage.records == 1


@pytest.mark.parametrize("seal", [False, True])
def test_a_failed_write_leaves_no_trace(tmp_path: Path, seal: bool) -> None:
    """What a full disk cut off is gone, the log goes on, and a group that failed is in it with no record."""
    with log_in(tmp_path) as log:
        write(log, b"before")
        with file_size_limit(2000), pytest.raises(OSError, match="too large"):
            write(log, b"a" * 500, b"b" * 500, b"c" * 5000)
        if seal:
            log.take_back(write(log, b"unsynced"))
        write(log, b"after")
        assert log.disk_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert read_all(tmp_path) == ([b"before", b"after"], Damage())


def test_a_segment_that_cannot_be_begun_leaves_no_file(tmp_path: Path) -> None:
    """The directory stays as it was, and the next write tries again under the same number."""
    with log_in(tmp_path) as log:
        with file_size_limit(10), pytest.raises(OSError, match="too large"):
            write(log, b"x")
        assert list(tmp_path.iterdir()) == []
        assert write(log, b"x")[0][0] == 1


def test_a_discarded_segment_can_still_be_read_by_who_began(tmp_path: Path) -> None:
    """Its file goes at once, its bytes when the last reader has let go."""
    with log_in(tmp_path) as log:
        ((number, offset),) = write(log, b"body")
        segment = log.segments[number]
        segment.readers += 1
        log.discard(number)
        assert list(tmp_path.iterdir()) == []
        assert log.read(segment, offset, 4) == b"body"
        segment.readers -= 1
        log.released(segment)
        with pytest.raises(OSError, match="Bad file"):
            log.read(segment, offset, 4)
        assert log.disk_bytes == 0


def test_a_newer_format_is_refused_and_kept(tmp_path: Path) -> None:
    """The message names both versions; nothing in the directory changes."""
    with log_in(tmp_path) as log:
        write(log, b"x")
    (path,) = tmp_path.iterdir()
    raw = bytearray(path.read_bytes())
    raw[8] = 9
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="format 9, this one reads 1"):
        SegmentLog.opened(tmp_path, 1000)
    assert path.read_bytes() == bytes(raw)


def test_a_segment_of_which_only_the_name_was_made_is_forgotten(tmp_path: Path) -> None:
    """A process that died while it began a segment leaves nothing to read, and its number is not used again."""
    with log_in(tmp_path) as log:
        write(log, b"x")
    (tmp_path / "segment-00000002.log").write_bytes(b"graft")
    assert read_all(tmp_path)[0] == [b"x"]
    with log_in(tmp_path) as log:
        assert write(log, b"y")[0][0] == 2


def damaged(path: Path, start: int, length: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[start : start + length] = bytes(byte ^ 0x5A for byte in raw[start : start + length])
    path.write_bytes(raw)


@pytest.mark.parametrize(("length", "lost"), [(1, 0), (24, 0), (40, 1), (80, 2)])
def test_a_damaged_header_costs_the_records_that_are_damaged_too(
    tmp_path: Path, length: int, lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    """From the first record that is whole all are read, said with ERROR; new arrival numbers are above all old ones,
    and the file is kept when the segment is given up."""
    bodies = [b"%d" % n * 20 for n in range(5)]
    with log_in(tmp_path, 10) as log:
        write(log, b"before")
        write(log, *bodies)
        write(log, b"after")
        arrival = log.arrival
    path = sorted(tmp_path.iterdir())[1]
    damaged(path, 20, length)
    assert read_all(tmp_path)[0] == [b"before", *bodies[lost:], b"after"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with log_in(tmp_path) as log:
        assert log.arrival > arrival
        log.discard(2)
    assert path.with_name(path.name + ".damaged").exists()


def test_a_forged_record_is_not_believed_where_the_header_is_lost(tmp_path: Path) -> None:
    """What somebody sent looks like a record of another salt: the first real record decides."""
    (tmp_path / "elsewhere").mkdir()
    with log_in(tmp_path / "elsewhere") as other:
        write(other, b"forged" * 10)
    (path,) = (tmp_path / "elsewhere").iterdir()
    forged = path.read_bytes()[START:]
    place = tmp_path / "store"
    place.mkdir()
    with log_in(place) as log:
        write(log, b"first", b"payload" + forged, b"last")
    (path,) = place.iterdir()
    damaged(path, 0, START + HEADER_BYTES)
    assert read_all(place)[0] == [b"payload" + forged, b"last"]


def test_a_header_without_a_readable_record_is_left_for_a_person(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said with ERROR; its number is not used again."""
    with log_in(tmp_path) as log:
        write(log, b"a" * 20)
    (path,) = tmp_path.iterdir()
    damaged(path, 0, 1000)
    assert read_all(tmp_path)[0] == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with log_in(tmp_path) as log:
        assert write(log, b"b")[0][0] == 2
    assert path.exists()


def test_the_search_for_a_lost_salt_reads_a_row_of_records_once(tmp_path: Path) -> None:
    """Somebody sent a payload of nothing but records of one salt, and the header and the first record are lost: not
    each of them is followed to the end of the row."""
    head = RECORD.pack(MARK, 1, 1, 0, 0, 0)
    row = (head + CRC.pack(isal_zlib.crc32(head, 7))) * 20_000
    path = tmp_path / "segment"
    path.write_bytes(bytes(START) + b"lost" + row + b"the rest of the payload")
    # Once takes 445,000, from each of the first 64 takes 28 million.
    with path.open("rb") as file, at_most_steps(1_000_000):
        assert salt_of(file.fileno(), path.stat().st_size) is None
