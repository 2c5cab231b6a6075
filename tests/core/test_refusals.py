"""What a refusal is taken for: its trace's fault, the peer's, or nobody's yet."""

from hypothesis import given
from hypothesis import strategies as st

from grafter.core.refusals import FIRST_SUSPECTS, LATELY_SECONDS, SUSPECTS_IN_A_ROW, Blame, Refusals


def test_a_refusal_is_believed_when_another_trace_was_taken_in_between() -> None:
    """Refused, another taken, refused again: it is about the trace; asked twice in a row it is not known yet."""
    said = Refusals()
    said.took([b"other"], 0.0)
    assert said.refused(b"bad", since=said.taken) is Blame.OPEN
    assert said.refused(b"bad", since=said.taken) is Blame.OPEN
    assert not said.out(1.0)
    said.took([b"other"], 2.0)
    assert said.refused(b"bad", since=said.taken) is Blame.TRACE
    assert not said.suspects(b"bad")


def test_what_is_taken_is_no_suspect_any_more() -> None:
    """A trace that was refused while the peer was out has no record when it has arrived."""
    said = Refusals()
    said.refused(b"good", since=0)
    said.took([b"good"], 0.0)
    assert said.refused(b"good", since=said.taken) is Blame.OPEN


def test_several_in_a_row_are_the_peers_fault() -> None:
    """Three to begin with; sixteen in the middle of what it takes in part."""
    said = Refusals()
    blamed = [said.refused(b"%d" % n, since=0) for n in range(FIRST_SUSPECTS)]
    assert blamed == [Blame.OPEN] * (FIRST_SUSPECTS - 1) + [Blame.PEER]
    said.took([], 0.0)
    blamed = [said.refused(b"%d" % n, since=0) for n in range(100, 100 + SUSPECTS_IN_A_ROW)]
    assert blamed == [Blame.OPEN] * (SUSPECTS_IN_A_ROW - 1) + [Blame.PEER]


def test_a_lone_refusal_is_the_peers_fault_when_nothing_was_taken_lately() -> None:
    """Nothing ever taken, or long ago: the peer may well be out."""
    said = Refusals()
    assert not said.out(0.0)
    said.refused(b"one", since=0)
    assert said.out(0.0)
    said.took([b"other"], 10.0)
    assert not said.out(10.0 + 2 * LATELY_SECONDS)
    said.refused(b"one", since=said.taken)
    assert not said.out(9.9 + LATELY_SECONDS)
    assert said.out(10.0 + LATELY_SECONDS)


@given(st.lists(st.integers(0, 30), max_size=200))
def test_while_nothing_is_taken_nothing_is_believed(asked: list[int]) -> None:
    """However often whichever traces are asked."""
    said = Refusals()
    said.took([b"other"], 0.0)
    assert all(said.refused(b"%d" % n, since=said.taken) is not Blame.TRACE for n in asked)


@given(st.sets(st.integers(0, 1000), min_size=FIRST_SUSPECTS + 1))
def test_a_second_outage_costs_no_more_than_its_first_traces(suspects: set[int]) -> None:
    """Suspects of one outage that meet the next: the row ends before the third is believed."""
    said = Refusals()
    for n in suspects:
        said.refused(b"%d" % n, since=0)
    said.took([b"other"], 0.0)
    believed = [said.refused(b"%d" % n, since=said.taken) for n in suspects].count(Blame.TRACE)
    assert believed < FIRST_SUSPECTS
