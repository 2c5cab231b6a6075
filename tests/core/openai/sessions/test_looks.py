"""How far the reading of a session has come."""

from hypothesis import given
from hypothesis import strategies as st

from grafter.core.openai.sessions.looks import Patience, Progress
from grafter.core.policy import HOUR, MINUTE, SECOND
from grafter.store.base import TASK_BYTES

EVENT = 1_800_000_000 * SECOND
DAY = 24 * HOUR


def looks(progress: Progress, remember: int = DAY) -> list[float]:
    """Seconds after the event of every look, each done at once when it is due."""
    found = []
    now: int | None = EVENT
    while now is not None:
        found.append((now - EVENT) / SECOND)
        now = progress.next_look(now, remember)
    return found


def test_the_looks_grow_apart_until_the_host_is_forgotten() -> None:
    """Quick ones only while the promised trace has not come."""
    waiting = Progress().heard(EVENT)
    minutes = [30, 120, 600, 3600, 4 * 3600, 12 * 3600, 24 * 3600]
    assert looks(waiting) == [0, 3, 10, *minutes]
    assert looks(waiting.begun(EVENT).read("t", ["d" * 16]).ended()) == [0, *minutes]
    assert looks(waiting, 5 * MINUTE) == [0, 3, 10, 30, 120, 300]
    assert looks(waiting, 2 * SECOND) == [0, 2]


def test_an_event_is_answered_from_behind_what_is_known_and_a_late_look_from_the_beginning() -> None:
    known = Progress().heard(EVENT).begun(EVENT).read("turn_2", ["a" * 16]).ended()
    assert known.begun(EVENT + SECOND).after == "turn_2"
    assert known.begun(EVENT + MINUTE).after == ""
    half = known.begun(EVENT + MINUTE).read("turn_1", [])
    assert half.begun(EVENT + 2 * MINUTE).after == "turn_1"
    again = half.heard(EVENT + 3 * MINUTE)
    assert (again.run, again.opened, again.closed, again.found) == (2, False, False, 0)
    assert again.begun(EVENT + 3 * MINUTE).after == "turn_2"


def test_a_look_that_finds_nothing_does_not_close() -> None:
    waiting = Progress().heard(EVENT).begun(EVENT).ended()
    assert not waiting.closed
    assert waiting.begun(EVENT).read("t", ["d" * 16]).ended().closed


@given(
    st.integers(0, 1 << 62),
    st.integers(0, 1 << 40),
    st.text(max_size=20),
    st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), max_size=5),
    st.booleans(),
)
def test_it_is_remembered_as_it_was(event: int, run: int, after: str, seen: list[str], flag: bool) -> None:
    progress = Progress(event, run, run, flag, not flag, flag, after, after, 3, 2, tuple(seen))
    try:
        blob = progress.encode()
    except TypeError:
        # A lone surrogate; no id of an answer has one.
        assert not after.isascii()
        return
    assert Progress.decode(blob) == progress


@given(st.binary(max_size=40))
def test_any_blob_is_a_beginning(blob: bytes) -> None:
    assert Progress.decode(blob) == Progress()


def test_what_is_remembered_is_bounded() -> None:
    progress = Progress(after="x" * 1000, last="x" * 1000)
    for page in range(100):
        progress = progress.read("x" * 1000, [f"{page * 100 + n:016x}" for n in range(100)])
    assert len(progress.encode()) < TASK_BYTES
    assert progress.seen[-1] == f"{9999:016x}"


def test_waits_double_up_to_a_bound_and_do_as_they_are_asked() -> None:
    patience = Patience()
    assert [patience.wait(n, 0) for n in (0, 1, 2, 3, 9, 10, 1000)] == [1, 1, 2, 4, 256, 300, 300]
    assert patience.wait(1, 7) == 7
    assert patience.wait(1, 1e9) == 3600
