"""How much stays in memory of what was written, and for how long."""

from grafter.core.model import Envelope, UnixNano
from grafter.store import records
from grafter.store.embedded.part_reader import RecentRecords, affordable
from grafter.store.records import CHUNK

KEEP = 10


def chunk(place: tuple[int, int]) -> bytes:
    """Of a part whose envelope is the whole body, with nothing else in it."""
    return CHUNK.pack(*place, 1, 0, 0, 0, 0, len(BODY), len(BODY), 0, 0)


BODY = records.encode_envelope(Envelope(b"resource", b"scope"))
ONE, TWO = (1, 100), (1, 200)


def kept(recent: RecentRecords) -> list[tuple[int, int]]:
    return [place for place in (ONE, TWO) if recent.plain(chunk(place), 0) is not None]


def test_nothing_is_kept_while_nobody_asks() -> None:
    """Before the first time, and from ``keep`` after the last time on; then also what was kept goes."""
    recent = RecentRecords(1000, KEEP)
    recent.add(0, ONE, BODY)
    assert kept(recent) == []
    recent.ask(UnixNano(0))
    recent.add(KEEP, ONE, BODY)
    assert kept(recent) == [ONE]
    recent.add(KEEP + 1, TWO, BODY)
    assert kept(recent) == []
    recent.ask(UnixNano(KEEP + 1))
    recent.add(KEEP + 2, TWO, BODY)
    assert kept(recent) == [TWO]


def test_what_is_old_or_too_much_goes() -> None:
    """The oldest first."""
    recent = RecentRecords(len(BODY), KEEP)
    recent.ask(UnixNano(0))
    recent.add(0, ONE, BODY)
    recent.add(1, TWO, BODY)
    assert kept(recent) == [TWO]
    recent.ask(UnixNano(KEEP))
    assert kept(recent) == [TWO]
    recent.ask(UnixNano(KEEP + 1))
    assert kept(recent) == []


def test_a_small_container_keeps_less() -> None:
    """A sixteenth of what there is, and never more than 64 MiB."""
    assert affordable(128 << 20) == 8 << 20
    assert affordable(1 << 40) == affordable(None) == 64 << 20
