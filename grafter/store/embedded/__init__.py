"""The store of one process: a log of segment files, an index in memory, and one SQLite file."""
