"""No reader raises anything but its refusal, or takes long, whatever it is given.

``make soak`` mutates what was recorded of real senders for GRAFTER_FUZZ_SECONDS (1,800); with the number that it prints
as GRAFTER_FUZZ_SEED it does the same again. What is found goes into ``seeds/READER/``, and is read by each run of the
tests from then on.
"""

import hashlib
import os
import time
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS, beginnings

SEEDS = Path(__file__).parent / "seeds"
SECONDS = float(os.environ.get("GRAFTER_FUZZ_SECONDS", "1800"))
SEED = os.environ.get("GRAFTER_FUZZ_SEED", "")
SLOW_SECONDS = 2.0
"""Of processor time for one body of some kilobytes."""


def seeds(reader: str) -> list[Path]:
    return sorted((SEEDS / reader).glob("*"))


def seconds(reader: str, body: bytes) -> float:
    """Of processor time."""
    began = time.process_time()
    READERS[reader](body)
    return time.process_time() - began


@pytest.mark.parametrize("reader", READERS)
def test_what_was_found_once_is_read(reader: str) -> None:
    """Recorded bodies, a few mutations of each, and everything that ever went wrong."""
    rng, bodies = Random(7), beginnings(reader)
    assert bodies
    for body in bodies:
        READERS[reader](body)
        READERS[reader](mutated(rng, body, bodies))
    for seed in seeds(reader):
        READERS[reader](seed.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_mutations_are_read_or_refused(reader: str) -> None:
    """For its share of the time; a failure names the file that it was kept in."""
    number = int(SEED or int.from_bytes(os.urandom(4)))
    rng, bodies = Random(number), beginnings(reader)
    pool = [*bodies, *(seed.read_bytes() for seed in seeds(reader))]
    until = time.monotonic() + SECONDS / len(READERS)
    read = 0
    while time.monotonic() < until:
        body = mutated(rng, rng.choice(pool), bodies)
        if len(body) > 1 << 20:
            continue
        try:
            # Once it may be the machine that is slow; three times it is the body.
            assert any(seconds(reader, body) < SLOW_SECONDS for _ in range(3)), "it took too long"
        except Exception as error:  # noqa: BLE001  # that is what is looked for
            kept = SEEDS / reader / hashlib.sha256(body).hexdigest()[:12]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(body)
            # Without what pytest would show of the bodies.
            pytest.fail(f"{kept} after {read} bodies of seed {number}: {type(error).__name__}", pytrace=False)
        read += 1
        # What was changed is changed further, so that damage adds up.
        if rng.random() < 0.01 and len(body) < 200_000:
            pool[rng.randrange(len(bodies), len(pool) + 1) :] = [body]
    print(f"{reader}: {read} bodies of seed {number}")
    assert read
