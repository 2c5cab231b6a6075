"""What the client asked for, what of it the server refused, and which response each ``response.create`` made.

No event of the server's says which request it answers, and most errors name none either, since most clients give
their events no ids. But the server takes a client's events in their order, refuses what it does not do, and answers
the rest; so what it did can be worked out from its own events. A request that an error can belong to no longer counts.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from grafter.core.policy import SECOND
from grafter.guests.json_values import text_of
from grafter.guests.realtime.records import Request, Response
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.stored_event import StoredEvent

CREATE, CANCEL, TRUNCATE = "create", "cancel", "truncate"
COMMIT, ITEM, UPDATE = "commit", "item", "update"
_ERROR = "error"
"""One that came before the request that it is about: their posts overtook one another."""
_DOUBT = "doubt"
"""One that may be about any of the requests that are ``doubtful``, as far as is known yet."""

_MOST = 64
_LONGEST_ANSWER = 30 * SECOND
"""Between a request and an error about it: longer than any network takes."""

_CODES = {
    "conversation_already_has_active_response": CREATE,
    "response_cancel_not_active": CANCEL,
    "input_audio_buffer_commit_empty": COMMIT,
}
_begun = attrgetter("created_at", "id")
_PARAMS = (
    ("audio_end_ms", TRUNCATE),
    ("content_index", TRUNCATE),
    ("session", UPDATE),
    ("item", ITEM),
    ("previous_item_id", ITEM),
    ("response", CREATE),
)


def record_request(session: Session, stored: StoredEvent, kind: str, about: object = None, **more: Any) -> Request:
    """Remember a request; a late one stands where its time belongs."""
    request = Request(
        kind=kind,
        at=stored.at,
        event_id=text_of(stored.event.get("event_id")),
        about=text_of(about),
        odd=stored.event.get("untimed") is True,
        **more,
    )
    for one in session.requests:
        if one.kind == _ERROR and _is_about(one, request):
            for other in session.requests:
                if other.kind == kind and other.at == one.begun_at:
                    other.refused = False
            one.begun_at, request.refused = request.at, True
            break
    session.requests.append(request)
    session.requests.sort(key=lambda one: one.at)
    del session.requests[:-_MOST]
    return request


def answered(session: Session, kind: str, about: object = None) -> Request | None:
    """The server has done what the first open request of this kind asked for; that request."""
    name = text_of(about)
    for request in session.requests:
        if request.kind == kind and not (request.answered or request.refused) and request.about in (name, None):
            request.answered = True
            return request
    return None


def is_given(session: Session, item: str | None) -> bool:
    """The client has put this item, or one of the call of this id, into the conversation."""
    return item is not None and any(one.kind == ITEM and one.about == item for one in session.requests)


def settle_doubts(session: Session, at: int, item: str | None) -> list[Request]:
    """The items that errors before this moment were about, now that the server has taken this one.

    It takes the client's events in their order and says of each item that it is in the conversation, or that it is not.
    So of those that were open when an error came, the error is about the first: had that been taken, the server would
    have said so before.
    """
    found: list[Request] = []
    doubts = [one for one in session.requests if one.kind == _DOUBT and one.at < at]
    if not doubts or not any(one.kind == ITEM and one.about == item for one in session.requests):
        # What the client did not give is of the server's own making.
        return found
    for doubt in doubts:
        waiting = [one for one in session.requests if _is_doubted(one, doubt)]
        taken = next((one for one in reversed(waiting) if one.kind == ITEM and one.about == item), None)
        before = waiting if taken is None else waiting[: waiting.index(taken)]
        if before and before[0].kind == ITEM:
            found.append(_settled(session, doubt, before[0]))
    return found


def given_again(session: Session, request: Request) -> Request | None:
    """The same item as this one, where an error since may have been about it: it was, or it would not come again."""
    for doubt in [one for one in session.requests if one.kind == _DOUBT and one.at <= request.at]:
        for one in session.requests:
            if _is_doubted(one, doubt) and _is_same(one, request):
                return _settled(session, doubt, one)
    return None


def refused(session: Session, at: int, error: Mapping[str, object]) -> Request | None:
    """The request that an error of this moment undoes; None where it is about none, or it cannot be known which.

    An error that names the client's event is about that. Otherwise its code or its parameter says what kind of request
    it is about; and where neither does, it is about the first that is open, or makes all of them doubtful where nobody
    sees what the server accepts.
    """
    named = text_of(error.get("event_id")) or text_of(error.get("client_event_id"))
    requested = [one for one in session.requests if one.kind not in (_ERROR, _DOUBT) and not one.refused]
    recent = [one for one in requested if one.at <= at <= one.at + _LONGEST_ANSWER]
    made = {id(one) for one in _makers(session, in_order(session), oldest=True).values()}
    if named is not None:
        found = [one for one in recent if one.event_id == named][-1:]
        if not found:
            _early(session, at, None, named)
        return _undone(found, session, made)
    if text_of(error.get("type")) not in (None, "invalid_request_error"):
        return None
    kind = _kind(error)
    # The server takes them in order: what came before one that it has done is done with, too.
    settled = max((one.at for one in session.requests if _is_settled(one, made)), default=0)
    still = [one for one in recent if not one.answered and id(one) not in made and one.at >= settled]
    if kind is not None:
        fitting = [one for one in still if one.kind == kind]
        # Nothing else was asked: what seemed to have made a response was refused, since that had begun by itself.
        late = [one for one in recent if one.kind == kind and id(one) in made]
        if not fitting:
            _early(session, at, kind, None, late[-1].at if late else None)
        return _undone(fitting[:1] or late[-1:], session, made)
    if still and (len(still) == 1 or any(one.answered for one in session.requests if one.kind == still[0].kind)):
        # What the server accepts it says, too, and in their order; so it is the first that it has said nothing of.
        return _undone(still[:1], session, made)
    # Nobody gives an item twice that was taken: see ``given_again``.
    twice = [one for place, one in enumerate(still) if any(_is_same(one, other) for other in still[place + 1 :])]
    if twice:
        return _undone(twice[:1], session, made)
    for one in still:
        one.doubtful = True
    if still:
        session.requests.append(Request(kind=_DOUBT, at=at))
    return None


def creates(session: Session, responses: Sequence[Response]) -> Mapping[str, Request]:
    """By response, the ``response.create`` that made it; ``responses``: ``in_order``.

    Metadata comes back as it was sent. In the conversation there is one response at a time, so of several open
    requests only the newest can be it: the older ones were lost.
    """
    return _makers(session, responses, oldest=False)


def newest_create(session: Session, at: int) -> Request | None:
    """The last ``response.create`` before this moment that has made nothing yet; the older ones were lost."""
    waiting = [one for one in session.requests if one.kind == CREATE and one.at <= at]
    waiting = [one for one in waiting if not (one.answered or one.refused or one.doubtful or one.odd)]
    for request in waiting:
        request.answered = True
    return waiting[-1] if waiting else None


def _makers(session: Session, responses: Sequence[Response], *, oldest: bool) -> dict[str, Request]:
    asked_for = [one for one in session.requests if one.kind == CREATE and not one.refused]
    found: dict[str, Request] = {}
    waiting: list[Request] = []
    seen = 0
    for response in responses:
        # Both stand in the order of their times; what waits was asked for before this one and has made none before.
        begun = response.created_at or 0
        while seen < len(asked_for) and asked_for[seen].at <= begun:
            waiting.append(asked_for[seen])
            seen += 1
        fitting: list[Request] = []
        others: list[Request] = []
        for one in waiting:
            (fitting if _fits(one, response) else others).append(one)
        if not fitting:
            continue
        if oldest or response.aside:
            chosen = fitting[0]
            waiting = [one for one in waiting if one is not chosen]
        else:
            chosen, waiting = fitting[-1], others
        found[response.id] = chosen
    return found


def in_order(session: Session) -> list[Response]:
    """The spoken responses that are known to have begun, in the order of it."""
    begun = [one for one in session.every_response if one.created_at is not None and one.kind == "spoken"]
    return sorted(begun, key=_begun)


def _fits(request: Request, response: Response) -> bool:
    """It may have made this response, which began after it."""
    if request.metadata != response.metadata:
        return False
    # Whether it is out of band its metadata may say alone, for servers that name no conversation.
    return request.aside == response.aside or (request.aside and bool(request.metadata))


def _is_doubted(request: Request, doubt: Request) -> bool:
    return request.doubtful and not (request.answered or request.refused) and request.at <= doubt.at


def _is_same(one: Request, other: Request) -> bool:
    if one is other or one.kind != ITEM or other.kind != ITEM:
        return False
    return one.about is not None and (one.about, one.item) == (other.about, other.item)


def _settled(session: Session, doubt: Request, request: Request) -> Request:
    """The doubt was about this request, so about no other; ``request``."""
    session.requests = [one for one in session.requests if one is not doubt]
    request.refused = True
    for one in session.requests:
        one.doubtful = any(_is_doubted(one, other) for other in session.requests if other.kind == _DOUBT)
    return request


def _is_settled(request: Request, made: set[int]) -> bool:
    return request.kind not in (_ERROR, _DOUBT) and (request.answered or request.refused or id(request) in made)


def _early(session: Session, at: int, kind: str | None, named: str | None, instead: int | None = None) -> None:
    """An error that may be about a request that has not been read yet; ``instead``: the time of what it undoes else."""
    session.requests.append(Request(kind=_ERROR, at=at, event_id=named, about=kind, begun_at=instead))


def _is_about(error: Request, request: Request) -> bool:
    if not (error.begun_at or 0) < request.at <= error.at <= request.at + _LONGEST_ANSWER:
        return False
    return error.event_id == request.event_id if error.event_id is not None else error.about == request.kind


def _kind(error: Mapping[str, object]) -> str | None:
    code, param = text_of(error.get("code")), text_of(error.get("param")) or ""
    if code in _CODES:
        return _CODES[code]
    return next((kind for name, kind in _PARAMS if param == name or param.startswith(f"{name}.")), None)


def _undone(found: list[Request], session: Session, made: set[int]) -> Request | None:
    if not found:
        return None
    request = found[0]
    request.refused = True
    if request.kind == CANCEL:
        # There was nothing to cancel, so what was asked for before it had made nothing.
        for one in session.requests:
            if one.kind == CREATE and one.at <= request.at and not one.aside and id(one) not in made:
                one.refused = True
    return request
