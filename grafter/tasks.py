"""What asyncio has, with another end: task groups for rooms that run beside a body, and work in threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that hands on an exception of its body as it is, after its tasks have ended.

    asyncio's own would wrap it into a group, and an address that is in use would no longer be an OSError to whoever
    opened the room. The body has to end its tasks on its way out. A task's own failure still ends everything.
    """
    failure: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        try:
            yield tasks
        except Exception as error:  # noqa: BLE001  # raised below
            failure = error
    if failure is not None:
        raise failure


@asynccontextmanager
async def beside(work: Coroutine[object, object, None], name: str) -> AsyncIterator[None]:
    """Run ``work`` in a task of this name while the context is open; should it fail, that ends the body too."""
    async with task_group() as tasks:
        task = tasks.create_task(work, name=name)
        try:
            yield
        finally:
            task.cancel()


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """As asyncio's ``to_thread``, but over only when the work is, also where it is cancelled: a thread cannot be
    stopped, and what is held for it, a lock or a share of a budget, is given back when it uses it no longer."""
    job = [partial(work, *args, **kwargs)]
    try:
        future = asyncio.get_running_loop().run_in_executor(None, _run, job)
    except RuntimeError:
        # Where there is no memory for a thread the executor says so, and keeps what it was given for the next one.
        job.clear()
        raise
    cancelled = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        if cancelled is None:
            return future.result()
        # Else asyncio would say in the log that nobody looked.
        future.exception()
        raise cancelled
    finally:
        # An error has this frame, and the future the error: what either holds would stay until garbage is collected.
        del future, cancelled


async def in_thread_if(large: bool, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What comes of the work: in a thread where it is ``large``, for the event loop would stand still meanwhile; else
    at once, for a thread costs more than little work."""
    return await asyncio.to_thread(work, *args, **kwargs) if large else work(*args, **kwargs)


def _run(job: "list[partial[_T]]") -> _T:
    return job.pop()()
