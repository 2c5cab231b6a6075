"""``/admin/lookup``, ``trace``, ``forget``, ``report`` and ``reindex``: what the commands ask of the call map.

A number stands in a body, never in an address; each lookup by number is in the log, under a hash.
"""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from grafter.calls.answers import call_answer, found_lines, not_found_lines
from grafter.calls.base import CallMap
from grafter.calls.model import Search
from grafter.calls.report import report
from grafter.core.model import JsonObject
from grafter.errors import RejectedError

LOOKUP_PATH = "/admin/lookup"
TRACE_PATH = "/admin/trace"
FORGET_PATH = "/admin/forget"
REPORT_PATH = "/admin/report"
REINDEX_PATH = "/admin/reindex"
_LONGEST = 300
_MOST = 500
_MOST_SPANS_BYTES = 64 << 20
_FLAGS = ("slow", "errors", "interrupted", "unjoined", "live")

CallQuery = Callable[[Mapping[str, object], str], Awaitable[JsonObject]]
"""From a body and its requester to an answer."""


def call_queries(calls: CallMap, clock: Callable[[], int]) -> dict[str, CallQuery]:
    """By path; each raises RejectedError and UnavailableError."""

    async def lookup(query: Mapping[str, object], who: str) -> JsonObject:
        search = Search(
            text=_text(query, "text", empty=True),
            since=_count(query, "since"),
            until=_count(query, "until"),
            before=_text(query, "before", empty=True) or None,
            limit=min(_count(query, "limit") or 50, _MOST),
            who=who,
            **{flag: query.get(flag) is True for flag in _FLAGS},
        )
        page = await calls.search(search)
        lines = found_lines(page.calls, search.text, more=page.next is not None)
        return {"calls": [call_answer(call) for call in page.calls], "next": page.next, "lines": lines}

    async def trace(query: Mapping[str, object], who: str) -> JsonObject:
        text = _text(query, "text")
        page = await calls.search(Search(text=text, limit=2, who=who))
        call = page.calls[0] if page.calls else await calls.call(text)
        if call is None:
            return {"call": None, "documents": [], "lines": not_found_lines(text)}
        documents = [b64encode(document).decode() for document in (await kept_documents(calls, call.key))[0]]
        return {"call": call_answer(call), "documents": documents, "others": len(page.calls) > 1}

    async def forget(query: Mapping[str, object], who: str) -> JsonObject:
        number = _text(query, "number")
        forgotten = await calls.forget(number, who)
        traces = [trace.hex() for trace in forgotten.traces]
        lines = [f"calls of this number that are forgotten, with all that was kept of them: {forgotten.calls}"]
        if traces:
            lines += ["their traces live on where they were sent; remove them there:", *(f"  {one}" for one in traces)]
        if not forgotten.calls and not number.lstrip().startswith("+"):
            lines.append("a number without its country may be more than one: write it with + and the country's code")
        return {"calls": forgotten.calls, "traces": traces, "lines": lines}

    async def reported(query: Mapping[str, object], _who: str) -> JsonObject:
        until = _count(query, "until") or clock()
        since = _count(query, "since") or 0
        return await calls.over(since, until, lambda rows: report(rows, since, until))

    async def reindex(query: Mapping[str, object], _who: str) -> JsonObject:
        some = await calls.reindex(_text(query, "after", empty=True))
        return {"next": some.next, "calls": some.calls, "changed": some.changed, "strange": some.strange}

    return {
        LOOKUP_PATH: lookup,
        TRACE_PATH: trace,
        FORGET_PATH: forget,
        REPORT_PATH: reported,
        REINDEX_PATH: reindex,
    }


async def kept_documents(calls: CallMap, key: str) -> tuple[list[bytes], bool]:
    """The releases that are kept of a call, the first of them up to a size, and whether there are more."""
    found: list[bytes] = []
    size = 0
    for document in await calls.spans(key):
        size += len(document)
        if size > _MOST_SPANS_BYTES:
            return found, True
        found.append(document)
    return found, False


def requester(request: web.Request) -> str:
    """For the audit, and for the rate."""
    return f"admin {request.remote or 'unknown'}"


def _text(query: Mapping[str, object], name: str, *, empty: bool = False) -> str:
    value = query.get(name, "" if empty else None)
    if not isinstance(value, str) or not (empty or value.strip()) or len(value) > _LONGEST:
        raise RejectedError(f"expected a text of up to {_LONGEST} characters under {name}", reason="shape")
    return value


def _count(query: Mapping[str, object], name: str) -> int | None:
    value = query.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise RejectedError(f"expected a whole number under {name}", reason="shape")
    return value
