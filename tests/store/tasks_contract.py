"""What every store must do with tasks."""

import asyncio
from dataclasses import replace

import pytest

from grafter.core.model import UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.store.base import TaskStore
from grafter.store.model import TASK_BYTES, Task, TaskThen
from tests.store.contract import LATER, LEASE, START, Place, Settings

KIND = "look"


def task(name: str = "a", due: int = START, blob: bytes = b"") -> Task:
    return Task(KIND, name, UnixNano(due), blob)


def at(seconds: float) -> UnixNano:
    return UnixNano(START + int(seconds * SECOND))


async def claim(store: TaskStore, now: int = START) -> Task:
    (found,) = await store.claim_tasks(KIND, UnixNano(now), 10)
    return found


async def names(store: TaskStore, now: int = LATER, limit: int = 10) -> list[str]:
    return [found.name for found in await store.claim_tasks(KIND, UnixNano(now), limit)]


class TaskContract:
    """Claims about the tasks of any store. Subclasses give the fixture ``place``."""

    async def test_a_task_is_handed_out_when_it_is_due(self, place: Place, settings: Settings) -> None:
        """Earliest first, of its own kind alone, as many as are asked for, each to one owner."""
        async with place.open(settings) as store:
            waiting = [task("b", at(2), b"\x00\xff"), task("a", at(3)), task("c", at(9)), Task("other", "a", START)]
            await store.put_tasks(waiting, START)
            assert await names(store, START) == []
            first, second = await store.claim_tasks(KIND, at(5), 10)
            assert (first.name, first.due, first.blob, first.put_at) == ("b", at(2), b"\x00\xff", START)
            assert second.name == "a"
            assert await names(store, at(5)) == []
            assert await names(store, at(9), limit=1) == ["c"]

    async def test_a_lease_ends_and_can_be_renewed(self, place: Place, settings: Settings) -> None:
        """A silent owner loses the task, and what it does with it afterwards does nothing and says so."""
        async with place.open(settings) as store:
            await store.put_tasks([task()], START)
            old = await claim(store)
            await store.renew_tasks([old], at(5))
            assert await names(store, START + LEASE) == []
            new = await claim(store, at(5) + LEASE)
            assert not await store.update_task(replace(old, blob=b"old"), TaskThen.GIVE_BACK)
            assert not await store.update_task(old, TaskThen.END)
            await store.renew_tasks([old], LATER)
            assert await store.update_task(new, TaskThen.END)
            assert await names(store) == []

    async def test_an_update_keeps_the_task_or_gives_it_back(self, place: Place, settings: Settings) -> None:
        async with place.open(settings) as store:
            await store.put_tasks([task()], START)
            mine = await claim(store)
            assert await store.update_task(replace(mine, blob=b"1"), TaskThen.KEEP)
            assert await names(store, START) == []
            assert await store.update_task(replace(mine, due=at(60), blob=b"2"), TaskThen.GIVE_BACK)
            assert not await store.update_task(replace(mine, blob=b"3"), TaskThen.GIVE_BACK)
            assert await names(store, at(59)) == []
            assert (await claim(store, at(60))).blob == b"2"

    async def test_anybody_may_read_what_is_stored_of_a_task(self, place: Place, settings: Settings) -> None:
        """Owned or not, without taking it: what its owner stored last, and when it was put."""
        async with place.open(settings) as store:
            assert await store.find_task(KIND, "a") is None
            await store.put_tasks([task(due=at(2), blob=b"\x00\xff")], at(1))
            assert await store.find_task(KIND, "a") == replace(task(due=at(2), blob=b"\x00\xff"), put_at=at(1))
            assert await store.find_task("other", "a") is None
            mine = await claim(store, at(2))
            await store.update_task(replace(mine, blob=b"half"), TaskThen.KEEP)
            await store.put_tasks([task()], at(3))
            found = await store.find_task(KIND, "a")
            assert found is not None
            assert (found.blob, found.put_at, found.token) == (b"half", at(3), 0)
            assert not await store.update_task(found, TaskThen.END)
            assert await store.update_task(mine, TaskThen.END)

    async def test_whoever_puts_a_task_again_wakes_it(self, place: Place, settings: Settings) -> None:
        """The earlier time counts; an empty blob keeps the one that is there, another one replaces it."""
        async with place.open(settings) as store:
            await store.put_tasks([task(due=at(60), blob=b"known")], START)
            await store.put_tasks([task(due=at(90))], at(1))
            await store.put_tasks([task(due=at(5))], at(2))
            found = await claim(store, at(5))
            assert (found.due, found.blob, found.put_at) == (at(5), b"known", at(2))
            assert await store.update_task(replace(found, due=at(70)), TaskThen.GIVE_BACK)
            await store.put_tasks([task(due=at(80), blob=b"new")], at(6))
            assert (await claim(store, at(70))).blob == b"new"

    @pytest.mark.parametrize("how", ["update", "end"])
    async def test_a_wake_while_it_is_owned_is_not_lost(self, place: Place, settings: Settings, how: str) -> None:
        """It is due as soon as its owner lets go, with what the owner stored; two wakes of one moment differ."""
        async with place.open(settings) as store:
            await store.put_tasks([task()], START)
            mine = await claim(store)
            await store.put_tasks([task()], START)
            assert await names(store, START) == []
            assert await store.update_task(replace(mine, blob=b"half"), TaskThen.KEEP)
            if how == "update":
                assert await store.update_task(replace(mine, due=at(1000), blob=b"half"), TaskThen.GIVE_BACK)
            else:
                assert await store.update_task(mine, TaskThen.END)
            again = await claim(store)
            assert again.blob == b"half"
            assert again.put_at > mine.put_at
            assert await store.update_task(again, TaskThen.END)
            assert await names(store) == []

    @pytest.mark.parametrize("years", [0, 1, 30])
    async def test_every_put_is_a_later_one(self, place: Place, settings: Settings, years: int) -> None:
        """Also of one moment, and by a clock that is behind: by it an event is known from the one before it."""
        now = UnixNano(START + years * 365 * 24 * 3600 * SECOND)
        async with place.open(settings) as store:
            told = []
            for moment in (now, now, now - 5 * SECOND):
                await store.put_tasks([task(due=now)], UnixNano(moment))
                found = await store.find_task(KIND, "a")
                assert found is not None
                told.append(found.put_at)
        assert told[0] < told[1] < told[2]

    async def test_a_put_with_a_blob_takes_it_from_its_owner(self, place: Place, settings: Settings) -> None:
        async with place.open(settings) as store:
            await store.put_tasks([task(blob=b"1")], START)
            mine = await claim(store)
            await store.put_tasks([task(blob=b"2")], START)
            assert not await store.update_task(replace(mine, blob=b"old"), TaskThen.GIVE_BACK)
            assert (await claim(store)).blob == b"2"

    async def test_tasks_are_bounded(self, place: Place, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        """One too many is refused with all that came with it; a wake of one that is there is not one more."""
        async with place.open(settings) as store:
            limit_tasks(monkeypatch, 2)
            await store.put_tasks([task("a"), task("b")], START)
            with pytest.raises(UnavailableError):
                await store.put_tasks([task("a"), task("c")], START)
            await store.put_tasks([task("a", at(-1))], START)
            assert await names(store) == ["a", "b"]
            with pytest.raises(ValueError, match="bytes"):
                await store.put_tasks([task("a", blob=bytes(TASK_BYTES + 1))], START)

    async def test_many_at_once(self, place: Place, settings: Settings) -> None:
        """Puts and claims of many callers together: each task is handed out once."""
        async with place.open(settings) as store:
            await asyncio.gather(*(store.put_tasks([task(f"{n}")], START) for n in range(50)))
            claimed = await asyncio.gather(*(store.claim_tasks(KIND, START, 10) for _ in range(8)))
            found = [each.name for some in claimed for each in some]
            assert sorted(found, key=int) == [f"{n}" for n in range(50)]


class DurableTaskContract:
    """Claims about tasks that outlive their process."""

    async def test_tasks_outlive_a_stop_and_a_kill(self, place: Place, settings: Settings) -> None:
        """What was put, updated and ended counts; leases of the process that is gone do not."""
        async with place.open(settings) as store:
            await store.put_tasks([task("a"), task("b"), task("c", LATER, b"c")], START)
            first, second = await store.claim_tasks(KIND, START, 10)
            await store.update_task(first, TaskThen.END)
            await store.update_task(replace(second, blob=b"half"), TaskThen.KEEP)
            crashed = place.crashed()
        for left in (crashed, place):
            async with left.open(settings) as store:
                found = await store.claim_tasks(KIND, LATER, 10)
                assert [(each.name, each.blob) for each in found] == [("b", b"half"), ("c", b"c")]
                assert not await store.update_task(second, TaskThen.GIVE_BACK)


def limit_tasks(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Lower the limit for a test."""
    monkeypatch.setattr("grafter.store.embedded.metadata_tables.TASKS_LIMIT", limit)
    monkeypatch.setattr("grafter.store.redis.tasks.TASKS_LIMIT", limit)
