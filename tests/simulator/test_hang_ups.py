"""The truth of what a caller waited in vain: small calls by hand, and what is played of them."""

from tests.simulator.endings import Endings
from tests.simulator.hand import APP, Hand, right
from tests.simulator.hang_ups import hung_up, play_hang_up
from tests.simulator.observer import Posts
from tests.simulator.truth import Facts, Figure, Truth
from tests.simulator.unanswered_rules import unanswered
from tests.simulator.world import Interval, Noise

WAITED = "grafter.unanswered_ms"


def figure(hand: Hand, hung_up: float, *gaps: Interval, told: bool = True) -> Figure:
    """What is true of a call that was read whole, but for ``gaps``."""
    hand.record.hung_up = hung_up
    hand.record.openings = hand.record.openings or [hand.at(0, "server", "session.created", session={})]
    posts = Posts("hand", b"", hand.record.moments, over=(hung_up, hung_up) if told else None, gaps=list(gaps))
    truth = Truth(0)
    unanswered(truth, Facts(hand.record, APP, posts))
    (found,) = [f for f in truth.figures if f.name == WAITED]
    return found


def asked() -> Hand:
    """The caller is silent from 1,500 on; the detector says so at 2,000."""
    hand = Hand()
    speech = hand.speech(1_000, 2_000)
    speech.committed = hand.at(2_001, "server", "input_audio_buffer.committed", item_id="u1")
    return hand


def test_by_hand_who_hangs_up_before_any_answer() -> None:
    """Silent at 1,500, hung up at 6,200: 4,700 ms, and all of it can be known."""
    found = figure(asked(), 6_200)
    assert (found.right, found.knowable) == ([(4_700, 4_700)], True)


def test_by_hand_who_hears_an_answer_waits_no_more() -> None:
    """It sounds from 2,600 to 4,000; hung up within it, and after it. A moment before it is a wait of 1,050 ms."""
    for hung_up_at, value in ((3_000, []), (6_000, []), (2_550, [(1_050, 1_050)])):
        hand = asked()
        response = hand.response(2_050, 2_500, 3_000, hand.record.moments[-1])
        response.first_audio, response.audio_ms = response.first_delta, 1_400
        response.sounding, response.silent_at = 2_600, 4_000
        assert figure(hand, hung_up_at).right == value


def test_by_hand_who_speaks_does_not_wait() -> None:
    """The caller says more from 3,000 to 4,500; hung up at 4,000, and at 6,000."""
    for hung_up_at, value in ((4_000, []), (6_000, [(1_500, 1_500)])):
        hand = asked()
        hand.speech(3_000, 5_000, "u2")
        assert figure(hand, hung_up_at).right == value


def test_by_hand_what_was_not_heard_by_the_observer_is_not_known() -> None:
    """Deaf from 3,000 to 3,500 there may have been an answer; from 100 to 1,400 there can have been none since."""
    assert figure(asked(), 6_200, (3_000, 3_500)).right == []
    assert figure(asked(), 6_200, (100, 1_400)).right == [(4_700, 4_700)]
    assert figure(asked(), 6_200, told=False).right == []


def test_by_hand_words_without_a_sound_leave_it_open() -> None:
    """OpenAI writes at 2,500; who reads that out, and when, no event shows."""
    hand = asked()
    response = hand.response(2_050, None, 2_700, hand.record.moments[-1])
    response.moments.append(hand.at(2_500, "server", "response.output_text.delta", response_id=response.id))
    assert figure(hand, 6_200).right == []


def test_by_hand_a_noise_is_no_word_of_the_callers() -> None:
    """Something is heard from 3,000 to 3,200 and thrown away: the wait goes on from 1,500."""
    hand = asked()
    started = hand.at(3_050, "server", "input_audio_buffer.speech_started", item_id="n1")
    cleared = hand.at(3_300, "server", "input_audio_buffer.cleared")
    hand.record.noises.append(Noise("n1", 3_000, 3_200, started, (cleared,)))
    assert figure(hand, 6_200).right == [(4_700, 4_700)]


def test_other_figures_are_those_of_the_same_call() -> None:
    """What is asked of a call that is over when all is quiet: nobody waits in it."""
    hand = asked()
    hand.record.listens_only = True
    assert right(hand.truth(), "session", WAITED) == []


# What is played.


def test_a_hang_up_is_played_the_same_twice() -> None:
    """By taps and by recorders: the same posts, parts and truth."""
    for seed in range(12):
        first, second = hung_up(seed), hung_up(seed)
        assert first.posts.body == second.posts.body
        assert first.parts == second.parts
        assert first.truth == second.truth


def test_nothing_is_sent_to_a_caller_who_is_gone() -> None:
    """What is cut off is neither seen nor counted, and every ending is played."""
    played = set()
    for seed in range(600):
        record = play_hang_up(seed)
        assert record.hung_up is not None
        assert all(moment.time <= record.hung_up for moment in record.moments)
        assert not any(m.seen for r in record.responses for m in r.moments)
        played.add(record.kinds[-1])
    assert played == {name for name in vars(Endings) if not name.startswith("_")} - ACTS


ACTS = {"within", "spoken", "noise", "false_start"}
TELLING = {
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "response.created",
    "response.output_audio.delta",
    "output_audio_buffer.started",
    "response.done",
}
"""What figures are made of; of some other events nothing is stored."""


def test_what_a_recorder_stored_is_what_it_heard() -> None:
    """One that was never away has every event of the server, one that died only what came before that."""
    whole = cut = 0
    for seed in range(300):
        call = hung_up(seed)
        if call.life is None or call.read_by != "a recorder":
            continue
        sent = [m for m in call.record.moments if m.side == "server" and m.at < call.record.hung_up]
        if not call.posts.gaps:
            whole += 1
            assert all(m.seen for m in sent if m.event["type"] in TELLING and not call.life.posted), seed
        for begin, end in call.posts.gaps:
            cut += 1
            assert not any(m.seen for m in sent if begin < m.at < end), seed
    assert min(whole, cut) > 20


def test_the_endings_of_a_call_fit_it() -> None:
    """Only a detector hears noise, and only an app that is asked to can be one that only listens."""
    for seed in range(200):
        record = play_hang_up(seed)
        assert record.setup.detector == "server_vad" or not record.noises
        assert not record.listens_only or not record.setup.create or record.setup.detector == "none"
