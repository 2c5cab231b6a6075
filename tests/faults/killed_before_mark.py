"""grafter, killed at the worst moment of a webhook: its parts are stored, and that it was delivered is not yet.

Run as ``python -m tests.faults.killed_before_mark run --config FILE``, in grafter's place.
"""

import os
import signal
from collections.abc import Sequence

from grafter.cli import main
from grafter.store.embedded.metadata_tables import DedupeKeys


def die(_marks: DedupeKeys, _written: Sequence[object]) -> None:
    """In the place of writing marks."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    DedupeKeys.write = die  # type: ignore[method-assign,assignment]
    main()
