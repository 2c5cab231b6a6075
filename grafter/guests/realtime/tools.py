"""What a response asks for and somebody else does: functions of the app, tools of MCP servers, their lists, approvals.

A function runs from the moment that the model has said all its arguments until the app hands its output back, or the
server says that it was handed back where the client's side is not seen.
"""

from collections.abc import Mapping

from grafter.guests.json_values import ARGUMENTS_DIGEST, list_of, mapping_of, text_of
from grafter.guests.realtime.notes import Note
from grafter.guests.realtime.records import Call
from grafter.guests.realtime.session import Session


def arguments_done(session: Session, note: Note, event: Mapping[str, object]) -> None:
    response = _named_response(session, note, event)
    call = session.call(event.get("call_id"), note.at, "function")
    if call is not None:
        _asked(call, event, response)
        _started(call, note.at)


def mcp_arguments_done(session: Session, note: Note, event: Mapping[str, object]) -> None:
    response = _named_response(session, note, event)
    call = session.call(event.get("item_id"), note.at, "mcp")
    if call is not None:
        _asked(call, event, response)
        _started(call, note.at)


def mcp_running(session: Session, note: Note, event: Mapping[str, object]) -> None:
    call = _mcp(session, note, event)
    if call is not None:
        _started(call, note.at)


def mcp_completed(session: Session, note: Note, event: Mapping[str, object]) -> None:
    call = _mcp(session, note, event)
    if call is not None:
        _ended(session, call, note.at)


def mcp_failed(session: Session, note: Note, event: Mapping[str, object]) -> None:
    call = _mcp(session, note, event)
    if call is not None:
        call.failed = True
        _ended(session, call, note.at)


def list_running(session: Session, note: Note, event: Mapping[str, object]) -> None:
    call = session.call(event.get("item_id"), note.at, "list")
    if call is not None:
        _started(call, note.at)


def list_completed(session: Session, note: Note, event: Mapping[str, object]) -> None:
    call = session.call(event.get("item_id"), note.at, "list")
    if call is not None and call.ended_at is None:
        call.ended_at = note.at


def list_failed(session: Session, note: Note, event: Mapping[str, object]) -> None:
    call = session.call(event.get("item_id"), note.at, "list")
    if call is not None and call.ended_at is None:
        call.failed, call.told, call.ended_at = True, True, note.at


def item_seen(session: Session, note: Note, item: Mapping[str, object], response: str | None, *, whole: bool) -> None:
    """An item in the conversation or in a response's output; ``whole`` when nothing is to be added to it."""
    kind = item.get("type")
    if response is None:
        response = session.made_by(item.get("id"))
    if kind == "function_call":
        call = session.call(item.get("call_id"), note.at, "function")
        if call is not None:
            _asked(call, item, response)
            if whole:
                _started(call, note.at)
    elif kind == "function_call_output":
        call = session.call(item.get("call_id"), note.at, "function")
        if call is not None and call.ended_at is None:
            call.result = text_of(item.get("output"))
            _ended(session, call, note.at)
    elif kind == "mcp_call":
        _mcp_item(session, note, item, response)
    elif kind == "mcp_list_tools":
        call = session.call(item.get("id"), note.at, "list")
        if call is not None:
            call.server = call.server or text_of(item.get("server_label"))
            names = [text_of(mapping_of(tool).get("name")) for tool in list_of(item.get("tools"))]
            call.tools = call.tools or [name for name in names if name is not None]
            call.told = call.told or bool(call.tools)
    elif kind == "mcp_approval_request":
        call = session.call(item.get("id"), note.at, "approval")
        if call is not None:
            _asked(call, item, response)
            _started(call, note.at)
    elif kind == "mcp_approval_response":
        call = session.call(item.get("approval_request_id"), note.at, "approval")
        if call is not None and call.ended_at is None:
            approve = item.get("approve")
            call.approved = approve if isinstance(approve, bool) else None
            call.ended_at = note.at


def _mcp_item(session: Session, note: Note, item: Mapping[str, object], response: str | None) -> None:
    call = session.call(item.get("id"), note.at, "mcp")
    if call is None:
        return
    _asked(call, item, response)
    error = mapping_of(item.get("error"))
    if error:
        call.failed, call.error = True, dict(error)
    if item.get("answered") is True or error:
        call.told = True
        call.result = call.result or text_of(item.get("output"))
        _ended(session, call, note.at)


def _mcp(session: Session, note: Note, event: Mapping[str, object]) -> Call | None:
    response = _named_response(session, note, event)
    call = session.call(event.get("item_id"), note.at, "mcp")
    if call is not None and call.response is None:
        call.response = response
    return call


def _named_response(session: Session, note: Note, event: Mapping[str, object]) -> str | None:
    """The response that an event names. To name one is to say that there was one."""
    named = session.made_by(event.get("item_id"), event.get("response_id"))
    session.response(named, note.at)
    return named


def _asked(call: Call, told: Mapping[str, object], response: str | None) -> None:
    call.response = call.response or response
    call.name = call.name or text_of(told.get("name"))
    call.server = call.server or text_of(told.get("server_label"))
    call.digest = call.digest or text_of(told.get(ARGUMENTS_DIGEST))
    call.arguments = call.arguments or text_of(told.get("arguments"))


def _started(call: Call, at: int) -> None:
    if call.started_at is None or at < call.started_at:
        call.started_at = at


def _ended(session: Session, call: Call, at: int) -> None:
    """The next response may go on from here."""
    if call.ended_at is None:
        call.ended_at = at
        session.waiting.tool, session.waiting.tool_at = call.id, at
