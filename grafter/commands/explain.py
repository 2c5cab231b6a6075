"""``grafter explain`` and ``grafter status``: why a trace joined, did not join or is still held, and what is held.

The grafter that runs is asked. Where none listens, the store is opened here; where somebody holds it, the message says
who.
"""

from time import time_ns
from typing import TextIO

from grafter.commands.admin_client import FAILURES, openai_receivers, print_answer, query, recovered_store
from grafter.components import Config
from grafter.core.model import JsonObject
from grafter.receiver.admin import EXPLAIN_PATH, STATUS_PATH
from grafter.receiver.explaining import Explainer, status
from grafter.telemetry import Metrics

_SECONDS = 30.0


async def explain(query: str, config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0: something is known under the id. 1: nothing is, or nobody could be asked; why stands on ``err``."""
    answer = await _answer(EXPLAIN_PATH, {"id": query}, config, err)
    if answer is None:
        return 1
    print_answer(answer, out, as_json=as_json)
    return 0 if answer.keys() & {"held", "left", "guests", "pulls"} else 1


async def print_status(config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0, or 1 where nobody could be asked; why stands on ``err``."""
    answer = await _answer(STATUS_PATH, {}, config, err)
    if answer is None:
        return 1
    print_answer(answer, out, as_json=as_json)
    return 0


async def _answer(path: str, request: dict[str, str], config: Config, err: TextIO) -> JsonObject | None:
    try:
        return await query(config, path, request, _SECONDS) or await _read(request, config)
    except FAILURES as error:
        err.write(f"{path.rpartition('/')[2]}: {error}\n")
        return None


async def _read(request: dict[str, str], config: Config) -> JsonObject:
    """The same without a grafter that runs. Raises RefusedError, and OSError when the store cannot be opened."""
    policy = config.graft_policy()
    async with recovered_store(config) as store:
        # What is held is dated by a clock that never goes back.
        now = max(time_ns(), store.moment)
        if "id" in request:
            pulls = [pull for name, one in openai_receivers(config).items() for pull in one.pulls(name)]
            return await Explainer(store, policy, lambda: now, pulls=pulls).explain(request["id"])
        return status(store, Metrics(), now)
