"""What was written is applied in its order, and others have the loop in between."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest

from grafter.store.embedded.writer import Slices


def busy(seconds: float) -> None:
    """A step that computes."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def test_others_have_the_loop_between_two_slices() -> None:
    """Of a hundred steps of some milliseconds none holds the loop for the others; a library's seven rounds go by."""
    slices = Slices(asyncio.get_running_loop())
    order: list[int] = []
    seen: list[int] = []

    def step(number: int) -> None:
        busy(0.005)
        order.append(number)

    slices.add([partial(step, number) for number in range(50)])
    slices.add([partial(step, 50)])
    for _ in range(7):
        await asyncio.sleep(0)
        seen.append(len(order))
    assert seen[-1] <= 8
    slices.finish()
    assert order == list(range(51))


async def test_a_step_that_fails_holds_up_none_behind_it() -> None:
    """Its failure is the loop's to say, and what came after it is applied."""
    loop = asyncio.get_running_loop()
    failures: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    slices = Slices(loop)
    done: list[str] = []

    def fails() -> None:
        raise ValueError

    steps: list[Callable[[], None]] = [partial(busy, 0.005), fails, partial(done.append, "behind")]
    slices.add(steps)
    for _ in range(4):
        await asyncio.sleep(0)
    assert done == ["behind"]
    assert [type(failure) for failure in failures] == [ValueError]


async def test_few_are_applied_at_once() -> None:
    """Whoever waits for a small write does not wait for a round more."""
    slices = Slices(asyncio.get_running_loop())
    done: list[int] = []
    slices.add([partial(done.append, number) for number in range(3)])
    assert done == [0, 1, 2]


async def test_what_a_step_adds_comes_after_the_rest() -> None:
    """The order is that of the log, whoever adds."""
    slices = Slices(asyncio.get_running_loop())
    done: list[str] = []

    def adds() -> None:
        slices.add([partial(done.append, "added")])
        done.append("first")

    slices.add([adds, partial(done.append, "second")])
    assert done == ["first", "second", "added"]


@pytest.mark.parametrize("left", [1, 20])
async def test_a_stop_applies_all_that_is_left(left: int) -> None:
    """Nothing that was written is lost to the index of a store that closes."""
    slices = Slices(asyncio.get_running_loop())
    done: list[int] = []

    def step(number: int) -> None:
        busy(0.005)
        done.append(number)

    slices.add([partial(step, number) for number in range(left)])
    slices.finish()
    assert len(done) == left
    await asyncio.sleep(0)
    assert len(done) == left
