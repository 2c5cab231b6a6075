"""grafter, in an interpreter that takes a minute to end: as where it walks through much memory on a busy machine."""

import atexit
import time

from grafter.cli import main

if __name__ == "__main__":
    atexit.register(time.sleep, 60.0)
    main()
