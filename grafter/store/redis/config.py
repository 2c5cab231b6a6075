"""``extensions.store.redis``: its keys, and how it is opened."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from grafter import __version__
from grafter.config.model import REDACTED, Count, Model, Number, PositiveDuration, text
from grafter.config.units import Duration

if TYPE_CHECKING:
    from grafter.store.redis import store as redis

_URL = re.compile(r"(rediss?|rediss?\+sentinel|rediss?\+cluster|unix)://\S+")
_PASSWORD = re.compile(r"(?<=://)([^@/]*):[^@]*@")
_SENTINEL_PASSWORD = re.compile(r"(?<=[?&]sentinel_password=)[^&]*")
_PREFIX = re.compile(r"[^\s{}*?\[\]\\]+")


def _redis_url(url: str) -> str:
    if not _URL.fullmatch(url):
        raise ValueError(
            "is no URL of Redis, expected redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
        )
    return url


def _prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r} has blanks, braces or one of *?[]\\ in it")
    return prefix


def _without_password(url: str) -> str:
    return _SENTINEL_PASSWORD.sub(REDACTED, _PASSWORD.sub(rf"\1:{REDACTED}@", url))


RedisUrl = Annotated[
    str, BeforeValidator(text), AfterValidator(_redis_url), PlainSerializer(_without_password, return_type=str)
]
Prefix = Annotated[str, BeforeValidator(text), AfterValidator(_prefix)]


class RedisStore(Model):
    """A store that any number of replicas share: Redis 6.2 or later, or Valkey."""

    url: RedisUrl = "redis://localhost:6379/0"
    """Where it is: `redis://`, `rediss://` (TLS), `unix://`, `redis+sentinel://h1:26379,h2:26379/MASTER/0` or
    `redis+cluster://h1:6379,h2:6379`, with `user:password@` before the host where it asks for them."""
    prefix: Prefix = "grafter"
    """What the names of all keys begin with; replicas with the same prefix are one grafter."""
    pool_size: Count = 8
    """Connections to each server."""
    timeout: PositiveDuration = Duration.parse("5s")
    """How long an answer may take; then the connection is made anew and the sender told to try again."""
    wait_replicas: Number = 0
    """How many of Redis' own replicas must have a part before its sender gets an answer; fewer: it is told to try
    again."""

    def describe(self) -> str:
        return f"redis, {_without_password(self.url)}"

    def open(
        self, common: dict[str, Any], replica: bytes, waiting: Callable[[str], None] | None
    ) -> AbstractAsyncContextManager["redis.RedisStore"]:
        """The store, until left; ``common``: what every store takes, ``replica``: how it knows this process,
        ``waiting``: is told why it cannot be used yet, as long as it takes; None: it is waited for half a minute."""
        from grafter.store.redis import opening

        return opening.opened(
            self.url,
            prefix=self.prefix,
            pool_size=self.pool_size,
            timeout=self.timeout.seconds,
            wait_replicas=self.wait_replicas,
            version=__version__,
            replica=replica,
            waiting=waiting,
            **common,
        )
