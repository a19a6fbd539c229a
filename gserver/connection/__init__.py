"""One connection: its state, its counters, its send path and its close."""
