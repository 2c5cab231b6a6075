"""What commands print of calls."""

from dataclasses import replace

import pytest

from grafter.calls.answers import found_lines
from grafter.calls.merge import calls_of, row
from grafter.calls.model import UNKNOWN, CallId, CallRow
from grafter.core.policy import SECOND
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
