"""What a swarm records: latency histograms and outcomes by second. Pure."""
