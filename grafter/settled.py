"""Settling what has left: asked until the store has said whether it is done.

A backend has the spans by then. Left alone, they would go out a second time when their lease ends, for nobody would
know that they came.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from grafter.errors import UnavailableError

_T = TypeVar("_T")


async def settled(settle: Callable[[], Awaitable[_T]], pause: float, is_away: Callable[[UnavailableError], None]) -> _T:
    """What ``settle`` says, asked every ``pause`` seconds until it answers.

    Raises UnavailableError when the store is stopping: there will be none.
    """
    while True:
        try:
            return await settle()
        except UnavailableError as error:
            if error.reason == "stopping":
                raise
            is_away(error)
        await asyncio.sleep(pause)
