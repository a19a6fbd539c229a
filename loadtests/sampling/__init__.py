"""Samples the cost of a server: its processes, its kernel counters, and its own statistics."""
