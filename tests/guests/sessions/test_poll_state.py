"""How far the reading of a session has come."""

from dataclasses import dataclass, field
from heapq import nsmallest

from hypothesis import given
from hypothesis import strategies as st

from grafter.core.policy import HOUR, MINUTE, SECOND
from grafter.guests.sessions.poll_state import Answered, Progress
from grafter.store.model import TASK_BYTES

EVENT = 1_800_000_000 * SECOND
DAY = 24 * HOUR


def polls(progress: Progress, remember: int = DAY) -> list[float]:
    """Seconds after the event of every poll, each done at once when it is due."""
    found = []
    now: int | None = EVENT
    while now is not None:
        found.append((now - EVENT) / SECOND)
        now = progress.next_poll(now, remember)
    return found


def test_the_polls_grow_apart_until_the_host_is_forgotten() -> None:
    """Quick ones only while the promised trace has not come."""
    waiting = Progress().promised(EVENT)
    minutes = [30, 120, 600, 3600, 4 * 3600, 12 * 3600, 24 * 3600]
    assert polls(waiting) == [0, 3, 10, *minutes]
    assert polls(waiting.begun(EVENT).read("t", ["d" * 16]).ended()) == [0, *minutes]
    assert polls(waiting, 5 * MINUTE) == [0, 3, 10, 30, 120, 300]
    assert polls(waiting, 2 * SECOND) == [0, 2]


def test_an_event_is_answered_from_behind_what_is_known_and_a_late_poll_from_the_beginning() -> None:
    known = Progress().promised(EVENT).begun(EVENT).read("turn_2", ["a" * 16]).ended()
    assert known.begun(EVENT + SECOND).after == "turn_2"
    assert known.begun(EVENT + MINUTE).after == ""
    half = known.begun(EVENT + MINUTE).read("turn_1", [])
    assert half.begun(EVENT + 2 * MINUTE).after == "turn_1"
    again = half.promised(EVENT + 3 * MINUTE)
    assert (again.run, again.opened, again.closed, again.found) == (2, False, False, 0)
    assert again.begun(EVENT + 3 * MINUTE).after == "turn_2"


def test_a_poll_that_finds_nothing_does_not_close() -> None:
    waiting = Progress().promised(EVENT).begun(EVENT).ended()
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
    answered = Answered(event, "ok", 3, run, linked=flag) if seen else None
    progress = Progress(
        event, run, run, flag, not flag, flag, after, after, 3, 2, tuple(seen), tuple(seen), after, "m", flag, answered
    )
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
    """Whatever the cursors are, and however much is found at once and where."""
    cursor = "\x01" * 1000
    for now in (EVENT, EVENT + HOUR):
        progress = Progress(after=cursor, last=cursor, floor=cursor, middle=cursor).promised(EVENT).begun(now)
        for page in range(100):
            progress = progress.read(cursor, [f"{page * 100 + n:016x}" for n in range(100)])
            assert len(progress.encode()) < TASK_BYTES
        assert f"{9999:016x}" in progress.ended().known


@dataclass
class Published:
    """The list of a session's traces, by their places in it, and what was read of it."""

    places: set[int]
    progress: Progress = field(default_factory=Progress)
    pages: int = 0

    def poll(self, now: int) -> int:
        """Read to the end of the list; how many were new."""
        self.progress = self.progress.begun(now)
        new = 0
        while True:
            after = int(self.progress.after or "-1")
            page = nsmallest(100, (place for place in self.places if place > after))
            known = self.progress.known
            fresh = [digest for place in page if (digest := f"{place:016x}") not in known]
            new += len(fresh)
            self.pages += 1
            self.progress = Progress.decode(
                self.progress.read(str(page[-1]) if page else self.progress.after, fresh).encode()
            )
            if len(page) < 100:
                self.progress = self.progress.ended()
                return new


def test_a_long_session_is_read_once() -> None:
    """Thousands of turns, in many events or at once: the later polls find nothing that was stored, do not begin at the
    beginning, and still find what is published late among the last thousand."""
    for step in (500, 5000):
        published = Published(set())
        for end in range(step, 5001, step):
            published.places |= set(range(end - step, end)) - {4300}
            published.progress = published.progress.promised(EVENT)
            assert published.poll(EVENT) == len(published.places & set(range(end - step, end)))
            assert published.poll(EVENT + HOUR) == 0
        published.places.add(4300)
        published.pages = 0
        assert published.poll(EVENT + HOUR) == 1
        assert 10 <= published.pages <= 23
        assert published.poll(EVENT + 4 * HOUR) == 0


def test_a_turn_that_is_not_published_for_long_is_found_in_a_session_of_a_thousand() -> None:
    published = Published(set(range(1, 1000)), Progress().promised(EVENT))
    assert published.poll(EVENT) == 999
    published.places.add(0)
    assert published.poll(EVENT + HOUR) == 1
    assert published.poll(EVENT + 4 * HOUR) == 0
