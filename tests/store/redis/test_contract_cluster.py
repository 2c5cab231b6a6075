"""A cluster of three nodes keeps the contract."""

from collections.abc import Iterator

import pytest

from grafter.store.redis.layout import BUCKETS
from tests.store.calls_contract import CallContract, DurableCallContract
from tests.store.contract import DurableContract, StoreContract
from tests.store.machine import machine
from tests.store.memories_contract import DurableMemoryContract, MemoryContract
from tests.store.redis.places import Place
from tests.store.redis.servers import Server, cluster
from tests.store.tasks_contract import DurableTaskContract, TaskContract

_RUNNING: list[Server] = []


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[list[Server]]:
    with cluster() as running:
        _RUNNING.extend(running)
        yield running
        _RUNNING.clear()


def _place() -> Place:
    return Place(_RUNNING, f"redis+cluster://127.0.0.1:{_RUNNING[0].port},127.0.0.1:{_RUNNING[1].port}")


class TestCluster(
    StoreContract,
    DurableContract,
    TaskContract,
    DurableTaskContract,
    CallContract,
    DurableCallContract,
    MemoryContract,
    DurableMemoryContract,
):
    copies = BUCKETS

    @pytest.fixture
    def place(self, nodes: list[Server]) -> Place:
        return _place()


TestAnyOrder = machine(_place, apart=False, durable=True, shared=True).TestCase
