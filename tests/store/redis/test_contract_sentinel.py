"""A primary that a sentinel names keeps the contract, with every part on the replica before it is acknowledged."""

from collections.abc import Iterator

import pytest

from tests.store.calls_contract import CallContract, DurableCallContract
from tests.store.contract import DurableContract, StoreContract
from tests.store.memories_contract import DurableMemoryContract, MemoryContract
from tests.store.redis.places import Place
from tests.store.redis.servers import Pair, pair
from tests.store.tasks_contract import DurableTaskContract, TaskContract


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    with pair() as running:
        yield running


class TestSentinel(
    StoreContract,
    DurableContract,
    TaskContract,
    DurableTaskContract,
    CallContract,
    DurableCallContract,
    MemoryContract,
    DurableMemoryContract,
):
    @pytest.fixture
    def place(self, servers: Pair) -> Place:
        return Place([servers.primary], servers.url, wait_replicas=1)
