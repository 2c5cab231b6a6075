"""What is known of a power cut: by the boot that a directory was left in, and by whether it was left in order."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from grafter.core.model import Facts, Key, Part, UnixNano
from grafter.core.policy import SECOND, Waits
from grafter.store.embedded import opening as embedded
from grafter.store.embedded.opening import BootMark
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.model import Claim, Outcome
from tests.faults.store_child import ENVELOPE
from tests.store.contract import LEASE, START

LATER = UnixNano(START + 1000 * SECOND)
DUE, ANSWERED, NEW = (Key(bytes([n] * 16)) for n in (1, 2, 3))


@asynccontextmanager
async def opened(directory: Path, now: int = LATER, fsync: str = "interval") -> AsyncIterator[EmbeddedStore]:
    async with embedded.opened(
        directory,
        waits=Waits(),
        max_bytes=1 << 32,
        max_trace_bytes=1 << 30,
        lease_ns=LEASE,
        guests_apart=False,
        fsync=fsync,
        clock=lambda: now,
        exporters=("one", "two"),
    ) as store:
        await store.recovered()
        yield store


def part(key: Key) -> Part:
    return Part(key, b"payload", 1, ENVELOPE, Facts.ROOT, b"i" * 8)


async def claims(store: EmbeddedStore) -> dict[Key, Claim]:
    found: Sequence[Claim] = await store.claim(UnixNano(LATER + 1000 * SECOND), 10)  # type: ignore[assignment]
    return {claim.key: claim for claim in found}


async def left(directory: Path) -> None:
    """A directory with a trace that was due, one that an exporter has, and one that was not due yet."""
    async with opened(directory, START) as store:
        await store.append([part(DUE), part(ANSWERED)], START)
        known = [claim for key, claim in (await claims(store)).items() if key == ANSWERED]
        await store.record(known, "one", Outcome.INTENDED)
        await store.record(known, "one", Outcome.ACCEPTED)
        await store.append([part(NEW)], LATER)


async def test_after_a_power_cut_whatever_was_due_may_have_left(tmp_path: Path) -> None:
    """It has an intent for each exporter that gave no answer; what was not due has none, nor what comes later."""
    await left(tmp_path)
    (tmp_path / "boot").write_text("another")
    async with opened(tmp_path) as store:
        await store.append([part(DUE)], LATER)
        found = await claims(store)
        assert found[DUE].outcomes == {"one": Outcome.INTENDED, "two": Outcome.INTENDED}
        assert found[ANSWERED].outcomes == {"one": Outcome.ACCEPTED, "two": Outcome.INTENDED}
        assert found[NEW].outcomes == {}
        assert [len(parts) for parts in await store.read([found[DUE]])] == [1]
    # It is known from then on, however often it starts.
    async with opened(tmp_path) as store:
        assert (await claims(store))[DUE].outcomes == {"one": Outcome.INTENDED, "two": Outcome.INTENDED}


async def test_what_waits_for_one_exporter_alone_may_have_left_too(tmp_path: Path) -> None:
    """A batch of a backlog has an intent for its exporter, and for no other."""
    async with opened(tmp_path, START) as store:
        await store.defer("two", [part(DUE)], START)
    (tmp_path / "boot").write_text("another")
    for _ in range(2):
        async with opened(tmp_path) as store:
            assert await store.claim_deferred("one", LATER, 10) == []
            (claim,) = await store.claim_deferred("two", LATER, 10)
            assert claim.outcomes == {"two": Outcome.INTENDED}


@pytest.mark.parametrize("said", ["this boot", "ended", ""])
async def test_without_one_nothing_is_marked(tmp_path: Path, said: str) -> None:
    """A kill in the same boot, an end in order, or a directory of an older grafter: what was written is all there."""
    await left(tmp_path)
    assert (tmp_path / "boot").read_text().strip() == "ended"
    (tmp_path / "boot").write_text(embedded.boot_id() if said == "this boot" else said)
    async with opened(tmp_path) as store:
        assert (await claims(store))[DUE].outcomes == {}


async def test_with_fsync_always_nothing_is_lost_and_nothing_marked(tmp_path: Path) -> None:
    """The directory never says that something may be missing."""
    async with opened(tmp_path, fsync="always") as store:
        await store.append([part(DUE)], LATER)
        assert not (tmp_path / "boot").exists()


async def test_who_does_not_see_to_it_leaves_it_to_the_next(tmp_path: Path) -> None:
    """A mark of another boot stays until what follows from it is on the disk."""
    (tmp_path / "boot").write_text("another")
    mark = BootMark(tmp_path, "this")
    assert mark.cut_off
    mark.end()
    assert BootMark(tmp_path, "this").cut_off
    mark.begin(lasting=False)
    assert not BootMark(tmp_path, "this").cut_off
    assert BootMark(tmp_path, "third").cut_off
    mark.end()
    assert not BootMark(tmp_path, "third").cut_off
    assert not BootMark(tmp_path, "").cut_off
