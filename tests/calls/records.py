"""Records of calls, as sources say them, and strategies for any set of them."""

from typing import Any

from hypothesis import strategies as st

from grafter.calls.model import CallId, CallRecord, Origin, TurnRow
from grafter.core.calls import Phone, phone_in
from grafter.core.policy import SECOND

SECRET = b"a key of these tests"
START = 1_800_000_000 * SECOND


def phone(number: str) -> Phone:
    found = phone_in(number, SECRET)
    assert found is not None
    return found


ANNA, BERT, CLINIC = (phone(f"+49301234{end}") for end in ("001", "002", "999"))


def record(name: str, origin: Origin = Origin.RELEASE, *, at: int = START, **said: Any) -> CallRecord:
    return CallRecord(f"{origin.value}:{name}", origin, at, **said)


def trace(number: int) -> bytes:
    return number.to_bytes(16, "big")


def wait(number: int, ms: float, start: int = START, **parts: float) -> TurnRow:
    return TurnRow(number, start + number * SECOND, ms, parts=parts or {"model": ms})


_ids = st.builds(CallId, st.sampled_from(["sip", "twilio", "app"]), st.sampled_from(["id-one", "id-two", "id-three"]))
_phones = st.sampled_from([None, ANNA, BERT, CLINIC])


@st.composite
def any_record(draw: st.DrawFn) -> CallRecord:
    """Of few ids, numbers and moments, so that many are of one call."""
    origin = draw(st.sampled_from(list(Origin)))
    start = START + draw(st.integers(0, 6)) * 4 * SECOND
    said: dict[str, Any] = {
        "ids": tuple(sorted(set(draw(st.lists(_ids, max_size=2))))),
        "traces": tuple(draw(st.lists(st.integers(1, 3).map(trace), max_size=1))),
        "caller": draw(_phones),
        "callee": draw(st.sampled_from([None, CLINIC])),
        "start": draw(st.sampled_from([None, start])),
        "end": draw(st.sampled_from([None, start + 30 * SECOND])),
        "outcome": draw(st.sampled_from(["", "completed", "transferred", "busy"])),
        "spans": draw(st.integers(0, 3)),
        "errors": draw(st.integers(0, 1)),
        "turns": tuple(wait(1, ms, start) for ms in draw(st.lists(st.sampled_from([900.0, 2100.0]), max_size=1))),
    }
    name = draw(st.text("abcdefgh", min_size=6, max_size=6))
    return record(name, origin, at=start, **said)


any_records = st.lists(any_record(), max_size=7, unique_by=lambda one: one.name)
