"""A rig over each of the stores."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, rig
from tests.store.redis.servers import Server, server

_PREFIXES = count()
Open = Callable[..., AbstractAsyncContextManager[Rig]]


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=["memory", "disk", "redis"])
def open_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store as often as it is called; in memory a new one."""
    match request.param:
        case "memory":
            more: dict[str, Any] = {}
        case "disk":
            more = {"directory": tmp_path}
        case _:
            url = request.getfixturevalue("redis").url
            more = {"redis": {"url": url, "prefix": f"links-{next(_PREFIXES)}"}}
    return lambda *peers, **given: rig(*peers, **more, **given)
