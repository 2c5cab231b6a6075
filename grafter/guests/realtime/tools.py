"""What a response asks for and somebody else does: functions of the app, tools of MCP servers, their lists, approvals.

A function runs from the moment that the model has said all its arguments until the app hands its output back, or the
server says that it was handed back where the client's side is not seen.
"""

from collections.abc import Mapping
from functools import partial

from grafter.guests.json_values import ARGUMENTS_DIGEST, list_of, mapping_of, text_of
from grafter.guests.realtime import requests
from grafter.guests.realtime.records import Call, Request, Response
from grafter.guests.realtime.session import Session, trim
from grafter.guests.realtime.stored_event import StoredEvent

_MOST_OUTPUTS = 64


def _arguments_done(
    session: Session, stored: StoredEvent, event: Mapping[str, object], *, kind: str, named_by: str
) -> None:
    """That the arguments end; the server says so of a call that was cut off, too."""
    response = _named_response(session, stored, event)
    call = session.call(event.get(named_by), stored, kind)
    if call is not None:
        _requested(session, call, event, response)
        _started(call, stored.at)


arguments_done = partial(_arguments_done, kind="function", named_by="call_id")
mcp_arguments_done = partial(_arguments_done, kind="mcp", named_by="item_id")


def mcp_running(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    call = _mcp(session, stored, event)
    if call is not None:
        _started(call, stored.at)


def mcp_completed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    call = _mcp(session, stored, event)
    if call is not None:
        _ended(call, stored.at)


def mcp_failed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    call = _mcp(session, stored, event)
    if call is not None:
        call.failed = True
        _ended(call, stored.at)


def list_running(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    call = session.call(event.get("item_id"), stored, "list")
    if call is not None:
        _started(call, stored.at)


def list_completed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    call = session.call(event.get("item_id"), stored, "list")
    if call is not None:
        _ended(call, stored.at)


def list_failed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    call = session.call(event.get("item_id"), stored, "list")
    if call is not None and call.ended_at is None:
        call.failed, call.complete, call.ended_at = True, True, stored.at


def item_created(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """The client puts an item into the conversation: an output, an answer, or history that it restores."""
    item = mapping_of(event.get("item"))
    name = item.get("call_id") or item.get("id")
    request = requests.record_request(session, stored, requests.ITEM, name, item=text_of(item.get("type")))
    if request.refused:
        return
    item_seen(session, stored, item, None, whole=True)
    before = requests.given_again(session, request)
    if before is not None:
        take_back(session, before)


def _item_event(session: Session, stored: StoredEvent, event: Mapping[str, object], *, whole: bool) -> None:
    item = mapping_of(event.get("item"))
    name = text_of(item.get("call_id")) or text_of(item.get("id"))
    for refused in requests.settle_doubts(session, stored.at, name):
        take_back(session, refused)
    requests.answered(session, requests.ITEM, name)
    item_seen(session, stored, item, text_of(event.get("response_id")), whole=whole)


item_begun, item_whole = partial(_item_event, whole=False), partial(_item_event, whole=True)


def item_seen(
    session: Session,
    stored: StoredEvent,
    item: Mapping[str, object],
    response: str | None,
    *,
    whole: bool,
    output: bool = False,
) -> None:
    """An item in the conversation or in a response's output; ``whole`` when nothing is to be added to it.

    What no response has made is history that the app restores, an example, a seed: it did not run here. ``output``: a
    response has made it, though it may not be known which.
    """
    kind, response = item.get("type"), response or session.made_by(item.get("id"))
    made = output or response is not None
    if kind == "function_call" and (made or text_of(item.get("call_id")) in session.calls):
        _function_item(session, stored, item, response, whole=whole)
    elif kind == "function_call_output":
        _output(session, stored, item)
    elif kind == "mcp_call" and (made or text_of(item.get("id")) in session.calls):
        _mcp_item(session, stored, item, response)
    elif kind == "mcp_list_tools" and (made or text_of(item.get("id")) in session.calls):
        call = session.call(item.get("id"), stored, "list")
        if call is not None:
            call.server = call.server or text_of(item.get("server_label"))
            names = [text_of(mapping_of(tool).get("name")) for tool in list_of(item.get("tools"))]
            call.tools = call.tools or [name for name in names if name is not None]
            call.complete = call.complete or bool(call.tools)
    elif kind == "mcp_approval_request" and made:
        call = session.call(item.get("id"), stored, "approval")
        if call is not None:
            _requested(session, call, item, response)
            _started(call, stored.at)
    elif kind == "mcp_approval_response" and text_of(item.get("approval_request_id")) in session.calls:
        call = session.call(item.get("approval_request_id"), stored, "approval")
        if call is not None and call.ended_at is None:
            approve = item.get("approve")
            call.approved = approve if isinstance(approve, bool) else None
            call.ended_at = stored.at


def response_ended(session: Session, response: Response) -> None:
    """A response that ran to its end has finished what it asked for; one that was cut off has not, where nothing says
    that it had."""
    for call in session.calls.values():
        if call.response == response.id and call.kind == "function" and call.whole is None:
            call.whole = True if response.status == "completed" else None


def take_back(session: Session, request: Request) -> None:
    """An item that the server refused was not handed back."""
    call = session.calls.get(request.about or "")
    if request.kind == requests.ITEM and call is not None and call.ended_at == request.at:
        given = [one for one in session.requests if one.kind == requests.ITEM and one.about == call.id]
        call.ended_at = min((one.at for one in given if one.at > request.at and not one.refused), default=None)
        call.result = None


def ran(call: Call) -> bool:
    """It is known to have been asked for: the model finished the call, or somebody has handed back an output."""
    requested = call.whole is True if call.kind == "function" else call.started_at is not None
    return requested or call.ended_at is not None


def _function_item(
    session: Session, stored: StoredEvent, item: Mapping[str, object], response: str | None, *, whole: bool
) -> None:
    call = session.calls.get(str(item.get("call_id")))
    if call is None or call.started_at is None or stored.event.get("untimed") is not True:
        # What is said of it again, at a time that nobody gave, says nothing of when it was asked for.
        call = session.call(item.get("call_id"), stored, "function")
    if call is None or call.kind != "function":
        return
    _requested(session, call, item, response)
    if item.get("status") == "incomplete":
        call.whole = False
    elif whole:
        call.whole = True
        _started(call, stored.at)


def _is_doubtful(session: Session, call: Call) -> bool:
    """That its output was handed back may have been refused."""
    return any(one.doubtful and one.about == call.id and one.at == call.ended_at for one in session.requests)


def _output(session: Session, stored: StoredEvent, item: Mapping[str, object]) -> None:
    name = text_of(item.get("call_id"))
    if name is None:
        return
    if name not in session.calls:
        if name not in session.outputs:
            session.outputs[name] = [stored.at, text_of(item.get("output"))]
            trim(session.outputs, _MOST_OUTPUTS)
        return
    call = session.call(name, stored, "function")
    if call is not None and (call.ended_at is None or stored.at < call.ended_at or _is_doubtful(session, call)):
        call.result = text_of(item.get("output"))
        call.ended_at = stored.at


def _mcp_item(session: Session, stored: StoredEvent, item: Mapping[str, object], response: str | None) -> None:
    call = session.call(item.get("id"), stored, "mcp")
    if call is None:
        return
    _requested(session, call, item, response)
    error = mapping_of(item.get("error"))
    if error:
        call.failed, call.error = True, dict(error)
    if item.get("answered") is True or error:
        call.complete = True
        call.result = call.result or text_of(item.get("output"))
        _ended(call, stored.at)


def _mcp(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> Call | None:
    response = _named_response(session, stored, event)
    call = session.call(event.get("item_id"), stored, "mcp")
    if call is not None and call.response is None:
        call.response = response
    return call


def _named_response(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> str | None:
    """The response that an event names. To name one is to say that there was one."""
    named = session.made_by(event.get("item_id"), event.get("response_id"))
    session.response(named, stored, dates=False)
    return named


def _requested(session: Session, call: Call, item: Mapping[str, object], response: str | None) -> None:
    call.response = call.response or response
    call.name = call.name or text_of(item.get("name"))
    call.server = call.server or text_of(item.get("server_label"))
    call.digest = call.digest or text_of(item.get(ARGUMENTS_DIGEST))
    call.arguments = call.arguments or text_of(item.get("arguments"))
    before = session.outputs.pop(call.id, None) if call.kind == "function" else None
    if before is not None and call.ended_at is None:
        # Its output was read before the call itself: from another post, or of the same moment.
        match before:
            case [int(at), str() | None as text] if at >= call.first_at:
                call.ended_at, call.result = at, text


def _started(call: Call, at: int) -> None:
    if call.started_at is None or at < call.started_at:
        call.started_at = at


def _ended(call: Call, at: int) -> None:
    if call.ended_at is None:
        call.ended_at = at
