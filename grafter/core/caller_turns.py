"""What callers waited: from what to what, and by which evidence. All times of one wait are of one clock.

- A Realtime call: what grafter states on the answer that ends a wait (``figures`` in the room of its guests), from the
  end of the caller's speech to the first audio heard, in stretches that add up to it.
- A Live session, whose model listens while it speaks: between two moments of the session's own time, stated where
  nobody paused it in between. Tools that its delegates ran are dated by another clock, so where any ran then, whose
  time it was is unknown.
- LiveKit's turns of an agent (livekit-agents 1.8, seconds) and Pipecat's ``turn`` (pipecat-ai 1.14), by their own sums.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from grafter.core import semconv
from grafter.core.call_latency import CallerTurn, Part, Side, Step
from grafter.core.joined_steps import (
    JoinedSteps,
    is_model_call,
    is_tool,
    moment,
    nanoseconds,
    number,
    tool_name,
    word,
)
from grafter.core.model import HostSpan
from grafter.core.policy import MILLISECOND, SECOND
from grafter.core.steps import MODELS

_SIDES = {
    "endpointing": Side.OPENAI,
    "model": Side.OPENAI,
    "relay": Side.APP,
    "playout": Side.OPENAI,
    "accept": Side.APP,
    "greeting": Side.OPENAI,
}
"""Whose a stretch of a Realtime call is; of a tool it depends on who runs it."""
_INPUT_TRANSCRIPT = "input_transcript"
_FRAMEWORK_SPANS = frozenset({"agent_turn", "job_entrypoint"})
_CALL = semconv.GRAFTER_GUEST_TRACE_ID
_LIVEKIT, _PIPECAT = "lk.e2e_latency", "turn.user_bot_latency_seconds"
HOST_WAITS = frozenset(
    {
        *(_LIVEKIT, "lk.end_of_turn_delay", "lk.on_user_turn_completed_delay", "lk.speech.queue_wait"),
        *("lk.response.ttft", "lk.response.ttfb", _PIPECAT, "metrics.ttfb"),
        *("gen_ai.response.time_to_first_chunk", "gen_ai.provider.name", "gen_ai.system"),
    }
)
"""Attributes of host spans that are read here."""
HOST_MARK = "user_bot_latency"
"""In the bytes of a host span that states a wait in none of the words by which other steps are known."""


def measured(trace: JoinedSteps) -> list[CallerTurn]:
    """The waits that answers of Realtime calls state."""
    later: dict[tuple[str, str], list[Step]] = {}
    for step in trace.ordered:
        if semconv.TURN_SPEECH_ITEM in step.attributes and word(step, semconv.TURN_AFTER_TOOL):
            later.setdefault(_speech_of(step), []).append(step)
    return [turn for _, turn in _stated(trace, semconv.CALLER_WAIT, later)]


def is_evidence(step: Step) -> bool:
    """It states a wait of its own, so that nobody else's word is needed."""
    attributes = step.attributes
    return (
        semconv.CALLER_WAIT.begin_time in attributes
        or semconv.GREETING.begin_time in attributes
        or attributes.get(semconv.TURN_MEASURED_FROM) == _INPUT_TRANSCRIPT
    )


def waits_for_tool(step: Step) -> bool:
    """It states a wait in which a tool ran."""
    return "tool:" in word(step, semconv.CALLER_WAIT.pieces) or "tool:" in word(step, semconv.GREETING.pieces)


def heard_of_frameworks(host: Iterable[HostSpan]) -> bool:
    """In one of these spans LiveKit or Pipecat states a wait; that stands on names of spans without attributes, too."""
    return any(span.name in _FRAMEWORK_SPANS or (span.attributes and _PIPECAT in span.attributes) for span in host)


def greetings(trace: JoinedSteps) -> list[CallerTurn]:
    """The waits for each call's first word, which an answer states; of one call's the first."""
    found: dict[str, CallerTurn] = {}
    for step, turn in _stated(trace, semconv.GREETING):
        call = word(step, _CALL)
        found[call] = min(found.get(call, turn), turn, key=_place)
    return sorted(found.values(), key=_place)


def spoken_in_live(trace: JoinedSteps, *, whole: bool) -> list[CallerTurn]:
    """The waits of Live sessions: from the end of the caller's words to the model's. ``whole``: no step is missing."""
    found: list[CallerTurn] = []
    spoken = [one for one in trace.ordered if one.attributes.get(semconv.TURN_MEASURED_FROM) == _INPUT_TRANSCRIPT]
    if not spoken:
        return found
    work = [one for one in trace.ordered if is_tool(one) or is_model_call(one)]
    # What the app does for the model itself leaves no span behind.
    apps = {word(one, _CALL) for one in trace.ordered if one.attributes.get(semconv.LIVE_DELEGATION_TARGET) == "client"}
    for step in spoken:
        if is_model_call(step):
            continue
        start, end = moment(step, semconv.TURN_SPEECH_END_TIME), moment(step, semconv.TURN_FIRST_AUDIO_TIME)
        if start is None or end is None or end <= start or number(step, semconv.TURN_FIRST_AUDIO_MS) is None:
            continue
        # A moment of the session's own clock is none of spans that were drawn on another.
        moved = semconv.GRAFTER_CLOCK_METHOD in step.attributes
        worked = not whole or word(step, _CALL) in apps or (moved and bool(work))
        worked = worked or any(one.start < end and one.end > start for one in work)
        part = Part("unknown", end - start, Side.UNKNOWN) if worked else Part("model", end - start, Side.OPENAI)
        found.append(_turn(step, start, end, (_INPUT_TRANSCRIPT, "output_transcript"), (part,)))
    return found


def heard_in_frameworks(trace: JoinedSteps) -> list[CallerTurn]:
    """The waits that LiveKit and Pipecat state of themselves."""
    found = []
    for step in trace.ordered:
        if _LIVEKIT in step.attributes or _PIPECAT in step.attributes:
            turn = _of_livekit(step, trace) or _of_pipecat(step, trace)
            if turn is not None:
                found.append(turn)
    return found


def _place(turn: CallerTurn) -> tuple[int, bytes]:
    return turn.end, turn.answer


def _turn(
    answer: Step,
    start: int,
    end: int,
    words: tuple[str, str],
    parts: tuple[Part, ...],
    error: int = 0,
    last: tuple[int, bytes] | None = None,
) -> CallerTurn:
    """``last``: when the answer after the last tool was heard, and its span."""
    audio, by = (None, answer.span_id) if last is None else (last[0] - start, last[1])
    return CallerTurn(0, start, end, *words, error, parts, answer.span_id, audio, "", by)


# -- what a Realtime answer states


def _stated(
    trace: JoinedSteps, wait: semconv.WaitNames, later: Mapping[tuple[str, str], Sequence[Step]] = MappingProxyType({})
) -> Iterator[tuple[Step, CallerTurn]]:
    """The answers that state a wait of this kind, and what they state; ``later``: by speech the answers to it that go
    on from a tool."""
    for step in trace.ordered:
        if wait.begin_time not in step.attributes:
            continue
        start, end = moment(step, wait.begin_time), moment(step, wait.end_time)
        if start is None or end is None or end <= start:
            continue
        words = word(step, wait.begin), word(step, wait.end)
        parts = _pieces(word(step, wait.pieces), end - start, trace)
        error = nanoseconds(step, wait.error_ms, MILLISECOND) or 0
        last = _last_heard(later.get(_speech_of(step), ()), end) if later else None
        yield step, _turn(step, start, end, words, parts, error, last)


def _pieces(text: str, length: int, trace: JoinedSteps) -> tuple[Part, ...]:
    """The parts that ``grafter.caller_wait.pieces`` names. Nothing can be relied on of a text that is cut, or whose
    pieces are not as long as the wait: then all of it is unknown."""
    parts = []
    rest = length
    for piece in text.split():
        name, _, said = piece.partition(":")
        digits, _, said = said.partition(":")
        owner, _, kind = said.partition(":")
        if not (digits.isdigit() and digits.isascii() and len(digits) < 19):
            break
        try:
            span_id = bytes.fromhex(owner)
        except ValueError:
            break
        ns = int(digits)
        side, what = _SIDES.get(name, Side.UNKNOWN), ""
        if name == "tool":
            # The tool itself may have left before.
            step = trace.by_id.get(span_id)
            side, what = tool_side(step), "" if step is None else tool_name(step)
            if kind == "mcp":
                side = Side.UNKNOWN
        parts.append(Part(name, ns, side, what, span_id))
        rest -= ns
    if rest or any(not part.ns for part in parts):
        return (Part("unknown", length, Side.UNKNOWN),)
    return tuple(parts)


def tool_side(step: Step | None) -> Side:
    """A function is the app's. What OpenAI calls for itself is OpenAI's; but an MCP server is anybody's."""
    if step is None or step.attributes.get(semconv.GEN_AI_TOOL_TYPE) != "extension":
        return Side.APP
    return Side.UNKNOWN if semconv.MCP_METHOD_NAME in step.attributes else Side.OPENAI


def _speech_of(step: Step) -> tuple[str, str]:
    """Which speech an answer is to, by its call and item."""
    return word(step, _CALL), word(step, semconv.TURN_SPEECH_ITEM)


def _last_heard(answers: Iterable[Step], since: int) -> tuple[int, bytes] | None:
    """When the last of these answers was heard, and its span; none of what was heard before."""
    heard = [(at, step.span_id) for step in answers if (at := moment(step, semconv.TURN_FIRST_AUDIO_TIME)) is not None]
    last = max(heard, default=None)
    return None if last is None or last[0] < since else last


# -- what frameworks state of themselves


def _of_livekit(step: Step, trace: JoinedSteps) -> CallerTurn | None:
    total = nanoseconds(step, _LIVEKIT, SECOND)
    if not total:
        return None
    spoken = min((one.start for one in trace.under(step.span_id) if one.name == "agent_speaking"), default=None)
    end = step.start + total if spoken is None else spoken
    start = end - total
    model = _side_of_model(step, trace)
    stated = [
        ("endpointing", Side.APP, ("lk.end_of_turn_delay",)),
        ("relay", Side.APP, ("lk.on_user_turn_completed_delay", "lk.speech.queue_wait")),
        ("model", model, ("lk.response.ttft",)),
    ]
    parts = []
    for name, side, keys in stated:
        parts.append(Part(name, sum(nanoseconds(step, key, SECOND) or 0 for key in keys), side, "", step.span_id))
    if spoken is not None:
        parts += _tools_within(trace.under(step.span_id), start, end)
    voice = nanoseconds(step, "lk.response.ttfb", SECOND) or 0
    parts.append(Part("playout", voice, Side.UNKNOWN, "", step.span_id))
    words = "user_stopped_speaking", "turn" if spoken is None else "agent_speaking"
    return _turn(step, start, end, words, _filled(parts, total))


def _of_pipecat(step: Step, trace: JoinedSteps) -> CallerTurn | None:
    total = nanoseconds(step, _PIPECAT, SECOND)
    if not total:
        return None
    under = sorted(trace.under(step.span_id), key=lambda one: (one.start, one.span_id))
    llm = [one for one in under if one.name == "llm" or is_model_call(one)]
    tts = [one for one in under if one.name == "tts"]
    parts = []
    if len(llm) == 1:
        # Of several it is not said which of them the caller waited for.
        first = nanoseconds(llm[0], "metrics.ttfb", SECOND) or 0
        parts.append(Part("model", first, _side_of_model(llm[0], trace), "", llm[0].span_id))
    voice = nanoseconds(tts[0], "metrics.ttfb", SECOND) if tts else None
    if voice:
        parts.append(Part("playout", voice, Side.UNKNOWN, "", tts[0].span_id))
    end = tts[0].start + voice if tts and voice else step.start + total
    words = "user_stopped_speaking", "tts" if tts and voice else "turn"
    return _turn(step, end - total, end, words, _filled(parts, total))


def greeting_of_livekit(trace: JoinedSteps) -> CallerTurn | None:
    """From the job's dispatch, at which its first span is dated, to the agent's first word: spans of one process."""
    job = next((step for step in trace.ordered if step.name == "job_entrypoint"), None)
    session = next((step for step in trace.ordered if step.name == "agent_session"), None)
    spoken = next((step for step in trace.ordered if step.name == "agent_speaking"), None)
    if job is None or session is None or spoken is None or not job.service == session.service == spoken.service:
        return None
    heard = any(step.name in ("user_speaking", "user_turn") and step.start <= spoken.start for step in trace.ordered)
    if heard or not job.start <= session.start <= spoken.start:
        return None
    begun = next((step.end for step in trace.children.get(session.span_id, ()) if step.name == "session_start"), None)
    begun = session.start if begun is None or not session.start <= begun <= spoken.start else begun
    parts = (
        Part("dispatch", session.start - job.start, Side.APP, "", job.span_id),
        Part("connect", begun - session.start, Side.APP, "", session.span_id),
        Part("greeting", spoken.start - begun, Side.UNKNOWN, "", spoken.span_id),
    )
    kept = tuple(part for part in parts if part.ns)
    return _turn(spoken, job.start, spoken.start, ("dispatch", "agent_speaking"), kept) if kept else None


def _side_of_model(step: Step, trace: JoinedSteps) -> Side:
    """Frameworks have many models; only one that says so is OpenAI's."""
    for one in (step, *trace.under(step.span_id)):
        provider = word(one, semconv.GEN_AI_PROVIDER_NAME, "gen_ai.system").lower()
        if provider:
            return Side.OPENAI if provider in ("openai", "api.openai.com") else Side.UNKNOWN
        if word(one, *MODELS, semconv.GEN_AI_REQUEST_MODEL).startswith("gpt-"):
            return Side.OPENAI
    return Side.UNKNOWN


def _tools_within(steps: Iterable[Step], start: int, end: int) -> list[Part]:
    """The tools that ran in this stretch of time, what two of them shared counted once, for the first."""
    found = []
    at = start
    for step in sorted((one for one in steps if is_tool(one)), key=lambda one: (one.start, one.span_id)):
        since, until = max(step.start, at), min(step.end, end)
        if until > since:
            found.append(Part("tool", until - since, tool_side(step), tool_name(step), step.span_id))
            at = until
    return found


def _filled(parts: Iterable[Part], total: int) -> tuple[Part, ...]:
    """These parts and the unknown rest; all of it is unknown where together they are longer than the whole."""
    kept = [part for part in parts if part.ns > 0]
    rest = total - sum(part.ns for part in kept)
    if rest < 0:
        return (Part("unknown", total, Side.UNKNOWN),)
    return (*kept, Part("unknown", rest, Side.UNKNOWN)) if rest else tuple(kept)
