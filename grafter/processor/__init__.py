"""From what is held to what leaves: a claim is decided, assembled, delivered and settled."""
