"""Which traces are kept: policies decide once a trace, weights say on each span how many it stands for. Pure."""
