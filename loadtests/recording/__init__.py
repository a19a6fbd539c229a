"""The data that a swarm records: latency histograms and outcomes by second. Pure."""
