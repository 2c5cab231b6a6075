"""What a Live session says of itself, and who speaks in it.

The model listens while it speaks, so there are no turns: there are fragments of text, each of a stretch of the
session's own time, and they may overlap. Fragments of one side are one utterance unless a second lies between them,
or the other side began to speak there. When the session's time began no event says either; but what the caller says is
reported after it was spoken, and the model's audio is reflected as it is played, so the earliest beginning that some
event leaves possible is the latest that it can have been. The model's text may be known before it is spoken, and dates
nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial

from grafter.core import semconv
from grafter.core.policy import MILLISECOND
from grafter.guests.attributes import ATTRIBUTE_BYTES
from grafter.guests.json_values import count_of, float_of, mapping_of, text_of
from grafter.guests.realtime import configuring
from grafter.guests.realtime.records import Utterance
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.stored_event import Side, StoredEvent

PAUSE_MS = 1_000
"""Between two utterances of one side. Fragments follow the audio by the tenth of a second; a breath is shorter."""
_MOST_REMEMBERED = 16
_LONGEST_MS = 24 * 3_600_000
"""Of a session, which OpenAI ends after an hour or two; what lies further in is no time of one."""

_LONGEST_SESSION_S = 7 * 86_400
_ENDED_BY = {"expired": "expired", "connection_lost": "disconnect"}


def happened(what: str) -> Callable[[Session, StoredEvent, Mapping[str, object]], None]:
    """Something of which its moment is all there is, or nearly."""

    def handler(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
        start = count_of(event.get("start_ms"))
        session.happened(stored.at, semconv.EVENT_LIVE.format(what=what), {} if start is None else {"start_ms": start})

    return handler


def paused(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Nobody spoke for so long that the model sleeps until somebody does. That is no wait, and nobody's slowness."""
    session.happened(stored.at, semconv.EVENT_LIVE.format(what="paused"), {})
    session.live.pauses = [*session.live.pauses, [stored.at, None]][-_MOST_REMEMBERED:]


def resumed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Whether the session's time went on meanwhile nobody says, so it is dated anew by what comes now."""
    session.happened(stored.at, semconv.EVENT_LIVE.format(what="resumed"), {})
    match session.live.pauses:
        case [*before, [int(began), None]]:
            session.live.pauses = [*before, [began, stored.at]]
    for utterance in session.utterances.values():
        if utterance.begun_at is None:
            utterance.begun_at = session.live.begun_at
    session.live.begun_at = None


def closed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """The last event; with it, to whoever came too late for ``session.started``, the whole configuration."""
    configuring.updated(session, stored, event)
    used(session, stored, event)
    reason = text_of(event.get("reason"))
    session.live.closed_at = stored.at if session.live.closed_at is None else session.live.closed_at
    session.live.closed_by = session.live.closed_by or reason


def ended_by(reason: object) -> str:
    """What a session was ended by, in grafter's words, for the reason that ``session.closed`` gives."""
    return _ENDED_BY.get(reason, "close") if isinstance(reason, str) else "close"


def used(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Running totals: the last one stands."""
    usage, live = mapping_of(event.get("usage")), session.live
    seconds, active, asleep = (_length(usage.get(key)) for key in ("seconds", "active_seconds", "paused_seconds"))
    live.active_seconds = live.active_seconds if active is None else active
    live.paused_seconds = live.paused_seconds if asleep is None else asleep
    ratio = float_of(mapping_of(event.get("context_window")).get("usage_ratio"))
    session.live.seconds = session.live.seconds if seconds is None else seconds
    session.live.usage_ratio = session.live.usage_ratio if ratio is None else ratio


def _length(value: object) -> float | None:
    """Seconds of a session, which is neither shorter than nothing nor longer than a week."""
    seconds = float_of(value)
    return seconds if seconds is not None and 0 <= seconds <= _LONGEST_SESSION_S else None


def sounded(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Audio of the model, silence included; only its moment is of use."""
    date(session, stored.at, place_of(event))


def key_sent(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """A key that the app pressed: the server's word that it was sent, under today's name or the old one."""
    if stored.side is Side.SERVER:
        session.happened(
            stored.at, semconv.EVENT_DTMF, {"digit": text_of(event.get("event")), semconv.DTMF_DIRECTION: "sent"}
        )


def failed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """A call out that could not be set up."""
    error = mapping_of(event.get("error"))
    attributes = {
        semconv.ERROR_TYPE: text_of(error.get("code")),
        semconv.ERROR_PARAM: text_of(error.get("param")),
        semconv.ERROR_MESSAGE: text_of(error.get("message")),
    }
    session.happened(stored.at, semconv.EVENT_LIVE.format(what="failed"), attributes)


def date(session: Session, at: int, position: int | None) -> None:
    """Something at ``position`` (ms of the session's time) had happened at the moment ``at``."""
    if position is not None:
        begun = max(at - position * MILLISECOND, 0)
        if session.live.begun_at is None or begun < session.live.begun_at:
            session.live.begun_at = begun


def place_of(event: Mapping[str, object]) -> int | None:
    """Where a fragment begins, in ms of the session's time. Of a translation's no length is known."""
    return position_of(event.get("start_ms", event.get("elapsed_ms")))


def answered(session: Session, utterance: Utterance) -> tuple[str, int] | None:
    """What the model's utterance answers: the id and the end, in ms, of what the caller had said last.

    None where the model had begun to speak since, for then that was the answer.
    """
    before = [(end, name) for name, _, end in _remembered(session) if end <= utterance.start_ms]
    if not before:
        return None
    end, name = max(before)
    since = (start for start in session.live.spoken if isinstance(start, int) and end <= start < utterance.start_ms)
    return (name, end) if next(since, None) is None else None


def _utterance(session: Session, stored: StoredEvent, event: Mapping[str, object], *, user: bool) -> None:
    """A fragment of what the caller said, or of what the model says."""
    start = place_of(event)
    end = position_of(event.get("end_ms"))
    if start is None:
        session.misplaced += 1
        return
    end = start if end is None else max(start, end)
    if user:
        date(session, stored.at, end)
    same = [one for one in session.utterances.values() if one.user is user]
    utterance = same[-1] if same else None
    if utterance is None or _is_apart(session, utterance, start, end):
        utterance = session.utterance(f"{'input' if user else 'output'}_{start}", stored)
        if utterance is None:
            return
        utterance.user, utterance.start_ms, utterance.end_ms = user, start, end
        if not user:
            session.live.spoken = [*session.live.spoken, start][-_MOST_REMEMBERED:]
    utterance.last_at = max(utterance.last_at, stored.at)
    utterance.start_ms, utterance.end_ms = min(utterance.start_ms, start), max(utterance.end_ms, end)
    text = text_of(event.get("delta"))
    if text is not None and len(utterance.text) < ATTRIBUTE_BYTES:
        utterance.text += text
    if user:
        others = [entry for entry in _remembered(session) if entry[0] != utterance.id]
        latest = [*others, (utterance.id, utterance.start_ms, utterance.end_ms)]
        session.live.heard = [list(entry) for entry in latest[-_MOST_REMEMBERED:]]


heard, spoke = partial(_utterance, user=True), partial(_utterance, user=False)


def _is_apart(session: Session, utterance: Utterance, start: int, end: int) -> bool:
    """A fragment begins another utterance than the newest one of its side."""
    if utterance.begun_at is not None:
        return True
    if start > utterance.end_ms + PAUSE_MS or end < utterance.start_ms - PAUSE_MS:
        return True
    others = session.live.spoken if utterance.user else [began for _, began, _ in _remembered(session)]
    return any(isinstance(began, int) and utterance.end_ms <= began < start for began in others)


def _remembered(session: Session) -> list[tuple[str, int, int]]:
    """What the caller said last: name, beginning and end."""
    found = []
    for entry in session.live.heard:
        match entry:
            case [str(name), int(start), int(end)]:
                found.append((name, start, end))
    return found


def position_of(value: object) -> int | None:
    """Milliseconds of a session's own time; None for what cannot be any."""
    found = count_of(value)
    return None if found is None or found > _LONGEST_MS else found
