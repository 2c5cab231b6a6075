"""The order in which a call's events are read."""

from grafter.core.model import UnixNano
from grafter.guests.realtime.stored_event import Side, StoredEvent, encode, in_order


def test_an_event_without_a_time_stays_behind_the_one_whose_time_it_has() -> None:
    """By cause alone the words would come before the end of the pause in whose moment they stand."""
    resumed = StoredEvent(UnixNano(5), Side.SERVER, {"type": "session.resumed"})
    words = StoredEvent(UnixNano(5), Side.SERVER, {"type": "session.input_transcript.delta", "untimed": True})
    ranks = {"session.resumed": 2, "session.input_transcript.delta": 1}
    order = in_order([(5, encode([resumed, words]))], lambda stored: ranks[str(stored.event["type"])])
    assert [stored.event["type"] for stored in order] == ["session.resumed", "session.input_transcript.delta"]
