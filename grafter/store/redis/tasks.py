"""Tasks over Redis: few beside traces, so that all of a prefix lie in one bucket and one script knows them."""

from collections.abc import Sequence
from typing import Any

from grafter.core.model import UnixNano
from grafter.errors import UnavailableError
from grafter.store.model import TASK_BYTES, TASK_NAME_CHARACTERS, TASKS_LIMIT, Task, TaskThen
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import absolute, relative
from grafter.store.redis.scripts import RUBBISH_MS, Argument, Item

BUCKET = 0


class Tasks:
    """Over an engine; see grafter.store.base.TaskStore."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._owned: dict[tuple[str, str], Task] = {}
        """For giving them back at a stop."""

    async def put(self, tasks: Sequence[Task], now: UnixNano, *, leaving: bool) -> None:
        arguments: list[Argument] = [TASKS_LIMIT, int(leaving)]
        for task in tasks:
            _check(task)
            arguments += (*_name(task), relative(task.due), task.blob)
        if tasks and await self._ask(b"put", now, arguments) < 0:
            raise UnavailableError(f"{TASKS_LIMIT} tasks wait already", retry_after=60.0, reason="tasks_full")

    async def claim(self, kind: str, now: UnixNano, limit: int) -> Sequence[Task]:
        ends = relative(now) + self._engine.lease_ns
        rows = await self._ask(b"claim", now, [_bytes(kind), limit, ends, self._engine.tokens(limit)])
        tasks = [
            Task(kind, _text(name), absolute(float(due)), blob, int(token), absolute(float(put)))
            for name, due, put, blob, token in rows
        ]
        self._owned |= {(task.kind, task.name): task for task in tasks}
        return sorted(tasks, key=lambda task: task.due)

    async def find(self, kind: str, name: str) -> Task | None:
        record = self._engine.layout.tags[BUCKET] + b"t:" + _bytes(kind) + b"\0" + _bytes(name)
        ((due, put, blob),) = await self._engine.commands([(BUCKET, ("HMGET", record, "due", "put", "blob"))])
        if due is None:
            return None
        return Task(kind, name, absolute(float(due)), blob, put_at=absolute(float(put)))

    async def update(self, task: Task, then: TaskThen) -> bool:
        _check(task)
        if then is not TaskThen.KEEP:
            self._owned.pop((task.kind, task.name), None)
        arguments: list[Argument] = [*_name(task), task.token]
        if then is TaskThen.END:
            return bool(await self._ask(b"end", task.due, arguments) == 1)
        arguments += [relative(task.due), task.blob, int(then is TaskThen.KEEP)]
        return bool(await self._ask(b"update", task.due, arguments) == 1)

    async def renew(self, tasks: Sequence[Task], now: UnixNano) -> None:
        await self._all(b"renew", tasks, relative(now) + self._engine.lease_ns)

    async def abandon(self) -> None:
        """Give back what this process owns."""
        await self._all(b"release", list(self._owned.values()), 0)
        self._owned.clear()

    async def _all(self, what: bytes, tasks: Sequence[Task], ends: int) -> None:
        if tasks:
            named = [argument for task in tasks for argument in (*_name(task), task.token)]
            await self._ask(what, tasks[0].due, [ends, *named])

    async def _ask(self, what: bytes, now: UnixNano, arguments: Sequence[Argument]) -> Any:
        item: Item = (BUCKET, [BUCKET, what, relative(now), RUBBISH_MS, *arguments])
        runs = await self._engine.run("task", [item])
        return runs[0][1]


def _check(task: Task) -> None:
    if len(task.blob) > TASK_BYTES or not 0 < len(task.name) <= TASK_NAME_CHARACTERS:
        raise ValueError(f"a task has {len(task.blob)} bytes and a name of {len(task.name)} characters")


def _name(task: Task) -> tuple[bytes, bytes]:
    return _bytes(task.kind), _bytes(task.name)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")
