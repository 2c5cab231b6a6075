"""Figures of a call, made from evidence, with the rule for each beside it.

A figure is right within the error that stands beside it, or it is not stated. All times are of one clock, that of
whoever read the socket; what only stands for a time makes no figure.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from grafter.core.policy import MILLISECOND, SECOND
from grafter.guests.realtime import requests, tools
from grafter.guests.realtime.records import Call, Request, Response, Speech
from grafter.guests.realtime.session import Session

SPEECH_STOPPED, COMMITTED, IDLE_TIMEOUT = "speech_stopped", "committed", "idle_timeout"
TOOL_OUTPUT, CREATE = "tool_output", "response.create"

_ONE_ACT = 100 * MILLISECOND
"""A client that lets go of a button commits the audio and asks for an answer at once."""
_IN_FLIGHT = 2 * SECOND
"""A request that is older than something else that OpenAI answers by itself was lost, or it would have been first."""
_AT_ONCE = SECOND
"""OpenAI begins by itself at once; later, somebody may have asked who is not seen."""
_LONGEST_CHAIN = 16
_FIRST_TURNS = 16
"""Later than that not all answers before are remembered, so that none is known to be the first."""


class Cause(NamedTuple):
    """What a response was begun by, and when; ``error``: how much later it may have been, in ns."""

    word: str
    at: int
    error: int = 0


class Answer(NamedTuple):
    """What is known of why a response came."""

    cause: Cause | None = None
    request: Request | None = None
    speech: Speech | None = None
    """That ended last since the response before it."""
    tool: Call | None = None
    """Whose output came last since then."""
    idle: bool = False


class Piece(NamedTuple):
    """A stretch of a wait that one part had, in ns."""

    part: str
    length: int
    by: str = ""
    """The response or the tool call whose it was."""
    mcp: bool = False
    """A tool of an MCP server."""


class Wait(NamedTuple):
    """What a caller waited, from the end of the speech to the first audio that can be heard; times in ns."""

    start: int
    start_word: str
    end: int
    end_word: str
    pieces: tuple[Piece, ...]
    """In the order of time, without those of no length; they add up to it."""
    error: int = 0
    """How much earlier it may have begun."""

    @property
    def parts(self) -> Mapping[str, int]:
        """How long each part had it, in the order in which they began."""
        found: dict[str, int] = {}
        for piece in self.pieces:
            found[piece.part] = found.get(piece.part, 0) + piece.length
        return found


class Answers:
    """What the responses of a session answer, each found out once; for as long as the session hears nothing new."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._known: dict[int, Answer] = {}

    @cached_property
    def begun(self) -> Sequence[Response]:
        """Those that are known to have begun, in the order of it."""
        return requests.in_order(self.session)

    @cached_property
    def in_order(self) -> Sequence[Response]:
        """The same, in the conversation."""
        return [one for one in self.begun if not one.aside]

    @cached_property
    def creates(self) -> Mapping[str, Request]:
        """By response, the ``response.create`` that made it."""
        return requests.creates(self.session, self.begun)

    def before(self, moment: int) -> Response | None:
        """The last in the conversation that began before then."""
        return next((one for one in reversed(self.in_order) if (one.created_at or 0) < moment), None)

    def of(self, response: Response) -> Answer:
        known = self._known.get(id(response))
        if known is None:
            known = self._known[id(response)] = _answer_of(self, response)
        return known


def _answer_of(answers: Answers, response: Response) -> Answer:
    """What a response answers, by what ended or was asked for since the response before it began.

    The client's accepted request is the cause where it was seen. Else it is the last of what OpenAI answers by itself:
    the end of a speech, a silence that was too long. After what it does not answer by itself (a function's output,
    audio that the client commits) somebody has asked who was not seen, somewhere between that and the response's
    beginning, which is the error. Where nothing is known of why it began there is no cause: that it began is none.
    """
    if response.kind != "spoken":
        known = response.cause is not None and response.cause_at is not None
        return Answer(Cause(response.cause or "", response.cause_at or 0) if known else None)
    session, begun = answers.session, response.created_at
    if begun is None or begun <= session.since:
        return Answer()
    request = answers.creates.get(response.id)
    if response.aside:
        return Answer(None if request is None else _by_request(request, None, None), request)
    last = answers.before(begun)
    before = session.since if last is None or last.created_at is None else last.created_at
    speech, spoken_until = None, before
    for heard in session.every_speech:
        ended = _ended(heard)
        if ended is not None and spoken_until < ended <= begun:
            speech, spoken_until = heard, ended
    tool, ran_until = None, before
    for call in session.every_call:
        ended = call.ended_at
        if ended is not None and ran_until < ended <= begun and _handed_back(session, call):
            tool, ran_until = call, ended
    idle = max((at for at in session.idle if before < at <= begun), default=None)
    causes = []
    if speech is not None:
        causes.append(_by_speech(session, speech, begun))
        if request is None and _began_by_itself(session, speech, begun):
            # OpenAI answers the speech; an output that was handed back meanwhile has begun nothing.
            tool = None
    if tool is not None and tool.ended_at is not None:
        causes.append(Cause(TOOL_OUTPUT, tool.ended_at, begun - tool.ended_at))
    if idle is not None:
        causes.append(Cause(IDLE_TIMEOUT, idle))
    natural = max(causes, key=lambda one: one.at, default=None)
    cause = natural if request is None else _by_request(request, natural, speech)
    odd = (speech is not None and speech.unreliable) or (tool is not None and tool.unreliable)
    odd = odd or (request is None and any(before < at <= begun for at in session.idle_untimed))
    return Answer(None if odd else cause, request, speech, tool, idle is not None)


def speech_answered(answers: Answers, response: Response) -> Speech | None:
    """The caller's speech that a response answers, or the tools that led to it do, or answers that were not heard."""
    one: Response | None = response
    for _ in range(_LONGEST_CHAIN):
        if one is None:
            return None
        answer = answers.of(one)
        if answer.speech is not None or answer.idle:
            return answer.speech
        one = _led_to(answers, one, answer)
    return None


def first_token_at(session: Session, response: Response) -> int | None:
    """When the model said its first; None where it had said a call's arguments before, of which no piece was seen."""
    first = response.first_delta_at
    calls = [call.started_at for call in session.every_call if call.response == response.id]
    return None if first is None or any(at is not None and at < first for at in calls) else first


def heard_at(session: Session, response: Response) -> tuple[int, str] | None:
    """When the caller could hear it first, and by what that is known; None where it could not, or it is not known."""
    if response.playing_at is not None:
        return response.playing_at, "output_audio_buffer"
    if session.buffered or response.first_audio_at is None:
        return None
    return response.first_audio_at, "delta"


def caller_wait(answers: Answers, response: Response) -> Wait | None:
    """What the caller waited for this response; None unless it is the first whose audio the caller hears since the
    speech, and the end of the speech is known."""
    session = answers.session
    heard, speech = heard_at(session, response), speech_answered(answers, response)
    if heard is None or speech is None or response.aside or response.kind != "spoken":
        return None
    end, error = speech_end(speech), speech_end_error(speech)
    if end is None or response.unreliable or speech.unreliable or heard[0] <= end[0] or error > heard[0] - end[0]:
        return None
    buffered = session.buffered
    for other in session.every_response:
        sounded = other.playing_at if buffered else other.first_audio_at
        if sounded is not None and end[0] < sounded <= heard[0] and other.id != response.id and not other.aside:
            return None
    return Wait(*end, *heard, _pieces(answers, response, speech, end[0], heard[0]), error)


def greeting(answers: Answers, response: Response) -> Wait | None:
    """What a caller waited for the first word of a call that the app answers: from the session's beginning to the first
    audio. None for any other answer, and where the beginning was not seen."""
    session = answers.session
    heard = heard_at(session, response)
    # Of a caller who presses a button nothing may be seen but what the client says.
    known = session.hears_client or session.config.detection not in (None, "none")
    known = known and session.begun and not session.odd and not session.since and not session.further
    known = known and session.turns < _FIRST_TURNS
    if heard is None or not known or response.aside or response.kind != "spoken" or response.unreliable:
        return None
    start, end = session.first_at, heard[0]
    spoken = any((_ended(one) or one.first_at) <= end for one in session.every_speech)
    spoken = spoken or any(one.kind == requests.COMMIT and one.at <= end for one in session.requests)
    if spoken or end <= start or speech_answered(answers, response) is not None:
        return None
    for other in session.every_response:
        sounded = other.playing_at if session.buffered else other.first_audio_at
        if other.id != response.id and sounded is not None and sounded <= end:
            return None
    return Wait(start, "session", *heard, _pieces(answers, response, None, start, end))


def speech_end(speech: Speech) -> tuple[int, str] | None:
    """When the caller fell silent: the detector's word less the silence that it waited for, or the client's commit."""
    if speech.stopped_at is not None:
        if speech.silence_ms is None:
            return None
        return max(speech.stopped_at - speech.silence_ms * MILLISECOND, 0), "speech_end"
    return None if speech.commit_at is None or speech.started_at is not None else (speech.commit_at, "commit")


def speech_end_error(speech: Speech) -> int:
    """How much earlier the caller may have fallen silent, in ns.

    That is what the detector's word was longer on its way than the quickest one of the call; how long the quickest was
    on its way no event says.
    """
    return 0 if speech.stopped_at is None or speech.silence_ms is None else speech.late


def _ended(speech: Speech) -> int | None:
    """When it was over, as OpenAI or the client says."""
    if speech.stopped_at is not None:
        return speech.stopped_at
    return speech.committed_at if speech.commit_at is None else speech.commit_at


def _handed_back(session: Session, call: Call) -> bool:
    if call.kind == "mcp":
        # OpenAI goes on from it by itself, in the same response where that has not ended.
        maker = _find(session, call.response)
        return maker is None or max(maker.last_audio_at or 0, maker.playing_at or 0) <= (call.ended_at or 0)
    return call.kind == "function" and not call.unseen and tools.ran(call)


def _by_speech(session: Session, speech: Speech, begun: int) -> Cause:
    at = _ended(speech) or 0
    word = COMMITTED if speech.stopped_at is None else SPEECH_STOPPED
    seen = speech.automatic is True and _began_by_itself(session, speech, begun)
    return Cause(word, at, 0 if seen else begun - at)


def _began_by_itself(session: Session, speech: Speech, begun: int) -> bool:
    """OpenAI answered this speech without being asked, as it does at once; where it is known to do so, and to be asked
    for nothing, later too."""
    if begun - (_ended(speech) or 0) <= _AT_ONCE:
        return speech.automatic is True or _is_answered_by_itself(speech)
    return speech.automatic is True and session.hears_client


def _by_request(request: Request, natural: Cause | None, speech: Speech | None) -> Cause | None:
    """The cause where the client was seen to ask; ``natural``: what it would be without."""
    if request.odd:
        return None
    by_request = None if request.doubtful else Cause(CREATE, request.at)
    if natural is None:
        return by_request
    since = request.at - natural.at
    pressed = speech is not None and speech.commit_at is not None and natural.word == COMMITTED
    if pressed and 0 <= since <= _ONE_ACT:
        return Cause(COMMITTED, natural.at, since)
    if since < 0 and (natural.word == IDLE_TIMEOUT or speech is None or _is_answered_by_itself(speech)):
        # What came later may have begun it; a request that is much older was lost, or it would have been first.
        return Cause(natural.word, natural.at, max(natural.error, -since if -since <= _IN_FLIGHT else 0))
    return by_request if by_request is not None or natural.error else natural


def _is_answered_by_itself(speech: Speech) -> bool:
    """OpenAI may have answered it without being asked: a detector heard it, and its settings do not forbid it."""
    return speech.automatic is not False and (speech.started_at is not None or speech.stopped_at is not None)


def _led_to(answers: Answers, response: Response, answer: Answer) -> Response | None:
    """The response that this one goes on from: whose tool was answered, else the one before it that was not heard."""
    if answer.tool is not None:
        return _find(answers.session, answer.tool.response)
    if answer.request is None or response.created_at is None:
        return None
    before = answers.before(response.created_at)
    heard = before is None or before.first_audio_at is not None or before.playing_at is not None
    return None if heard else before


def _find(session: Session, name: str | None) -> Response | None:
    return session.responses.get(name or "") or session.past.get(name or "")


def _pieces(answers: Answers, response: Response, speech: Speech | None, start: int, end: int) -> tuple[Piece, ...]:
    """What lies between, from its end to its beginning; what follows from no evidence is unknown.

    ``speech``: None for a greeting, which begins with the session. Where the way back is lost, all is unknown but the
    detector's silence: sums of some of its turns would pass for sums of all.
    """
    pieces: list[Piece] = []
    at = end
    name = "model" if speech is not None else "greeting"

    def until(part: str, moment: int | None, by: str = "", *, mcp: bool = False) -> bool:
        nonlocal at
        if moment is None or not start <= moment <= at:
            return False
        if moment < at:
            pieces.append(Piece(part, at - moment, by, mcp))
        at = moment
        return True

    def answering(one: Response, moment: int) -> bool:
        for call in _within(answers.session, one, since=moment, heard=at):
            # Of two at a time the rest of the one that was asked for first.
            until(name, call.ended_at, one.id)
            until("tool", call.started_at, call.id, mcp=True)
        return until(name, moment, one.id)

    if response.playing_at is not None:
        # A sideband socket carries no audio; what is said of it comes with it.
        until("playout", response.first_audio_at or response.first_delta_at, response.id)
    one: Response | None = response
    for _ in range(_LONGEST_CHAIN):
        if one is None:
            break
        answer = answers.of(one)
        cause, tool = answer.cause, answer.tool
        if cause is None:
            break
        known = cause.error == 0 or (cause.word == COMMITTED and answer.request is not None)
        requested = known and cause.word == CREATE
        if known and cause.word == COMMITTED and answer.request is not None:
            # A button's release and its request are one act to the model's turn; the time between is still the app's.
            requested = answering(one, answer.request.at)
        elif known:
            answering(one, cause.at)
        if speech is not None and answer.speech is not None:
            if answer.speech is not speech and answer.speech.id != speech.id:
                break
            if tool is not None and (tool.started_at or 0) >= (_ended(speech) or 0):
                # Whose tool it was is not seen to have begun; but it came between.
                break
            if until("relay" if requested else "unknown", _ended(speech)) and until("endpointing", start):
                return tuple(reversed(pieces))
            break
        if speech is None and answers.before(one.created_at or 0) is None:
            until("accept" if requested else "unknown", start)
            return tuple(reversed(pieces))
        before = _led_to(answers, one, answer)
        if tool is not None:
            found = until("relay" if requested else "unknown", tool.ended_at)
            found = found and until("tool", tool.started_at, tool.id, mcp=tool.kind == "mcp")
        else:
            # Nothing of it was heard, so somebody asked again.
            found = until("relay" if requested else "unknown", None if before is None else before.done_at)
        if not found:
            break
        one, name = before, "model"
    stopped = start if speech is None else min(max(_ended(speech) or start, start), end)
    lost = (Piece("endpointing", stopped - start), Piece("unknown", end - stopped))
    return tuple(piece for piece in lost if piece.length)


def _within(session: Session, response: Response, *, since: int, heard: int) -> list[Call]:
    """The tools that OpenAI called for a response while it went on, the one that ended last first."""
    found = [
        call
        for call in session.every_call
        if call.kind == "mcp" and call.response == response.id and not call.unreliable
        if call.started_at is not None and call.ended_at is not None
        if since <= call.started_at and call.ended_at <= heard
    ]
    return sorted(found, key=lambda call: (call.ended_at or 0, call.started_at or 0, call.id), reverse=True)
