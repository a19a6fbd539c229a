"""Configuration: the settings, their validators and their sources. No gevent, no sockets."""
