"""How long a caller waited in vain: from when he fell silent last to when he hung up, if he heard nothing since.

Truth is what was at the caller's ear. What may be stated of it is less: an observer knows a silence only where every
sound that could have been in it stands in the posts. So there are three answers: a value, which must be stated where
all its evidence is there; a value that need not be stated; and none, where it is not so, or where what was seen leaves
it open whether something was heard.

Not judged is what was on its way when the call ended: an answer to the observer, or the caller's next words to OpenAI.
"""

from tests.simulator.truth import Facts, Figure, Truth, Word, undated
from tests.simulator.world import Interval, Response, Speech, known

NAME = "grafter.unanswered"
SOUND = ("response.output_audio.delta", "response.audio.delta", "output_audio_buffer.started")
WORDS = ("text.delta", "transcript.delta")
DETECTING = 140.0
"""How long the detector listens before it says that somebody speaks."""


def unanswered(truth: Truth, facts: Facts) -> None:
    """On the span of the call's last session; no other session has one."""
    record, posts = facts.record, facts.posts
    if facts.view.hung_up is not None:
        return  # It left before the call was over, and what it says of the end is not so.
    sessions = [opening for opening in record.openings if opening.seen]
    for number in range(1, len(sessions)):
        truth.figures.append(Figure(session_name(number), f"{NAME}_ms", truth.ending, [], False))
    owner = session_name(len(sessions))
    hung_up = posts.over[1] if record.hung_up is None and posts.over is not None else record.hung_up
    speech = _last_speech(facts, hung_up)
    if speech is not None and hung_up is not None and _just_begun(facts, speech, hung_up):
        return None
    if speech is None or hung_up is None or posts.over is None or not _waited(facts, speech, hung_up):
        return _none(truth, owner)
    (low, high), _ = facts.speech_end(speech)
    if _left_open(facts, speech, high):
        return _none(truth, owner)
    if any(_on_its_way(facts, response, hung_up) for response in record.responses):
        return None
    begin, end = posts.over
    sure = _whole(facts, speech) and speech.session == len(record.openings)
    stated = facts.posts.over is not None and sure
    truth.figures.append(Figure(owner, f"{NAME}_ms", truth.ending, [(begin - high, end - low)], stated))
    truth.figures.append(Figure(owner, f"{NAME}.from_unix_nano", truth.ending, [(low, high)], stated))
    truth.figures.append(Figure(owner, f"{NAME}.to_unix_nano", truth.ending, [(begin, end)], stated))


def session_name(number: int) -> str:
    """The owner of what stands on the span of a call's session of this number, from 1 on."""
    return "session" if number <= 1 else f"session {number}"


def _none(truth: Truth, owner: str) -> None:
    for name in ("_ms", ".from_unix_nano", ".to_unix_nano"):
        truth.figures.append(Figure(owner, NAME + name, truth.ending, [], False))
    truth.words.append(Word(owner, f"{NAME}.sentence", truth.ending, frozenset(), False))


def _last_speech(facts: Facts, hung_up: float | None) -> Speech | None:
    spoken = [s for s in facts.record.speeches if hung_up is None or s.start < hung_up]
    return max(spoken, key=lambda s: s.end, default=None)


def _waited(facts: Facts, speech: Speech, hung_up: float) -> bool:
    """The caller was silent, was owed an answer, and heard nothing of one before hanging up."""
    if speech.end >= hung_up or facts.record.listens_only or speech.kind == "mhm":
        return False
    heard = [sound for response in facts.record.responses if (sound := response.hearable) is not None]
    return not any(begin < hung_up and end > speech.end for begin, end in heard)


def _just_begun(facts: Facts, speech: Speech, hung_up: float) -> bool:
    """The caller spoke up at the very last, and the detector had no time to say so."""
    unseen = speech.started is not None and not speech.started.seen
    return unseen and speech.start < hung_up < speech.start + DETECTING + facts.net


def _left_open(facts: Facts, speech: Speech, silent: float) -> bool:
    """What was seen leaves it open whether the caller heard something: the observer was deaf, or saw words of an answer
    and no sound."""
    if not facts.posts.body and any(end > silent for _, end in facts.posts.gaps):
        return True  # Where the app posts too, it may have seen what a recorder has missed.
    return any(
        not response.out_of_band
        and response.created is not None
        and response.created.time > speech.end
        and _seen(response, WORDS)
        and not _seen(response, SOUND)
        for response in facts.record.responses
    )


def _seen(response: Response, kinds: tuple[str, ...]) -> bool:
    return any(m.seen and m.event["type"].endswith(kinds) for m in response.moments)


def _on_its_way(facts: Facts, response: Response, hung_up: float) -> bool:
    """Its first sound was sent, and not seen, or not yet played, when the call ended."""
    sounds = [m for m in response.moments if m.event["type"] in SOUND and m.time <= hung_up]
    if not sounds:
        return False
    return not any(m.seen for m in sounds) and hung_up - min(m.time for m in sounds) < facts.net


def _whole(facts: Facts, speech: Speech) -> bool:
    """All that the figure needs stands in the posts: the end of the speech, that an answer was due, and the silence."""
    record, view = facts.record, facts.view
    end, sure = facts.speech_end(speech)
    if not sure or undated(*record.moments) or facts.posts.gaps:
        return False
    if any(noise.started.seen and noise.end > speech.start for noise in record.noises):
        return False  # That it was none of the caller's words only its absence from the conversation says.
    if not _due(facts, speech):
        return False
    for response in record.responses:
        if response.created is None or not response.created.seen or response.out_of_band:
            continue
        if response.created.time > speech.end and not _silent(facts, response):
            return False
    if not _all_over(facts, speech, end):
        return False
    return view.ended != "later" or posts_reach(facts, end)


def posts_reach(facts: Facts, end: Interval) -> bool:
    """Something was seen after the caller fell silent: without it, that the call is over at some time says nothing."""
    assert facts.posts.over is not None
    return facts.posts.over[0] > end[1] + 20


def _due(facts: Facts, speech: Speech) -> bool:
    """OpenAI answers by itself, and the session says so; or an answer was seen to be asked for, or to begin."""
    setup = facts.record.setup
    told = setup.announced != "nothing" and facts.record.openings[-1].seen
    if setup.detector != "none" and setup.create and told and known(speech.committed or speech.stopped):
        return True
    return any(r.answers is speech and known(r.created) and _begun(facts, r) for r in facts.record.responses)


def _begun(facts: Facts, response: Response) -> bool:
    """That it was asked for is seen; a recorder sees that it began."""
    return known(response.cause) or not facts.app_seen


def _silent(facts: Facts, response: Response) -> bool:
    """Nothing of it can have been heard: had it said something, that would be in the posts."""
    if response.text or not facts.view.words or not (facts.view.sound or facts.record.setup.mediated):
        return False
    if _seen(response, (*SOUND, *WORDS)):
        return False
    # That the app gave an answer up may mean that it has another one: its own, or none at all.
    return response.kind not in ("taken back by the app", "cut by the program")


def _all_over(facts: Facts, speech: Speech, end: Interval) -> bool:
    """Every answer that was heard before was over, by what was seen, when the caller fell silent.

    An app's player plays one answer after another: one that nobody is seen to cut may hold up the next.
    """
    until = 0.0
    for response in facts.record.responses:
        if response.created is None or not response.created.seen or response.out_of_band:
            continue
        if response.created.time < speech.end:
            known_until = _until(facts, response, until)
            if known_until is None:
                return False
            until = max(until, known_until)
    return until < end[0] - facts.net


def _until(facts: Facts, response: Response, queued: float) -> float | None:
    """When the last of it was heard at the latest; None where no event says."""
    setup = facts.record.setup
    if not response.audio_ms:
        return None if _seen(response, WORDS) else queued
    if setup.mediated:
        return response.ended.at if known(response.ended) and response.ended is not None else None
    if not facts.view.sound or setup.announced == "nothing" or not known(response.first_audio):
        return None
    truncated = response.barge_in.truncated if response.barge_in is not None else None
    if truncated is not None and known(truncated):
        return truncated.at
    assert response.first_audio is not None
    return max(response.first_audio.at, queued) + response.audio_ms
