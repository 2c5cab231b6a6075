"""What the caller heard of a response, and whether it was interrupted; made from evidence as the other ``figures`` are.

Nobody says how much was heard but a client that plays the audio itself, and it may be wrong or refused. So what was
heard is the least of all that bounds it, and says which of them it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from grafter.core.policy import MILLISECOND, SECOND
from grafter.guests.json_values import count_of, mapping_of, text_of
from grafter.guests.realtime import requests
from grafter.guests.realtime.figures import heard_at
from grafter.guests.realtime.records import Response
from grafter.guests.realtime.session import Session

_LATE_CUT = 2 * SECOND
"""After a short word is over, what it interrupted is cut within a network's way."""
_REORDERED = 500 * MILLISECOND
_BUTTON = SECOND
_ROUNDING_MS = 2
MARK = "mark"
_PCM = frozenset({"audio/pcm", "pcm16"})
_G711 = frozenset({"audio/pcmu", "audio/pcma", "g711_ulaw", "g711_alaw"})
_PCM_RATE, _PCM_BYTES = 24_000, 2
"""OpenAI's PCM has 24,000 samples of two bytes a second; compatible servers take other rates, and say so."""
_G711_RATE = 8_000
"""Of one byte."""


@dataclass(frozen=True, slots=True)
class BargeIn:
    at: int
    by: str
    """``speech``, or ``client`` where a button was pressed."""
    heard_ms: int | None
    heard_by: str | None
    at_most: bool
    past_end: bool
    error_ms: int = 0
    """By how much more it may be."""


@dataclass(frozen=True, slots=True)
class _Cut:
    at: int
    """When it was cut, at the latest."""
    word: str
    amount: int | None = None
    """Milliseconds of all of its audio that were heard, as far as somebody says so."""
    shown: bool = True
    """An event shows at which moment, or at how much, it was cut."""
    by_detector: bool = False
    past_end: bool = False
    first: int = 0
    """The first sign of it."""


def received_ms(session: Session, response: Response) -> int | None:
    """How long the audio is that came so far; None where its format is not known, or none passes here."""
    lengths = _lengths(session, response)
    return sum(lengths.values()) if lengths else None


def audio_bytes(response: Response) -> int:
    """Of two who hear one call and count its audio, by whom there was more."""
    return max(sum(response.audio.values()), sum(response.audio_beside.values()))


def cut_at(response: Response) -> list[int]:
    """When the server truncated its audio."""
    return [at for at, _, _ in _rows(response.truncations)]


def barge_in(session: Session, response: Response) -> BargeIn | None:
    """The caller broke in: began to speak (or pressed a button) while the response's audio played, and it was cut.

    Who began before any sound was heard interrupts nothing; neither does the app that cancels by itself; and what ran
    to its end was not interrupted. Heard is the least of what bounds it: the time since its playback began, what the
    server truncated it to (only where it did not, what the client asked for), and what was received. Where the player
    says how far it had come (a mark), that was heard at least, and the least of the others is how much more it may be.
    """
    playing, received = _playback(session, response), received_ms(session, response)
    cut = _cut(session, response, playing, received)
    sounded = playing is not None or response.cleared_at is not None or bool(response.truncations)
    if cut is None or response.unreliable or not sounded or (playing is not None and playing > cut.at):
        return None
    started = _interrupting(session, playing, cut.at)
    if started is not None:
        at, by = started, "speech"
    elif (pressed := _button(session, cut.first)) is not None:
        at, by = pressed, "client"
    elif cut.by_detector and not _may_have_begun_before(session, playing or response.first_at):
        at, by = cut.at, "speech"
    else:
        return None
    bounds: list[tuple[int, int, str]] = []
    if cut.shown or response.playing_at is None:
        # OpenAI plays on until it says that it has cleared its buffer; where it does not, nothing says how long.
        if playing is not None:
            until = cut.at if cut.shown else at
            bounds.append((max(until - playing, 0) // MILLISECOND, 3, "time"))
        if received is not None:
            bounds.append((received, 2, "received"))
    if cut.amount is not None:
        bounds.append((cut.amount, 0 if cut.word == "truncated" else 1, cut.word))
    least = min(bounds, default=None)
    heard, word = (None, None) if least is None else (least[0], least[2])
    marked, error = _marked_ms(session, response, cut.at), 0
    if heard is not None and marked is not None and marked <= heard:
        # What its player has played was heard; what follows it may have been on its way.
        heard, word, error = marked, MARK, heard - marked
    # Who asks for more than can have been played counts by another clock than its player's, which is behind.
    miscounted = cut.word == requests.TRUNCATE and word == "time" and response.cleared_at is None
    at_most = heard is not None and word != MARK and (miscounted or not cut.shown)
    return BargeIn(at, by, heard, word, at_most, cut.past_end, error)


def _cut(session: Session, response: Response, playing: int | None, received: int | None) -> _Cut | None:
    past_end = server = False
    found: list[_Cut] = []
    for at, item, amount in _rows(response.truncations):
        total = _total(session, response, item, amount)
        if received is not None and total is not None and total > received + _ROUNDING_MS:
            # OpenAI refuses that. A server that is only compatible says back what it was asked for.
            past_end = True
            if playing is None or at < playing + received * MILLISECOND:
                found.append(_Cut(at, "truncated", shown=False))
            continue
        server = True
        if response.status != "completed" or not _is_whole(response, total, received):
            # The client stopped when it asked for that, where it was seen to.
            times = [one.at for one in session.requests if one.kind == requests.TRUNCATE and one.about == item]
            found.append(_Cut(min([at, *(one for one in times if one <= at)]), "truncated", total))
    for one in session.requests:
        if one.kind != requests.TRUNCATE or session.items.get(one.about or "") != response.id or one.odd:
            continue
        total = None if one.amount is None else _total(session, response, one.about, one.amount)
        past = received is not None and total is not None and total > received + _ROUNDING_MS
        past_end = past_end or past
        over = received is not None and playing is not None and one.at >= playing + received * MILLISECOND
        ran_out = received is not None and total is not None and total >= received - _ROUNDING_MS
        if server or (ran_out and over) or (ran_out and response.status == "completed" and not past):
            continue
        believed = not (one.refused or one.doubtful or past)
        if believed or past:
            found.append(_Cut(one.at, "truncate", total if believed else None, shown=believed))
    if response.cleared_at is not None:
        found.append(_Cut(response.cleared_at, "cleared"))
    if response.status == "cancelled" and response.done_at is not None:
        detected = response.reason == "turn_detected"
        times = [one.at for one in session.requests if one.kind == requests.CANCEL and one.about == response.id]
        at = response.done_at if detected or not times else min(*times, response.done_at)
        found.append(_Cut(at, "cancelled", shown=False, by_detector=detected))
    if not found:
        return None
    first = min(found, key=lambda one: one.at)
    amounts = [one for one in found if one.amount is not None]
    shown = [one for one in found if one.shown]
    best = min(amounts, key=lambda one: (one.word != "truncated", one.amount), default=first)
    return _Cut(
        min((one.at for one in shown), default=first.at),
        best.word,
        best.amount,
        bool(shown),
        any(one.by_detector for one in found),
        past_end,
        first.at,
    )


def _marked_ms(session: Session, response: Response, until: int) -> int | None:
    """How far its player had come by then, as it said last."""
    rate = _rate(session, response)
    marks = [(at, item, size) for at, item, size in _rows(response.marks) if at <= until]
    if rate is None or not marks:
        return None
    _, item, size = max(marks, key=lambda one: one[0])
    return _total(session, response, item, size * 1_000 // rate)


def _is_whole(response: Response, total: int | None, received: int | None) -> bool:
    """All of it was heard; of an unknown format, where that is what the bytes come to in one of OpenAI's."""
    if total is None:
        return False
    if received is not None:
        return total >= received - _ROUNDING_MS
    size = audio_bytes(response)
    rates = (_PCM_RATE * _PCM_BYTES, _G711_RATE)
    return size > 0 and any(abs(size * 1_000 // rate - total) <= _ROUNDING_MS for rate in rates)


def _rows(rows: list[object]) -> Iterator[tuple[int, str | None, int]]:
    for row in rows:
        match row:
            case [int(at), str() | None as item, int(amount)]:
                yield at, item, amount


def _total(session: Session, response: Response, item: str | None, amount: int) -> int | None:
    """Of all of a response's audio: what lies before the item was heard whole."""
    lengths = _lengths(session, response)
    before = 0
    for name, length in lengths.items():
        if name == item:
            return before + amount
        before += length
    return amount if len({*response.audio, *response.audio_beside} - {item}) == 0 else None


def _lengths(session: Session, response: Response) -> dict[str, int]:
    """Milliseconds of audio by item, in order."""
    rate = _rate(session, response)
    if rate is None:
        return {}
    names = dict.fromkeys([*response.audio, *response.audio_beside])
    sizes = {name: max(response.audio.get(name, 0), response.audio_beside.get(name, 0)) for name in names}
    return {name: size * 1_000 // rate for name, size in sizes.items()} if sum(sizes.values()) else {}


def _playback(session: Session, response: Response) -> int | None:
    heard = heard_at(session, response)
    return None if heard is None else heard[0]


def _interrupting(session: Session, playing: int | None, cut_at: int) -> int | None:
    """When the last speech began that the cut can be for: while the audio played, and not long over."""
    starts = [
        one.started_at
        for one in session.every_speech
        if one.started_at is not None
        and not (one.odd_start or one.backwards)
        and (playing is None or one.started_at >= playing)
        and one.started_at <= cut_at + _REORDERED
        and (one.stopped_at is None or one.odd_stop or cut_at <= one.stopped_at + _LATE_CUT)
    ]
    return max(starts, default=None)


def _may_have_begun_before(session: Session, at: int) -> bool:
    """Somebody spoke at that moment already, or began at one that nobody gave."""
    return any(
        one.odd_start
        or (one.started_at is not None and one.started_at < at and (one.stopped_at is None or one.stopped_at >= at))
        for one in session.every_speech
    )


def _button(session: Session, cut_at: int) -> int | None:
    """Push to talk: audio of the caller begins where it was cut. When the button was pressed, at the latest."""
    if session.config.detection not in ("none", None):
        return None
    begun = [one.appended_at for one in session.every_speech if one.appended_at is not None]
    if session.input.begun_at is not None:
        begun.append(session.input.begun_at)
    near = [at for at in begun if abs(at - cut_at) <= _BUTTON]
    return min(*near, cut_at) if near else None


def _rate(session: Session, response: Response) -> int | None:
    """Bytes of a second of its audio; None where the format is not known.

    Its own format counts, else the session's of when its first audio came, else the session's that was learned since.
    """
    own = mapping_of(mapping_of(mapping_of(response.settings.get("audio")).get("output")).get("format"))
    kind, samples = response.audio_format, response.audio_rate
    if kind is None:
        kind, samples = session.config.output_format, session.config.output_rate
    named = text_of(own.get("type"))
    if named is not None:
        kind, samples = named, count_of(own.get("rate")) or (samples if named == kind else None)
    if kind in _G711:
        return _G711_RATE
    return (samples or _PCM_RATE) * _PCM_BYTES if kind in _PCM else None
