"""What a worker and its parent say to each other arrives as it was said."""

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.components import Config
from grafter.health import Phase
from grafter.telemetry import BacklogHeld, DeadLettersHeld, Held, HeldFor
from grafter.workers.channel import Report, Start, read_report, receive_start

COUNTS = st.integers(0, 1 << 62)


def test_a_start_brings_the_whole_config() -> None:
    """Secrets, which no printed config has, arrive too; in however many pieces."""
    config = Config.model_validate({"exporters": {"honeycomb": {"api_key": "hcaik_1"}}, "service": {"workers": 2}})
    start = Start(1, "/somewhere", b"12345678", config)
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def say() -> None:
            for at in range(0, len(start.to_bytes()), 100):
                ours.send(start.to_bytes()[at : at + 100])

        saying = threading.Thread(target=say)
        saying.start()
        assert receive_start(theirs) == start
        saying.join()


def test_a_parent_that_goes_away_in_the_middle_is_an_end() -> None:
    """A worker whose parent died does not wait for ever."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.send(Start(0, "", b"", Config()).to_bytes()[:-1])
        ours.close()
        with pytest.raises(EOFError):
            receive_start(theirs)


@given(
    st.builds(
        Report,
        phase=st.sampled_from(Phase),
        takes_parts=st.booleans(),
        errors=st.dictionaries(st.text(), st.text()),
        ports=st.dictionaries(st.text(), st.integers(0, 65535)),
        held=st.none()
        | st.builds(
            Held,
            **dict.fromkeys(("traces", "spans", "bytes", "limit_bytes", "disk_bytes"), COUNTS),
            oldest_seconds=st.floats(0, 1e9),
            remembered=COUNTS,
            store_up=st.booleans(),
            unreadable=COUNTS,
            taken_over_spans=COUNTS,
            handed_over_spans=COUNTS,
            replicas=st.lists(st.builds(HeldFor, *[COUNTS] * 4, oldest_seconds=st.floats(0, 1e9))),
            letters=st.lists(st.builds(DeadLettersHeld, st.text(), *[COUNTS] * 3)),
            backlogs=st.lists(st.builds(BacklogHeld, st.text(), *[COUNTS] * 2, oldest_seconds=st.floats(0, 1e9))),
        ),
        error=st.text(),
    )
)
def test_a_report_is_a_line(report: Report) -> None:
    """Whatever stands in it, line breaks too, it is one line and comes back equal."""
    line = report.to_line()
    assert line.count(b"\n") == 1
    assert read_report(line) == report
