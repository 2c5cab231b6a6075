"""What callers waited: from what to what, and by which evidence. All times of one wait are of one clock.

- A Realtime call: what grafter states on the answer that ends a wait (``figures`` in the room of its guests), from the
  end of the caller's speech to the first audio heard, in stretches that add up to it.
- A Live session, whose model listens while it speaks: between two moments of the session's own time, stated where
  nobody paused it in between. Tools that its delegates ran are dated by another clock, so where any ran then, whose
  time it was is unknown.
- LiveKit's turns of an agent (livekit-agents 1.8, seconds) and Pipecat's ``turn`` (pipecat-ai 1.14), by their own sums.
"""

from collections.abc import Iterable, Iterator

from grafter.core import semconv
from grafter.core.call_latency import CallerTurn, Part, Side, Step
from grafter.core.joined_steps import (
    MILLISECOND,
    SECOND,
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
_WAITS = (semconv.CALLER_WAIT, semconv.GREETING)
_CALL = semconv.GRAFTER_GUEST_TRACE_ID
_PIPECAT = "turn.user_bot_latency_seconds"
HOST_WAITS = frozenset(
    {
        *("lk.e2e_latency", "lk.end_of_turn_delay", "lk.on_user_turn_completed_delay", "lk.speech.queue_wait"),
        *("lk.response.ttft", "lk.response.ttfb", _PIPECAT, "metrics.ttfb"),
        *("gen_ai.response.time_to_first_chunk", "gen_ai.provider.name", "gen_ai.system"),
    }
)
"""Attributes of host spans that are read here."""
HOST_MARK = "user_bot_latency"
"""In the bytes of a host span that states a wait in none of the words by which other steps are known."""


def measured(trace: JoinedSteps) -> list[CallerTurn]:
    """The waits that answers of Realtime calls state."""
    found = []
    answers: dict[tuple[str, str], list[Step]] = {}
    for step in trace.ordered:
        if semconv.TURN_SPEECH_ITEM in step.attributes:
            answers.setdefault(_speech_of(step), []).append(step)
    for step, turn in _stated(trace, semconv.CALLER_WAIT):
        last = _after_last_tool(answers.get(_speech_of(step), ()), turn)
        if last is not None:
            turn = turn._replace(last_answer=last[0].span_id, answer_audio_ns=last[1])
        found.append(turn)
    return found


def is_evidence(step: Step) -> bool:
    """It states a wait of its own, so that nobody else's word is needed."""
    attributes = step.attributes
    return (
        any(wait.begin_time in attributes for wait in _WAITS)
        or attributes.get(semconv.TURN_MEASURED_FROM) == _INPUT_TRANSCRIPT
    )


def waits_for_tool(step: Step) -> bool:
    """It states a wait in which a tool ran."""
    return any("tool:" in word(step, wait.pieces) for wait in _WAITS)


def is_framework(span: HostSpan) -> bool:
    """A host span by which LiveKit or Pipecat states a wait; that stands on names of spans without attributes, too."""
    return span.name in ("agent_turn", "job_entrypoint") or _PIPECAT in span.attributes


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
        turn = _of_livekit(step, trace) or _of_pipecat(step, trace)
        if turn is not None:
            found.append(turn)
    return found


def _place(turn: CallerTurn) -> tuple[int, bytes]:
    return turn.end, turn.answer


def _turn(
    answer: Step, start: int, end: int, words: tuple[str, str], parts: tuple[Part, ...], error: int = 0
) -> CallerTurn:
    return CallerTurn(0, start, end, *words, error, parts, answer.span_id, None, "", answer.span_id)


# -- what a Realtime answer states


def _stated(trace: JoinedSteps, wait: semconv.WaitNames) -> Iterator[tuple[Step, CallerTurn]]:
    """The answers that state a wait of this kind, and what they state."""
    for step in trace.ordered:
        turn = _read(step, wait, trace) if wait.begin_time in step.attributes else None
        if turn is not None:
            yield step, turn


def _read(step: Step, wait: semconv.WaitNames, trace: JoinedSteps) -> CallerTurn | None:
    start, end = moment(step, wait.begin_time), moment(step, wait.end_time)
    if start is None or end is None or end <= start:
        return None
    words = word(step, wait.begin), word(step, wait.end)
    error = nanoseconds(step, wait.error_ms, MILLISECOND) or 0
    parts = tuple(_pieces(word(step, wait.pieces), trace))
    if sum(part.ns for part in parts) != end - start or any(part.ns <= 0 for part in parts):
        parts = (Part("unknown", end - start, Side.UNKNOWN),)
    return _turn(step, start, end, words, parts, error)


def _pieces(text: str, trace: JoinedSteps) -> Iterator[Part]:
    """The parts that ``grafter.caller_wait.pieces`` names; nothing that can be relied on of a text that is cut."""
    for piece in text.split():
        name, _, rest = piece.partition(":")
        length, _, owner = rest.partition(":")
        owner, _, kind = owner.partition(":")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            return
        try:
            span_id = bytes.fromhex(owner)
        except ValueError:
            return
        step = trace.by_id.get(span_id)
        if name == "tool":
            # The tool itself may have left before.
            side = Side.UNKNOWN if kind == "mcp" else tool_side(step)
            yield Part(name, int(length), side, "" if step is None else tool_name(step), span_id)
        else:
            yield Part(name, int(length), _SIDES.get(name, Side.UNKNOWN), "", span_id)


def tool_side(step: Step | None) -> Side:
    """A function is the app's. What OpenAI calls for itself is OpenAI's; but an MCP server is anybody's."""
    if step is None or step.attributes.get(semconv.GEN_AI_TOOL_TYPE) != "extension":
        return Side.APP
    return Side.UNKNOWN if semconv.MCP_METHOD_NAME in step.attributes else Side.OPENAI


def _speech_of(step: Step) -> tuple[str, str]:
    """Which speech an answer is to, by its call and item."""
    return word(step, _CALL), word(step, semconv.TURN_SPEECH_ITEM)


def _after_last_tool(answers: Iterable[Step], turn: CallerTurn) -> tuple[Step, int] | None:
    """Of the answers to one speech the last that goes on from a tool and was heard, and when, from the wait's start."""
    last = None
    for step in answers:
        at = moment(step, semconv.TURN_FIRST_AUDIO_TIME)
        if at is not None and at >= turn.end and word(step, semconv.TURN_AFTER_TOOL):
            last = max(last, (at, step.span_id, step)) if last is not None else (at, step.span_id, step)
    return None if last is None else (last[2], last[0] - turn.start)


# -- what frameworks state of themselves


def _of_livekit(step: Step, trace: JoinedSteps) -> CallerTurn | None:
    total = nanoseconds(step, "lk.e2e_latency", SECOND)
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
