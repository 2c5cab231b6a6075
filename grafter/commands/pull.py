"""``grafter pull``: fetch the traces of one hosted session now.

The grafter that runs is asked to do it. Where none listens, the store is opened here and what is fetched is put into
it, for the next grafter that runs to join; where somebody holds the store, the message says who.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from time import monotonic, time_ns
from typing import TextIO

import orjson

from grafter.commands.admin_client import FAILURES, RefusedError, openai_receivers, query
from grafter.components import Config
from grafter.consumer import Consumer
from grafter.core.model import DedupeKey, JsonObject, NamedLink, Part, UnixNano
from grafter.errors import RejectedError, UnavailableError
from grafter.memory_limit import total_memory
from grafter.receiver.admin import PULL_PATH
from grafter.receiver.openai_receiver import OpenAIReceiver, pull_kind
from grafter.receiver.sessions import pulling
from grafter.store.base import Store
from grafter.tasks import task_group
from grafter.telemetry import Metrics

_SECONDS = 150.0
"""A little more than the grafter that runs waits for OpenAI."""
_REPORT_SECONDS = 5.0


async def pull(
    session: str,
    project: str | None,
    config: Config,
    *,
    as_json: bool,
    out: TextIO,
    err: TextIO,
    seconds: float = _SECONDS,
    report_seconds: float = _REPORT_SECONDS,
) -> int:
    """0: all pages of the session have been read once. 1: they have not, and why stands on ``err``.

    While it waits, up to ``seconds``, ``err`` says so every ``report_seconds``.
    """
    receivers = openai_receivers(config)
    try:
        if not receivers:
            raise RefusedError("the config runs no openai receiver")
        name, receiver = next(iter(receivers.items()))
        request = {"session": session, **({"project": project} if project else {})}
        async with _reporting(err, session, seconds, report_seconds):
            answer = await query(config, PULL_PATH, request, seconds)
            if answer is None:
                answer = await _do(name, receiver, session, project, config, seconds)
    except FAILURES as error:
        err.write(f"pull: {error}\n")
        return 1
    out.write(orjson.dumps(answer).decode() + "\n" if as_json else _words(answer))
    return 0


@asynccontextmanager
async def _reporting(err: TextIO, session: str, seconds: float, report_seconds: float) -> AsyncIterator[None]:
    """While the context is open: a line on ``err`` now and then, so that nobody takes a wait for a hang."""
    began = monotonic()

    async def report() -> None:
        while True:
            await asyncio.sleep(report_seconds)
            waited = f"{monotonic() - began:.0f} of at most {seconds:g} s"
            err.write(f"pull: waiting for OpenAI to let {session} be read, {waited}\n")
            err.flush()

    async with task_group() as tasks:
        reporting = tasks.create_task(report(), name="report")
        try:
            yield
        finally:
            reporting.cancel()


async def _do(
    name: str, receiver: OpenAIReceiver, session: str, project: str | None, config: Config, seconds: float
) -> JsonObject:
    """The same without a grafter that runs. Raises RefusedError, and OSError when the store cannot be opened."""
    if config.extensions.store.embedded.memory:
        raise RefusedError(f"no grafter listens at {receiver.endpoint}, and the store is in the memory of one")
    policy = config.graft_policy()
    # What is logged for people who run a server stands in the answer here.
    logging.getLogger("grafter").addHandler(logging.NullHandler())
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(config.extensions.store.open(policy, total_memory()))
        pulls = await stack.enter_async_context(
            pulling(
                store,
                _Storing(store),
                receiver.accounts(),
                Metrics(),
                policy,
                kind=pull_kind(name),
                default=receiver.default_project,
                lease_seconds=config.extensions.store.lease.seconds,
            )
        )
        try:
            async with asyncio.timeout(seconds):
                return asdict(await pulls.pull(session, project))
        except (RejectedError, UnavailableError) as error:
            raise RefusedError(str(error)) from None
        except TimeoutError:
            raise RefusedError(
                f"OpenAI has not let it be read for {seconds:g} s; the next grafter that runs goes on trying"
            ) from None


class _Storing(Consumer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        await self._store.append(parts, UnixNano(max(time_ns(), self._store.moment)), dedupe_keys)


def _words(answer: JsonObject) -> str:
    skipped = answer.get("skipped")
    lines = [f"{answer.get('session')}: {answer.get('traces')} new traces"]
    if skipped:
        lines.append(f"{skipped} traces could not be read")
    if not answer.get("linked"):
        lines.append("its metadata names no trace of yours (trace_id or traceparent): it leaves as a trace of its own")
    return "\n".join(lines) + "\n"
