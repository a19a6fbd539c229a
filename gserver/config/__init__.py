"""Configuration: every setting, how a value is checked, and where values come from. No gevent, no sockets."""
