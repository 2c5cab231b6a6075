"""``python -m grafter.workers FD`` is one worker; its parent says through that socket what to do."""

import sys

from grafter.process import leave
from grafter.workers.child import main

if __name__ == "__main__":
    leave(main(int(sys.argv[1])))
