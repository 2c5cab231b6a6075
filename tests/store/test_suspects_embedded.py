"""What an earlier process ended on is worked on apart, and holds up nothing else that is due."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grafter.core.model import Key, UnixNano
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.model import Claim, Settlement
from tests.store.contract import HOST, LATER, OTHER, START, host_part
from tests.store.test_embedded import opened

THIRD, FOURTH = Key(b"c" * 16), Key(b"d" * 16)


async def claim(store: EmbeddedStore, now: UnixNano) -> list[Claim]:
    claims = await store.claim(now, 10)
    return [one for one in claims if isinstance(one, Claim)]


@asynccontextmanager
async def killed(directory: Path, after: Path) -> AsyncIterator[EmbeddedStore]:
    """The store; what a kill at the end of the block would leave is in ``after``."""
    async with opened(directory) as store:
        await store.recovered()
        yield store
        shutil.copytree(directory, after)


async def test_what_else_is_due_leaves_between_two_that_may_be_deadly(tmp_path: Path) -> None:
    """After two ends each is alone, and nothing is worked on beside it; before the next comes what is not suspected."""
    keys = {HOST, OTHER}
    async with killed(tmp_path / "0", tmp_path / "1") as store:
        await store.append([host_part(key=key) for key in keys], START)
        assert {one.key for one in await claim(store, LATER)} == keys
    async with killed(tmp_path / "1", tmp_path / "2") as store:
        assert {(one.key, one.deaths) for one in await claim(store, LATER)} == {(key, 1) for key in keys}
    async with opened(tmp_path / "2") as store:
        await store.recovered()
        await store.append([host_part(key=key) for key in (THIRD, FOURTH)], START)
        order = []
        for _ in range(3):
            claims = await claim(store, LATER)
            order.append({(one.key, one.deaths) for one in claims})
            assert await claim(store, LATER) == []
            assert all(await store.settle([Settlement(one) for one in claims], LATER))
        assert await claim(store, LATER) == []
        (first,), others, (second,) = order
        assert {first, second} == {(key, 2) for key in keys}
        assert others == {(THIRD, 0), (FOURTH, 0)}
