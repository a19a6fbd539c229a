"""This host: its limits, cores and kernel counters, and the processes of a run."""
