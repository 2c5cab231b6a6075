"""The contract of the call map: who reads it (page, commands) and who feeds it (doors, releases) knows no database; and
what doors say of a call, as records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Protocol, TypeVar

from grafter.calls.ids import call_id, distinct, openai_id
from grafter.calls.model import CallId, CallRecord, CallRow, Forgotten, Origin, Page, Reindexed, Search
from grafter.core.calls import CallNote, Phone

_T = TypeVar("_T")


class CallMap(Protocol):
    """All methods raise UnavailableError where the database is away, and where somebody asks too often
    (reason ``rate``)."""

    async def search(self, search: Search) -> Page:
        """Calls, newest first."""
        ...

    async def by_id(self, text: str) -> CallRow | None:
        """The newest call of an id of any kind: never of a number."""
        ...

    async def call(self, key: str) -> CallRow | None:
        """The call of this key, or of any key that it ever had."""
        ...

    async def spans(self, key: str) -> Sequence[bytes]:
        """The joined trace as it was forwarded: serialised TracesData, in order of release, each whole in itself.

        Empty where it was sampled away, or is kept no longer.
        """
        ...

    async def recent_medians(self, limit: int = 100) -> Mapping[str, float]:
        """The median of ``wait_ms`` and of each part over the turns of the last calls; what nobody knows is left
        out."""
        ...

    async def record(self, record: CallRecord, document: bytes = b"") -> None:
        """Take what a source says of a call; said again it changes nothing.

        ``document``: the joined trace of a release, serialised TracesData. Stored, not written into the database yet,
        when it returns: the database may be away for hours. Raises UnavailableError only where the store is.
        """
        ...

    async def link(self, one: CallId, other: CallId, at: int) -> None:
        """Two ids are of one call."""
        ...

    async def forget(self, number: str, who: str = "") -> Forgotten:
        """Remove the calls from and to a number, and take no record of them that comes later and began before now.

        A number with ``+`` and its country, or of the region of the config as it is dialled there. Of digits that may
        be two numbers neither's calls are removed.

        Raises RejectedError for what is no number.
        """
        ...

    async def reindex(self, after: str) -> Reindexed:
        """Write the numbers of some calls under the current key; goes on ``after`` what the one before said, "" begins.

        Calls are found throughout, and what is written already is passed over.
        """
        ...

    async def over(self, since: int, until: int, work: Callable[[Iterable[CallRow]], _T]) -> _T:
        """What ``work`` makes of all calls that began then, newest first; it runs beside the event loop, and they are
        read as it goes."""
        ...

    def read_number(self, text: str) -> tuple[Phone | None, str | None]:
        """A number as it is kept, and in clear where that is kept too; None for what is no number."""
        ...


def of_note(note: CallNote, ids: Sequence[CallId] = (), origin: Origin = Origin.WEBHOOK) -> CallRecord:
    """What an announced call says. Its ``traceparent`` is left out: whoever calls wrote it, and could lay the call into
    another's trace."""
    own = openai_id(note.call_id) or call_id("", note.call_id)
    known = distinct([*ids, *([] if own is None else [own])])
    record = CallRecord("", origin, note.at, known, caller=note.caller, callee=note.callee, start=note.at)
    return named(record, note.call_id)


def named(record: CallRecord, what: str = "") -> CallRecord:
    """With a name made of its content: the same content, whenever it comes, has the same name."""
    content = (record.ids, record.traces, record.caller, record.callee, record.outcome, record.end, record.recording)
    start = record.start if record.start != record.at else None
    digest = sha256(repr((what, start, content)).encode()).hexdigest()[:32]
    return replace(record, name=f"{record.origin.value}:{digest}")
