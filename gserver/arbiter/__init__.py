"""The arbiter process: it binds the listeners, forks the workers and supervises them.

It is plain Python: no gevent, no threads, and none of the user's code except hooks.
"""
