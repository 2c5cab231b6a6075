"""What the command line does beyond running the service; each command is a function that returns an exit code."""
