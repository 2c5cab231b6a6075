"""Which rows of memories there are, as the embedded store knows them."""

import tracemalloc

from grafter.store.embedded.memory_rows import MemoryRows

DAY = 24 * 3600 * 10**9
MANY = 20_000


def test_rows_that_were_replaced_take_no_room_behind_an_old_one() -> None:
    """Of two traces one is remembered again and again (mode stream), and the other stays for its day."""
    rows = MemoryRows(DAY, 1000, 1 << 30)
    rows.add(1, 1, [42], 100)
    tracemalloc.start()
    try:
        for number in range(2, MANY):
            rows.add(number, number, [7], 100)
            rows.gone.clear()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(rows), rows.bytes, rows.all_gone_to) == (2, 200, 0)
    # An entry for each would be 40 bytes.
    assert taken < MANY


def test_rows_that_are_left_go_in_their_order() -> None:
    """Also where most of those between them were replaced."""
    rows = MemoryRows(DAY, 1000, 1 << 30)
    ever = {number: number * 1000 for number in range(1, 1000, 100)}
    for number in range(1, 1000):
        rows.add(number, number, [ever.get(number, 7)], 100)
    rows.gone.clear()
    for number in [*ever, 999]:
        rows.forget(number - 1 + DAY, lambda row: 0)
        assert rows.gone == []
        assert rows.all_gone_to == number - 1
        rows.forget(number + DAY, lambda row: 0)
        assert rows.gone == [number]
        rows.gone.clear()
    assert (len(rows), rows.bytes, rows.all_gone_to) == (0, 0, 999)
    assert rows.forgotten == {"time": len(ever) + 1, "number": 0, "bytes": 0}
