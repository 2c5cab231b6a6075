"""``grafter doctor``: at which hop a call lost its context, or what is wrong with a grafter and what it is sent.

The grafter that runs is asked; where none listens, its endpoints are wrong first, and the store and the call map
are read here.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import time_ns
from typing import TextIO

import orjson

from grafter.commands.admin_client import FAILURES, RefusedError, print_answer, query, recovered_store
from grafter.components import Config
from grafter.config.root import listening
from grafter.config.units import Endpoint
from grafter.core.model import JsonObject
from grafter.doctor.answers import instance_answer
from grafter.doctor.instance_findings import endpoints
from grafter.doctor.model import Instance
from grafter.receiver.admin import DOCTOR_PATH
from grafter.receiver.examining import Examiner
from grafter.receiver.explaining import Explainer
from grafter.receiver.openai_receiver import OpenAIReceiver
from grafter.receiver.otlp_receiver import OtlpReceiver
from grafter.telemetry import Metrics

_SECONDS = 60.0
_CONNECT_SECONDS = 3.0
_EVERYWHERE = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}


async def doctor(call: str, config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0: nothing is lost. 1: something is, or nothing is known of the call, or nobody could be asked; why stands on
    ``err``. ``call``: an id of any kind, or a number; empty: the grafter itself."""
    try:
        answer = await (_of_call(call, config) if call else _of_instance(config))
    except FAILURES as error:
        err.write(f"doctor: {error}\n")
        return 1
    print_answer(_with_addresses(answer, config), out, as_json=as_json)
    return 1 if answer.get("lost") or answer.get("known") is False else 0


def _with_addresses(answer: JsonObject, config: Config) -> JsonObject:
    """The lines to type, with the addresses of this config in place of the defaults."""
    active = config.active()
    own: dict[str, Endpoint] = {}
    for receiver in active.receivers.values():
        if isinstance(receiver, OpenAIReceiver):
            own["4319"] = receiver.endpoint
        elif isinstance(receiver, OtlpReceiver) and receiver.protocols.grpc is not None:
            own["4317"] = receiver.protocols.grpc.endpoint

    def address(default: re.Match[str]) -> str:
        return own[default[1]].url if default[1] in own else default[0]

    text = re.sub(r"http://localhost:(431[79])\b", address, orjson.dumps(answer).decode())
    found: JsonObject = orjson.loads(text)
    return found


async def _of_call(call: str, config: Config) -> JsonObject:
    answer = await query(config, DOCTOR_PATH, {"call": call}, _SECONDS)
    if answer is not None:
        return answer
    async with _examiner(config) as examiner:
        return await examiner.call(call, "command")


async def _of_instance(config: Config) -> JsonObject:
    closed = await _closed(config)
    answer = await query(config, DOCTOR_PATH, {"closed": [list(one) for one in closed]}, _SECONDS)
    if answer is not None:
        return answer
    try:
        async with _examiner(config) as examiner:
            return await examiner.instance(closed)
    except (RefusedError, OSError) as error:
        # That nobody listens is said all the same.
        return instance_answer(list(endpoints(Instance({}, closed=closed))), f"the store cannot be read: {error}")


@asynccontextmanager
async def _examiner(config: Config) -> AsyncIterator[Examiner]:
    """Without a grafter that runs. Raises RefusedError, and OSError when the store cannot be opened."""
    policy, extension, metrics = config.graft_policy(), config.extensions.calls, Metrics()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(recovered_store(config))
        calls = None
        if extension is not None:
            opened = extension.open(store, store.hmac_secret(), metrics, time_ns, serve=False)
            calls = await stack.enter_async_context(opened)
            await calls.backlog.drain_all()
        # What is held is dated by a clock that never goes back.
        explainer = Explainer(store, policy, lambda: max(time_ns(), store.moment))
        # Nothing was counted here, so that no silence means anything.
        yield Examiner(explainer, metrics, calls, alone=False)


async def _closed(config: Config) -> list[tuple[str, str]]:
    """The addresses of the config at which nobody listens, each with its key."""
    named = list(listening(config))
    open_ = await asyncio.gather(*(_listens(endpoint) for _, endpoint in named))
    return [
        (str(endpoint), ".".join(map(str, loc))) for (loc, endpoint), yes in zip(named, open_, strict=True) if not yes
    ]


async def _listens(endpoint: Endpoint) -> bool:
    host = _EVERYWHERE.get(endpoint.host, endpoint.host)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, endpoint.port)
    except OSError:
        return False
    writer.close()
    return True
