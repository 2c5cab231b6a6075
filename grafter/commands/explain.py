"""``grafter explain`` and ``grafter status``: why a trace joined, did not join or is still held, and what is held.

The grafter that runs is asked. Where none listens, the store is opened here; where somebody holds it, the message says
who.
"""

from time import time_ns
from typing import TextIO

import orjson

from grafter.commands.asking import Answer, RefusedError, ask, opened_store
from grafter.components import Config
from grafter.config.model import revealed
from grafter.receiver.admin import EXPLAIN_PATH, STATUS_PATH
from grafter.receiver.explaining import Explainer, status
from grafter.receiver.openai_receiver import OpenAIReceiver
from grafter.telemetry import Metrics

_SECONDS = 30.0


async def explain(query: str, config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0: something is known under the id. 1: nothing is, or nobody could be asked; why stands on ``err``."""
    answer = await _answer(EXPLAIN_PATH, {"id": query}, config, err)
    if answer is None:
        return 1
    _print(answer, out, as_json=as_json)
    return 0 if answer.keys() & {"held", "left", "guests"} else 1


async def say_status(config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0, or 1 where nobody could be asked; why stands on ``err``."""
    answer = await _answer(STATUS_PATH, {}, config, err)
    if answer is None:
        return 1
    _print(answer, out, as_json=as_json)
    return 0


async def _answer(path: str, asked: dict[str, str], config: Config, err: TextIO) -> Answer | None:
    receivers = [one for one in config.active().receivers.values() if isinstance(one, OpenAIReceiver)]
    try:
        answer = None
        for receiver in receivers[:1]:
            answer = await ask(receiver.endpoint, path, asked, revealed(config.extensions.admin.tokens), _SECONDS)
        return answer or await _read(asked, config)
    except (RefusedError, OSError, ValueError) as error:
        err.write(f"{path.rpartition('/')[2]}: {error}\n")
        return None


async def _read(request: dict[str, str], config: Config) -> JsonObject:
    """The same without a grafter that runs. Raises RefusedError, and OSError when the store cannot be opened."""
    policy = config.graft_policy()
    async with opened_store(config) as store:
        # Until then nothing of what it holds is known.
        await store.recovered()
        # What is held is dated by a clock that never goes back.
        now = max(time_ns(), store.moment)
        if "id" in asked:
            return await Explainer(store, policy, lambda: now).explain(asked["id"])
        return status(store, Metrics(), now)


def _print(answer: Answer, out: TextIO, *, as_json: bool) -> None:
    if as_json:
        out.write(orjson.dumps(answer).decode() + "\n")
        return
    lines = answer.get("lines")
    for line in lines if isinstance(lines, list) else []:
        out.write(f"{line}\n")
