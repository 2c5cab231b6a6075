"""``python -m grafter.workers FD`` is one worker, told what to do through the socket that its parent left open."""

import sys

from grafter.workers.child import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
