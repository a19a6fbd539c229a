"""A worker: one process that serves the arbiter's listeners with the user's application.

gevent is imported here, after the fork, and nowhere in the arbiter's package.
"""
