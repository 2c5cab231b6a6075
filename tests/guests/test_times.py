"""Times as the SDKs write them, and as nobody should."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grafter.core.model import UnixNano
from grafter.guests.json_values import MAX_TIME, nanoseconds, span_times

SECOND = 1_795_382_791


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-22T21:26:31.675362+00:00", SECOND * 10**9 + 675_362_000),
        ("2026-11-22T21:26:31+00:00", SECOND * 10**9),
        ("2026-11-22T21:26:31.874Z", SECOND * 10**9 + 874_000_000),
        ("2026-11-22T21:26:31.123456789Z", SECOND * 10**9 + 123_456_789),
        ("2026-11-22T21:26:31.1234567899Z", SECOND * 10**9 + 123_456_789),
        ("2026-11-22T22:56:31.5+01:30", SECOND * 10**9 + 500_000_000),
        ("2026-11-22T13:26:31-0800", SECOND * 10**9),
        ("2026-11-22 21:26:31", SECOND * 10**9),
        ("1969-12-31T23:59:59Z", -(10**9)),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999_000),
        (SECOND, SECOND * 10**9),
        (1795382791.675362, SECOND * 10**9 + 675_362_000),
    ],
)
def test_a_time_is_read_to_the_nanosecond(text: object, time: int) -> None:
    """Every form that a known SDK writes, without a float's error."""
    assert nanoseconds(text) == time


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "now",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-11-22",
        "2026-11-22T25:00:00Z",
        "٢٠٢٦-11-22T21:26:31Z",
        True,
        float("nan"),
        float("inf"),
        [],
        {},
    ],
)
def test_what_is_no_time_is_none(value: object) -> None:
    """No exception, and no guess."""
    assert nanoseconds(value) is None


@given(st.timedeltas(timedelta(0), timedelta(days=2_900_000)))
def test_every_datetime_that_python_writes_is_read_exactly(since: timedelta) -> None:
    """isoformat() with its zone, fraction or none, against integer arithmetic."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + since
    assert nanoseconds(moment.isoformat()) == since // timedelta(microseconds=1) * 1000


@example("2026-11-22T21:26:31.874Z", [(19, ":")])
@example("2026-11-22T21:26:31.874Z", [(16, ",")])
@example("2026-11-22T21:26:31.675362+00:00", [(10, "_")])
@given(
    st.sampled_from(("2026-11-22T21:26:31.675362+00:00", "2026-11-22T21:26:31.874Z")),
    st.lists(st.tuples(st.integers(0, 31), st.sampled_from("0123456789-:.,+TtWZz _٢")), max_size=3),
)
def test_a_form_that_is_nearly_an_sdks_is_read_by_the_same_rule(text: str, changes: list[tuple[int, str]]) -> None:
    """The short way for what SDKs write takes nothing, and says nothing, that the long way for all others does not:
    a blank in front, which is no part of a time, sends the same text along that."""
    letters = list(text)
    for at, letter in changes:
        letters[at % len(letters)] = letter
    changed = "".join(letters)
    assert nanoseconds(changed) == nanoseconds(f" {changed}")


@pytest.mark.parametrize(
    ("started", "ended", "expected"),
    [
        ("1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z", (10**9, 2 * 10**9, False)),
        ("1970-01-01T00:00:02Z", "1970-01-01T00:00:01Z", (2 * 10**9, 10**9, False)),
        (None, "1970-01-01T00:00:02Z", (2 * 10**9, 2 * 10**9, True)),
        ("1970-01-01T00:00:01Z", "soon", (10**9, 10**9, True)),
        ("1970-01-01T00:00:01Z", 0, (10**9, 10**9, True)),
        (None, None, (77, 77, True)),
        ("1969-01-01T00:00:00Z", "9999-01-01T00:00:00Z", (0, MAX_TIME, True)),
    ],
)
def test_a_span_always_has_sensible_times(started: object, ended: object, expected: tuple[int, int, bool]) -> None:
    """What is missing or out of range is mended and said to be odd; what is reversed stays as it came."""
    assert span_times(nanoseconds(started), nanoseconds(ended), UnixNano(77)) == expected
