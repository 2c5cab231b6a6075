"""Task groups beside a body, whose failure comes out, and as what; and work in threads, which is over before its
caller."""

import asyncio
import gc
import threading

import pytest

from grafter.tasks import beside, in_thread, task_group


async def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    """Whoever opened the room catches an OSError as an OSError, after the tasks have ended."""
    ended = asyncio.Event()

    async def beside() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def room() -> None:
        async with task_group() as tasks:
            task = tasks.create_task(beside())
            await asyncio.sleep(0)
            try:
                raise OSError("address in use")
            finally:
                task.cancel()

    with pytest.raises(OSError, match="in use") as raised:
        await room()
    assert type(raised.value) is OSError
    assert ended.is_set()


async def test_a_task_that_fails_ends_the_body() -> None:
    """The body is cancelled where it waits, and the failure comes out in a group."""
    reached = False

    async def fail() -> None:
        raise LookupError("the task's own")

    async def room() -> None:
        nonlocal reached
        async with task_group() as tasks:
            tasks.create_task(fail())
            await asyncio.Event().wait()
            reached = True

    with pytest.raises(ExceptionGroup) as raised:
        await room()
    assert not reached
    assert raised.value.subgroup(LookupError) is not None
    assert len(raised.value.exceptions) == 1


async def test_what_runs_beside_a_body_ends_with_it() -> None:
    """When the context is left the task has ended, also where the body failed, whose error comes out as it is."""
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def failing() -> None:
        async with beside(work("failed"), "failed"):
            await asyncio.sleep(0)
            raise LookupError

    async with beside(work("left"), "left"):
        await asyncio.sleep(0)
    assert ended == ["left"]
    with pytest.raises(LookupError):
        await failing()
    assert ended == ["left", "failed"]


async def test_a_cancelled_body_is_cancelled_and_no_error() -> None:
    """A stop from outside passes through, and takes the tasks along."""
    inside = asyncio.Event()
    beside: list[asyncio.Task[None]] = []

    async def wait() -> None:
        await asyncio.Event().wait()

    async def body() -> None:
        async with task_group() as tasks:
            beside.append(tasks.create_task(wait()))
            inside.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(body())
    await inside.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert beside[0].cancelled()


async def test_leaving_waits_for_the_tasks() -> None:
    """A body that ends well leaves when its tasks have ended, too."""
    steps: list[str] = []

    async def work() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        steps.append("task")

    async with task_group() as tasks:
        tasks.create_task(work())
        steps.append("body")
    assert steps == ["body", "task"]


async def test_work_in_a_thread_answers_or_fails_as_it_does() -> None:
    """With what it was given, in another thread."""

    def work(number: int, *, by: int) -> tuple[float, bool]:
        return number / by, threading.current_thread() is threading.main_thread()

    assert await in_thread(work, 6, by=3) == (2.0, False)
    with pytest.raises(ZeroDivisionError):
        await in_thread(work, 6, by=0)


@pytest.mark.parametrize("error", [None, LookupError("the work's own")], ids=["done", "failed"])
async def test_work_in_a_thread_is_over_before_its_caller(error: Exception | None) -> None:
    """However often the caller is cancelled meanwhile: a lock that it holds is held as long. What the work comes to
    is nobody's then, and no line in the log."""
    lock = asyncio.Lock()
    began, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    said: list[object] = []
    loop.set_exception_handler(lambda _loop, context: said.append(context))

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        go.wait()
        if error is not None:
            raise error

    async def caller() -> None:
        async with lock:
            await in_thread(work)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(caller())
        try:
            await began.wait()
            for _ in range(3):
                task.cancel()
                for _ in range(10):
                    await asyncio.sleep(0)
                assert lock.locked()
                assert not task.done()
        finally:
            go.set()
    assert task.cancelled()
    assert not lock.locked()
    gc.collect()
    assert said == []


async def test_work_that_no_thread_could_be_started_for_is_never_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller was told so, and has given back what it held for it; a thread that is free later has other work."""
    loop = asyncio.get_running_loop()
    go = threading.Event()
    busy = loop.run_in_executor(None, go.wait)
    done: list[int] = []

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="new thread"):
            await in_thread(done.append, 1)
    go.set()
    await busy
    await in_thread(done.append, 2)
    await loop.shutdown_default_executor()
    assert done == [2]
