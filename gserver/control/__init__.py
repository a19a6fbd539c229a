"""The control socket of a running server, and gserverctl, the command that uses it."""
