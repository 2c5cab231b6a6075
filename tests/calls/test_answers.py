"""What commands print of calls."""

import re
from dataclasses import replace

import pytest

from grafter.calls.answers import found_lines
from grafter.calls.merge import calls_of, row
from grafter.calls.model import UNKNOWN, CallId, CallRow, TurnRow
from grafter.core.call_latency import CallerTurn, Part, Side
from grafter.core.policy import SECOND
from grafter.core.turn_words import sentence
from tests.calls.records import START, record

CALL = row(calls_of([record("a", ids=(CallId("app", "call-1234"),))])[0], START)


def printed(call: CallRow) -> str:
    return "\n".join(found_lines([call], "call-1234", more=False))


@pytest.mark.parametrize(
    ("seconds", "words"), [(1.64, "1.6 s"), (192, "3 min 12 s"), (3600, "1 h 0 min"), (86_400 + 3_660, "25 h 1 min")]
)
def test_a_length_is_written_in_units_that_one_reads(seconds: float, words: str) -> None:
    """No call is 526,366 minutes long."""
    call = replace(CALL, start=START, end=START + int(seconds * SECOND), outcome="completed")
    assert f"Z  {words}  completed" in printed(call)


def test_an_outcome_that_nobody_said_is_told_in_words() -> None:
    """The bare word unknown, between a length and a number, says nothing of what is unknown."""
    assert "how it ended is not known" in printed(replace(CALL, outcome=UNKNOWN))


@pytest.mark.parametrize(
    ("text", "hint"), [("030/1234567", True), ("(030) 1234", True), ("+49 30 1234567", False), ("rtc_1", False)]
)
def test_a_number_without_a_country_is_told_what_it_lacks(text: str, hint: bool) -> None:
    """Nothing is found of it unless a region is set: the answer names the key."""
    lines = found_lines([], text, more=False)
    assert any("extensions.calls.region" in line for line in lines) is hint


def test_the_verdict_and_the_sentence_below_it_say_one_figure() -> None:
    """1.6644 s beside 0.4998, 0.7034 and 0.0123: to add up to 2.88 the sentence rounds it up, so the verdict does."""
    parts = tuple(
        Part(name, round(ms * 1e6), side)
        for name, ms, side in (
            ("endpointing", 499.8, Side.OPENAI),
            ("model", 703.4, Side.OPENAI),
            ("tool", 1664.4, Side.APP),
            ("relay", 12.3, Side.APP),
        )
    )
    waited = CallerTurn(1, 0, sum(part.ns for part in parts), "speech_end", "delta", 0, parts, b"", None, "")
    said = sentence(waited, greeting=False)
    in_ms = {part.name: part.ns / 1e6 for part in parts}
    turn = TurnRow(1, START, sum(in_ms.values()), parts=in_ms, sentence=said)
    text = printed(replace(CALL, turns=(turn,)))
    (above,) = re.findall(r"(\d\.\d\d) s of it was your tools", text)
    (below,) = re.findall(r"(\d\.\d\d) your tool", text)
    assert above == below == "1.67"
