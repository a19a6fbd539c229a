"""The connection to Locust: its events, load shape, statistics, workers and web UI."""
