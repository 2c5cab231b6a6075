"""Asking the grafter that runs, by ``/admin/…`` at the address of its OpenAI receiver, as several commands do."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import aiohttp
import orjson

from grafter.components import Config
from grafter.config.model import revealed
from grafter.core.model import JsonObject
from grafter.errors import RejectedError, UnavailableError
from grafter.memory_limit import total_memory
from grafter.receiver.http_server import LOCAL
from grafter.receiver.openai_receiver import OpenAIReceiver

if TYPE_CHECKING:
    from grafter.store.config import OpenedStore


class RefusedError(Exception):
    """It was not done; the message is for people."""


FAILURES = (RefusedError, RejectedError, UnavailableError, OSError, ValueError)
"""What keeps a command from its answer, each with a message for people."""


def openai_receivers(config: Config) -> dict[str, OpenAIReceiver]:
    """Those that run, by their ids; the first one's address serves ``/admin/…``."""
    return {name: one for name, one in config.active().receivers.items() if isinstance(one, OpenAIReceiver)}


async def query(config: Config, path: str, request: Mapping[str, object], seconds: float) -> JsonObject | None:
    """The answer of the grafter that runs; None where none listens. Raises RefusedError, also past ``seconds``."""
    endpoint = next((one.endpoint for one in openai_receivers(config).values()), None)
    if endpoint is None:
        return None
    tokens = revealed(config.extensions.admin.tokens)
    headers = {"Content-Type": "application/json", "Host": LOCAL}
    if tokens:
        headers["Authorization"] = f"Bearer {tokens[0]}"
    timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=10)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.post(
                endpoint.url + path, data=orjson.dumps(dict(request)), headers=headers, allow_redirects=False
            ) as response,
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


@asynccontextmanager
async def recovered_store(config: Config) -> AsyncIterator["OpenedStore"]:
    """The same, when all that it holds is known."""
    async with opened_store(config) as store:
        await store.recovered()
        yield store


def print_answer(answer: Mapping[str, object], out: TextIO, *, as_json: bool) -> None:
    """The whole answer for programs, its lines for people."""
    if as_json:
        out.write(orjson.dumps(dict(answer)).decode() + "\n")
        return
    lines = answer.get("lines")
    for line in lines if isinstance(lines, list) else []:
        out.write(printable(str(line)) + "\n")


def printable(text: str) -> str:
    """What an attribute says must not steer the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)
