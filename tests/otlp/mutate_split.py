"""Run by test_split in a process of its own: mutations of requests go through one build of the compiled split.

``python mutate_split.py LIBRARY COUNT REQUEST…``; ends by a report of the sanitisers, or prints how many were split.
"""

import importlib.machinery
import importlib.util
import random
import sys
from pathlib import Path


def main(library: str, count: int, paths: list[str]) -> None:
    """Mutate, split, and use what comes out, so that every byte of it is read once."""
    loader = importlib.machinery.ExtensionFileLoader("grafter.otlp._split", library)
    spec = importlib.util.spec_from_loader("grafter.otlp._split", loader)
    assert spec is not None
    split = importlib.util.module_from_spec(spec)
    loader.exec_module(split)
    rng = random.Random(11)
    requests = [Path(path).read_bytes() for path in paths]
    answered = 0
    for _ in range(count):
        request = bytearray(rng.choice(requests))
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(request))
            request[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        if rng.random() < 0.2:
            del request[rng.randrange(len(request)) :]
        runs = split.split(bytes(request), (b"gen_ai.realtime.session", b""), rng.choice((None, int)))
        split.mentions(bytes(request), (b"\x0a\x07call.id", b""), (b"rtc_", b"_"))
        for run in runs or ():
            answered += len(b"".join(run[3])) + len(b"".join(run[6]))
    print(f"{count} split, {answered} bytes came out")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
