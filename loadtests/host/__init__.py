"""This host: its capacity, its cores, its kernel counters, and processes on it."""
