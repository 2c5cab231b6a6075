"""``grafter demo``: the command, and the calls that it plays."""
