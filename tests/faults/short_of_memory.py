"""grafter under a limit of its address space (``ulimit -v``) that a test lowers while it runs.

Run as ``python -m tests.faults.short_of_memory run --config FILE``, in grafter's place.
"""

import resource

from grafter.cli import main

if __name__ == "__main__":
    # So that it knows that there is one, as it would.
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.RLIM_INFINITY))
    main()
