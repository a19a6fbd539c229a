"""The worker process: it serves the arbiter's listeners with the user's application.

gevent is imported in this package only, after the fork, and nowhere in the arbiter's package.
"""
