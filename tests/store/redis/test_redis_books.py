"""What stands in the books of each process that shares a Redis: two stores, and what each does with the other's."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from grafter.core.model import Facts, Key, UnixNano
from grafter.errors import UnavailableError
from grafter.store.model import Memory, PlainSettlement, Settlement, Share
from grafter.store.redis.engine import Engine
from grafter.store.redis.errors import TakenOverError
from grafter.store.redis.replicas import Replicas
from tests.store.contract import HOST, LATER, OTHER, START, Settings, claim_plain, guest_part, host_part
from tests.store.redis.books import BY_HAND, Process, be_silent, cut_off, flows, new_prefix, processes, take_over
from tests.store.redis.places import store
from tests.store.redis.servers import Server, cluster, server

THIRD = Key(b"c" * 16)


@pytest.fixture(scope="module", params=["single", "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "single":
        with server() as running:
            yield running.url
    else:
        with cluster() as nodes:
            yield f"redis+cluster://127.0.0.1:{nodes[0].port}"


async def test_a_trace_is_of_the_one_that_began_it(url: str) -> None:
    """What another one adds to it, and what another one settles, is in the books of both; its own doings in none."""
    async with processes(url) as (a, b):
        await a.take(host_part("1", spans=3))
        await b.take(host_part("2", spans=2), host_part("3", OTHER))
        assert flows(await a.look(), await b.look()) == [(5, 2, 0), (1, 0, 2)]
        await b.let_go()
        assert flows(await a.look(), await b.look()) == [(0, 2, 5), (0, 5, 2)]
        await a.take(host_part("4", THIRD, spans=7))
        await a.let_go(now=UnixNano(2 * LATER - START))
        assert flows(await a.look(), await b.look()) == [(0, 2, 5), (0, 5, 2)]


async def test_a_plain_batch_is_booked_like_claims(url: str) -> None:
    """Many traces of another's, settled as one."""
    async with processes(url) as (a, b):
        for i in range(40):
            await a.take(host_part("x", Key(bytes([i]) * 16), Facts.ROOT, spans=2))
        await b.look()
        batch = await claim_plain(b.store)
        assert batch is not None
        assert batch.spans == 80
        assert await b.store.settle(PlainSettlement(batch, [b"m"] * 40), LATER) == [True]
        b.gone += 80
        assert flows(await a.look(), await b.look()) == [(0, 0, 80), (0, 80, 0)]


async def test_a_guest_that_moves_is_counted_once(url: str) -> None:
    """Parts that wait under a guest's key go to its host, of another replica or by another replica: none is made up."""
    async with processes(url) as (a, b):
        await a.take(host_part("h", spans=2))
        await b.take(guest_part("early"))
        await a.take(guest_part("linked", host=HOST))
        first, second = await a.look(), await b.look()
        assert [one.own.spans if one.own else 0 for one in (first, second)] == [4, 0]
        await b.take(guest_part("moved", "trace_m"))
        (claim,) = [claim for claim in await a.store.claim(LATER, 10) if len(claim.key) == 17]
        assert await a.store.move(claim, OTHER)
        await a.look()
        await b.look()
        await b.let_go(now=UnixNano(2 * LATER - START))
        assert [one.own.spans if one.own else -1 for one in (await a.look(), await b.look())] == [0, 0]


async def test_what_each_holds_is_one_answer_away(url: str) -> None:
    """Every process shows the shares of all: traces, spans, bytes and the oldest part, by number."""
    async with processes(url) as (a, b):
        await a.store.append([host_part("early", spans=3)], UnixNano(START - 5_000_000_000))
        await a.store.append([host_part("more"), host_part("next", OTHER)], START)
        await b.store.append([host_part("late", THIRD, spans=9)], START)
        for one in (a, b):
            await one.store.engine.refresh_totals()
            assert one.store.stats().replicas == {
                1: Share(2, 5, 13, UnixNano(START - 5_000_000_000)),
                2: Share(1, 9, 4, START),
            }
        assert (a.store.stats().spans, a.store.stats().oldest) == (14, START - 5_000_000_000)


async def test_a_stop_leaves_what_is_held_to_the_next_start(url: str) -> None:
    """It stands there as recovered, once, whoever starts; and whoever lives beside it does not count it."""
    prefix = new_prefix()
    async with processes(url, 1, prefix) as (lasting,):
        await lasting.take(host_part("beside", THIRD))
        async with processes(url, 1, prefix) as (first,):
            await first.take(host_part("held", spans=6))
        async with processes(url, 1, prefix) as (second,):
            stats = await second.look()
            assert (stats.recovered_spans, stats.taken_over_spans) == (6, 0)
            assert flows(await lasting.look()) == [(1, 0, 0)]


async def test_what_a_dead_one_left_is_taken_over(url: str) -> None:
    """Once, when it was silent for long; should it live after all, it goes on as a new one and says what it lost."""
    # Each looks by hand here: who does not is dead.
    async with processes(url, 3, lease_ns=300_000_000, least_lease_seconds=0.3, **BY_HAND) as (dead, b, c):
        await dead.take(host_part("left", spans=3))
        await b.take(host_part("own", OTHER), host_part("added", spans=2))
        await dead.take(host_part("given", OTHER))
        await dead.look()
        await b.look()
        deadline = asyncio.get_running_loop().time() + 60
        while True:
            found = [await b.look(), await c.look()]
            if sum(stats.taken_over_spans for stats in found) > 1:
                break
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        assert sum(stats.taken_over_spans for stats in found) == 1 + 5
        assert sum(stats.own.spans for stats in found if stats.own) == 7
        assert flows(await dead.look()) == [(0, 2, 1 + 5)]
        await dead.take(host_part("again", THIRD))
        assert flows(await dead.look()) == [(1, 2, 1 + 5)]
        # The number that was taken over is free again once nothing is held under it.
        await b.let_go()
        for one in (b, c, dead):
            await one.look()
        assert {len(one.store.engine.numbers) for one in (dead, b, c)} == {1}


async def test_what_a_new_owner_settles_is_none_of_the_frozen_ones_books(url: str) -> None:
    """Released before the frozen one hears that it was taken for dead: it had handed all of it over."""
    async with processes(url, **BY_HAND) as (frozen, other):
        await frozen.take(host_part("before", spans=3), host_part("more", OTHER, spans=4))
        await take_over(other, frozen)
        await other.take(host_part("added", spans=2), host_part("new", THIRD))
        await other.let_go()
        assert flows(await other.look()) == [(0, 7, 0)]
        assert flows(await frozen.look()) == [(0, 0, 7)]
        await frozen.take(host_part("after", OTHER, spans=5))
        assert flows(await frozen.look(), await other.look()) == [(5, 0, 7), (0, 7, 0)]
        assert [one.store.stats().recovered_spans for one in (frozen, other)] == [0, 0]


async def test_a_frozen_one_that_wakes_counts_under_a_number_of_its_own(url: str) -> None:
    """What it stores and settles first, before its next look, it does as the new one that it is."""
    async with processes(url, **BY_HAND) as (frozen, other):
        await frozen.take(host_part("before", spans=3))
        await other.take(host_part("other's", OTHER, spans=2))
        claims = await frozen.store.claim(LATER, 10)
        await take_over(other, frozen)
        await frozen.take(host_part("waking", THIRD, spans=5))
        settled = await frozen.store.settle([Settlement(claim, ()) for claim in claims], LATER)
        assert settled == [True, True]
        frozen.gone += 5
        assert flows(await frozen.look(), await other.look()) == [(5, 5, 3), (0, 3, 5)]
        assert [one.store.stats().recovered_spans for one in (frozen, other)] == [0, 0]


@pytest.mark.parametrize(("what", "time"), [("register_replica", 1), ("read_totals", 1), ("register_replica", 2)])
async def test_a_look_that_is_cut_off_and_gets_the_same_number_back_parts_its_books(
    url: str, what: str, time: int
) -> None:
    """It was taken over, settled and given up; at the next look this is still known, and is booked once."""
    async with processes(url, **BY_HAND) as (frozen, other):
        await frozen.take(host_part("before", spans=3))
        (number,) = frozen.store.engine.numbers
        await take_over(other, frozen)
        await other.let_go()
        await other.look()
        assert number not in other.store.engine.numbers
        cut_off(frozen, what, time)
        with pytest.raises(UnavailableError):
            await frozen.store.replicas.check(still=False)
        assert flows(await frozen.look(), await other.look()) == [(0, 0, 3), (0, 3, 0)]
        assert frozen.store.engine.numbers == bytes([number])
        await frozen.take(host_part("after", OTHER, spans=5))
        assert flows(await frozen.look(), await other.look()) == [(5, 0, 3), (0, 3, 0)]
        assert frozen.store.stats().recovered_spans == 0


async def test_who_wakes_before_the_new_owner_looks_says_what_it_was(url: str) -> None:
    """Both part the books at the same point, whoever comes first; what is left of that goes after a day."""
    async with processes(url, 3, **BY_HAND) as (frozen, other, third):
        await frozen.take(host_part("before", spans=3))
        read = other.store.engine.read_totals

        async def slow(*args: Any, **more: Any) -> None:
            await read(*args, **more)
            other.store.engine.read_totals = read  # type: ignore[method-assign]
            # The other has the number, and does not count under it yet.
            assert flows(await frozen.look()) == [(0, 0, 3)]
            await third.let_go()

        other.store.engine.read_totals = slow  # type: ignore[method-assign]
        await take_over(other, frozen)
        assert flows(await frozen.look(), await other.look(), await third.look()) == [(0, 0, 3), (0, 3, 3), (0, 3, 0)]
        names = [other.store.engine.layout.tags[0] + b"e:%s:1" % one.store.replicas._token for one in (frozen, other)]
        left, never = await other.store.engine.commands([(0, ("PTTL", name)) for name in names])
        assert 0 < left <= 24 * 3600 * 1000
        assert never == -2


async def test_what_is_on_its_way_counts_before_the_books_are_parted(url: str) -> None:
    """A settlement that was sent under the old number counts there, not in both; what comes later waits."""
    async with processes(url, 1, **BY_HAND) as (one,):
        await one.take(host_part("before", spans=3))
        claims = await one.store.claim(LATER, 10)
        name = one.store.engine.layout.tags[0] + b"replicas"
        await one.store.engine.commands([(0, ("HDEL", name, *one.store.engine.numbers))])
        run, sent, heard, answered = one.store.engine.run, asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def late(what: str, *args: Any, **more: Any) -> Any:
            if what == "settle":
                sent.set()
                await answered.wait()
            answer = await run(what, *args, **more)
            if what == "register_replica":
                one.store.engine.run = run  # type: ignore[method-assign]
                heard.set()
            return answer

        one.store.engine.run = late  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as tasks:
            settling = tasks.create_task(one.store.settle([Settlement(claim, ()) for claim in claims], LATER))
            await sent.wait()
            tasks.create_task(one.store.replicas.check(still=False))
            await heard.wait()
            tasks.create_task(one.take(host_part("after", THIRD)))
            answered.set()
        assert settling.result() == [True]
        one.gone += 3
        assert flows(await one.look()) == [(1, 0, 0)]


async def test_what_a_silent_one_sent_is_not_done_when_its_number_is_anothers(url: str) -> None:
    """Redis comes to it when the next one has the number, and all of it in its books: nobody else counts under it."""
    prefix = new_prefix()
    async with processes(url, 2, prefix, **BY_HAND) as (silent, other):
        await silent.take(host_part("settled", spans=3), host_part("kept", OTHER, spans=4))
        await other.take(host_part("other's", THIRD, spans=2))
        claims = await silent.store.claim(LATER, 10)
        run, thawed = silent.store.engine.run, asyncio.Event()
        sent = asyncio.Semaphore(0)

        async def late(what: str, *args: Any, **more: Any) -> Any:
            sent.release()
            await thawed.wait()
            return await run(what, *args, **more)

        silent.store.engine.run = late  # type: ignore[method-assign]
        settlements = [Settlement(claim, (Memory(claim.key, b"m"),)) for claim in claims if claim.key != OTHER]
        on_its_way = asyncio.gather(
            silent.store.settle(settlements, LATER),
            silent.take(host_part("stored", Key(b"d" * 16), spans=5), host_part("added", THIRD)),
            return_exceptions=True,
        )
        await sent.acquire()
        await sent.acquire()
        silent.store.engine.run = run  # type: ignore[method-assign]
        number = await be_silent(silent)
        async with processes(url, 1, prefix, **BY_HAND) as (successor,):
            assert successor.store.engine.numbers == bytes([number])
            thawed.set()
            assert [type(answer) for answer in await on_its_way] == [TakenOverError, TakenOverError]
            assert flows(await successor.look(), await other.look()) == [(3 + 4, 0, 0), (2, 0, 0)]
            assert successor.store.stats().recovered_spans == 3 + 4
            # Both again, as whoever waits for them does.
            assert await silent.store.settle(settlements, LATER) == [True, True]
            silent.gone += 3 + 2
            await silent.take(host_part("stored", Key(b"d" * 16), spans=5), host_part("added", THIRD))
            found = [await one.look() for one in (silent, successor, other)]
            assert flows(*found) == [(6, 5, 7), (4, 0, 3), (0, 0, 2)]
            assert [one.recovered_spans for one in found] == [0, 3 + 4, 0]


async def test_a_number_is_begun_anew_where_its_record_does_not_say_that_it_was_taken(url: str) -> None:
    """As after a failover of the server that has the record, and not the tallies."""
    async with processes(url, **BY_HAND) as (silent, other):
        await silent.take(host_part("before", spans=3))
        name = silent.store.engine.layout.tags[0] + b"replicas"
        (record,) = await silent.store.engine.commands([(0, ("HGET", name, 1))])
        await take_over(other, silent)
        await silent.store.engine.commands([(0, ("HSET", name, 1, record))])
        await silent.store.replicas.check(still=False)
        await other.look()
        with pytest.raises(TakenOverError):
            await silent.take(host_part("refused", spans=5))
        await silent.take(host_part("again", spans=5))
        assert flows(await silent.look(), await other.look()) == [(8, 3, 3), (0, 3, 3)]


async def test_the_place_of_a_dead_one_is_taken_with_its_books(url: str) -> None:
    """A worker that starts again goes on where the dead one stopped, with what others did meanwhile."""
    prefix, token = new_prefix(), os.urandom(8)
    async with processes(url, 1, prefix) as (other,):
        begun = store(url, prefix, Settings(), replica=token)
        dead = Process(await begun.__aenter__())
        await dead.take(host_part("1", spans=3))
        await other.take(host_part("2"), host_part("3", OTHER, spans=2))
        await dead.look()
        # A kill: what it would say at a stop is not said.
        dead.store.replicas = Replicas(dead.store.engine, os.urandom(8))
        await begun.__aexit__(None, None, None)
        await other.let_go()
        async with store(url, prefix, Settings(), replica=token) as again:
            successor = Process(again, dead.accepted, dead.gone)
            assert flows(await successor.look(), await other.look()) == [(0, 1, 4), (0, 4, 1)]
            assert again.stats().recovered_spans == 0


@pytest.mark.parametrize("begun", [1, 2])
async def test_a_start_that_redis_cuts_off_begins_its_books_anew(
    url: str, monkeypatch: pytest.MonkeyPatch, begun: int
) -> None:
    """What became of its numbers before is in nobody's books again, however many of them were begun by then."""
    prefix = new_prefix()
    async with processes(url, 1, prefix) as (lasting,):
        async with processes(url, 2, prefix) as (before, beside):
            await before.take(host_part("1", spans=3), host_part("2", OTHER))
            await beside.take(host_part("4", Key(b"d" * 16), spans=6))
            await lasting.let_go()
            await before.take(host_part("3", THIRD, spans=2))
            await beside.take(host_part("5", HOST, spans=7))
        begin, left = Replicas._begin, begun

        async def begin_twice(self: Replicas, *args: Any) -> int:
            nonlocal left
            held = await begin(self, *args)
            left -= 1
            if left == 0:
                raise UnavailableError("the connection was lost", reason="store_down")
            return held

        monkeypatch.setattr(Replicas, "_begin", begin_twice)
        async with processes(url, 1, prefix) as (one,):
            assert flows(await one.look(), await lasting.look()) == [(2 + 7, 0, 0), (0, 10, 0)]
            assert one.store.stats().recovered_spans == 2 + 7
        assert left < 0


async def test_a_start_whose_books_were_noted_without_an_answer_keeps_them(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had found held is recovered; it does not take itself for who comes after a dead one."""
    prefix = new_prefix()
    async with processes(url, 1, prefix) as (before,):
        await before.take(host_part("held", spans=5))
    run, asked = Engine.run, 0

    async def unanswered(self: Engine, what: str, *args: Any, **more: Any) -> Any:
        nonlocal asked
        answer = await run(self, what, *args, **more)
        asked += what == "register_replica"
        if asked == 2 and what == "register_replica":
            raise UnavailableError("the connection was lost", reason="store_down")
        return answer

    monkeypatch.setattr(Engine, "run", unanswered)
    async with processes(url, 1, prefix) as (one,):
        assert asked > 2
        assert flows(await one.look()) == [(5, 0, 0)]
        assert one.store.stats().recovered_spans == 5


async def test_what_is_stored_during_a_look_is_not_taken_for_unanswered(url: str) -> None:
    """The tallies were read before it: it is accepted, and not recovered at the next look as well."""
    async with processes(url, 1, **BY_HAND) as (one,):
        run = one.store.engine.run

        async def meanwhile(what: str, *args: Any, **more: Any) -> Any:
            if what == "register_replica":
                one.store.engine.run = run  # type: ignore[method-assign]
                await one.take(host_part("meanwhile", spans=3))
            return await run(what, *args, **more)

        one.store.engine.run = meanwhile  # type: ignore[method-assign]
        await one.look()
        assert (await one.look()).recovered_spans == 0


async def test_a_dead_one_whose_number_went_to_another_comes_back_with_its_books(url: str) -> None:
    """A worker that was away for long goes on with what it had counted: what it held has been handed over."""
    prefix, token = new_prefix(), os.urandom(8)
    async with processes(url, 1, prefix, **BY_HAND) as (other,):
        begun = store(url, prefix, Settings(), replica=token, **BY_HAND)
        dead = Process(await begun.__aenter__())
        await dead.take(host_part("1", spans=3), host_part("gone", THIRD, spans=5))
        await other.take(host_part("2"))
        await dead.let_go(now=LATER)
        await dead.take(host_part("3", OTHER, spans=2))
        await dead.look()
        await take_over(other, dead)
        # A kill, as above.
        dead.store.replicas = Replicas(dead.store.engine, os.urandom(8))
        await begun.__aexit__(None, None, None)
        await other.let_go()
        async with store(url, prefix, Settings(), replica=token, **BY_HAND):
            """It ends before it has looked."""
        async with store(url, prefix, Settings(), replica=token, **BY_HAND) as again:
            successor = Process(again, dead.accepted, dead.gone)
            assert flows(await successor.look(), await other.look()) == [(0, 1, 2), (0, 2, 1)]


@pytest.mark.parametrize("numbers", [1, 2])
async def test_who_dies_between_hearing_of_a_loss_and_noting_it_comes_back_with_its_books(
    url: str, numbers: int
) -> None:
    """A kill right after it thawed: all of its numbers went to another one, or one of two."""
    prefix, token = new_prefix(), os.urandom(8)
    async with processes(url, 2, prefix, **BY_HAND) as (other, third):
        begun = store(url, prefix, Settings(), replica=token, **BY_HAND)
        frozen = Process(await begun.__aenter__())
        if numbers == 2:
            await third.take(host_part("left", OTHER, spans=4))
            await take_over(frozen, third)
        else:
            await frozen.take(host_part("before", spans=4))
        await frozen.look()
        assert len(frozen.store.engine.numbers) == numbers
        await take_over(other, frozen)
        cut_off(frozen, "register_replica")
        with pytest.raises(UnavailableError):
            await frozen.store.replicas.check(still=False)
        # A kill, as above.
        frozen.store.replicas = Replicas(frozen.store.engine, os.urandom(8))
        await begun.__aexit__(None, None, None)
        await other.let_go()
        async with store(url, prefix, Settings(), replica=token, **BY_HAND) as again:
            successor = Process(again, frozen.accepted, frozen.gone)
            taken_over = 4 if numbers == 2 else 0
            assert flows(await successor.look(), await other.look()) == [(0, taken_over, 4), (0, 4, 0)]


async def test_who_dies_before_a_loss_is_noted_is_told_again_what_it_was(url: str) -> None:
    """The new owner has said what it had found, and settled it; whoever asks again hears the same."""
    prefix, token = new_prefix(), os.urandom(8)
    async with processes(url, 1, prefix, **BY_HAND) as (other,):
        begun = store(url, prefix, Settings(), replica=token, **BY_HAND)
        frozen = Process(await begun.__aenter__())
        await frozen.take(host_part("before", spans=4))
        await frozen.look()
        await take_over(other, frozen)
        await other.let_go()
        cut_off(frozen, "register_replica", 2, done=False)
        with pytest.raises(UnavailableError):
            await frozen.store.replicas.check(still=False)
        # A kill, as above.
        frozen.store.replicas = Replicas(frozen.store.engine, os.urandom(8))
        await begun.__aexit__(None, None, None)
        async with store(url, prefix, Settings(), replica=token, **BY_HAND) as again:
            successor = Process(again, frozen.accepted, frozen.gone)
            assert flows(await successor.look(), await other.look()) == [(0, 0, 4), (0, 4, 0)]


async def test_what_was_stored_without_an_answer_is_recovered() -> None:
    """Redis did it and fell silent: the sender sends again, and what is held twice stands in the books twice."""
    with server() as own:
        await _silent(own)


async def _silent(own: Server) -> None:
    async with store(own.url, "silent", Settings(), timeout=1.0) as running:
        process = Process(running)
        await process.take(host_part("before"))
        own.pause()
        with pytest.raises(UnavailableError):
            await process.take(host_part("unknown", spans=5))
        own.resume()
        deadline = asyncio.get_running_loop().time() + 60
        while True:
            try:
                await process.take(host_part("unknown", spans=5))
                stats = await process.look()
                break
            except UnavailableError:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
        assert stats.own is not None
        assert (stats.own.spans, stats.recovered_spans) == (11, 5)
