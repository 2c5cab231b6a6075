"""What goes wrong with Redis, and what its answers mean for whoever asked."""

import re
from enum import StrEnum

from grafter.errors import UnavailableError

_WORD = re.compile(
    r"\b(NOSCRIPT|MOVED|ASK|TRYAGAIN|CLUSTERDOWN|READONLY|LOADING|MASTERDOWN|OOM|MISCONF|NOREPLICAS|WRONGTYPE|NOAUTH"
    r"|WRONGPASS|NOPERM|BUSY|NEWER|EXECABORT)\b"
)


class Answer(StrEnum):
    """The first word of an error that Redis gave, where it calls for something of its own."""

    NOSCRIPT = "NOSCRIPT"
    MOVED = "MOVED"
    ASK = "ASK"
    TRYAGAIN = "TRYAGAIN"
    CLUSTERDOWN = "CLUSTERDOWN"
    READONLY = "READONLY"
    LOADING = "LOADING"
    MASTERDOWN = "MASTERDOWN"
    OOM = "OOM"
    MISCONF = "MISCONF"
    NOREPLICAS = "NOREPLICAS"
    WRONGTYPE = "WRONGTYPE"
    NOAUTH = "NOAUTH"
    WRONGPASS = "WRONGPASS"
    NOPERM = "NOPERM"
    BUSY = "BUSY"
    NEWER = "NEWER"
    EXECABORT = "EXECABORT"
    OTHER = ""


_SENTENCES = {
    Answer.TRYAGAIN: "a slot of the cluster is being moved",
    Answer.CLUSTERDOWN: "the cluster does not serve all slots",
    Answer.READONLY: "it is a replica and takes no writes",
    Answer.LOADING: "it is loading its data",
    Answer.MASTERDOWN: "it is a replica whose primary is down",
    Answer.OOM: "its memory is full (maxmemory); raise it or lower extensions.store.max_bytes",
    Answer.MISCONF: "it cannot write to its disk and therefore takes no writes",
    Answer.NOREPLICAS: "it has fewer replicas than min-replicas-to-write asks for",
    Answer.WRONGTYPE: "a key under grafter's prefix is not grafter's; remove it or set another prefix",
    Answer.NOAUTH: "it wants a password",
    Answer.WRONGPASS: "it does not accept the user name and password",
    Answer.NOPERM: "the user may not do what grafter needs (all commands on its prefix's keys)",
    Answer.BUSY: "it is busy with a script",
    Answer.NEWER: "the trace is being held by a newer version of grafter",
    Answer.MOVED: "it is a cluster; use redis+cluster://",
    Answer.ASK: "a slot of the cluster is being moved",
}
RECONNECT = {Answer.READONLY, Answer.MASTERDOWN, Answer.NOAUTH, Answer.WRONGPASS}
"""After these another connection may do better: a failover has happened, or the password was changed."""


def answer_of(error: Exception) -> Answer:
    """Errors of scripts carry the word somewhere inside."""
    text = str(error)
    found = _WORD.search(text)
    # Redis before 6.2.7 and ACLs write WRONGPASS for both; a server without ACLs says this.
    if found is None and "invalid password" in text:
        return Answer.WRONGPASS
    return Answer(found.group()) if found is not None else Answer.OTHER


def sentence(error: Exception) -> str:
    """What is wrong, for people."""
    answer = answer_of(error)
    return _SENTENCES.get(answer) or f"it answered: {str(error)[:200]}"


def unavailable(where: str, error: Exception) -> UnavailableError:
    """What the caller of the store gets: nothing was promised, try again later."""
    full = answer_of(error) is Answer.OOM
    return UnavailableError(
        f"Redis at {where}: {sentence(error)}",
        retry_after=5.0 if full else 1.0,
        reason="store_full" if full else "store_down",
    )
