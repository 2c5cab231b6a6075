"""The endpoint for what an app knows of its calls: POST to ``/api/calls``, at the address of the OpenAI receiver.

    {"ids": {"twilio": "CA…", "sip_call_id": "…"}, "traceparent": "00-…", "from": "+49…", "to": "+49…",
     "start": 1764000000.5, "end": "2026-11-28T12:00:00Z", "outcome": "completed", "recording": "https://…"}

All of it may be left out but one of the ids or the trace; ``ids`` may be a list, or ``id`` one text. A key of ``ids``
that is none of ``extensions.calls.keys.ids`` is the system that the id is of. Two ids in one post say that they are of
one call. 204: stored.

    GET /api/calls/{id}/link

answers a link to the call's page that opens it without a token until it expires, for whoever shows recordings: 200 with
``{"link", "expires", "key", "recording", "ids", "traces"}``. The id is any that the call has, its recording's included,
and never a number: an address stands in logs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

from aiohttp import web

from grafter.calls.answers import ids_answer
from grafter.calls.base import CallMap, named
from grafter.calls.call_link import CallLinks
from grafter.calls.ids import ID_KEYS, LONGEST_ID, LONGEST_OUTCOME, call_id, distinct, outcome_of
from grafter.calls.model import CallId, CallRecord, Origin
from grafter.core.calls import Phone
from grafter.core.link import from_metadata
from grafter.core.model import Link
from grafter.core.policy import SECOND
from grafter.errors import RejectedError
from grafter.guests.json_values import moment
from grafter.receiver.http_body import json_object, read_json_body
from grafter.receiver.http_server import Tokens, is_local
from grafter.receiver.outcomes import Answered, NotFoundError, Outcome, UnauthenticatedError, openai_endpoint
from grafter.telemetry import Metrics

CALLS_PATH = "/api/calls"
_TRANSPORT = "calls"
_WHO = "links are for processes of this machine, or for a bearer token of extensions.calls.tokens"
_MAX_BYTES = 64 << 10
_MOST_IDS = 32
_LONGEST_RECORDING = 2_000
ReadNumber = Callable[[str], tuple[Phone | None, str | None]]
"""A number as it is kept, and in clear where that is kept too."""
_KEYS = ("call_id", "end", "from", "id", "ids", "outcome", "recording", "start", "to", "trace_id", "traceparent")


def calls_routes(
    calls: CallMap,
    metrics: Metrics,
    clock: Callable[[], int],
    *,
    id_keys: Collection[str] = ID_KEYS,
    tokens: Sequence[str] = (),
    links: CallLinks | None = None,
) -> list[web.RouteDef]:
    """The routes of calls. ``clock`` gives Unix nanoseconds; ``id_keys`` are the keys of a span that say an id and not
    whose; ``tokens`` are the bearer tokens that open them. Without any everybody may post, and processes of this
    machine get links."""
    opened_by = Tokens(tokens)

    async def handle(request: web.Request) -> Answered:
        body = await read_json_body(request, _MAX_BYTES)
        await calls.record(read_call(body, calls.read_number, clock(), id_keys))
        return web.Response(status=204), Outcome.ACCEPTED

    async def link(request: web.Request) -> Answered:
        if not opened_by and not is_local(request):
            raise UnauthenticatedError(_WHO)
        if links is None:
            raise NotFoundError("there is no lookup page; the config names no extensions.lookup")
        text = request.match_info["id"]
        if len(text) > LONGEST_ID or (calls.read_number(text)[0] is not None and call_id("", text) is None):
            raise RejectedError("expected an id of a call; a number has no place in an address", reason="ids")
        row = await calls.by_id(text) or await calls.call(text)
        if row is None:
            raise NotFoundError("no call is known of this id")
        made = links.link(row.key, clock())
        answer = {
            "link": made.address,
            "expires": datetime.fromtimestamp(made.expires // SECOND, UTC).isoformat().replace("+00:00", "Z"),
            "key": row.key,
            "recording": row.recording,
            "ids": ids_answer(row.ids),
            "traces": [trace.hex() for trace in row.traces],
        }
        return web.json_response(answer, headers={"Cache-Control": "no-store"}), Outcome.ACCEPTED

    return [
        web.post(CALLS_PATH, openai_endpoint(handle, metrics, _TRANSPORT, tokens=opened_by)),
        web.get(f"{CALLS_PATH}/{{id:.+}}/link", openai_endpoint(link, metrics, _TRANSPORT, tokens=opened_by)),
    ]


def read_call(body: bytes, read_number: ReadNumber, now: int, id_keys: Collection[str] = ID_KEYS) -> CallRecord:
    """What a body says. Raises RejectedError, with a message that quotes nothing."""
    posted = json_object(body, "ids")
    if not posted.keys() <= set(_KEYS):
        # A number under a mistyped key would be missed only when somebody looks for it.
        raise RejectedError(f"unknown key; the keys are {', '.join(_KEYS)}", reason="key")
    ids = _ids(posted, id_keys)
    traces = _traces(posted)
    if not ids and not traces:
        raise RejectedError("names no call: expected ids, or a traceparent or trace_id", reason="ids")
    caller, caller_number = _number(posted, "from", read_number)
    callee, callee_number = _number(posted, "to", read_number)
    start, end = _moment(posted, "start"), _moment(posted, "end")
    if start is not None and end is not None and end < start:
        raise RejectedError("end is before start", reason="end")
    return named(
        CallRecord(
            "",
            Origin.APP,
            now,
            ids,
            traces,
            caller=caller,
            callee=callee,
            numbers=(caller_number, callee_number),
            start=start,
            end=end,
            outcome=outcome_of(_text(posted, "outcome", LONGEST_OUTCOME)),
            recording=_text(posted, "recording", _LONGEST_RECORDING) or None,
        )
    )


def _ids(posted: Mapping[str, object], id_keys: Collection[str]) -> tuple[CallId, ...]:
    given = posted.get("ids")
    pairs: list[tuple[object, object]] = [("", posted[key]) for key in ("id", "call_id") if key in posted]
    if isinstance(given, dict):
        pairs += given.items()
    elif isinstance(given, list):
        pairs += [("", value) for value in given]
    elif given is not None:
        raise RejectedError("ids is no object and no list", reason="ids")
    found: list[CallId] = []
    for key, value in pairs:
        one = call_id(str(key), value, id_keys) if isinstance(value, str) else None
        if one is None:
            raise RejectedError(
                "each of ids must be a string of 6 to 256 printable characters, and no number",
                reason="ids",
            )
        found.append(one)
    if len(found) > _MOST_IDS:
        raise RejectedError(f"more than {_MOST_IDS} ids", reason="ids")
    return distinct(found)


def _traces(posted: Mapping[str, object]) -> tuple[bytes, ...]:
    named = {key: posted[key] for key in ("traceparent", "trace_id") if posted.get(key) is not None}
    if not named:
        return ()
    link = from_metadata(named, ("trace_id",))
    if not isinstance(link, Link):
        raise RejectedError("traceparent or trace_id names no trace", reason="traceparent")
    return (bytes(link.host),)


def _number(posted: Mapping[str, object], name: str, read_number: ReadNumber) -> tuple[Phone | None, str | None]:
    value = posted.get(name)
    if value is None:
        return None, None
    if not isinstance(value, str):
        raise RejectedError(f"{name} is no text", reason="shape")
    return read_number(value)


def _moment(posted: Mapping[str, object], name: str) -> int | None:
    if posted.get(name) is None:
        return None
    found = moment(posted[name])
    if found is None:
        raise RejectedError(f"{name} is neither Unix seconds nor RFC 3339", reason="time")
    return found


def _text(posted: Mapping[str, object], name: str, longest: int) -> str:
    value = posted.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise RejectedError(f"{name} is no text of up to {longest} characters", reason="shape")
    return value
