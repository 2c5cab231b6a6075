"""Turns: how many at once, who is next, and who is refused before anything of it is read."""

import asyncio
from collections import Counter
from time import perf_counter

import pytest

from grafter.errors import UnavailableError
from grafter.receiver import turns
from grafter.receiver.in_flight import InFlight
from grafter.receiver.turns import Turn, Turns

AT_ONCE = 16


def idle() -> float:
    """A loop that has computed nothing, and is never looked after."""
    return 0.0


async def filled(waiting: Turns) -> list[Turn]:
    """As many turns as there are at once."""
    return [await waiting.wait("flood") for _ in range(AT_ONCE)]


async def in_order(waiting: Turns, held: list[Turn], *senders: str) -> list[str]:
    """In which order these get their turns, all of which wait, while one after the other is given back."""
    order: list[str] = []

    async def one(sender: str) -> None:
        turn = await waiting.wait(sender)
        turn.weigh(1 << 19)
        order.append(sender)
        turn.end()

    async with asyncio.TaskGroup() as group:
        for sender in senders:
            group.create_task(one(sender))
        await asyncio.sleep(0)
        assert waiting.waiting == len(senders)
        held[0].end()
    return order


async def test_who_sends_little_goes_before_who_floods() -> None:
    """A request of a connection that had nothing passes those that wait of one that had much, however many they are."""
    waiting = Turns(worked=idle)
    held = await filled(waiting)
    order = await in_order(waiting, held, *["flood"] * 20, "small")
    assert order.index("small") <= 1


async def test_who_sends_little_goes_before_many_that_send_much() -> None:
    """A flood of a hundred connections, of which each waits with one request at a time, as HTTP has it, does not make a
    sender of little wait for all of them, time after time."""
    waiting = Turns(worked=idle)
    order: list[str] = []

    async def one(sender: str, size: int) -> None:
        turn = await waiting.wait(sender)
        turn.weigh(size)
        order.append(sender)
        turn.end()

    for _ in range(3):
        held = await filled(waiting)
        order.clear()
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(f"flood {number}", 1 << 17))
            await asyncio.sleep(0)
            group.create_task(one("small", 400))
            await asyncio.sleep(0)
            for turn in held:
                turn.end()
    assert order.index("small") <= 1


async def test_connections_take_turns() -> None:
    """Of two that send alike neither gets far ahead of the other, though one had asked for everything first."""
    waiting = Turns(worked=idle)
    held = await filled(waiting)
    order = await in_order(waiting, held, *["first"] * 10, *["second"] * 10)
    for some in range(2, 20, 2):
        so_far = Counter(order[:some])
        assert abs(so_far["first"] - so_far["second"]) <= 2


async def test_a_large_request_counts_as_several() -> None:
    """Requests of some megabytes have as many turns as they are large, so that fewer of them are at work at once."""
    waiting = Turns(worked=idle)
    first = await waiting.wait("a")
    assert waiting.is_free()
    first.weigh(AT_ONCE << 20)
    assert not waiting.is_free()
    first.end()
    first.end()
    assert waiting.is_free(AT_ONCE - 1)
    assert not waiting.is_free(AT_ONCE)


async def test_who_waits_too_long_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits without a bound; afterwards nothing of it is left."""
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.05)
    waiting = Turns(worked=idle)
    held = await filled(waiting)
    with pytest.raises(UnavailableError) as refused:
        await waiting.wait("late")
    assert refused.value.reason == "overload"
    assert refused.value.retry_after > 0
    assert waiting.waiting == 0
    for turn in held:
        turn.end()
    (await waiting.wait("late")).end()


async def test_who_would_have_its_turn_is_not_refused_because_the_process_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody who sends one request at a time to a machine that is short of processors is no flood."""
    computed = [0.0]
    waiting = Turns(lambda: perf_counter() + computed[0], lambda: computed[0])
    (await waiting.wait("alone")).end()
    computed[0] = 1.0
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.01)
    alone = asyncio.ensure_future(waiting.wait("alone"))
    await asyncio.sleep(0)
    # Longer than anybody waits, and as the loop sees it at once.
    until = asyncio.get_running_loop().time() + 0.05
    while asyncio.get_running_loop().time() < until:
        pass
    (await asyncio.wait_for(alone, 5)).end()


async def test_one_more_than_can_be_served_in_time_is_refused_at_once() -> None:
    """Once it is known how slowly turns come, a connection may have so many waiting as will be served."""
    now = [0.0]
    waiting = Turns(clock=lambda: now[0], worked=idle)
    held = await filled(waiting)

    async def served() -> None:
        (await waiting.wait("flood")).end()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(served()) for _ in range(40)]
        await asyncio.sleep(0)
        for _ in range(200):
            # A tenth of a second from turn to turn.
            now[0] += 0.1
            if held:
                held.pop().end()
            await asyncio.sleep(0)
        assert all(task.done() for task in tasks)
    held = await filled(waiting)
    queued = [asyncio.ensure_future(waiting.wait("flood")) for _ in range(100)]
    await asyncio.sleep(0)
    refused = [one for one in queued if one.done()]
    assert len(queued) - len(refused) == waiting.waiting
    assert 1 <= waiting.waiting <= 10
    assert all(isinstance(one.exception(), UnavailableError) for one in refused)
    for one in queued:
        one.cancel()
    await asyncio.gather(*queued, return_exceptions=True)
    assert waiting.waiting == 0
    # Whose sender goes while it waits leaves its place to the next.
    for turn in held:
        turn.end()
    (await asyncio.wait_for(waiting.wait("small"), 5)).end()


async def test_slow_answers_make_turns_fewer_and_quick_ones_more() -> None:
    """How many are at work at once follows from how long they take."""
    now = [0.0]
    waiting = Turns(clock=lambda: now[0], worked=idle)

    async def round_of(seconds: float) -> int:
        at_work = []
        while waiting.is_free():
            at_work.append(await waiting.wait("a"))
        now[0] += seconds
        for turn in at_work:
            turn.end(answered=True)
        return len(at_work)

    grown = [await round_of(0.001) for _ in range(8)]
    assert grown[-1] > 4 * grown[0]
    shrunk = [await round_of(1.0) for _ in range(20)]
    assert shrunk[-1] == AT_ONCE


async def test_what_has_come_is_seen_before_the_next_has_its_turn() -> None:
    """After work the loop is left alone first, so that what has gathered is put into the order, or refused."""
    computed = [0.0]
    waiting = Turns(lambda: perf_counter() + computed[0], lambda: computed[0])
    order: list[str] = []

    async def one(sender: str) -> None:
        turn = await waiting.wait(sender)
        order.append(sender)
        turn.end()

    turn = await waiting.wait("flood")
    turn.weigh(1 << 19)
    turn.end()
    computed[0] = 1.0
    assert not waiting.is_free()
    async with asyncio.TaskGroup() as group:
        group.create_task(one("flood"))
        group.create_task(one("flood"))
        await asyncio.sleep(0)
        assert order == []
        # Handed over a few rounds later, as a library does.
        for _ in range(3):
            await asyncio.sleep(0)
        group.create_task(one("small"))
    assert order[0] == "small"


async def test_what_is_begun_waits_too_until_what_has_come_is_seen() -> None:
    """Large requests of which each has its turn are computed one by one, and a look comes between two of them."""
    computed = [0.0]
    waiting = Turns(lambda: perf_counter() + computed[0], lambda: computed[0])
    order: list[str] = []

    async def large(number: int) -> None:
        turn = waiting.begin("flood")
        await turn.compute(100_000)
        order.append(f"large {number}")
        computed[0] += 0.03
        turn.end(answered=True)

    async def small() -> None:
        # Handed over in seven rounds, as a library does.
        for _ in range(7):
            await asyncio.sleep(0)
        turn = await waiting.wait("small")
        await turn.compute(1000)
        order.append("small")
        turn.end(answered=True)

    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE - 1):
            group.create_task(large(number))
        await asyncio.sleep(0)
        group.create_task(small())
    assert order.index("small") <= 2
    assert len(order) == AT_ONCE


async def test_who_goes_before_it_is_computed_holds_up_nobody() -> None:
    """A sender that gives up while its request waits to be computed leaves its place to the next."""
    computed = [0.0]
    waiting = Turns(lambda: perf_counter() + computed[0], lambda: computed[0])
    turn = waiting.begin("a")
    computed[0] = 1.0
    gone = asyncio.ensure_future(turn.compute(1))
    stays = asyncio.ensure_future(turn.compute(1))
    await asyncio.sleep(0)
    assert not stays.done()
    gone.cancel()
    await asyncio.wait_for(stays, 5)
    turn.end()


async def test_fewer_are_at_work_where_the_loop_itself_is_late() -> None:
    """Sixteen requests that compute for a tenth of a second each are not answered within the target; a store that takes
    long without computing gets as many as before."""
    now = [0.0]
    waiting = Turns(clock=lambda: now[0], worked=idle)

    async def round_of(late: float) -> int:
        at_work = []
        while waiting.is_free():
            at_work.append(await waiting.wait("a"))
        for _ in range(20):
            # Each beat of the loop comes so much later than it is due.
            now[0] += turns._BEAT_SECONDS + late
            waiting._beat()
        for turn in at_work:
            turn.end(answered=True)
        return len(at_work)

    slow_store = [await round_of(0.0) for _ in range(10)]
    assert slow_store[-1] == AT_ONCE
    late_loop = [await round_of(0.1) for _ in range(20)]
    assert late_loop[-1] == 2


async def test_few_that_wait_while_it_looks_let_it_look_more_seldom() -> None:
    """A Collector's ten requests are no flood, though a library says of each twice that it has come."""
    computed = [0.0]
    waiting = Turns(lambda: perf_counter() + computed[0], lambda: computed[0])

    async def one() -> None:
        waiting.arrived()
        (await waiting.wait("collector")).end()

    async def works(seconds: float) -> bool:
        """Whether a request would be begun at once, after so much work since the first after a look."""
        (await waiting.wait("collector")).end()
        computed[0] += seconds
        return waiting.is_free()

    assert not await works(0.021)
    async with asyncio.TaskGroup() as group:
        group.create_task(one())
        for _ in range(3):
            await asyncio.sleep(0)
        for _ in range(9):
            group.create_task(one())
    assert await works(0.03)
    assert not await works(0.011)


async def test_a_body_that_is_slow_holds_up_nobody() -> None:
    """Whoever does not send what was declared gives the turn up meanwhile, and waits for it again."""
    in_flight = InFlight()
    in_flight.turns = Turns(worked=idle)
    with in_flight.request("slow") as held:
        await held.turn()
        with held.reading():
            async with asyncio.timeout(60):
                while not in_flight.turns.is_free(AT_ONCE - 1):  # noqa: ASYNC110  # a timer of its own ends it
                    await asyncio.sleep(0.01)
        await held.read(10)
        assert not in_flight.turns.is_free(AT_ONCE - 1)
    assert in_flight.turns.is_free(AT_ONCE - 1)
