"""gserver: the application server for raw TCP in Python."""
