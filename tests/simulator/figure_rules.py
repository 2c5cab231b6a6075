"""What each figure of a response is measured from and to, with the rule beside it."""

from tests.simulator.truth import PARTS, Cut, Facts, Figure, Truth, Word
from tests.simulator.world import Interval, Moment, Response, Speech, known

GESTURE = 50.0
"""Milliseconds between the release of a button and the request for its answer."""
HALF_CALLS = ("incomplete function call", "function call cut")
"""Kinds of responses with output whose deltas a server may have left out."""


def _begun_by(facts: Facts, response: Response) -> bool:
    """Whether the posts show what the response was begun by.

    A seen ``response.create`` shows it. That OpenAI began by itself shows only where the session says that it may, or
    where the observer sees the app too, which asked for nothing. ``response.created`` itself is no cause.
    """
    if not known(response.cause):
        return False
    return response.word == "response.create" or facts.app_seen or facts.record.setup.announced != "nothing"


def _begins(facts: Facts, response: Response) -> list[Interval]:
    """When the model turn begins: at its cause.

    A ``response.create`` that a recorder does not see lies between the app's sending and what the recorder would see of
    it, both legs of the network later. A create within 50 ms of the button's release is one gesture with its commit:
    both are read as the begin.
    """
    cause, commit = response.cause, response.answers.commit if response.answers else None
    assert cause is not None
    if not cause.seen:
        return [(cause.at, cause.at + facts.net)]
    if commit is None or response.earlier or not known(commit) or cause.at - commit.at > GESTURE:
        return [(cause.at, cause.at)]
    return [(cause.at, cause.at), (commit.at, commit.at)]


def first(truth: Truth, facts: Facts, response: Response) -> None:
    """First token and first audio, from the latest cause."""
    put, kind = truth.figures.append, response.kind
    delta, audio, cause = response.first_delta, response.first_audio, response.cause
    sure = _begun_by(facts, response)
    begins = _begins(facts, response)
    assert cause is not None
    names = ("grafter.turn.first_token_ms", "gen_ai.response.time_to_first_chunk", "grafter.turn.first_delta_unix_nano")
    if delta is not None and delta.seen:
        value = [(delta.at - high, delta.at - low) for low, high in begins]
        for name in names[:2]:
            put(Figure(response.id, name, kind, value, sure and delta.dated))
        put(Figure(response.id, names[2], kind, [(delta.at,) * 2], delta.dated))
        words = {response.word} | ({"commit", "committed"} if len(begins) > 1 else set())
        if sure and delta.dated:
            put(Figure(response.id, "grafter.turn.first_token_from_unix_nano", kind, begins, True))
        else:
            words |= {"tool_output", "speech_stopped", "committed"}
        truth.words.append(
            Word(response.id, "grafter.turn.first_token_from", kind, frozenset(words), sure and delta.dated)
        )
    elif delta is not None or not (response.tools or response.audio_ms or kind in HALF_CALLS):
        truth.figures.extend(Figure(response.id, name, kind, [], False) for name in names)
    name, moment = "grafter.turn.first_audio_ms", "grafter.turn.first_audio_unix_nano"
    sounds = [m for m in (audio, response.started) if m is not None and m.seen]
    if sounds:
        dated = all(m.dated for m in sounds)
        value = [(m.at - high, m.at - low) for m in sounds for low, high in begins]
        put(Figure(response.id, name, kind, value, sure and dated))
        put(Figure(response.id, moment, kind, [(m.at,) * 2 for m in sounds], dated))
    elif not response.audio_ms:
        truth.figures.extend(Figure(response.id, absent, kind, [], False) for absent in (name, moment))


def answers(truth: Truth, facts: Facts, response: Response) -> None:
    """The speech that it answers, the tools in between notwithstanding, and when that ended."""
    if response.out_of_band or response.answers_unsure:
        return
    put, kind, speech = truth.figures.append, response.kind, response.answers
    names = ("grafter.turn.speech_end_unix_nano", "grafter.turn.endpointing_ms")
    item = "grafter.turn.speech_item"
    if speech is None:
        truth.words.append(Word(response.id, item, kind, frozenset(), False))
        truth.figures.extend(Figure(response.id, name, kind, [], False) for name in names)
        return
    begun = speech.committed if speech.button else speech.started
    linked = known(begun) and _follows(facts, response)
    truth.words.append(Word(response.id, item, kind, frozenset((speech.item,)), linked))
    (low, high), sure = facts.speech_end(speech)
    put(Figure(response.id, names[0], kind, [(low, high)], sure and linked))
    if speech.button:
        put(Figure(response.id, names[1], kind, [(0.0, 0.0)], False))
    elif speech.stopped is not None and speech.stopped.seen:
        at = speech.stopped.at
        put(Figure(response.id, names[1], kind, [(at - high, at - low)], sure and linked))


def _follows(facts: Facts, response: Response) -> bool:
    """Whether the posts tie it to the speech that it answers: by itself, or by tools whose outputs were seen."""
    for one in (*response.earlier, response):
        for tool in one.after:
            if not (known(tool.output) or known(tool.output_seen)):
                return False
    return _begun_by(facts, response) or facts.record.setup.announced != "nothing"


def wait(truth: Truth, facts: Facts, response: Response) -> None:
    """What the caller waited, from the end of speech to the first audio heard, and its parts."""
    put, kind, heard, name = truth.figures.append, response.kind, response.heard_from, "grafter.caller_wait_ms"
    nothing = response.answers is None or not response.opens
    if (response.answers_unsure and nothing) or (response.audio_ms and (heard is None or not heard.seen)):
        return
    if nothing or heard is None or response.answers is None:
        put(Figure(response.id, name, kind, [], False))
        truth.figures.extend(Figure(response.id, _part(part), kind, [], False) for part in PARTS)
        return
    (low, high), sure = facts.speech_end(response.answers)
    sure = sure and known(heard) and not response.answers_unsure and _follows(facts, response)
    put(Figure(response.id, name, kind, [(heard.at - high, heard.at - low)], sure))
    if not response.answers_unsure:
        put(Figure(response.id, "grafter.caller_wait.from_unix_nano", kind, [(low, high)], sure))
        put(Figure(response.id, "grafter.caller_wait.to_unix_nano", kind, [(heard.at,) * 2], sure))
        begin = "commit" if response.answers.button else "speech_end"
        finish = "output_audio_buffer" if response.started is not None else "delta"
        for end, word in (("from", begin), ("to", finish)):
            truth.words.append(Word(response.id, f"grafter.caller_wait.{end}", kind, frozenset((word,)), sure))
        _parts(truth, response, response.answers, heard, (low, high), sure)


def _part(part: str) -> str:
    return f"grafter.caller_wait.{part}_ms"


def _parts(truth: Truth, response: Response, speech: Speech, heard: Moment, end: Interval, sure: bool) -> None:
    """Who had the wait, piece by piece along the one clock; not judged where a piece's end stands on no event."""
    detected = speech.commit if speech.button else (speech.stopped or speech.committed)
    chain = [*response.earlier, response]
    moments = [detected, heard, *(r.cause for r in chain)]
    tools = [tool for r in chain for tool in r.after]
    moments += [m for tool in tools for m in (*tool.whole, tool.output)]
    if detected is None or not known(*moments) or response.mcp:
        return
    put, kind = truth.figures.append, response.kind
    relay, model, tool_time = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    before = detected.at
    for position, one in enumerate(chain):
        assert one.cause is not None
        between = one.cause.at - before
        gesture = speech.commit is not None and not position and between <= GESTURE
        relay = [relay[0] + (0.0 if gesture else between), relay[1] + between]
        model = [model[0], model[1] + (between if gesture else 0.0)]
        if one is response:
            begins = [m.at for m in (one.first_audio, one.first_delta, one.started) if m is not None and m.seen]
            bounds = (heard.at, heard.at) if one.started is None else (min(begins), max(begins))
            model = [model[0] + bounds[0] - one.cause.at, model[1] + bounds[1] - one.cause.at]
            playout = (heard.at - bounds[1], heard.at - bounds[0])
            break
        called = [m.at for tool in chain[position + 1].after for m in tool.whole]
        before = max(tool.output.at for tool in chain[position + 1].after if tool.output is not None)
        model = [model[0] + min(called) - one.cause.at, model[1] + max(called) - one.cause.at]
        tool_time = [tool_time[0] + before - max(called), tool_time[1] + before - min(called)]
    endpointing = (detected.at - end[1], detected.at - end[0])
    values = (
        endpointing,
        (model[0], model[1]),
        (tool_time[0], tool_time[1]),
        (relay[0], relay[1]),
        playout,
        (0.0, 0.0),
    )
    for part, value in zip(PARTS, values, strict=True):
        put(Figure(response.id, _part(part), kind, [value], sure and value[0] > 2))


def cut(truth: Truth, facts: Facts, response: Response) -> None:
    """A barge-in: the caller spoke, or pressed the button, while the answer was heard, and that cut it."""
    barge, kind = response.barge_in, response.kind
    if barge is None:
        # With no word on the format the length of the audio is not known, so neither is that it was over.
        over = response.kind != "truncated when it was over" or facts.record.setup.announced != "nothing"
        truth.cuts.append(Cut(response.id, kind, must=False if over else None))
        return
    heard = response.heard_from
    shows = [m for m in (response.done, barge.cut, barge.truncated, barge.truncate) if m is not None and m.seen]
    speech = barge.noticed.event["type"] == "input_audio_buffer.speech_started"
    if heard is None or not heard.seen or not barge.noticed.seen or not shows:
        truth.cuts.append(Cut(response.id, kind, must=None))
        return
    unsure = barge.by_app or (not speech and facts.record.setup.mediated) or facts.view.hung_up is not None
    must = None if unsure or not barge.shown else True
    exact = barge.truncated is not None and barge.truncated.seen
    cut = barge.cut if barge.cut is not None and barge.cut.seen else None
    # A press is as long as its requests: cancel, truncate or clear, and the first of the new audio.
    latest = barge.noticed.at if speech else max(barge.noticed.at + 60, cut.at if cut else 0.0)
    if cut is not None:
        passed = cut.at - heard.at
        stated = float(barge.truncated.event["audio_end_ms"]) if exact and barge.truncated else passed
        value = (min(passed, stated, barge.heard), max(passed, stated, barge.heard))
    elif exact and barge.truncated is not None:
        passed = (barge.truncate if barge.truncate and barge.truncate.seen else barge.truncated).at - heard.at
        stated = float(barge.truncated.event["audio_end_ms"])
        value = (min(barge.heard, stated), min(stated, passed))
    else:
        # An app that asks to truncate has stopped its player by then, whether or not the server was seen to agree.
        asked = barge.truncate is not None and barge.truncate.seen
        latest_sound = barge.truncate.at if asked and barge.truncate is not None else barge.noticed.at
        value = (barge.heard, min(response.audio_ms, latest_sound - heard.at))
    by = {"time", "received"} | ({"truncated"} if exact else set())
    if barge.truncate is not None and barge.truncate.seen and not exact and barge.truncated is not None:
        by.add("truncate")
    truth.cuts.append(
        Cut(
            response.id,
            kind,
            must,
            when=(barge.began, latest),
            heard=value,
            really=barge.heard,
            bound=not exact and cut is None,
            by=frozenset(
                ("speech",) if speech and not barge.by_app else ("speech", "client") if speech else ("client",)
            ),
            heard_by=frozenset(by),
            knowable=known(barge.noticed, heard, *shows),
        )
    )
