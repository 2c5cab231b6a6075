"""When each span begins and ends, and which evidence says so."""

from tests.simulator.truth import Expected, Facts, Truth, Word, undated
from tests.simulator.world import Interval, Moment, Response, Speech, Tool, known


def speech_span(truth: Truth, facts: Facts, speech: Speech) -> None:
    """From the first word to the last. With media beside the socket a button's first word is on no event."""
    begun = speech.committed if speech.button else speech.started
    if begun is None or not begun.seen:
        stray = speech.committed is not None and speech.committed.seen
        if stray or (speech.first_append and speech.first_append.seen):
            truth.spans.append(Expected(speech.item, speech.kind, must=False))
        return
    start: Interval | None = None
    end: Interval | None = None
    open_: bool | None = None
    if speech.button:
        if known(speech.first_append) and speech.first_append:
            start = (speech.first_append.at,) * 2
        if known(speech.commit) and speech.commit:
            end, open_ = (speech.commit.at,) * 2, False
    else:
        assert speech.started is not None
        start = (speech.start, speech.started.at)
        if speech.silence is None:  # The padding before the first word is documented for ``server_vad`` alone.
            start = (speech.start - facts.record.setup.prefix, speech.started.at + facts.record.setup.prefix)
        if speech.stopped is not None and speech.stopped.seen:
            span, sure = facts.speech_end(speech)
            end, open_ = (span, False) if sure else ((speech.end, speech.stopped.at), None)
        elif speech.committed is not None and speech.committed.seen:
            end = (speech.started.at, speech.committed.at)
        elif speech.stopped_before is None or not speech.stopped_before.seen:
            end, open_ = (speech.start, facts.until(speech.next_start)), True
    moments = (speech.started, speech.stopped, speech.committed, speech.commit, speech.first_append, speech.next_start)
    if undated(*moments):
        start = end = open_ = None
    truth.spans.append(Expected(speech.item, speech.kind, start, end, open_))


def tool_span(truth: Truth, facts: Facts, tool: Tool) -> None:
    """From the whole call to the output that was accepted; with none, not past the next response."""
    whole = [m for m in tool.whole if m.seen]
    owner = tool.item if tool.mcp else tool.call_id
    if not whole:
        return
    # ``function_call_arguments.done`` alone is "also emitted when a Response is interrupted".
    must = len(whole) == len(tool.whole) and (tool.output is None or not tool.mcp or tool.output.seen)
    start: Interval | None = (whole[0].at, whole[-1].at)
    end: Interval | None
    open_: bool | None = False
    if tool.mcp:
        if tool.running is not None and tool.running.seen:
            start = (whole[0].at, tool.running.at)
        end = (tool.output.at,) * 2 if tool.output and tool.output.seen else None
        open_ = open_ if end else None
    elif tool.output is not None and tool.output.seen:
        end = (tool.output.at,) * 2
    elif tool.output is not None and tool.output_seen is not None and tool.output_seen.seen:
        end = (tool.output.at, tool.output_seen.at)
    else:
        end = (whole[0].at, facts.until(tool.until))
        open_ = True
    if _unanswered(facts, tool):
        end = open_ = None
    if undated(*tool.whole, tool.running, tool.output, tool.output_seen, tool.until):
        start = end = open_ = None
    truth.spans.append(Expected(owner, tool.kind, start, end, open_, must))
    if must and not tool.mcp:
        truth.words.append(Word(owner, "grafter.time_of", tool.kind, frozenset(("app",)), open_ is False))


def half_call(truth: Truth, call_id: str, half: list[Moment]) -> None:
    """No tool was asked for; only an observer who left before the event that says so cannot know."""
    if half[0].seen and not half[-1].seen:
        truth.spans.append(Expected(call_id, "incomplete function call", must=False))


def _unanswered(facts: Facts, tool: Tool) -> bool:
    """The observer saw the app give an output, and left before the server's word on it."""
    if tool.refused is not None and tool.refused[0].seen and not tool.refused[1].seen:
        return True
    given = tool.output is not None and tool.output.seen and not tool.mcp
    return given and facts.view.hung_up is not None and (tool.output_seen is None or not tool.output_seen.seen)


def _stops_the_player(response: Response) -> bool:
    """The server truncated, or cancelled for the caller's speech. An app that cancels may let its player go on."""
    assert response.done is not None
    details = response.done.event["response"].get("status_details") or {}
    truncated = response.barge_in.truncated if response.barge_in else None
    return details.get("reason") == "turn_detected" or (truncated is not None and truncated.seen)


def assistant_span(truth: Truth, response: Response) -> None:
    """The audio that the caller hears, to its end or its cut.

    On a WebSocket the player is the app's, and no event says when it ended: the span may end early, never after the
    last of the audio was played or the cut was seen.
    """
    heard = response.heard_from
    owner = f"{response.id}/audio"
    if heard is None or not heard.seen:
        if response.first_audio is not None and response.first_audio.seen:
            truth.spans.append(Expected(owner, response.kind, must=False))
        return
    end: Interval | None = None
    if response.started is not None:
        end = (response.ended.at,) * 2 if response.ended is not None and response.ended.seen else None
    elif response.done is not None and response.done.seen:
        cut = response.barge_in
        whole = heard.at + response.audio_ms
        latest = response.silent_at if _stops_the_player(response) else max(response.silent_at, whole)
        marks = (cut.truncate, cut.truncated, response.done) if cut else ()
        end = (heard.at, max(latest, *(m.at for m in marks if m is not None), heard.at))
    start: Interval | None = (heard.at,) * 2
    if undated(heard, response.ended, response.done):
        start = end = None
    truth.spans.append(Expected(owner, response.kind, start, end))
