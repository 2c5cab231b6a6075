"""What holds traces: a store in this process, or a Redis that replicas share."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from grafter.config.model import REDACTED, Count, Flag, Model, Number, PositiveDuration, PositiveSize, Word, _text
from grafter.config.units import Duration, Size

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
    str, BeforeValidator(_text), AfterValidator(_redis_url), PlainSerializer(_without_password, return_type=str)
]
Prefix = Annotated[str, BeforeValidator(_text), AfterValidator(_prefix)]


class EmbeddedStore(Model):
    """A store in this process."""

    directory: Word = "./grafter-data"
    """Where it keeps its files; one process at a time."""
    memory: Flag = False
    """True: nothing is written to disk, and a stop forgets what is held."""
    fsync: Literal["interval", "always"] = "interval"
    """When written bytes are forced to disk: every `fsync_interval`, or before each answer. Either survives the end of
    the process; a power cut costs at most the interval."""
    fsync_interval: PositiveDuration = Duration.parse("1s")
    """For `fsync: interval`."""


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


class StoreExtension(Model):
    """What holds traces until they are released."""

    embedded: EmbeddedStore = EmbeddedStore()
    """A store in this process."""
    redis: RedisStore | None = None
    """A Redis that replicas share, in place of `embedded`; null: none."""
    max_bytes: PositiveSize = Size.parse("4GiB")
    """Live bytes past which the doors refuse."""
    max_trace_bytes: PositiveSize = Size.parse("64MiB")
    """Bytes past which one trace is released early."""
    lease: PositiveDuration = Duration.parse("10s")
    """How long a trace belongs to a process that went silent."""

    @property
    def shared(self) -> bool:
        """Whether several processes may use it at a time; the embedded one belongs to one process."""
        return self.redis is not None

    def describe(self) -> str:
        if self.redis is not None:
            return f"redis, {_without_password(self.redis.url)}, up to {self.max_bytes}"
        where = "in memory" if self.embedded.memory else self.embedded.directory
        return f"embedded, {where}, up to {self.max_bytes}"
