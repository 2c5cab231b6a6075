"""Calls whose figures were worked out by hand: what was heard, whose clock, which API, and numbers that cannot be.

Each call is written in milliseconds since it began; its docstring is the calculation.
"""

import random
from collections.abc import Callable

import pytest

from tests.guests.realtime.hand import (
    AUDIO,
    CHUNK,
    ENDPOINTING,
    FIGURES,
    SPEECH_END,
    T0,
    TOKEN,
    TOKEN_FROM,
    TRACE,
    VAD,
    WAIT,
    Call,
    joined,
    nano,
)  # fmt: skip

DELTA = "response.output_audio.delta"
HEARD, BY = "audio.elapsed_ms", "grafter.audio.heard_by"
AT_MOST, PAST = "grafter.audio.heard_at_most", "grafter.audio.truncate_past_end"
MORE = "grafter.audio.heard_error_ms"


def speaking(at: float = 1200, lasts: int = 5000) -> Call:
    """resp_1 sounds from ``at``; over a WebSocket all of it may be there at once."""
    return Call().session().ask(900).created(1000, "resp_1").sound(at, "resp_1", lasts, "a1")


# -- barge-in


def sounding(rate: int | None, *, in_response: dict[str, object] | None = None, kind: str = "audio/pcm") -> Call:
    """64,000 bytes of resp_1 from 1,200 on."""
    sound = {"type": kind} if rate is None else {"type": kind, "rate": rate}
    audio = {"input": {"turn_detection": VAD}, "output": {"format": sound}}
    call = Call().server(0, "session.created", session={"id": "sess_1", "type": "realtime", "audio": audio})
    more = {} if in_response is None else {"audio": {"output": {"format": in_response}}}
    call.ask(900).created(1000, "resp_1", **more)
    return call.server(1200, DELTA, response_id="resp_1", item_id="a1", delta_bytes=64_000).done(1500, "resp_1")


@pytest.mark.parametrize(
    ("call", "lasts"),
    [
        (sounding(16_000), 2000),
        (sounding(8_000), 4000),
        (sounding(None), 1333),
        (sounding(44_100), 725),
        (sounding(None, in_response={"type": "audio/pcm", "rate": 16_000}), 2000),
        (sounding(16_000, in_response={"type": "audio/pcm"}), 2000),
        (sounding(16_000, in_response={"type": "audio/pcmu"}), 8000),
        (sounding(None, kind="audio/pcmu"), 8000),
    ],
)
def test_audio_lasts_as_long_as_its_rate_says(call: Call, lasts: int) -> None:
    """64,000 bytes at 16,000 samples of two bytes a second are 2,000 ms, at 24,000 they are 1,333. Who breaks in 20 ms
    before their end has heard all but that, and who speaks a minute later interrupts nothing, whatever the client says.
    """
    cut = 1200 + lasts - 20
    early = joined(call.copy().spoke(cut, cut + 800, "u2").truncated(cut + 30, "a1", lasts - 20).ended(70_000))
    assert early.barge_ins() == [("resp_1", cut, lasts - 20)]
    late = call.copy().spoke(61_000, 61_900, "u2").truncates(61_010, "a1", 59_800)
    assert joined(late.ended(70_000)).barge_ins() == []


def test_a_format_that_is_set_later_is_none_of_what_sounded_before() -> None:
    """64,000 bytes of PCM at 24,000 are over at 2,533; the session then goes on in G.711, where they would last until
    9,200. The client counts until 4,000, where the caller speaks: nothing was interrupted."""
    later = {"audio": {"output": {"format": {"type": "audio/pcmu"}}}}
    call = sounding(24_000).server(3000, "session.updated", session=later)
    assert joined(call.spoke(4000, 4900, "u2").truncates(4010, "a1", 2800).ended(9000)).barge_ins() == []


def test_heard_over_two_audio_items() -> None:
    """a1 lasts 2,000, a2 3,000; played from 1,200; spoken at 4,000; a2 cut at 750: heard 2,000 + 750 = 2,750."""
    call = speaking(1200, 2000).sound(1300, "resp_1", 3000, "a2", 1).done(1500, "resp_1").starts(4000, "u1")
    call.truncates(4010, "a2", 750).truncated(4060, "a2", 750).stops(5000, "u1")
    got = joined(call.ended(6000))
    assert got.barge_ins() == [("resp_1", 4000.0, 2750)]
    assert got.barge_in("resp_1")[BY] == "truncated"


def test_the_first_of_two_items_is_cut() -> None:
    """a1 lasts 2,000 and is cut at 1,300; nothing of a2 was heard."""
    call = speaking(1200, 2000).sound(1300, "resp_1", 3000, "a2", 1).done(1500, "resp_1").starts(2500, "u1")
    call.truncates(2510, "a1", 1300).truncated(2560, "a1", 1300).stops(3000, "u1")
    assert joined(call.ended(6000)).barge_ins() == [("resp_1", 2500.0, 1300)]


def test_a_player_that_says_how_far_it_has_come() -> None:
    """Played from 1,450 (Twilio, 250 later), cut at 3,010 and truncated to 1,800: marks said 1,500 by then, so heard is
    1,500 to 1,800 (truly 1,560). What comes back after the cut was dropped and not played."""
    call = speaking().done(1500, "resp_1")
    for at, played in ((1950, 500), (2450, 1000), (2950, 1500), (3020, 5000)):
        call.client(at, "grafter.audio.played", item_id="a1", played_bytes=48 * played)
    call.starts(3000, "u1").truncates(3010, "a1", 1800).truncated(3060, "a1", 1800).stops(4000, "u1")
    got = joined(call.ended(6000))
    assert got.barge_ins() == [("resp_1", 3000.0, 1500)]
    assert [got.barge_in("resp_1").get(key) for key in (BY, MORE, AT_MOST)] == ["mark", 300, None]


def test_a_player_that_plays_the_second_item() -> None:
    """a1 lasts 2,000; 400 of a2 were played, of 750 at which it was cut: heard is 2,400 to 2,750."""
    call = speaking(1200, 2000).sound(1300, "resp_1", 3000, "a2", 1).done(1500, "resp_1").starts(4000, "u1")
    call.client(3300, "grafter.audio.played", item_id="a1", played_bytes=48 * 2000)
    call.client(3700, "grafter.audio.played", item_id="a2", played_bytes=48 * 400)
    call.truncates(4010, "a2", 750).truncated(4060, "a2", 750).stops(5000, "u1")
    got = joined(call.ended(6000))
    assert (got.barge_ins(), got.barge_in("resp_1")[MORE]) == ([("resp_1", 4000.0, 2400)], 350)


@pytest.mark.parametrize("played", [-1, "much", None, 48 * 4000])
def test_a_player_that_says_what_cannot_be_says_nothing(played: object) -> None:
    """No number, or more than all else leaves room for; nor is an item that no response made."""
    call = speaking().done(1500, "resp_1").starts(3000, "u1")
    call.client(2900, "grafter.audio.played", item_id="a1", played_bytes=played)
    call.client(2900, "grafter.audio.played", item_id="elsewhere", played_bytes=4800)
    call.truncates(3010, "a1", 1500).truncated(3060, "a1", 1500).stops(4000, "u1")
    got = joined(call.ended(6000))
    assert got.barge_ins() == [("resp_1", 3000.0, 1500)]
    assert [got.barge_in("resp_1").get(key) for key in (BY, MORE)] == ["truncated", None]


def test_a_player_that_plays_to_the_end_makes_no_interruption() -> None:
    """A mark is no cut."""
    call = speaking(1200, 2000).done(1500, "resp_1")
    call.client(3400, "grafter.audio.played", item_id="a1", played_bytes=48 * 2000)
    assert joined(call.starts(3500, "u1").stops(4000, "u1").ended(6000)).barge_ins() == []


def test_a_word_of_agreement_cuts_nothing() -> None:
    """WebSocket, 5,000 ms of sound; mhm 3,000-3,300; the answer runs to its end: no barge-in."""
    call = speaking().starts(3000, "u1").stops(3300, "u1").done(6000, "resp_1")
    got = joined(call.ended(9000))
    assert got.barge_ins() == []
    assert "grafter.realtime.barge_ins" not in got.of("session")


def test_the_interruption_is_the_speech_that_cut() -> None:
    """mhm 3,000-3,400 cuts nothing; at 6,000 the caller interrupts; cut at 4,700 (of 8,000 ms, 4,800 since 1,200)."""
    call = speaking(1200, 8000).done(2000, "resp_1").starts(3000, "u1").stops(3400, "u1").starts(6000, "u2")
    call.truncates(6020, "a1", 4700).truncated(6070, "a1", 4700).stops(7000, "u2")
    assert joined(call.ended(9000)).barge_ins() == [("resp_1", 6000.0, 4700)]


def test_the_program_that_cancels_interrupts_nobody() -> None:
    """The app cancels at 3,000 by itself (a supervisor takes over): client_cancelled, no speech, no truncation."""
    call = speaking().client(3000, "response.cancel").done(3050, "resp_1", "cancelled", "client_cancelled")
    got = joined(call.ended(9000))
    assert got.barge_ins() == []


def test_the_app_that_cancels_for_the_caller() -> None:
    """interrupt_response false: spoken at 2,700; the app cancels and truncates at 1,450: one, by speech, 1,450."""
    call = Call().session(0, {**VAD, "interrupt_response": False}).ask(900).created(1000, "resp_1")
    call.sound(1200, "resp_1", 5000, "a1").starts(2700, "u1").client(2720, "response.cancel")
    call.truncates(2730, "a1", 1450).done(2760, "resp_1", "cancelled", "client_cancelled").truncated(2790, "a1", 1450)
    got = joined(call.stops(4000, "u1").ended(6000))
    assert got.barge_ins() == [("resp_1", 2700.0, 1450)]
    assert got.barge_in("resp_1")["grafter.barge_in.by"] == "speech"


def test_an_answer_that_was_over_is_not_interrupted() -> None:
    """2,000 ms from 1,200 are over at 3,200; spoken at 9,000, truncated at its full length."""
    call = speaking(1200, 2000).done(1500, "resp_1").starts(9000, "u1").truncates(9010, "a1", 2000)
    got = joined(call.truncated(9060, "a1", 2000).stops(9900, "u1").ended(12_000))
    assert got.barge_ins() == []


def test_no_more_is_heard_than_was_received() -> None:
    """500 ms arrived at 1,200 and no more; spoken at 2,000 and cancelled: at most 500, though 800 ms have passed."""
    call = speaking(1200, 500).starts(2000, "u1").done(2050, "resp_1", "cancelled", "turn_detected")
    got = joined(call.stops(3000, "u1").ended(5000))
    ((_, at, heard),) = got.barge_ins()
    assert (at, heard, got.barge_in("resp_1")[BY]) == (2000.0, 500, "received")
    assert got.barge_in("resp_1")[AT_MOST] is True


def test_without_a_truncation_time_is_a_bound() -> None:
    """5,000 ms at 1,200; spoken at 2,500, cancelled by the server: at most 1,300 by time, and marked as that."""
    call = speaking().starts(2500, "u1").done(2550, "resp_1", "cancelled", "turn_detected").stops(3000, "u1")
    got = joined(call.ended(5000))
    ((_, _, heard),) = got.barge_ins()
    assert 0 < heard <= 1300
    assert got.barge_in("resp_1")[AT_MOST] is True


@pytest.mark.parametrize("answer", ["refused", "echoed"])
def test_a_truncation_past_the_end_is_marked(answer: str) -> None:
    """2,000 ms received at 1,200; spoken at 2,500, and at 2,510 truncate asks for 57,340. OpenAI refuses; a compatible
    server says yes. Heard is the time until it was cut, 1,310 at most."""
    call = speaking(1200, 2000).starts(2500, "u1").truncates(2510, "a1", 57_340)
    if answer == "refused":
        call.refuses(2560, "invalid_value", None, "audio_end_ms")
    else:
        call.truncated(2560, "a1", 57_340)
    got = joined(call.done(2600, "resp_1", "cancelled", "turn_detected").stops(3000, "u1").ended(5000))
    ((_, _, heard),) = got.barge_ins()
    assert 1300 <= heard <= 1310
    assert got.barge_in("resp_1")[PAST] is True


def test_what_the_server_says_was_heard_beats_the_client() -> None:
    """Client 1,250, server 1,180: 1,180. The client's counts only where the server says none."""
    call = speaking().starts(2500, "u1").truncates(2510, "a1", 1250)
    got = joined(call.truncated(2560, "a1", 1180).stops(3000, "u1").ended(5000))
    assert (got.barge_ins()[0][2], got.barge_in("resp_1")[BY]) == (1180, "truncated")
    got = joined(speaking().starts(2500, "u1").truncates(2510, "a1", 1250).stops(3000, "u1").ended(5000))
    assert (got.barge_ins()[0][2], got.barge_in("resp_1")[BY]) == (1250, "truncate")


def test_who_plays_the_sound_knows_what_was_heard() -> None:
    """SIP: words from 2,300, the buffer starts 2,500; spoken at 4,000, cleared at 4,100: 1,600 heard. The wait ends at
    2,500: 500 silence + 300 model + 200 playout."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.server(2300, "response.output_audio_transcript.delta", response_id="resp_1", item_id="a1", delta="x")
    call.server(2500, "output_audio_buffer.started", response_id="resp_1").done(2900, "resp_1").starts(4000, "u2")
    call.server(4100, "output_audio_buffer.cleared", response_id="resp_1").stops(5000, "u2")
    got = joined(call.ended(9000))
    assert got.barge_ins() == [("resp_1", 4000.0, 1600)]
    assert got.times("resp_1/audio") == (2500.0, 4100.0)
    wait = got.wait("resp_1")
    assert wait["ms"] == 1000.0
    assert sum(v for k, v in wait.items() if k != "ms") == 1000.0
    assert got.of("resp_1")[TOKEN] == 300.0


@pytest.mark.parametrize("cleared", [True, False])
def test_who_plays_the_sound_and_does_not_say_when_it_was_cut(cleared: bool) -> None:
    """SIP: the buffer starts 2,500; spoken at 4,000, cancelled 4,005, cleared 4,020: 1,520 heard. Where the line is
    lost before that was said, it plays on for nobody knows how long after the word of the speech: no number."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.server(2500, "output_audio_buffer.started", response_id="resp_1").sound(2510, "resp_1", 5000, "a1")
    call.starts(4000, "u2").done(4005, "resp_1", "cancelled", "turn_detected")
    if cleared:
        call.server(4020, "output_audio_buffer.cleared", response_id="resp_1")
    got = joined(call.ended(4030))
    assert got.barge_ins() == [("resp_1", 4000.0, 1520 if cleared else None)]
    assert AT_MOST not in got.barge_in("resp_1")


def test_who_speaks_before_the_sound_interrupts_nothing() -> None:
    """SIP: the buffer would start at 2,500, the caller speaks at 2,200: cancelled, nothing heard."""
    call = Call().session().ask(1000).created(1100, "resp_1")
    call.server(2000, "response.output_audio_transcript.delta", response_id="resp_1", item_id="a1", delta="x")
    call.starts(2200, "u1").done(2250, "resp_1", "cancelled", "turn_detected")
    got = joined(call.stops(3000, "u1").ended(9000))
    assert got.barge_ins() == []
    assert got.span("resp_1/audio") is None


def test_sound_of_another_format_is_counted_by_its_own_measure() -> None:
    """g711 is 8 bytes a ms: 8,000 bytes are 1,000 ms from 1,200; spoken at 1,900; a truncate of 650 is 650; spoken at
    5,000 it would be over."""
    audio = {"input": {"turn_detection": VAD}, "output": {"format": {"type": "audio/pcmu"}}}
    for spoken, expected in ((1900, [("resp_1", 1900.0, 650)]), (5000, [])):
        call = Call().server(0, "session.created", session={"id": "s", "model": "m", "audio": audio}).ask(900)
        call.created(1000, "resp_1").server(
            1200, "response.output_audio.delta", response_id="resp_1", item_id="a1", content_index=0, delta_bytes=8000
        )
        call.done(1500, "resp_1").starts(spoken, "u1").truncates(spoken + 10, "a1", 650 if expected else 1000)
        call.truncated(spoken + 60, "a1", 650 if expected else 1000).stops(spoken + 900, "u1")
        assert joined(call.ended(9000)).barge_ins() == expected


# -- times that cannot be read


def timed(at: Callable[[int], object]) -> Call:
    """500 ms from the ask 2,000 to the sound 2,500; ``at`` makes the time out of the milliseconds."""
    call = Call().session().spoke(500, 1000, "u1").ask(2000).created(2100, "resp_1").sound(2500, "resp_1")
    call.done(3000, "resp_1").ended(4000)
    for row in call.rows[1:]:
        row["at"] = at(round((row["at"] - T0) * 1000))
    return call


@pytest.mark.parametrize("unit", [1_000, 1_000_000], ids=["ms", "us"])
def test_another_unit_is_read_as_what_it_must_be(unit: int) -> None:
    """The ask 2,000, sound 2,500: 500 ms, whatever the unit."""
    got = joined(timed(lambda ms: T0 * unit + ms * unit // 1000))
    assert got.of("resp_1").get(TOKEN) == 500.0
    assert got.times("resp_1") == (2100.0, 3000.0)


@pytest.mark.parametrize(
    "at",
    [
        lambda ms: None, lambda ms: -5.0 - ms, lambda ms: 4_000_000_000 + ms / 1000, lambda ms: "yesterday",
        lambda ms: True, lambda ms: 1e300, lambda ms: {"s": ms}, lambda ms: ms / 1000, lambda ms: 0, lambda ms: "",
        lambda ms: 10**40, lambda ms: [ms],
    ],
    ids=["null", "negative", "future", "words", "bool", "huge", "map", "relative", "zero", "empty", "int", "list"],
)  # fmt: skip
def test_no_figure_comes_of_a_time_that_is_none(at: object) -> None:
    """Nothing is known but the order: no figure at all, or the true ones."""
    got = joined(timed(at))
    true = {TOKEN: 500.0, AUDIO: 500.0, CHUNK: 0.5, ENDPOINTING: 500, WAIT: 2000.0}
    stated = {k: v for s in got.spans for k, v in s["a"].items() if k in FIGURES and k in true}
    assert stated.items() <= true.items()


@pytest.mark.parametrize("missing", range(1, 9))
def test_one_time_that_is_missing_falsifies_nothing(missing: int) -> None:
    """Any one line of the call has no time: its neighbours' figures are right or absent."""
    call = timed(lambda ms: T0 + ms / 1000)
    call.rows[missing].pop("at")
    true = {TOKEN: 500.0, AUDIO: 500.0, CHUNK: 0.5, ENDPOINTING: 500, WAIT: 2000.0}
    stated = {k: v for s in joined(call).spans for k, v in s["a"].items() if k in true}
    wrong = {k: v for k, v in stated.items() if v != true[k]}
    assert wrong == {}


def test_words_for_times_are_times() -> None:
    """RFC 3339 with Z and with an offset are one clock: 500 ms."""

    def at(ms: int) -> str:
        s = f"{ms // 1000:02d}.{ms % 1000:03d}"
        return (
            f"2026-11-18T11:06:{40 + int(s[:2]):02d}.{s[3:]}Z"
            if ms % 200
            else f"2026-11-18T13:06:{40 + int(s[:2]):02d}.{s[3:]}+02:00"
        )

    got = joined(timed(at))
    assert got.of("resp_1").get(TOKEN) == 500.0


# -- other ways to talk


def test_a_button_that_was_let_go_and_pressed_again() -> None:
    """Pressed 1,000-1,500 and thrown away; pressed 2,000-2,900, committed 3,000, asked 3,010, sound 3,500. Speech
    2,000-3,000; release and request are one act, so the first token is 500, by at most 10 too much; the wait is 500
    from the commit: 10 the app's, 490 the model's."""
    call = Call().session(0, None)
    for ms in range(1000, 1600, 100):
        call.client(ms, "input_audio_buffer.append", audio_bytes=4800)
    call.client(1600, "input_audio_buffer.clear").server(1650, "input_audio_buffer.cleared")
    for ms in range(2000, 3000, 100):
        call.client(ms, "input_audio_buffer.append", audio_bytes=4800)
    call.client(3000, "input_audio_buffer.commit").ask(3010).committed(3050, "u1").created(3100, "resp_1")
    got = joined(call.sound(3500, "resp_1").done(4000, "resp_1").ended(5000))
    assert got.times("u1") == (2000.0, 3000.0)
    assert (got.of("resp_1")[TOKEN], got.of("resp_1")["grafter.caller_wait.from"]) == (500.0, "commit")
    assert got.of("resp_1")["grafter.turn.first_token.error_ms"] == 10.0
    assert got.wait("resp_1") == {"ms": 500.0, "relay": 10.0, "model": 490.0}


@pytest.mark.parametrize("clears", [1, 2])
def test_audio_that_follows_the_clients_clear_at_once_is_speech(clears: int) -> None:
    """The button is pressed at 1,000: the buffer is emptied and audio sent from 1,010 on. That it was emptied is heard
    at 1,050, when 40 ms of the speech are in it: they stay. Speech 1,010-2,500."""
    call = Call().session(0, None)
    for ms in (400, 600):
        call.client(ms, "input_audio_buffer.append", audio_bytes=4800)
    for ms in (1000, 1005)[:clears]:
        call.client(ms, "input_audio_buffer.clear").server(ms + 50, "input_audio_buffer.cleared")
    for ms in (1010, 1030, 1070, 1500, 2000, 2480):
        call.client(ms, "input_audio_buffer.append", audio_bytes=4800)
    call.client(2500, "input_audio_buffer.commit").ask(2500).committed(2540, "u1").created(2560, "resp_1")
    call.sound(3000, "resp_1").done(3500, "resp_1").ended(5000)
    assert joined(call).times("u1") == (1010.0, 2500.0)
    assert joined(call.shuffled(random.Random(clears))).times("u1") == (1010.0, 2500.0)


def test_a_semantic_detector_does_not_say_when_speech_ended() -> None:
    """Stopped 5,000 after an unknown silence: first token 500; neither end of speech, silence nor wait."""
    call = Call().session(0, {"type": "semantic_vad", "eagerness": "auto"}).spoke(3000, 5000, "u1")
    got = joined(call.created(5050, "resp_1").sound(5500, "resp_1").done(6000, "resp_1").ended(7000))
    have = got.of("resp_1")
    assert (have[TOKEN], have[TOKEN_FROM]) == (500.0, "speech_stopped")
    assert not {ENDPOINTING, SPEECH_END, WAIT} & set(have)


def test_a_caller_who_says_nothing_waits_for_nothing() -> None:
    """The idle timeout fires 10,000, sound 10,500: first token 500 from it, no wait, though speech was long ago."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1").sound(2500, "resp_1").done(3000, "resp_1")
    call.server(
        10_000, "input_audio_buffer.timeout_triggered", audio_start_ms=3000, audio_end_ms=10_000, item_id="u2"
    ).committed(10_001, "u2").created(10_050, "resp_2").sound(10_500, "resp_2").done(11_000, "resp_2")
    have = joined(call.ended(12_000)).of("resp_2")
    assert have[TOKEN] == 500.0
    assert "timeout" in str(have[TOKEN_FROM])
    assert WAIT not in have


def test_an_answer_out_of_band_takes_nobodys_turn() -> None:
    """Asked 2,100 out of band (a classifier): sound none, text 2,300: 200. The caller's answer: 600, wait 1,100."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.ask(2100, response={"conversation": "none", "metadata": {"topic": "x"}, "output_modalities": ["text"]})
    call.created(2150, "resp_2", conversation_id=None, metadata={"topic": "x"})
    call.server(2300, "response.output_text.delta", response_id="resp_2", item_id="t1", delta="x")
    call.done(2400, "resp_2", conversation_id=None).sound(2600, "resp_1").done(3000, "resp_1")
    got = joined(call.ended(4000))
    assert got.of("resp_2").get(TOKEN) in (200.0, None)
    assert WAIT not in got.of("resp_2")
    assert got.of("resp_1")[TOKEN] == 600.0
    assert got.wait("resp_1") == {"ms": 1100.0, "endpointing": 500.0, "model": 600.0}


def test_an_answer_in_text_is_not_heard() -> None:
    """Spoken to 1,500 (stopped 2,000), text 2,400: first token 400; no first audio, no wait, no speech of ours."""
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.server(2400, "response.output_text.delta", response_id="resp_1", item_id="t1", delta="x").done(3000, "resp_1")
    got = joined(call.ended(4000))
    assert (got.of("resp_1")[TOKEN], AUDIO in got.of("resp_1"), WAIT in got.of("resp_1")) == (400.0, False, False)
    assert got.named("assistant_speech") == []


def test_a_tool_that_openai_runs() -> None:
    """mcp_call 2,500-3,500 inside resp_1, then sound 4,000 in resp_2 that OpenAI began itself at 3,600."""
    mcp = {"id": "m1", "type": "mcp_call", "name": "search", "server_label": "s", "arguments": "{}"}
    call = Call().session().spoke(1000, 2000, "u1").created(2050, "resp_1")
    call.server(2400, "response.output_item.added", response_id="resp_1", output_index=0, item=mcp)
    call.server(2500, "response.mcp_call.in_progress", item_id="m1", output_index=0)
    call.server(3500, "response.mcp_call.completed", item_id="m1", output_index=0)
    call.server(3500, "response.output_item.done", response_id="resp_1", output_index=0, item={**mcp, "output": "x"})
    call.done(3550, "resp_1", output=[{**mcp, "output": "x"}]).created(3600, "resp_2").sound(4000, "resp_2")
    got = joined(call.done(5000, "resp_2").ended(6000))
    assert got.of("resp_1")["gen_ai.response.finish_reasons"] == ["stop"]
    assert got.of("resp_2").get(TOKEN) != 0.0
    wait = got.wait("resp_2")
    if wait:
        assert wait["ms"] == 2500.0
        assert sum(v for k, v in wait.items() if k != "ms") == 2500.0


@pytest.mark.parametrize("api", ["beta", "azure"])
def test_names_of_other_days_are_the_same_call(api: str) -> None:
    """response.audio.delta is today's response.output_audio.delta: first token 500, wait 1,000, heard 1,000."""
    call = Call().server(
        0, "session.created",
        session={
            "id": "sess_1", "object": "realtime.session", "model": "gpt-4o-realtime-preview", "modalities": ["audio"],
            "turn_detection": VAD, "input_audio_format": "pcm16", "output_audio_format": "pcm16",
        },
    )  # fmt: skip
    call.spoke(1000, 2000, "u1")
    if api == "beta":
        call.server(
            2010, "conversation.item.created", item={"id": "u1", "type": "message", "role": "user", "content": []}
        )
    call.created(2050, "resp_1")
    call.server(2500, "response.audio.delta", response_id="resp_1", item_id="a1", content_index=0, delta_bytes=96_000)
    call.server(2500, "response.audio_transcript.delta", response_id="resp_1", item_id="a1", delta="x")
    call.done(2900, "resp_1").starts(3600, "u2").truncated(3650, "a1", 1000).stops(4000, "u2")
    got = joined(call.ended(6000))
    assert (got.of("resp_1")[TOKEN], got.of("resp_1")[WAIT]) == (500.0, 1000.0)
    assert got.barge_ins() == [("resp_1", 3600.0, 1000)]


def test_two_sessions_under_one_key() -> None:
    """The app reconnects: the answer of the second session is measured in it: 400 ms, and nothing crosses over."""
    call = Call().session().ask(500).created(600, "resp_1").sound(1000, "resp_1").done(1500, "resp_1")
    call.starts(2000, "u1").ask(2500)
    call.server(5000, "session.created", session={"id": "sess_2", "model": "gpt-realtime", "audio": {}})
    call.ask(6000).created(6100, "resp_9", conversation_id="conv_2").sound(6400, "resp_9")
    call.done(7000, "resp_9", conversation_id="conv_2")
    got = joined(call.ended(8000))
    assert [got.of(r).get(TOKEN) for r in ("resp_1", "resp_9")] == [500.0, 400.0]
    assert WAIT not in got.of("resp_9")
    assert {s["a"]["grafter.guest.trace_id"] for s in got.named("realtime_session")} == {"rtc_hand", "rtc_hand/sess_2"}
    assert (got.times("u1") or (0, 1e9))[1] <= 5000.0


def test_two_calls_in_one_file_do_not_touch() -> None:
    """The same response and item ids under two keys, with the times of one inside the other."""
    one = (
        Call("one").session().spoke(1000, 2000, "u1").created(2050, "resp_1").sound(2500, "resp_1").done(3000, "resp_1")
    )
    two = (
        Call("two").session().spoke(1200, 2100, "u1").created(2150, "resp_1").sound(2900, "resp_1").done(3100, "resp_1")
    )
    one.ended(4000), two.ended(4000)
    one.rows += two.rows
    chats = {s["a"]["grafter.guest.trace_id"]: s["a"] for s in joined(one).named("chat")}
    assert {k: (v[TOKEN], v[WAIT]) for k, v in chats.items()} == {"one": (500.0, 1000.0), "two": (800.0, 1300.0)}


# -- lengths and numbers


def test_an_hour_of_call() -> None:
    """At 3,600,000 and 7,199,000 the same 500 and 1,000 as in the first minute; 300 turns between."""
    call = Call().session()
    for n in range(300):
        at = n * 24_000
        call.spoke(at + 1000, at + 2000, f"u{n}").created(at + 2050, f"resp_{n}")
        call.sound(at + 2500, f"resp_{n}", 400, f"a{n}").done(at + 3000, f"resp_{n}")
    got = joined(call.ended(7_300_000))
    chats = got.named("chat")
    assert len(chats) == 300
    assert {(s["a"][TOKEN], s["a"][WAIT]) for s in chats} == {(500.0, 1000.0)}


@pytest.mark.parametrize(
    "odd",
    [-1, -(10**12), 10**18, 10**30, 1.5, float(10**20), "2000", None, True, [], {}],
    ids=repr,
)  # fmt: skip
def test_numbers_that_cannot_be_falsify_nothing(odd: object) -> None:
    """Each number that an event carries, turned odd: what is stated stays what the times say, heard never exceeds the
    1,360 ms between the first sound and the cut, and no span is longer than the call."""
    call = Call().session(0, {"type": "server_vad", "silence_duration_ms": odd})
    call.server(500, "input_audio_buffer.speech_started", item_id="u1", audio_start_ms=odd)
    call.server(1000, "input_audio_buffer.speech_stopped", item_id="u1", audio_end_ms=odd).created(1050, "resp_1")
    call.server(
        1200, "response.output_audio.delta", response_id="resp_1", item_id="a1", output_index=odd, content_index=odd,
        delta_bytes=odd,
    )  # fmt: skip
    call.server(2500, "input_audio_buffer.speech_started", item_id="u2", audio_start_ms=odd)
    call.server(2550, "conversation.item.truncated", item_id="a1", content_index=odd, audio_end_ms=odd)
    usage = {"input_tokens": odd, "output_tokens": odd, "total_tokens": odd}
    call.done(2600, "resp_1", "cancelled", "turn_detected", usage=usage)
    got = joined(call.ended(9000))
    assert got.of("resp_1")[TOKEN] == 200.0
    assert all(0 <= (heard or 0) <= 1360 for _, _, heard in got.barge_ins())
    for span in got.guests():
        start, end = (int(span[k]) for k in ("startTimeUnixNano", "endTimeUnixNano"))
        assert nano(0) <= start <= end <= nano(9000), span["name"]
    have = got.of("resp_1")
    assert not [k for k in FIGURES if isinstance(have.get(k), int | float) and have[k] < 0]
    assert ENDPOINTING not in have or 0 <= have[ENDPOINTING] <= 500
    assert not [k for k in have if k.startswith("gen_ai.usage") and have[k] < 0]


def test_things_of_no_length() -> None:
    """Speech of 0 ms, a delta of 0 bytes before the sound: the sound is at 2,500."""
    call = Call().session().spoke(2000, 2000, "u1").created(2050, "resp_1").sound(2200, "resp_1", 0)
    call.sound(2500, "resp_1", 100).done(3000, "resp_1")
    got = joined(call.ended(4000))
    start, end = got.times("u1") or (0, -1)
    assert start <= end
    assert got.of("resp_1").get(AUDIO) in (500.0, None)
    assert got.of("resp_1").get(WAIT) in (None, 1000.0)


# -- names


def test_names_that_a_backend_needs() -> None:
    """A first token after 490 ms is 0.49 s; agents are named; the tool's time is the app's; a scope has its schema."""
    call = Call().session(0, VAD, tracing={"workflow_name": "Reception", "metadata": {"trace_id": TRACE}})
    call.spoke(1000, 2000, "u1").created(2050, "resp_1").asked_tool(2500, "resp_1", "call_1")
    call.done(2600, "resp_1", output=[call.tool_item("call_1")]).handed_back(3000, "call_1").ask(3010)
    got = joined(call.created(3100, "resp_2").sound(3500, "resp_2", 200).done(4000, "resp_2").ended(5000))
    assert got.of("resp_2")[CHUNK] == 0.49
    for one in (*got.named("chat"), *got.named("execute_tool")):
        assert one["a"]["gen_ai.agent.name"] == "Reception"
        assert "gen_ai.workflow.name" not in one["a"]
        assert one["scope"].get("schemaUrl") or one["scope"]["scope"].get("schemaUrl")
    assert got.of("call_1")["grafter.time_of"] == "app"
    (heard,) = got.named("assistant_speech")
    assert heard["parentSpanId"] == (got.span("resp_2") or {})["spanId"]
    assert heard["a"]["grafter.guest.span_id"] == "resp_2/audio"


# -- Live and translation


def test_a_live_session_that_pauses() -> None:
    """Paused 10,000-40,000 of 60,000; the server's last word: 30 s active, 30 s paused."""
    call = Call("live_hand").server(0, "session.started", session={"id": "live_1", "model": "gpt-live-1.1"})
    call.server(10_000, "session.paused").server(40_000, "session.resumed")
    usage = {"seconds": 60.0, "active_seconds": 30.0, "paused_seconds": 30.0}
    call.server(
        50_000, "session.usage.updated", usage={"seconds": 50.0, "active_seconds": 20.0, "paused_seconds": 30.0}
    )
    call.server(60_000, "session.closed", reason="close_requested", session={"id": "live_1"}, usage=usage)
    got = joined(call)
    have = got.of("session")
    assert (have["grafter.session.active_seconds"], have["grafter.session.paused_seconds"]) == (30.0, 30.0)
    events = {e["name"]: int(e["timeUnixNano"]) for e in (got.span("session") or {}).get("events", [])}
    assert events == {"grafter.live.paused": nano(10_000), "grafter.live.resumed": nano(40_000)}


def test_live_seconds_that_cannot_be_are_not_stated() -> None:
    """Less than nothing, more than a week, and words are no lengths of a session."""
    call = Call("live_hand").server(0, "session.started", session={"id": "live_1", "model": "gpt-live-1.1"})
    call.server(1000, "session.usage.updated", usage={"seconds": -5, "active_seconds": "x", "paused_seconds": 1e308})
    have = joined(call.server(2000, "session.closed", reason="expired", session={"id": "live_1"}, usage=None)).of(
        "session"
    )
    assert not [key for key in have if key.endswith("_seconds")]


def test_a_caller_does_not_wait_while_a_live_session_is_paused() -> None:
    """Words to 5,000, paused 6,000-66,000, words again 67,000-68,000, the answer from 69,000: no figure of a minute."""
    call = Call("live_hand").server(0, "session.started", session={"id": "live_1", "model": "gpt-live-1.1"})
    call.server(5100, "session.input_transcript.delta", delta="x", start_ms=4000, end_ms=5000)
    call.server(6000, "session.paused").server(66_000, "session.resumed")
    call.server(68_100, "session.input_transcript.delta", delta="x", start_ms=67_000, end_ms=68_000)
    call.server(69_000, "session.output_audio.delta", delta_bytes=4800, start_ms=69_000, end_ms=69_100)
    call.server(69_100, "session.output_transcript.delta", delta="x", start_ms=69_000, end_ms=69_400)
    got = joined(
        call.server(80_000, "session.closed", reason="remote_hangup", session={"id": "live_1"}, usage={"seconds": 20})
    )
    stated = [(s["name"], k, v) for s in got.spans for k, v in s["a"].items() if k in FIGURES]
    assert all(not isinstance(v, int | float) or v < 3000 for _, _, v in stated), stated


def test_a_translation_is_measured_by_its_own_clock() -> None:
    """Source words at elapsed 2,000, translated sound at elapsed 3,200: nothing is longer than the session, no answer
    and no wait is made up of a stream that has no turns."""
    session = {"id": "sess_t", "type": "translation", "model": "gpt-realtime-translate"}
    call = Call().server(0, "session.created", session=session)
    call.server(2300, "session.input_transcript.delta", delta="x", elapsed_ms=2000)
    call.server(3500, "session.output_audio.delta", delta_bytes=9600, elapsed_ms=3200, sample_rate=24000, channels=1)
    call.server(3550, "session.output_transcript.delta", delta="x", elapsed_ms=3200)
    got = joined(call.client(8000, "session.close").server(8100, "session.closed"))
    assert got.times("session") == (0.0, 8100.0)
    assert got.barge_ins() == []
    for span in got.guests():
        assert nano(0) <= int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) <= nano(8100)
    assert not [k for s in got.spans for k in s["a"] if k in FIGURES and s["a"][k] == 0]


# -- more ways to be cut


def test_the_word_of_the_cut_comes_before_that_of_the_speech() -> None:
    """The server ends the answer at 2,550 and says at 2,555 that somebody speaks: one interruption, at 2,555, 1,300."""
    call = speaking().done(2550, "resp_1", "cancelled", "turn_detected").starts(2555, "u1").truncated(2600, "a1", 1300)
    assert joined(call.stops(3500, "u1").ended(5000)).barge_ins() == [("resp_1", 2555.0, 1300)]


def test_an_app_that_silences_its_own_answer() -> None:
    """WebRTC: output_audio_buffer.clear by the app at 3,000, nobody speaks: no caller broke in."""
    call = Call().session().ask(900).created(1000, "resp_1")
    call.server(1500, "output_audio_buffer.started", response_id="resp_1").done(2000, "resp_1")
    call.client(3000, "output_audio_buffer.clear").server(3050, "output_audio_buffer.cleared", response_id="resp_1")
    got = joined(call.ended(5000))
    assert got.barge_ins() == []
    assert got.times("resp_1/audio") == (1500.0, 3050.0)


def test_a_button_pressed_while_the_answer_is_heard() -> None:
    """Push to talk: pressed 3,000, cancelled 3,001, cut at 1,790 of 5,000; let go 4,000, asked 4,005, sound 4,500."""
    call = Call().session(0, None).ask(900).created(1000, "resp_1").sound(1200, "resp_1", 5000, "a1")
    call.client(3000, "input_audio_buffer.append", audio_bytes=4800).client(3001, "response.cancel")
    call.truncates(3010, "a1", 1790).done(3050, "resp_1", "cancelled", "client_cancelled").truncated(3060, "a1", 1790)
    for ms in range(3100, 4000, 100):
        call.client(ms, "input_audio_buffer.append", audio_bytes=4800)
    call.client(4000, "input_audio_buffer.commit").ask(4005).committed(4050, "u1").created(4060, "resp_2")
    got = joined(call.sound(4500, "resp_2").done(5000, "resp_2").ended(6000))
    assert got.barge_ins() == [("resp_1", 3000.0, 1790)]
    assert got.barge_in("resp_1")["grafter.barge_in.by"] == "client"
    assert got.wait("resp_2") == {"ms": 500.0, "relay": 5.0, "model": 495.0}


@pytest.mark.parametrize("first", [None, 3010.0])
def test_audio_without_its_time_presses_no_button(first: float | None) -> None:
    """Push to talk: the answer is cut at 3,000, at 1,790 of 5,000. Audio comes next, at 3,010: the caller's. Where it
    says no time it may as well be of the press of 7,000 as of the cut: no barge-in, and no beginning of the speech."""
    call = Call().session(0, None).ask(900).created(1000, "resp_1").sound(1200, "resp_1", 5000, "a1")
    call.done(2000, "resp_1").truncates(3000, "a1", 1790).truncated(3060, "a1", 1790)
    event: dict[str, object] = {"type": "input_audio_buffer.append", "audio_bytes": 4800}
    call.raw(first and T0 + first / 1000, "client", event)
    for ms in range(7100, 8000, 100):
        call.client(ms, "input_audio_buffer.append", audio_bytes=4800)
    call.client(8000, "input_audio_buffer.commit").ask(8005).committed(8050, "u1").created(8060, "resp_2")
    got = joined(call.sound(8500, "resp_2").done(9000, "resp_2").ended(10_000))
    assert got.barge_ins() == ([("resp_1", 3000.0, 1790)] if first else [])
    missing = got.of("u1").get("grafter.realtime.missing")
    assert missing == (None if first else ["input_audio_buffer.speech_started"])
    assert got.wait("resp_2")["ms"] == 500.0


def test_who_breaks_in_breaks_into_what_is_heard_now() -> None:
    """Two answers in a row; the second is cut at 1,100 while the first one's 10,000 ms would still last."""
    call = speaking(1200, 10_000).done(2000, "resp_1").ask(5000).created(5050, "resp_2")
    call.sound(5300, "resp_2", 3000, "a2").done(6000, "resp_2").starts(6500, "u1").truncated(6550, "a2", 1100)
    assert joined(call.stops(7500, "u1").ended(9000)).barge_ins() == [("resp_2", 6500.0, 1100)]


def test_each_side_has_its_unit() -> None:
    """An app that posts its own events in milliseconds beside a recorder's seconds: asked 2,500, sound 3,000: 500."""
    call = Call().session().spoke(1000, 2000, "u1").ask(2500).created(2550, "resp_1").sound(3000, "resp_1")
    for row in call.done(4000, "resp_1").ended(5000).rows:
        if row.get("from") == "client":
            row["at"] = round(float(str(row["at"])) * 1000)
    got = joined(call)
    assert got.of("resp_1")[TOKEN] == 500.0
    assert got.wait("resp_1") == {"ms": 1500.0, "endpointing": 500.0, "relay": 500.0, "model": 500.0}
