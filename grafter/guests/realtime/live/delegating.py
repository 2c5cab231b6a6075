"""Work that the Live model gives away: to the Responses API, whose events come with the session's own, to the Decision
API, or to the app, of which nothing more is given than that it was asked.

Events of the Responses API name their item and not their response, so which response one is of is known by its
delegation, or by there being no other. What the app hands back for a tool is not shown to a second listener; but the
next response of the same work cannot begin before it, so there a call has ended at the latest.
"""

from collections.abc import Mapping
from functools import partial

from grafter.core import semconv
from grafter.guests.json_values import count_of, mapping_of, text_of
from grafter.guests.realtime import figures, requests, responses, tools
from grafter.guests.realtime.field_rules import MOST_MEMBERS
from grafter.guests.realtime.live.talking import date, position_of
from grafter.guests.realtime.records import MOST_EVENTS, Call, Delegation, Response
from grafter.guests.realtime.session import Session, trim
from grafter.guests.realtime.stored_event import StoredEvent

DELEGATION = "delegation"
"""What the first response of some work is measured from; the others are measured as a spoken one is."""
DELEGATED = "delegated"
DECISION = "decision"

_MOST_DELEGATIONS = 256
_HOSTED = frozenset({"code_interpreter_call", "file_search_call", "image_generation_call", "web_search_call"})
"""Items that are tools which OpenAI runs itself: begun when they are added, over when they are done."""
_AS_FUNCTIONS = {"custom_tool_call": "function_call", "custom_tool_call_output": "function_call_output"}
_FAILED = frozenset({"failed", "incomplete"})


def created(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    given = mapping_of(event.get("delegation"))
    work = _work(session, given.get("id"))
    if work is None or work.at is not None:
        return
    work.at = stored.at
    work.target = text_of(given.get("target"))
    offset = count_of(event.get("offset_ms"))
    date(session, stored.at, position_of(event.get("offset_ms")))
    response = session.responses.get(text_of(given.get("response_id")) or "")
    if response is not None:
        response.delegation = response.delegation or work.id
    if work.target != "responses":
        session.happened(
            stored.at,
            semconv.EVENT_LIVE.format(what="delegation"),
            {semconv.LIVE_DELEGATION_ID: work.id, semconv.LIVE_DELEGATION_TARGET: work.target, "offset_ms": offset},
        )


def decided(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """``decision.event``: the whole answer. Only for delegated questions is it known when they were asked."""
    named = text_of(event.get("delegation_id")) or text_of(event.get("trigger_id")) or text_of(event.get("event_id"))
    response = session.response(named, stored)
    if response is None or response.done_at is not None:
        return
    decision = mapping_of(mapping_of(event.get("event")).get("decision"))
    work = session.delegations.get(named or "")
    response.kind = DECISION
    response.delegation = None if work is None else work.id
    response.created_at = stored.at if work is None or work.at is None else min(work.at, stored.at)
    response.done_at = stored.at
    response.model = text_of(decision.get("model"))
    response.usage = dict(mapping_of(decision.get("usage")))


def begun(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    response = described(session, stored, event)
    if response is None or response.created_at is not None:
        return
    response.created_at = stored.at
    work = session.delegations.get(response.delegation or "")
    _measure(session, response, work, stored.at)
    if work is not None:
        work.response, work.tool, work.tool_at = response.id, None, None


def ended(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """``response.completed``, ``response.failed`` and ``response.incomplete``."""
    response = described(session, stored, event)
    if response is None or response.done_at is not None:
        return
    given = mapping_of(event.get("response"))
    response.done_at = stored.at
    response.status = text_of(given.get("status"))
    response.reason = text_of(mapping_of(given.get("incomplete_details")).get("reason"))
    response.error = dict(mapping_of(given.get("error")))
    response.usage = dict(mapping_of(given.get("usage")))


def spoken(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """A word of an answer or of a call; a run of them is one stored event."""
    response = _of(session, event)
    if response is not None:
        responses.said(response, stored)


def item_given(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """``response.item.create``: what the client hands to the work, such as a tool's output."""
    item = _plain(mapping_of(event.get("item")))
    call = session.calls.get(text_of(item.get("call_id")) or "")
    tools.item_seen(session, stored, item, None, whole=True)
    work = None if call is None else session.delegations.get(call.delegation or "")
    if call is not None and work is not None and call.ended_at == stored.at:
        work.tool, work.tool_at = call.id, stored.at


def error(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """An error among the events of a response; the response says itself whether it failed."""
    attributes = {
        semconv.ERROR_TYPE: text_of(event.get("code")),
        semconv.ERROR_PARAM: text_of(event.get("param")),
        semconv.ERROR_MESSAGE: text_of(event.get("message")),
    }
    session.errors += 1
    response = _of(session, event)
    if response is None:
        session.happened(stored.at, semconv.EVENT_ERROR, attributes)
    elif len(response.errors) < MOST_EVENTS:
        response.errors.append([stored.at, semconv.EVENT_ERROR, attributes])


def _work(session: Session, identity: object) -> Delegation | None:
    name = text_of(identity)
    if name is None:
        return None
    if name not in session.delegations:
        session.delegations[name] = Delegation(id=name)
        trim(session.delegations, _MOST_DELEGATIONS)
    return session.delegations[name]


def described(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> Response | None:
    """The response that an event describes, with what it says of it."""
    given = mapping_of(event.get("response"))
    response = session.response(given.get("id"), stored)
    if response is None:
        return None
    response.kind = DELEGATED
    work = _work(session, event.get("delegation_id"))
    response.delegation = response.delegation or (None if work is None else work.id)
    response.previous = response.previous or text_of(given.get("previous_response_id"))
    response.model = response.model or text_of(given.get("model"))
    response.metadata = dict(mapping_of(given.get("metadata"))) or response.metadata
    for key in ("max_output_tokens", "temperature"):
        if given.get(key) is not None:
            response.settings[key] = given[key]
    return response


def _of(session: Session, event: Mapping[str, object]) -> Response | None:
    """The open response that an event of an item is of."""
    made = session.made_by(event.get("item_id") or mapping_of(event.get("item")).get("id"))
    if made is not None:
        return session.responses.get(made)
    still = [one for one in session.responses.values() if one.kind == DELEGATED and one.done_at is None]
    delegation = text_of(event.get("delegation_id"))
    if delegation is not None:
        still = [one for one in still if one.delegation == delegation]
    return still[0] if len(still) == 1 else None


def _item(session: Session, stored: StoredEvent, event: Mapping[str, object], *, whole: bool) -> None:
    item = _plain(mapping_of(event.get("item")))
    response = _of(session, event)
    if response is not None:
        response.last_at = max(response.last_at, stored.at)
        session.made_by(item.get("id"), response.id)
        if whole and len(response.output) < MOST_MEMBERS:
            response.output.append(dict(item))
    kind = text_of(item.get("type")) or ""
    if kind in _HOSTED:
        _hosted(session, stored, item, response, whole=whole)
        return
    tools.item_seen(session, stored, item, None if response is None else response.id, whole=whole, output=True)
    call = session.calls.get(text_of(item.get("call_id")) or "")
    if call is not None:
        call.delegation = call.delegation or text_of(event.get("delegation_id"))


item_added, item_done = partial(_item, whole=False), partial(_item, whole=True)


def _hosted(
    session: Session, stored: StoredEvent, item: Mapping[str, object], response: Response | None, *, whole: bool
) -> None:
    call = session.call(item.get("id"), stored, "hosted")
    if call is None:
        return
    call.response = call.response or (None if response is None else response.id)
    call.name = (text_of(item.get("type")) or "").removesuffix("_call")
    if whole:
        call.complete, call.failed = True, text_of(item.get("status")) in _FAILED
        call.ended_at = stored.at if call.ended_at is None else call.ended_at
    elif call.started_at is None:
        call.started_at = stored.at


def _plain(item: Mapping[str, object]) -> Mapping[str, object]:
    """A custom tool is a function that takes plain text."""
    kind = _AS_FUNCTIONS.get(text_of(item.get("type")) or "")
    return item if kind is None else {**item, "type": kind}


def _measure(session: Session, response: Response, work: Delegation | None, at: int) -> None:
    """Find what a response begins from, and end the calls that it goes on from."""
    before = response.previous or (None if work is None else work.response)
    unanswered = [call for call in session.calls.values() if _goes_on_from(call, before, work)]
    for call in unanswered:
        call.ended_at, call.unseen = at, True
    if work is not None and work.response is None and work.at is not None and work.at <= at:
        response.cause, response.cause_at = DELEGATION, work.at
    elif work is not None and work.tool_at is not None and not unanswered:
        response.cause, response.cause_at = figures.TOOL_OUTPUT, work.tool_at
        response.after_tool = work.tool
    elif work is None and (request := requests.newest_create(session, at)) is not None:
        response.cause, response.cause_at = figures.CREATE, request.at
    elif unanswered:
        response.after_tool = unanswered[-1].id


def _goes_on_from(call: Call, before: str | None, work: Delegation | None) -> bool:
    if call.kind != "function" or call.ended_at is not None or call.started_at is None:
        return False
    named = before is not None and call.response == before
    return named or (work is not None and call.delegation == work.id)
