"""Asking the grafter that runs, by ``/admin/…`` at the address of its OpenAI doors, as several commands do."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import orjson

from grafter.components import Config
from grafter.config.units import Endpoint
from grafter.memory_limit import total_memory
from grafter.receiver.http_server import LOCAL

if TYPE_CHECKING:
    from grafter.store.config import OpenedStore

_EVERYWHERE = ("", "0.0.0.0", "[::]", "::")

Answer = dict[str, object]


class RefusedError(Exception):
    """It was not done; the message is for people."""


async def ask(
    endpoint: Endpoint, path: str, asked: Mapping[str, object], tokens: list[str], seconds: float
) -> Answer | None:
    """The answer of the grafter that runs; None where none listens. Raises RefusedError, also past ``seconds``."""
    host = "localhost" if endpoint.host in _EVERYWHERE else endpoint.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{endpoint.port}{path}"
    headers = {"Content-Type": "application/json", "Host": LOCAL}
    if tokens:
        headers["Authorization"] = f"Bearer {tokens[0]}"
    timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=10)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.post(url, data=orjson.dumps(dict(asked)), headers=headers, allow_redirects=False) as response,
        ):
            body = await response.read()
            status = response.status
    except aiohttp.ClientConnectorError:
        return None
    except TimeoutError:
        raise RefusedError(f"{endpoint} gave no answer within {seconds:g} s") from None
    except aiohttp.ClientError as error:
        raise RefusedError(f"{endpoint} gave no answer: {type(error).__name__}") from None
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise RefusedError(f"{endpoint} answered HTTP {status}, and not as a grafter does")
    if status != 200:
        refusal = answer.get("error")
        message = refusal.get("message") if isinstance(refusal, dict) else None
        if status == 404 and message is None:
            raise RefusedError(f"the grafter at {endpoint} does not know {path}")
        raise RefusedError(str(message or f"{endpoint} answered HTTP {status}"))
    return answer


def opened_store(config: Config) -> AbstractAsyncContextManager["OpenedStore"]:
    """The store of a grafter that does not run, for whoever asks what is in it: it is not made where there is none.

    Raises RefusedError; entering it raises OSError when it cannot be opened.
    """
    embedded = config.extensions.store.embedded
    if not config.extensions.store.shared:
        if embedded.memory:
            raise RefusedError("no grafter listens, and the store is in the memory of one")
        if not (Path(embedded.directory) / "lock").exists():
            raise RefusedError(
                f"no grafter listens, and there is no store in {embedded.directory}; "
                "give the --config of the grafter that is meant, or its extensions.store.embedded.directory by --set"
            )
    return config.extensions.store.open(config.graft_policy(), total_memory())
