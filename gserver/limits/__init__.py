"""Limits as data structures and arithmetic. Pure: no I/O, and the clock is an argument."""
