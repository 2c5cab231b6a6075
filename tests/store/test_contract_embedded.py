"""The embedded store keeps the contract: on disk, and in memory alone."""

import contextlib
import shutil
import tempfile
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path

import pytest

from grafter.store.embedded import opening as embedded
from grafter.store.embedded.store import EmbeddedStore
from tests.store.calls_contract import CallContract, DurableCallContract
from tests.store.contract import LEASE, DurableContract, Settings, StoreContract
from tests.store.machine import machine
from tests.store.memories_contract import DurableMemoryContract, MemoryContract
from tests.store.tasks_contract import DurableTaskContract, TaskContract


class Directory:
    """A store's place on disk; segments are small, so that giving up space is part of every test."""

    def __init__(self, root: Path, numbers: "count[int] | None" = None) -> None:
        self._numbers = numbers or count()
        self._root = root
        self.path = root / f"store-{next(self._numbers)}"

    def open(self, settings: Settings) -> AbstractAsyncContextManager[EmbeddedStore]:
        return opened(self.path, settings)

    def crashed(self) -> "Directory":
        left = Directory(self._root, self._numbers)
        left.path.mkdir()
        # In the order of writing, since old segments may go meanwhile. The lock and SQLite's shared memory are nothing
        # that a dead process leaves in force. Of what it was at work on a power cut leaves no note; where there is one
        # its keys are handed out apart from others, which tests/faults/test_deadly_trace.py is about.
        for path in sorted(self.path.iterdir()):
            if path.name not in ("lock", "begun") and path.suffix != ".sqlite-shm":
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(path, left.path)
        return left


class Memory:
    """A store that ends with its process."""

    def open(self, settings: Settings) -> AbstractAsyncContextManager[EmbeddedStore]:
        return opened(None, settings)

    def crashed(self) -> "Memory":
        raise AssertionError("a store in memory leaves nothing")


def opened(path: Path | None, settings: Settings) -> AbstractAsyncContextManager[EmbeddedStore]:
    return embedded.opened(
        path,
        waits=settings.waits,
        max_bytes=settings.max_bytes,
        max_trace_bytes=settings.max_trace_bytes,
        lease_ns=LEASE,
        fsync="interval",
        fsync_interval=0.05,
        guests_apart=settings.guests_apart,
        clock=settings.now,
        segment_bytes=1 << 10,
    )


class TestOnDisk(
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
    def place(self, tmp_path: Path) -> Directory:
        return Directory(tmp_path)


class TestInMemory(StoreContract, TaskContract, CallContract, MemoryContract):
    @pytest.fixture
    def place(self) -> Memory:
        return Memory()


def _temporary() -> Directory:
    return Directory(Path(tempfile.mkdtemp(dir=_ROOT.name)))


_ROOT = tempfile.TemporaryDirectory(prefix="grafter-store-")

TestAnyOrderOnDisk = machine(_temporary, apart=False, durable=True).TestCase
TestAnyOrderOnDiskApart = machine(_temporary, apart=True, durable=True).TestCase
TestAnyOrderInMemory = machine(Memory, apart=False, durable=False).TestCase
