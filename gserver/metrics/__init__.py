"""Metrics, health checks and a status page, over HTTP, by a process of their own.

The process is forked by the arbiter and reads the scoreboard: nothing is asked of a worker or of the arbiter.
"""
