"""``python -m tests.simulator``: the table of figures against the truth, or one call in full."""

import argparse
import time

from tests.simulator.judge import judge
from tests.simulator.machine import spans_of
from tests.simulator.run import simulated, tally


def show(seed: int) -> None:
    """One call: who was in it, what was posted, its truth, and where what came out differs."""
    record, view, posts, truth = simulated(seed)
    print(record.setup, view, f"scenes: {record.kinds}", sep="\n", end="\n\n")
    print(posts.body.decode(), end="\n\n")
    for row in (*truth.spans, *truth.figures, *truth.words, *truth.cuts):
        print(row)
    print()
    for verdict in judge(truth, spans_of(posts)):
        if verdict.finding not in ("right", "absent"):
            print(verdict)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first call; each call is replayed by its own")
    parser.add_argument("--faults", type=int, default=20, help="how many wrong figures to print")
    parser.add_argument("--one", type=int, metavar="SEED", help="print this call, its truth and its differences")
    arguments = parser.parse_args()
    if arguments.one is not None:
        show(arguments.one)
        return
    begun = time.perf_counter()
    result = tally(range(arguments.seed, arguments.seed + arguments.calls), arguments.faults)
    for line in result.lines():
        print(line)
    for fault in result.faults:
        print(fault)
    print(f"{result.calls} calls in {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
