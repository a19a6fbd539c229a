"""The processes: an arbiter that binds, forks and supervises, and workers that serve.

The arbiter is plain Python: no gevent, no threads, no code of the user's.
"""
