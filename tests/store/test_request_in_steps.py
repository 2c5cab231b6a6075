"""A request of very many parts: stored whole, a step at a time, so that others have their turn meanwhile."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from grafter.core.model import Envelope, Key, Part
from grafter.errors import UnavailableError
from grafter.store.embedded.store import EmbeddedStore
from tests.store.contract import START, host_part
from tests.store.test_embedded import opened

PARTS = 10_000


def request(size: int = 1, envelope: Envelope | None = None) -> list[Part]:
    some = [host_part("x" * size, Key(i.to_bytes(16, "big"))) for i in range(1, PARTS + 1)]
    return some if envelope is None else [replace(part, envelope=envelope) for part in some]


@pytest.fixture(params=["memory", "disk"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path


async def seen_while(store: EmbeddedStore, parts: list[Part]) -> set[int]:
    """How many spans were held at each turn that others had while these were stored."""
    seen: set[int] = set()
    async with asyncio.TaskGroup() as tasks:
        storing = tasks.create_task(store.append(parts, START))
        while not storing.done():
            await asyncio.sleep(0)
            seen.add(store.stats().spans)
    return seen


async def test_others_have_their_turn_and_all_of_it_is_stored(directory: Path | None) -> None:
    async with opened(directory) as store:
        seen = await seen_while(store, request())
        assert {4096, 8192, PARTS} <= seen
        assert store.stats().traces == store.stats().spans == PARTS
        assert store.stats().recovered_spans == 0
    if directory is not None:
        async with opened(directory) as again:
            await again.recovered()
            assert again.stats().traces == again.stats().spans == PARTS


async def test_parts_of_many_bytes_are_stored_in_steps_too() -> None:
    async with opened(None) as store:
        seen = await seen_while(store, request(3000)[:4000])
        assert len(seen) > 1
        assert max(seen) == 4000


async def test_a_large_resource_is_not_stored_once_a_step(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        resource = Envelope(b"r" * (1 << 20), b"")
        await store.append(request(envelope=resource), START)
        assert store.stats().bytes < PARTS * 2 + 2 * resource.size
        assert store.stats().disk_bytes < 10 << 20


async def test_what_was_stored_of_a_request_that_failed_stands_in_the_books(directory: Path | None) -> None:
    """Its sender is told that nothing was, and sends it again."""
    async with opened(directory) as store:
        async with asyncio.TaskGroup() as tasks:
            storing = tasks.create_task(store.append(request(), START))
            while not store.stats().spans:  # noqa: ASYNC110  # what is looked at says nothing by itself
                await asyncio.sleep(0)
            storing.cancel()
        assert storing.cancelled()
        stats = store.stats()
        assert 0 < stats.spans < PARTS
        assert stats.recovered_spans == stats.spans


async def test_a_request_for_which_there_is_no_room_leaves_nothing_behind(directory: Path | None) -> None:
    async with opened(directory, max_bytes=5 << 20) as store:
        with pytest.raises(UnavailableError, match="full"):
            await store.append(request(1000), START)
        assert store.stats().spans == 0
