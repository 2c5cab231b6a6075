"""The command line: read arguments and config, hand over, print, exit.

Exit codes: 0 done, 1 refused or failed, 2 usage. Nothing else in grafter prints or exits. What a command needs beyond
the config is imported inside it, so that ``grafter validate`` starts without gRPC.
"""

from grafter.cli.root import app, main

__all__ = ["app", "main"]
