"""What a process sets for itself: when garbage is collected."""

from collections import Counter

from grafter.process import Collections

STEP = 0.05


def test_quiet_times_are_collected_on_a_timer() -> None:
    """Young objects each second, those of ten seconds then, and all of them a few times an hour."""
    collections = Collections(0.0)
    found = Counter(collections.due(n * STEP, 5) for n in range(1, 20 * 3600 + 1))
    assert found[0] + found[1] + found[2] == 3600
    assert found[1] + found[2] == 360
    assert found[2] == 4


def test_a_flood_is_collected_by_what_is_new() -> None:
    """No collection has more to walk than some hundredths of a second take, however fast objects come that stay."""
    collections = Collections(0.0)
    new, grown = 0, 0
    walked: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for n in range(1, 800):
        new += 10_000
        generation = collections.due(n * STEP, new)
        if generation is not None:
            grown += new
            walked[generation].append(grown if generation else new)
            new, grown = 0, 0 if generation else grown
    assert max(walked[0]) <= 60_000
    assert max(walked[1]) <= 260_000
    assert len(walked[1]) > 20
    assert not walked[2]


def test_a_long_flood_is_collected_whole_now_and_then() -> None:
    """What was in flight at a middle collection is out of reach of all but a full one."""
    collections = Collections(0.0)
    found = Counter(collections.due(n * STEP, 50_000) for n in range(1, 600 * 20))
    assert found[2] >= 20
