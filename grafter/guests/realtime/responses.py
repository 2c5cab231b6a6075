"""Model turns: what starts one, what comes of it, and what its caller hears of it.

No event says what a response answers. It is what ended last since the response before it: the caller's speech, a
tool, a silence that was too long; else what the client asked for. Each is the answer to one response only.
"""

from collections.abc import Mapping

from grafter.core import semconv
from grafter.guests.json_values import count_of, list_of, mapping_of, text_of
from grafter.guests.realtime import tools
from grafter.guests.realtime.notes import Note
from grafter.guests.realtime.records import MOST_EVENTS, MOST_ITEMS, Response
from grafter.guests.realtime.session import Session, trim

SPEECH_STOPPED = "speech_stopped"
COMMITTED = "committed"
IDLE_TIMEOUT = "idle_timeout"
TOOL_OUTPUT = "tool_output"
CREATE = "response.create"
CREATED = "response.created"

_MOST_CREATES = 16
_SOUND = "output_audio"


def create(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """The client asks for a response; the server will not say that this is the one."""
    wanted = mapping_of(event.get("response"))
    creates = session.waiting.creates
    event_id = text_of(event.get("event_id"))
    creates.append([note.at, event_id, dict(mapping_of(wanted.get("metadata"))), wanted.get("conversation") == "none"])
    del creates[:-_MOST_CREATES]


def created(session: Session, note: Note, event: Mapping[str, object]) -> None:
    told = mapping_of(event.get("response"))
    response = session.response(told.get("id"), note.at)
    if response is None:
        return
    if response.created_at is None:
        response.created_at = note.at
    _learn(session, response, told)
    # Not the event's own time: a clock that jumped back does not turn round what came first.
    _measure(session, response, session.last_at)


def done(session: Session, note: Note, event: Mapping[str, object]) -> None:
    told = mapping_of(event.get("response"))
    response = session.response(told.get("id"), note.at)
    if response is None or response.done_at is not None:
        return
    response.done_at = note.at
    _learn(session, response, told)
    _measure(session, response, response.first_at)
    details = mapping_of(told.get("status_details"))
    response.status = text_of(told.get("status")) or text_of(details.get("type"))
    response.reason = text_of(details.get("reason"))
    response.error = dict(mapping_of(details.get("error")))
    response.usage = dict(mapping_of(told.get("usage")))
    response.output = list_of(told.get("output"))
    for item in response.output:
        _item(session, note, response, mapping_of(item), whole=True)
    for other in session.responses.values():
        before = other.done_at is not None and other.first_at < response.first_at
        if before and other.passed_at is None and not response.aside:
            other.passed_at = note.at


def delta(session: Session, note: Note, event: Mapping[str, object]) -> None:
    _heard_of(session, note, event)


def audio_delta(session: Session, note: Note, event: Mapping[str, object]) -> None:
    response = _heard_of(session, note, event)
    if response is None:
        return
    response.speaks = True
    size = count_of(event.get("delta_bytes")) or 0
    if event.get("beside") is True:
        response.audio_bytes_beside = min(response.audio_bytes_beside + size, 1 << 62)
    else:
        response.audio_bytes = min(response.audio_bytes + size, 1 << 62)
    if response.first_audio_at is None or note.at < response.first_audio_at:
        response.first_audio_at = note.at


def transcript_delta(session: Session, note: Note, event: Mapping[str, object]) -> None:
    response = _heard_of(session, note, event)
    if response is not None:
        response.speaks = True


def part_added(session: Session, note: Note, event: Mapping[str, object]) -> None:
    response = _of(session, note, event)
    if response is not None and mapping_of(event.get("part")).get("type") == _SOUND:
        response.speaks = True


def item_added(session: Session, note: Note, event: Mapping[str, object]) -> None:
    _output_item(session, note, event, whole=False)


def item_done(session: Session, note: Note, event: Mapping[str, object]) -> None:
    _output_item(session, note, event, whole=True)


def cancel(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """What it did stands in the response's status; an error about it belongs to the response."""
    event_id = text_of(event.get("event_id"))
    named = text_of(event.get("response_id")) or session.latest
    if event_id is not None and named is not None:
        session.asked[event_id] = named
        trim(session.asked, MOST_ITEMS)


def playing(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """From here the caller hears it (WebRTC and SIP, where OpenAI plays the audio itself)."""
    response = _of(session, note, event)
    if response is not None:
        response.speaks = True
        response.playing_at = note.at if response.playing_at is None else min(response.playing_at, note.at)


def played(session: Session, note: Note, event: Mapping[str, object]) -> None:
    response = _of(session, note, event)
    if response is not None:
        response.speaks = True
        response.played_at = note.at if response.played_at is None else response.played_at


def cut_off(session: Session, note: Note, event: Mapping[str, object]) -> None:
    response = _of(session, note, event)
    if response is not None:
        response.speaks = True
        response.cleared_at = note.at if response.cleared_at is None else response.cleared_at


def truncate(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """The client says what was heard (WebSocket, where it plays the audio)."""
    _cut(session, note, event, "truncate")
    event_id, maker = text_of(event.get("event_id")), session.made_by(event.get("item_id"))
    if event_id is not None and maker is not None:
        session.asked[event_id] = maker
        trim(session.asked, MOST_ITEMS)


def truncated(session: Session, note: Note, event: Mapping[str, object]) -> None:
    _cut(session, note, event, "truncated")


def error(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """Most errors answer an event of the client; the session goes on."""
    told = mapping_of(event.get("error"))
    session.errors += 1
    if told.get("code") == "session_expired":
        session.expired = True
    answers = text_of(told.get("event_id")) or text_of(told.get("client_event_id"))
    creates = session.waiting.creates
    if answers is not None:
        creates[:] = [wanted for wanted in creates if list_of(wanted)[1:2] != [answers]]
    response = session.responses.get(session.asked.get(answers or "", ""))
    attributes = {
        semconv.ERROR_TYPE: text_of(told.get("code")) or text_of(told.get("type")),
        semconv.ERROR_KIND: text_of(told.get("type")),
        semconv.ERROR_PARAM: text_of(told.get("param")),
        semconv.ERROR_MESSAGE: text_of(told.get("message")),
    }
    if response is None:
        session.happened(note.at, semconv.EVENT_ERROR, attributes)
    elif len(response.errors) < MOST_EVENTS:
        response.errors.append([note.at, semconv.EVENT_ERROR, attributes])


def rate_limits(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """They come when a response begins, so they are told on it."""
    limits = list_of(event.get("rate_limits"))
    response = session.responses.get(session.latest or "")
    if response is not None and response.done_at is None:
        response.limits = limits
    else:
        session.limits = limits


def _of(session: Session, note: Note, event: Mapping[str, object]) -> Response | None:
    return session.response(session.made_by(event.get("item_id"), event.get("response_id")), note.at)


def _heard_of(session: Session, note: Note, event: Mapping[str, object]) -> Response | None:
    """The response that a delta, or a run of them, is of."""
    response = _of(session, note, event)
    if response is not None:
        response.last_at = max(response.last_at, note.last)
        if response.first_delta_at is None or note.at < response.first_delta_at:
            response.first_delta_at = note.at
    return response


def _output_item(session: Session, note: Note, event: Mapping[str, object], *, whole: bool) -> None:
    item = mapping_of(event.get("item"))
    response = session.response(session.made_by(item.get("id"), event.get("response_id")), note.at)
    if response is not None:
        _item(session, note, response, item, whole=whole)
    else:
        tools.item_seen(session, note, item, text_of(event.get("response_id")), whole=whole)


def _item(session: Session, note: Note, response: Response, item: Mapping[str, object], *, whole: bool) -> None:
    session.made_by(item.get("id"), response.id)
    if item.get("type") == "message":
        if any(mapping_of(part).get("type") == _SOUND for part in list_of(item.get("content"))):
            response.speaks = True
    else:
        tools.item_seen(session, note, item, response.id, whole=whole)


def _learn(session: Session, response: Response, told: Mapping[str, object]) -> None:
    conversation = text_of(told.get("conversation_id"))
    if conversation is not None:
        response.conversation = response.conversation or conversation
        session.conversation = session.conversation or conversation
    elif "conversation_id" in told:
        response.aside = True
    response.model = response.model or text_of(told.get("model")) or session.config.model
    response.metadata = dict(mapping_of(told.get("metadata"))) or response.metadata
    for key in ("output_modalities", "max_output_tokens", "temperature", "audio"):
        if told.get(key) is not None:
            response.settings[key] = told[key]


def _measure(session: Session, response: Response, at: int) -> None:
    """Find what the response answers: what had ended, or was asked for, when the server began it (``at``); once."""
    if response.measured is not None:
        return
    waiting = session.waiting
    asked_at, aside = _asked(waiting.creates, response, at)
    response.aside = response.aside or aside
    # Out of band it answers nobody, and what is waiting for an answer goes on waiting.
    before = (
        []
        if response.aside
        else [
            (time, kind)
            for time, kind in (
                (waiting.speech_at, COMMITTED if waiting.speech_stopped_at is None else SPEECH_STOPPED),
                (waiting.tool_at, TOOL_OUTPUT),
                (waiting.idle_at, IDLE_TIMEOUT),
            )
            if time is not None and time <= at
        ]
    )
    if before:
        response.measured_at, response.measured = max(before, key=lambda pair: pair[0])
    elif asked_at is not None:
        response.measured_at, response.measured = asked_at, CREATE
    else:
        response.measured_at, response.measured = response.created_at, CREATED
    if response.measured in (SPEECH_STOPPED, COMMITTED):
        response.speech = waiting.speech
        response.speech_stopped_at, response.silence_ms = waiting.speech_stopped_at, waiting.silence_ms
    elif response.measured == TOOL_OUTPUT:
        response.after_tool = waiting.tool
    if not response.aside:
        session.latest = response.id
        # What ended since waits for its own answer.
        if waiting.speech_at is not None and waiting.speech_at <= at:
            waiting.speech = waiting.speech_at = waiting.speech_stopped_at = waiting.silence_ms = None
        if waiting.tool_at is not None and waiting.tool_at <= at:
            waiting.tool = waiting.tool_at = None
        if waiting.idle_at is not None and waiting.idle_at <= at:
            waiting.idle_at = None


def _asked(creates: list[object], response: Response, begun: int) -> tuple[int | None, bool]:
    """When the client asked for this response, and whether it asked for one out of band; it has its answer then.

    Metadata comes back as it was sent. Without any, the first that waits is meant.
    """
    for index, entry in enumerate(creates):
        at, _, metadata, aside = (*list_of(entry), None, None, None, None)[:4]
        same = metadata == response.metadata and (aside is True or not response.aside)
        if same and isinstance(at, int) and at <= begun and (not aside or response.aside or response.metadata):
            del creates[index]
            return at, aside is True
    return None, False


def _cut(session: Session, note: Note, event: Mapping[str, object], by: str) -> None:
    item = text_of(event.get("item_id"))
    maker = session.made_by(item)
    response = session.responses.get(maker or "")
    if response is None and maker is None and item is not None and not session.knows(item):
        # An item that nobody has told of: what speaks last is what can be cut off.
        speaking = [one for one in session.responses.values() if one.speaks and one.cut_at is None]
        response = speaking[-1] if speaking else None
    if response is None:
        session.misplaced += 1
        return
    response.speaks = True
    if response.cut_by is None or (by == "truncated" and response.cut_by == "truncate"):
        response.cut_by = by
        response.cut_ms = count_of(event.get("audio_end_ms"))
        response.cut_at = note.at if response.cut_at is None else response.cut_at
