"""What goes wrong with Redis, as types, and what each means for whoever asked."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    ExecAbortError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from grafter.errors import UnavailableError


class ConnectionLost(ConnectionError):
    """The connection is gone, and with it the answers to what was sent: whether it was done is not known."""


class RefusedError(UnavailableError):
    """Redis does not let this grafter in; waiting mends nothing."""


class TakenOverError(UnavailableError):
    """What this process was known by is another's by now; nothing was done, and it has to ask first what it has."""


class TakenOverReply(ResponseError):
    """A script was sent under a number that another process has begun (lua/common.lua)."""


class NewerVersionError(ResponseError):
    """A script met a record that a newer version of grafter wrote (lua/common.lua)."""


class _Kind(NamedTuple):
    error: type[RedisError]
    meaning: str


_KINDS: Mapping[str, _Kind] = {
    "NOSCRIPT": _Kind(NoScriptError, "it has lost grafter's scripts"),
    "MOVED": _Kind(MovedError, "it is a cluster; use redis+cluster://"),
    "ASK": _Kind(AskError, "a slot of the cluster is being moved"),
    "TRYAGAIN": _Kind(TryAgainError, "a slot of the cluster is being moved"),
    "CLUSTERDOWN": _Kind(ClusterDownError, "the cluster does not serve all slots"),
    "READONLY": _Kind(ReadOnlyError, "it is a replica and takes no writes"),
    "LOADING": _Kind(BusyLoadingError, "it is loading its data"),
    "MASTERDOWN": _Kind(MasterDownError, "it is a replica whose primary is down"),
    "OOM": _Kind(OutOfMemoryError, "its memory is full (maxmemory); raise it or lower extensions.store.max_bytes"),
    "MISCONF": _Kind(ResponseError, "it cannot write to its disk and therefore takes no writes"),
    "NOREPLICAS": _Kind(ResponseError, "it has fewer replicas than min-replicas-to-write asks for"),
    "WRONGTYPE": _Kind(ResponseError, "a key under grafter's prefix is not grafter's; remove it or set another prefix"),
    "NOAUTH": _Kind(AuthenticationError, "it wants a password"),
    "WRONGPASS": _Kind(AuthenticationError, "it does not accept the user name and password"),
    "NOPERM": _Kind(NoPermissionError, "the user may not do what grafter needs (all commands on its prefix's keys)"),
    "BUSY": _Kind(ResponseError, "it is busy with a script"),
    "NEWER": _Kind(NewerVersionError, "the trace is being held by a newer version of grafter"),
    "TAKENOVER": _Kind(TakenOverReply, "what this grafter holds was taken over by another one, for it was silent"),
    "EXECABORT": _Kind(ExecAbortError, "it did not do a transaction"),
}
"""The codes that call for something of their own: a class of the library or of this module, and words for people."""
_CODE = re.compile(rf"\b({'|'.join(_KINDS)})\b ?(.*)", re.DOTALL)

RECONNECT = (ReadOnlyError, MasterDownError, AuthenticationError)
"""After these another connection may do better: a failover has happened, or the password was changed."""
REFUSED = (AuthenticationError, NoPermissionError, MovedError)
"""After these nothing does better but another URL."""


def error_reply(text: str) -> RedisError:
    """An error as the server wrote it, with its code as ``status_code``.

    The code is its first word, but Redis before 7 puts the error of a command that a script ran inside one of its own.
    """
    found = _CODE.search(text)
    if found is None:
        return ResponseError(text)
    code, rest = found.groups()
    kind = _KINDS[code].error
    if issubclass(kind, AskError) and found.start():
        # What follows is not a slot and where it is.
        return ResponseError(text)
    return kind(rest, status_code=code)


def meaning(error: Exception) -> str:
    """What is wrong, for people."""
    kind = _KINDS.get(getattr(error, "status_code", None) or "")
    if kind is not None:
        return kind.meaning
    if isinstance(error, AuthenticationError):
        # A server without ACLs has no code for it.
        return _KINDS["WRONGPASS"].meaning
    return f"it answered: {str(error)[:200]}" if isinstance(error, ResponseError) else str(error)


def unavailable(where: str, error: Exception) -> UnavailableError:
    """What the caller of the store gets: nothing was promised, try again later."""
    message = f"Redis at {where}: {meaning(error)}"
    if isinstance(error, OutOfMemoryError):
        return UnavailableError(message, retry_after=5.0, reason="store_full")
    if isinstance(error, TakenOverReply):
        return TakenOverError(message, reason="store_down")
    if isinstance(error, REFUSED):
        return RefusedError(message, reason="store_down")
    return UnavailableError(message, reason="store_down")
