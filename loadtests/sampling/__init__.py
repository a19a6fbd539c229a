"""Samples what a server costs: its processes, its kernel counters, and its own statistics."""
