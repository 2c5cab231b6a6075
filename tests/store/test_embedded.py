"""What only the embedded store promises: its files, its space, its memory, and how it fails."""

import asyncio
import contextlib
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from grafter.core.model import Envelope, Facts, Key, Part, Source, UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.embedded import index
from grafter.store.embedded import opening as embedded
from grafter.store.embedded.segment_file import HEADER_BYTES, Damage, Record, Segment
from grafter.store.embedded.segments import SegmentLog
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.embedded.writer import Op
from grafter.store.model import (
    Backlog,
    DeadLetter,
    DeadLettersAdded,
    Memory,
    Outcome,
    PlainSettlement,
    Settlement,
    StoreError,
)
from tests.store.contract import (
    HOST,
    LATER,
    LEASE,
    OTHER,
    START,
    WAITS,
    claim_one,
    claim_others,
    claim_plain,
    guest_part,
    held_texts,
    host_part,
    release,
    texts,
)
from tests.store.test_segments import file_size_limit


@asynccontextmanager
async def opened(directory: Path | None, **changed: Any) -> AsyncIterator[EmbeddedStore]:
    given = {
        "waits": WAITS,
        "max_bytes": 1 << 30,
        "max_trace_bytes": 1 << 30,
        "lease_ns": LEASE,
        "guests_apart": False,
        "clock": lambda: START,
    }
    async with embedded.opened(directory, **{**given, **changed}) as store:
        yield store


def key(i: int) -> Key:
    return Key(i.to_bytes(16, "big"))


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("segment-*.log"))


def log_bytes(directory: Path) -> int:
    size = 0
    for path in segments(directory):
        # A segment may be given up while one looks.
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


async def test_in_memory_there_is_no_file_and_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store without a directory touches none, and its append needs nobody else."""
    monkeypatch.chdir(tmp_path)
    before = threading.active_count()
    async with opened(None) as store:
        await store.append([host_part()], START)
        await release(store, Memory(HOST, b"m"))
        await store.add_dead_letters([DeadLetter(HOST, "a", "b", START, 1, b"x")])
        assert threading.active_count() == before
        assert len(store.hmac_secret()) == 32
        assert store.stats().disk_bytes == 0
    assert os.listdir(tmp_path) == []


async def test_leaving_ends_every_thread_and_closes_every_file(tmp_path: Path) -> None:
    """Opening and leaving again and again costs nothing that lasts."""
    files = len(os.listdir("/proc/self/fd"))
    for i in range(3):
        async with opened(tmp_path) as store:
            await store.append([host_part(str(i))], START)
            await store.recovered()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("grafter-store")]
    assert len(os.listdir("/proc/self/fd")) == files


async def test_a_stopping_store_finishes_what_it_took_and_takes_no_more(tmp_path: Path) -> None:
    """Requests that are in when the store is left are answered; later ones are told to come back."""
    async with opened(tmp_path) as store:
        sends = [asyncio.ensure_future(store.append([host_part(str(i))], START)) for i in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*sends)
    with pytest.raises(UnavailableError, match="stopping"):
        await store.append([host_part()], START)
    async with opened(tmp_path) as again:
        await again.recovered()
        assert await held_texts(again) == {HOST: [str(i) for i in range(20)]}


async def test_the_files_are_nobody_elses(tmp_path: Path) -> None:
    """A trace may hold what a caller said."""
    directory = tmp_path / "a" / "store"
    async with opened(directory) as store:
        await store.append([host_part()], START)
        assert oct(directory.stat().st_mode & 0o777) == "0o700"
        assert {oct(path.stat().st_mode & 0o777) for path in directory.iterdir()} == {"0o600"}


@pytest.mark.parametrize("name", ["lock", "reserve"])
async def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    """A link that somebody put into the directory costs the file that it points to nothing."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    directory = tmp_path / "store"
    directory.mkdir(mode=0o700)
    (directory / name).symlink_to(victim)
    with contextlib.suppress(StoreError):
        async with opened(directory):
            pass
    assert victim.read_bytes() == b"precious"


async def test_a_directory_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    """Whoever can put files there can put in what grafter would send on."""
    directory = tmp_path / "store"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(StoreError, match="chmod o-w"):
        async with opened(directory):
            pass


async def test_a_directory_has_one_process(tmp_path: Path) -> None:
    """A second one is told which process has it, and the first goes on."""
    async with opened(tmp_path) as store:
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}; stop that process or"):
            async with opened(tmp_path):
                pass
        await store.append([host_part()], START)
    async with opened(tmp_path):
        pass


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The message says which, why, and what to do."""
    file = tmp_path / "file"
    file.write_text("x")
    for directory in (file, file / "below"):
        with pytest.raises(StoreError, match=r"cannot use the store directory .*file.*; check that"):
            async with opened(directory):
                pass


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read and write everything")
@pytest.mark.parametrize("mode", [0o000, 0o500])
async def test_a_directory_without_permission_is_named(tmp_path: Path, mode: int) -> None:
    """Neither an unreadable nor an unwritable directory is a traceback."""
    directory = tmp_path / "store"
    directory.mkdir(mode=mode)
    with pytest.raises(StoreError, match=r"cannot use the store directory .*: Permission denied; check"):
        async with opened(directory):
            pass


@pytest.mark.parametrize("what", ["log", "ledger"])
async def test_a_newer_format_is_refused(tmp_path: Path, what: str) -> None:
    """What a newer grafter wrote is not read half; the lock is free again after the refusal."""
    async with opened(tmp_path) as store:
        await store.append([host_part()], START)
    path, at = (segments(tmp_path)[0], 8) if what == "log" else (tmp_path / "ledger.sqlite", 63)
    before = path.read_bytes()
    raw = bytearray(before)
    raw[at] = 9
    path.write_bytes(raw)
    for _ in range(2):
        with pytest.raises(StoreError, match="format 9, this one reads 1"):
            async with opened(tmp_path):
                pass
    path.write_bytes(before)
    async with opened(tmp_path) as again:
        await again.recovered()
        assert await held_texts(again) == {HOST: ["part"]}


async def test_fsync_is_one_of_two_words(tmp_path: Path) -> None:
    """Anything else is a mistake of the caller."""
    with pytest.raises(ValueError, match="'interval' or 'always'"):
        async with opened(tmp_path, fsync="never"):
            pass


async def test_fsync_always_stores_the_same(tmp_path: Path) -> None:
    """The slow mode takes the same road."""
    async with opened(tmp_path, fsync="always") as store:
        await asyncio.gather(*(store.append([host_part(str(i), key(i))], START) for i in range(10)))
    async with opened(tmp_path, fsync="always") as store:
        await store.recovered()
        assert len(await held_texts(store)) == 10


async def test_a_stored_body_is_given_back_without_the_garbage_collector(tmp_path: Path) -> None:
    """A circle through what was written would keep each request's bytes until a collection: 75,000 page faults more for
    160 MB, and an eighth of the CPU."""
    async with opened(tmp_path) as store:
        await store.append([host_part("first", key(1))], START)
        gc.collect()
        gc.disable()
        try:
            for number in range(20):
                await store.append([host_part("more", key(2 + number))], START)
            left = [one for one in gc.get_objects() if isinstance(one, Op)]
        finally:
            gc.enable()
    # The writer's thread may still have the last one in its hands.
    assert len(left) <= 1


async def test_the_secret_belongs_to_the_directory(tmp_path: Path) -> None:
    """Redacted values stay comparable over restarts."""
    async with opened(tmp_path) as store:
        secret = store.hmac_secret()
    async with opened(tmp_path) as store:
        assert store.hmac_secret() == secret
    async with opened(None) as store:
        assert store.hmac_secret() != secret


@pytest.mark.parametrize("seconds", [0.0, 0.1])
async def test_a_long_call_pins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """One trace that stays while thousands pass keeps its own bytes on the disk and no multiple of them; also where it
    takes so long to read a segment that more comes meanwhile than is copied."""
    segment, size, rounds = 16 << 10, 500, 400
    scan = SegmentLog.scan

    def scan_slowly(log: SegmentLog, segment: Segment, damage: Damage) -> Iterator[Record]:
        time.sleep(seconds)
        return scan(log, segment, damage)

    monkeypatch.setattr(SegmentLog, "scan", scan_slowly)
    async with opened(tmp_path, segment_bytes=segment) as store:
        live = rounds // 20 * size
        bound = 4 * live * 1.6 + 4 * segment
        for i in range(rounds):
            now = UnixNano(START + i * SECOND)
            parts = [host_part("x" * size, key(1 + i * 4 + j), Facts.ROOT) for j in range(4)]
            if i % 20 == 0:
                parts.append(host_part(f"{i:05d}".ljust(size, "."), key(0)))
            await store.append(parts, now)
            passing = await store.claim(UnixNano(now + 10 * SECOND), 100)
            passing = [claim for claim in passing if claim.key != key(0)]
            assert all(await store.settle([Settlement(claim) for claim in passing], now))
            # What is copied is copied beside what is appended, and on a busy machine behind it; but by itself.
            async with asyncio.timeout(10):
                while log_bytes(tmp_path) > bound:  # noqa: ASYNC110  # files wake nobody
                    await asyncio.sleep(0)
        assert store.stats().bytes == live
        assert bound < rounds * 4 * size / 6
        assert store.counts.given_up_segments > 20
        assert store.counts.copied_parts >= 10
        (claim,) = await store.claim(LATER, 10)
        (parts_read,) = await store.read([claim])
        assert [int(text[:5]) for text in texts(parts_read)] == list(range(0, rounds, 20))
        assert len({part.arrival for part in parts_read}) == rounds // 20
    async with opened(tmp_path) as store:
        await store.recovered()
        assert store.stats().bytes == live
        held = await held_texts(store)
        assert [int(text[:5]) for text in held[key(0)]] == list(range(0, rounds, 20))


async def test_what_was_copied_keeps_all_that_is_known_of_it(tmp_path: Path) -> None:
    """Guests that moved, links, outcomes and their pin survive the copying, a restart, and copying again."""
    async with opened(tmp_path, segment_bytes=2000) as store:
        await store.append([guest_part("1", head=True), guest_part("2")], START)
        await store.append([host_part("h", facts=Facts.ROOT)], START)
        await store.append([guest_part("3", host=HOST)], START)
        await store.append([guest_part("alone", "trace_a")], START)
        claims = {claim.key: claim for claim in await store.claim(LATER, 9)}
        await store.record(list(claims.values()), "x", Outcome.INTENDED)
        await store.record([claims[HOST]], "x", Outcome.REFUSED)
        await store.append([host_part("late")], LATER)
        before = {key: replace(claim, token=0) for key, claim in claims.items()}
    for _ in range(3):
        async with opened(tmp_path, segment_bytes=2000) as store:
            await store.recovered()
            for i in range(60):
                await store.append([host_part("x" * 500, key(i), Facts.ROOT)], UnixNano(LATER - 500 * SECOND))
                claims = await store.claim(UnixNano(LATER - 490 * SECOND), 9)
                passing = [Settlement(claim) for claim in claims if claim.key == key(i)]
                assert await store.settle(passing, LATER) == [True]
            assert store.counts.copied_parts >= 5
            claimed = {claim.key: claim for claim in await store.claim(UnixNano(LATER + 100 * SECOND), 9)}
            assert {k: c.up_to for k, c in claimed.items()} == {k: c.up_to for k, c in before.items()}
            assert {k: c.outcomes for k, c in claimed.items()} == {
                HOST: {"x": Outcome.REFUSED},
                guest_part(guest="trace_a").key: {"x": Outcome.INTENDED},
            }
            assert claimed[HOST].state.guests == before[HOST].state.guests
            read = dict(zip(claimed, await store.read(list(claimed.values())), strict=True))
            assert texts(read[HOST]) == ["h", "1", "2", "3"]
            assert [part.guest and part.guest.head for part in read[HOST]] == [None, True, False, False]


async def test_reading_goes_on_while_segments_are_given_up(tmp_path: Path) -> None:
    """A read that was begun gets its bytes though everything is settled and cleaned meanwhile."""
    async with opened(tmp_path, segment_bytes=2000) as store:
        await store.append([host_part("x" * 1000 + str(i), key(i)) for i in range(20)], START)
        claims = await store.claim(LATER, 100)
        reading = asyncio.ensure_future(store.read(claims))
        await asyncio.sleep(0)
        assert all(await store.settle([Settlement(claim) for claim in claims], LATER))
        for i in range(20):
            await store.append([host_part("y" * 1000, key(100 + i))], LATER)
        assert [texts(parts) for parts in await reading] == [["x" * 1000 + str(claim.key[15])] for claim in claims]
        # A thread writes, and another one reads: which is first done is the machine's business.
        async with asyncio.timeout(60):
            while not store.counts.given_up_segments:
                await store.append([], LATER)


async def test_tiny_parts_under_large_envelopes_do_not_copy_for_ever(tmp_path: Path) -> None:
    """Where copying gains nothing it ends, and the store goes on."""
    async with opened(tmp_path, segment_bytes=4000) as store:
        for i in range(100):
            envelope = Envelope(os.urandom(1000), b"s")
            await store.append([Part(key(i), b"x", 1, envelope, Facts.NONE, b"")], START)
        for _ in range(50):
            await store.append([], START)
        copied = store.counts.copied_parts
        assert copied < 400
        assert 100 * 1001 <= store.stats().bytes - 100 <= 100 * 1010
        assert len(await held_texts(store)) == 100


@pytest.mark.parametrize("at", ["head", "body"])
async def test_a_damaged_record_costs_itself_alone(tmp_path: Path, at: str, caplog: pytest.LogCaptureFixture) -> None:
    """The rest is read, and the loss is counted and said with ERROR."""
    async with opened(tmp_path) as store:
        for i in range(3):
            await store.append([host_part(f"part {i}", key(i))], START)
    (path,) = segments(tmp_path)
    found = path.read_bytes().index(b"part 1")
    start = path.read_bytes().rindex(b"\xf7rec", 0, found)
    flip(path, start + 5 if at == "head" else start + HEADER_BYTES + 20)
    async with opened(tmp_path) as store:
        await store.recovered()
        assert await held_texts(store) == {key(0): ["part 0"], key(2): ["part 2"]}
        assert store.counts.lost_records == 1
        assert [record.levelname for record in caplog.records if record.levelno >= 40] == ["ERROR"]


async def test_a_torn_tail_is_cut_and_the_rest_is_there(tmp_path: Path) -> None:
    """An unfinished write was never acknowledged, so losing it is no loss; other requests are whole."""
    async with opened(tmp_path) as store:
        for i in range(3):
            await store.append([host_part(f"{i}", key(i)), host_part(f"{i}", key(10 + i))], START)
    (path,) = segments(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    async with opened(tmp_path) as store:
        await store.recovered()
        assert set(await held_texts(store)) == {key(0), key(1), key(10), key(11)}
        assert store.counts.lost_records == 0
        assert store.counts.torn_bytes > 0


async def test_a_batch_of_which_only_half_was_written_is_nobodys_and_goes(tmp_path: Path) -> None:
    """A power cut between a backlog's parts and for whom they wait: what they are of is held, and nothing stays."""
    async with opened(tmp_path) as store:
        await store.append([host_part("held")], START)
        await store.defer("a", [host_part("held")], START)
    (path,) = segments(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    async with opened(tmp_path) as store:
        await store.recovered()
        assert await store.claim_deferred("a", LATER, 10) == []
        assert (store.stats().recovered_spans, store.counts.lost_records) == (1, 0)
        await store.append([host_part("more", key(9))], START)
        assert set(await held_texts(store)) == {HOST, key(9)}
        assert store.stats().bytes == len("heldmore")
    async with opened(tmp_path) as store:
        await store.recovered()
        assert (store.stats().traces, store.stats().bytes) == (2, len("heldmore"))


async def test_a_batch_whose_exporter_is_damaged_is_said_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands behind it in the log may be that its traces have left, so they are not there to make up for it."""
    async with opened(tmp_path) as store:
        await store.defer("exporter/damaged", [host_part("one"), host_part("two")], START)
        await store.defer("b", [host_part("three")], START)
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"exporter/damaged", b"exporter/gamaded"))
    async with opened(tmp_path) as store:
        await store.recovered()
        assert {name: one.spans for name, one in store.stats().backlogs.items()} == {"b": 1}
        assert (store.stats().recovered_spans, store.counts.lost_records) == (0, 1)
        assert "2 put off spans" in caplog.text


async def test_a_batch_that_was_given_back_untouched_is_suspected_still(tmp_path: Path) -> None:
    """Nothing waits for it meanwhile, and the ends of further processes count on."""
    async with opened(tmp_path / "0") as store:
        for exporter in ("a", "b"):
            await store.defer(exporter, [host_part(exporter)], START)
        await store.claim_deferred("a", START, 1)
        killed(tmp_path / "0", tmp_path / "1")
    async with opened(tmp_path / "1") as store:
        await store.recovered()
        assert await store.claim_deferred("b", LATER, 1) == []
        (claim,) = await store.claim(LATER, 9)
        assert (claim.waits_for, claim.deaths) == ("a", 1)
        later = UnixNano(LATER + 1)
        await store.postpone([(claim, later)], untouched=True)
        (other,) = await store.claim_deferred("b", LATER, 1)
        assert await store.settle([Settlement(other)], LATER) == [True]
        (claim,) = await store.claim(later, 9)
        assert claim.deaths == 1
        killed(tmp_path / "1", tmp_path / "2")
    async with opened(tmp_path / "2") as store:
        await store.recovered()
        (claim,) = await store.claim(later, 9)
        assert claim.deaths == 2


def killed(running: Path, left: Path) -> None:
    """What a process leaves that is killed now."""
    shutil.copytree(running, left)


async def test_a_backlog_that_is_copied_stays_its_exporters(tmp_path: Path) -> None:
    """While thousands pass, in pieces, and over restarts."""
    own = [host_part(f"{i:04d}" * 100) for i in range(12)]
    async with opened(tmp_path, segment_bytes=8000) as store:
        await store.defer("a", own, START)
        (claim,) = await store.claim_deferred("a", START, 1)
        await store.record([claim], "a", Outcome.INTENDED)
    for _ in range(2):
        async with opened(tmp_path, segment_bytes=8000) as store:
            await store.recovered()
            # Copying begins when much has gone, and the thread that reads for it comes when it comes.
            for i in range(10_000):
                await store.append([host_part("x" * 500, key(i), Facts.ROOT)], START)
                passing = [one for one in await store.claim(LATER, 9) if not one.waits_for]
                assert await store.settle([Settlement(one) for one in passing], LATER) == [True]
                if i >= 100 and store.counts.copied_parts >= len(own):
                    break
            assert store.counts.copied_parts >= len(own)
            assert store.stats().backlogs["a"] == Backlog(1, len(own), 400 * len(own), START)
            assert (store.stats().traces, store.stats().spans) == (0, 0)
    async with opened(tmp_path, segment_bytes=8000) as store:
        await store.recovered()
        (claim,) = await store.claim(LATER, 9) or await store.claim_deferred("a", LATER, 9)
        assert (claim.waits_for, claim.outcomes) == ("a", {"a": Outcome.INTENDED})
        (parts,) = await store.read([claim])
        assert texts(parts) == [part.payload.decode() for part in own]
        assert await store.settle([Settlement(claim)], LATER) == [True]
        assert store.stats().bytes == 0


async def test_a_record_of_a_newer_version_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a newer grafter wrote beside what this one knows does not keep the store from starting."""
    async with opened(tmp_path) as store:
        await store.append([host_part()], START)
    log = SegmentLog.opened(tmp_path, 1 << 20)
    log.write([(1, 99, [b"from the future"]), (77, 1, [b"unheard of"])])
    log.close()
    async with opened(tmp_path) as store:
        await store.append([host_part("after", OTHER)], START)
    async with opened(tmp_path) as store:
        await store.recovered()
        assert await held_texts(store) == {HOST: ["part"], OTHER: ["after"]}
        assert store.counts.lost_records == 2
        assert "version 99" in caplog.text


class _Older:
    """What was held before the start; between any two looks of the writer's thread the loop has taken it in."""

    def __init__(self) -> None:
        self._held: index.Index | None = None
        self._looks = 0
        self._loops = threading.current_thread()

    def __get__(self, _store: object, _owner: object) -> index.Index | None:
        if threading.current_thread() is self._loops:
            return self._held
        self._looks += 1
        return self._first if self._looks % 2 else None

    def __set__(self, _store: object, held: index.Index | None) -> None:
        if held is not None:
            self._first = held
        self._held = held


async def test_the_writer_outlives_a_recovery_that_ends_while_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks how many traces are held before it writes, on a thread of its own: what comes then is stored."""
    async with opened(tmp_path) as store:
        await store.append([host_part()], START)
    monkeypatch.setattr(EmbeddedStore, "older", _Older(), raising=False)
    async with asyncio.timeout(60), opened(tmp_path) as store:
        await store.append([host_part("more")], START)
        assert await held_texts(store) == {HOST: ["part", "more"]}


async def test_a_settlement_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    """The owner keeps its claim and may try again; parts, outcomes and intents are as before."""
    async with opened(tmp_path) as store:
        await store.append([host_part(), guest_part()], START)
        claims = await store.claim(LATER, 10)
        host, guest = sorted(claims, key=lambda claim: len(claim.key))
        with file_size_limit(segments(tmp_path)[0].stat().st_size + 5):
            with pytest.raises(UnavailableError, match="could not write"):
                await store.settle([Settlement(host)], LATER)
            assert not store.up
            with pytest.raises(UnavailableError, match="could not write"):
                await store.record([host], "x", Outcome.INTENDED)
            with pytest.raises(UnavailableError, match="could not write"):
                await store.move(guest, OTHER)
            with pytest.raises(UnavailableError, match="could not write"):
                await store.append([guest_part("2", host=OTHER)], LATER)
            assert [texts(parts) for parts in await store.read([host, guest])] == [["part"], ["guest"]]
        await store.append([guest_part("3")], LATER)
        assert store.up
        assert await store.settle([Settlement(host)], LATER) == [True]
        assert await store.record([guest], "x", Outcome.INTENDED) == [True]
        assert [texts(parts) for parts in await store.read([guest])] == [["guest"]]


async def test_parts_that_cannot_be_read_are_said_to_be(tmp_path: Path) -> None:
    """A disk that gives nothing back is an error that the caller can wait for, and nothing is settled by it."""
    async with opened(tmp_path) as store:
        await store.append([host_part()], START)
        claim = await claim_one(store)
        (path,) = segments(tmp_path)
        whole = path.read_bytes()
        os.truncate(path, len(whole) - 3)
        with pytest.raises(UnavailableError, match="could not be read"):
            await store.read([claim])
        path.write_bytes(whole)
        assert [texts(parts) for parts in await store.read([claim])] == [["part"]]


async def test_a_ledger_that_cannot_be_written_stops_settlements_alone(tmp_path: Path) -> None:
    """Memories go before the settlement: without them the parts stay; appends do not need the ledger."""
    async with opened(tmp_path) as store:
        await store.append([host_part()], START)
        claim = await claim_one(store)
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError, match="could not write"):
            await store.settle([Settlement(claim, (Memory(HOST, b"m"),))], LATER)
        with pytest.raises(UnavailableError, match="could not write"):
            await store.add_dead_letters([DeadLetter(HOST, "a", "b", START, 1, b"x")])
        await store.append([host_part("2", OTHER)], START)
        other.close()
        assert await store.settle([Settlement(claim, (Memory(HOST, b"m"),))], LATER) == [True]


async def test_the_letter_box_has_a_limit(tmp_path: Path) -> None:
    """Past it nothing is taken, or the oldest go, and whoever brought the new ones is told."""
    letters = [DeadLetter(HOST, "a", "b", START, i, b"x" * 60) for i in (3, 4)]
    async with opened(tmp_path, letter_bytes=100) as store:
        assert await store.add_dead_letters(letters) == DeadLettersAdded(1)
        assert list(await store.dead_letters(9)) == letters[:1]
    async with opened(tmp_path, letter_bytes=100, drop_oldest_letters=True) as store:
        assert await store.add_dead_letters(letters[1:]) == DeadLettersAdded(1, 3)
        assert list(await store.dead_letters(9)) == letters[1:]


async def test_what_there_is_no_memory_to_write_was_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose record cannot be laid out leaves nothing: no guest that is known of, and its host's key does not
    wait for it; the next one is stored."""

    def says_no(*_: object) -> NoReturn:
        raise MemoryError

    async with opened(tmp_path) as store:
        with monkeypatch.context() as short:
            short.setattr(records, "parts_body", says_no)
            with pytest.raises(MemoryError):
                await store.append([host_part(), guest_part(host=HOST)], START)
        # The guest does not belong to the host of a request that was refused.
        await store.append([guest_part()], START)
        assert store.stats().traces == 1
        assert list(await held_texts(store)) == [guest_part().key]


async def test_a_part_that_makes_no_sense_harms_nobody(tmp_path: Path) -> None:
    """A caller's mistake is its own error, and the next request finds everything in order."""
    odd = [
        Part(Key(b"short"), b"x", 1, Envelope(b"", b"")),
        Part(HOST, b"x", 1),
        Part(HOST, b"x", -1, Envelope(b"", b"")),
    ]
    for directory in (tmp_path, None):
        async with opened(directory) as store:
            for part in odd:
                with pytest.raises(Exception, match=r"key|envelope|argument|format|requires"):
                    await store.append([guest_part("g", host=HOST), part], START)
            assert store.stats().traces == 0
            await store.append([guest_part("g")], START)
            assert list(await held_texts(store)) == [guest_part().key]


GROWTH = """
import asyncio, gc, os, sys
from pathlib import Path
from grafter.core.model import Envelope, Facts, Key, Part
from grafter.core.policy import Waits
from grafter.store.model import StoreError
from grafter.store.embedded import index
from grafter.store.embedded import opening as embedded
from grafter.store import records
from tests.store.contract import LEASE, START

TRACES, PARTS, SPANS, SIZE = 10_000, 4, 5, 2500

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def main():
    directory = Path(sys.argv[1]) if sys.argv[1] else None
    async with embedded.opened(directory, waits=Waits(), max_bytes=1 << 40, max_trace_bytes=1 << 30, lease_ns=LEASE,
                               guests_apart=False, recent_bytes=0) as store:
        resource = os.urandom(400)
        gc.collect()
        before = rss()
        for start in range(0, TRACES, 100):
            for j in range(PARTS):
                envelope = Envelope(bytes(bytearray(resource)), bytes(bytearray(b"scope")))
                await store.append([
                    Part(Key(i.to_bytes(16, "big")), os.urandom(SIZE), SPANS, envelope, Facts.NONE, os.urandom(40))
                    for i in range(start, start + 100)
                ], START)
        del envelope
        gc.collect()
        grown = rss() - before
        assert store.stats().traces == TRACES
        print(grown / (TRACES * PARTS * SPANS), grown / (TRACES * PARTS * SIZE))

asyncio.run(main())
"""


def growth(directory: Path | None) -> tuple[float, float]:
    """RSS a held span, and over the payload, measured in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", GROWTH, str(directory or "")], capture_output=True, text=True, check=True, timeout=60
    )
    span, ratio = run.stdout.split()
    return float(span), float(ratio)


def test_on_disk_a_held_span_costs_few_bytes_of_memory(tmp_path: Path) -> None:
    """At most 150 bytes of RSS a held span, at 20 spans a trace in 4 parts: the payload is on the disk.

    The records that were written last are kept beside that, up to a bound that does not grow with what is held.
    """
    assert growth(tmp_path)[0] < 150


def test_in_memory_a_held_span_costs_little_more_than_itself() -> None:
    """At most 1.3 times the payload."""
    assert growth(None)[1] < 1.3


async def test_a_plain_batch_that_is_renewed_is_nobody_elses(tmp_path: Path) -> None:
    """Also when the agenda is made anew meanwhile, because too many of its entries are old ones."""
    async with opened(tmp_path) as store:
        await store.append([host_part("plain", facts=Facts.ROOT)], START)
        batch = await claim_plain(store)
        assert batch is not None
        assert await store.record(batch, "a", Outcome.INTENDED) == [True]
        await store.append([host_part(key=key(i)) for i in range(6000)], START)
        assert await claim_plain(store) is None
        claims = await claim_others(store, LATER, 10_000)
        assert len(claims) == 6000
        await store.renew(batch, UnixNano(LATER + LEASE - 1))
        await store.settle([Settlement(claim) for claim in claims], LATER)
        assert await claim_others(store, LATER, 10) == []
        beyond = UnixNano(LATER + LEASE + 1)
        assert await claim_plain(store, beyond) is None
        assert await claim_others(store, beyond, 10) == []
        assert await store.settle(PlainSettlement(batch, [b"m"]), beyond) == [True]
        assert store.stats().traces == 0


async def test_a_batchs_lease_ends_also_after_the_clock_was_turned_back() -> None:
    """A lease that was given by the clock as it was before does not keep a later one from ending."""
    async with opened(None) as store:
        await store.append([host_part(facts=Facts.ROOT)], START)
        before = await claim_plain(store)
        assert before is not None
        assert await store.settle(PlainSettlement(before, [b"m"]), LATER) == [True]
        earlier = UnixNano(START - 1000 * SECOND)
        await store.append([host_part(key=OTHER, facts=Facts.ROOT)], UnixNano(earlier - 60 * SECOND))
        assert await claim_plain(store, earlier) is not None
        over = UnixNano(earlier + LEASE)
        assert await claim_plain(store, over) is None
        assert [claim.key for claim in await claim_others(store, over, 10)] == [OTHER]


async def test_a_settled_batch_does_not_come_back(tmp_path: Path) -> None:
    """After a restart its keys are not held any more, whether an intent was stored for it or not."""
    async with opened(tmp_path) as store:
        await store.append([host_part(facts=Facts.ROOT)], START)
        batch = await claim_plain(store)
        assert batch is not None
        assert await store.settle(PlainSettlement(batch, [b"m"]), LATER) == [True]
    async with opened(tmp_path) as again:
        await again.recovered()
        assert again.stats().traces == 0


async def test_a_plain_batch_keeps_within_its_limits() -> None:
    """Unless its first key alone passes them: what is larger than a request costs its sender a second one."""
    async with opened(None) as store:
        for i, spans in enumerate([4, 4, 4, 11, 1]):
            await store.append([host_part("x" * spans, key(i), Facts.ROOT, spans)], START)
        found = []
        for limits in ((10, 1000), (10, 1000), (10, 1000), (1000, 10)):
            batch = await claim_plain(store, LATER, 10, *limits)
            assert batch is not None
            assert (batch.spans, batch.size) == (sum(batch.counts), sum(batch.counts))
            found.append(batch.counts)
        assert found == [[4, 4], [4], [11], [1]]
        await store.append([host_part("x" * 6, key(i), Facts.ROOT) for i in range(10, 13)], START)
        by_size = [await claim_plain(store, LATER, 10, 1000, 12) for _ in range(3)]
        assert [batch and batch.size for batch in by_size] == [12, 6, None]


async def test_the_parts_of_a_call_take_little_memory(tmp_path: Path) -> None:
    """A call of an hour has thousands, and what is known of them beside their bytes is the same for most."""
    parts, calls = 50, 40
    async with opened(tmp_path) as store:
        await store.append([call_part(call, 0) for call in range(calls)], START)
        tracemalloc.start()
        try:
            for number in range(parts):
                await store.append([call_part(call, number) for call in range(calls)], START)
            taken = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(True, records.__file__), tracemalloc.Filter(True, index.__file__)]
            )
        finally:
            tracemalloc.stop()
    assert sum(trace.size for trace in taken.traces) / (parts * calls) < 200


def call_part(call: int, number: int) -> Part:
    """One of the parts that a recorder hands on every second or so."""
    return guest_part(f"[{number}]", f"rtc_{call}", HOST, source=Source.REALTIME)


async def test_a_plain_batch_that_is_out_does_not_keep_the_cleaner_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in a plain batch is not copied; its segment is read again now and then, and given up in the end."""
    scans = 0
    scan = SegmentLog.scan

    def counting(*args: Any) -> Any:
        nonlocal scans
        scans += 1
        return scan(*args)

    monkeypatch.setattr(SegmentLog, "scan", counting)
    async with opened(tmp_path, segment_bytes=256 << 10) as store:

        async def work(numbers: range) -> None:
            for i in numbers:
                await store.append([host_part("x" * 8192, key=key(i))], START)
                claims = await store.claim(LATER, 10)
                await store.settle([Settlement(claim) for claim in claims], LATER)

        await store.append([host_part("x" * 1000, key=HOST, facts=Facts.ROOT)], START)
        batch = await claim_plain(store)
        assert batch is not None
        assert await store.record(batch, "a", Outcome.INTENDED) == [True]
        await work(range(400))
        assert log_bytes(tmp_path) > 3 << 20
        assert 1 <= scans <= 400 * 8192 // (32 << 10)
        await store.split(batch)
        await work(range(400, 600))
        assert store.counts.copied_parts > 0
        assert log_bytes(tmp_path) < 1 << 20


async def test_tasks_that_cannot_be_read_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever works them off only tries again; nothing else says why no call is written any more."""
    async with opened(tmp_path) as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as beside:
            for change in ("alter table task rename to away", "alter table away rename to task"):
                beside.execute(change)
                beside.commit()
                for _ in range(3):
                    with contextlib.suppress(UnavailableError):
                        await store.claim_tasks("calls", START, 1)
            assert [record.message for record in caplog.records if "tasks could not be read" in record.message] == [
                "the store's tasks could not be read or written: no such table: task"
            ]
            beside.execute("alter table task rename to away")
            beside.commit()
            with pytest.raises(UnavailableError):
                await store.claim_tasks("calls", START, 1)
    assert len([record for record in caplog.records if "tasks could not be read" in record.message]) == 2
