"""A single Redis server keeps the contract."""

from collections.abc import Iterator

import pytest

from tests.store.calls_contract import CallContract, DurableCallContract
from tests.store.contract import DurableContract, StoreContract
from tests.store.machine import machine
from tests.store.memories_contract import DurableMemoryContract, MemoryContract
from tests.store.redis.places import Place
from tests.store.redis.servers import Server, server
from tests.store.tasks_contract import DurableTaskContract, TaskContract


@pytest.fixture(scope="module", autouse=True)
def redis() -> Iterator[Server]:
    with server() as running:
        _RUNNING.append(running)
        yield running
        _RUNNING.clear()


_RUNNING: list[Server] = []


class TestSingle(
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
    def place(self, redis: Server) -> Place:
        return Place([redis], redis.url)


def _place() -> Place:
    return Place(_RUNNING, _RUNNING[0].url)


TestAnyOrder = machine(_place, apart=False, durable=True, shared=True).TestCase
TestAnyOrderApart = machine(_place, apart=True, durable=True, shared=True).TestCase
