"""grafter, in what it takes for a container of 512 MiB.

Run as ``python -m tests.faults.small_container run --config FILE``, in grafter's place.
"""

import tempfile
from pathlib import Path

from grafter import memory_limit
from grafter.cli import main

BYTES = 512 << 20

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        limit = Path(directory) / "memory.max"
        limit.write_text(f"{BYTES}\n")
        memory_limit.total_memory.__defaults__ = ((limit,), 1)
        main()
