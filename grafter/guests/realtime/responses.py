"""Model turns: what is seen of a response, and what its caller hears of it.

No event says what a response answers. So what is seen is kept here, with its times, and ``figures`` works out what
follows from it when the response is whole.
"""

from collections.abc import Mapping
from functools import partial

from grafter.core import semconv
from grafter.guests.json_values import count_of, list_of, mapping_of, text_of
from grafter.guests.realtime import requests, tools
from grafter.guests.realtime.records import MOST_EVENTS, Request, Response
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.stored_event import StoredEvent

_MOST_CUTS = 16
_MOST_MARKS = 256
"""Only the last before a cut says anything, and none comes after it: more than are ever on their way."""
_SOUND = "output_audio"


def create(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """The client asks for a response; the server will not say that this is the one."""
    wanted = mapping_of(event.get("response"))
    metadata, aside = dict(mapping_of(wanted.get("metadata"))), wanted.get("conversation") == "none"
    requests.record_request(session, stored, requests.CREATE, metadata=metadata, aside=aside)


def created(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    given = mapping_of(event.get("response"))
    response = session.response(given.get("id"), stored)
    if response is None:
        return
    if response.created_at is None:
        response.created_at = stored.at
    _learn(session, response, given)
    response.aside = response.aside or _requested_aside(session, response)
    if not response.aside:
        session.latest = response.id


def done(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Servers that are only compatible say it more than once: the last one that says more stands."""
    given = mapping_of(event.get("response"))
    response = session.response(given.get("id"), stored)
    if response is None:
        return
    details = mapping_of(given.get("status_details"))
    status = text_of(given.get("status")) or text_of(details.get("type"))
    usage, output = dict(mapping_of(given.get("usage"))), list_of(given.get("output"))
    more = (status, usage or response.usage, output or response.output)
    if response.done_at is not None and more == (response.status, response.usage, response.output):
        return
    if response.done_at is None or not _followed(session, response, stored.at):
        response.done_at = stored.at
    _learn(session, response, given)
    response.status = status or response.status
    response.reason = text_of(details.get("reason")) or response.reason
    response.error = dict(mapping_of(details.get("error"))) or response.error
    response.usage, response.output = usage or response.usage, output or response.output
    for item in map(mapping_of, output):
        whole = response.status == "completed" or item.get("status") == "completed"
        _item(session, stored, response, item, whole=whole)
    tools.response_ended(session, response)


def heard_of(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> Response | None:
    """The response that a delta, or a run of them, is of."""
    response = _of(session, stored, event)
    if response is not None:
        said(response, stored)
    return response


def said(response: Response, stored: StoredEvent) -> None:
    """A piece of what the model says has come, or a run of them."""
    response.last_at = max(response.last_at, stored.at, stored.last)
    if response.first_delta_at is None or stored.at < response.first_delta_at:
        response.first_delta_at = stored.at
        response.odd = response.odd or stored.event.get("untimed") is True


def text_delta(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    response = heard_of(session, stored, event)
    if response is not None:
        response.has_words = True


def audio_delta(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    response = heard_of(session, stored, event)
    if response is None:
        return
    response.speaks = True
    if response.audio_format is None:
        response.audio_format, response.audio_rate = session.config.output_format, session.config.output_rate
    if event.get("delta_bytes") == 0:
        # Some servers begin with a piece that has no sound in it.
        return
    audio = response.audio_beside if event.get("beside") is True else response.audio
    item = text_of(event.get("item_id")) or ""
    if item in audio or len(audio) < _MOST_CUTS:
        audio[item] = min(audio.get(item, 0) + (count_of(event.get("delta_bytes")) or 0), 1 << 62)
    last = max(stored.at, stored.last)
    response.last_audio_at = last if response.last_audio_at is None else max(response.last_audio_at, last)
    if response.first_audio_at is None or stored.at < response.first_audio_at:
        response.first_audio_at = stored.at
        response.odd = response.odd or event.get("untimed") is True


def transcript_delta(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    response = heard_of(session, stored, event)
    if response is not None:
        response.speaks = True


def part_added(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    response = _of(session, stored, event)
    if response is not None and mapping_of(event.get("part")).get("type") == _SOUND:
        response.speaks = True


def cancel(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """What it did stands in the response's status; an error about it belongs to the response."""
    about = text_of(event.get("response_id")) or session.latest
    requests.record_request(session, stored, requests.CANCEL, about)


def playing(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """From here the caller hears it (WebRTC and SIP, where OpenAI plays the audio itself)."""
    response = _played_by_openai(session, stored, event)
    if response is not None:
        response.playing_at = stored.at if response.playing_at is None else min(response.playing_at, stored.at)


def played(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    response = _played_by_openai(session, stored, event)
    if response is not None:
        response.played_at = stored.at if response.played_at is None else max(response.played_at, stored.at)


def cut_off(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    response = _played_by_openai(session, stored, event)
    if response is not None:
        response.cleared_at = stored.at if response.cleared_at is None else response.cleared_at


def truncate(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """The client says what was heard (WebSocket, where it plays the audio)."""
    response = _cut(session, stored, event)
    if response is not None:
        amount = count_of(event.get("audio_end_ms"))
        requests.record_request(session, stored, requests.TRUNCATE, event.get("item_id"), amount=amount)


def truncated(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    requests.answered(session, requests.TRUNCATE, event.get("item_id"))
    response, amount = _cut(session, stored, event), count_of(event.get("audio_end_ms"))
    if response is not None and amount is not None and len(response.truncations) < _MOST_CUTS:
        response.truncations.append([stored.at, text_of(event.get("item_id")), amount])


def marked(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """The player of the caller's side has played an item so far."""
    response = session.responses.get(session.made_by(event.get("item_id")) or "")
    if response is None:
        session.misplaced += 1
        return
    amount = count_of(event.get("played_bytes"))
    if amount is not None and event.get("untimed") is not True:
        response.marks.append([stored.at, text_of(event.get("item_id")), amount])
        del response.marks[:-_MOST_MARKS]


def error(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Most errors answer an event of the client; the session goes on."""
    given = mapping_of(event.get("error"))
    session.errors += 1
    if given.get("code") == "session_expired":
        session.expired = True
    request = requests.refused(session, stored.at, given)
    if request is not None:
        tools.take_back(session, request)
    response = session.responses.get(_about(session, request) or "")
    attributes = {
        semconv.ERROR_TYPE: text_of(given.get("code")) or text_of(given.get("type")),
        semconv.ERROR_KIND: text_of(given.get("type")),
        semconv.ERROR_PARAM: text_of(given.get("param")),
        semconv.ERROR_MESSAGE: text_of(given.get("message")),
    }
    if response is None:
        session.happened(stored.at, semconv.EVENT_ERROR, attributes)
    elif len(response.errors) < MOST_EVENTS:
        response.errors.append([stored.at, semconv.EVENT_ERROR, attributes])


def rate_limits(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """They come when a response begins, so they are given on it."""
    limits = list_of(event.get("rate_limits"))
    response = session.responses.get(session.latest or "")
    if response is not None and response.done_at is None:
        response.limits = limits
    else:
        session.limits = limits


def _of(session: Session, stored: StoredEvent, event: Mapping[str, object], *, dates: bool = False) -> Response | None:
    return session.response(session.made_by(event.get("item_id"), event.get("response_id")), stored, dates=dates)


def _output_item(session: Session, stored: StoredEvent, event: Mapping[str, object], *, whole: bool) -> None:
    item = mapping_of(event.get("item"))
    response = session.response(session.made_by(item.get("id"), event.get("response_id")), stored, dates=False)
    if response is not None:
        _item(session, stored, response, item, whole=whole)
    else:
        tools.item_seen(session, stored, item, text_of(event.get("response_id")), whole=whole)


item_added, item_done = partial(_output_item, whole=False), partial(_output_item, whole=True)


def _item(
    session: Session, stored: StoredEvent, response: Response, item: Mapping[str, object], *, whole: bool
) -> None:
    session.made_by(item.get("id"), response.id)
    if item.get("type") == "message":
        parts = [mapping_of(part).get("type") for part in list_of(item.get("content"))]
        response.speaks = response.speaks or _SOUND in parts
        response.has_words = response.has_words or whole or bool(parts)
    else:
        tools.item_seen(session, stored, item, response.id, whole=whole)


def _learn(session: Session, response: Response, given: Mapping[str, object]) -> None:
    conversation = text_of(given.get("conversation_id"))
    if conversation is not None:
        response.conversation = response.conversation or conversation
        session.conversation = session.conversation or conversation
    elif "conversation_id" in given:
        response.aside = True
    response.model = response.model or text_of(given.get("model")) or session.config.model
    response.metadata = dict(mapping_of(given.get("metadata"))) or response.metadata
    modalities = list_of(given.get("output_modalities"))
    if modalities:
        response.in_text = "audio" not in modalities
    for key in ("output_modalities", "max_output_tokens", "temperature", "audio"):
        if given.get(key) is not None:
            response.settings[key] = given[key]


def _followed(session: Session, response: Response, at: int) -> bool:
    """Another has begun since it ended, and by this moment: it had ended, whatever is said of it again."""
    if response.aside or response.done_at is None:
        return False
    since = response.done_at
    return any(not one.aside and since < (one.created_at or 0) <= at for one in session.every_response)


def _requested_aside(session: Session, response: Response) -> bool:
    """It was asked for out of band, which its metadata says where the server names no conversation."""
    return bool(response.metadata) and any(
        one.kind == requests.CREATE and one.aside and one.metadata == response.metadata for one in session.requests
    )


def _about(session: Session, request: Request | None) -> str | None:
    """The response that a request was about."""
    if request is None or request.about is None or request.kind not in (requests.CANCEL, requests.TRUNCATE):
        return None
    return request.about if request.kind == requests.CANCEL else session.items.get(request.about)


def _played_by_openai(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> Response | None:
    session.buffered = True
    response = _of(session, stored, event, dates=True)
    if response is not None:
        response.speaks = True
    return response


def _cut(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> Response | None:
    """The response whose item was cut; it has audio then."""
    response = session.responses.get(session.made_by(event.get("item_id")) or "")
    if response is None:
        session.misplaced += 1
    else:
        response.speaks = True
        response.odd = response.odd or event.get("untimed") is True
    return response
