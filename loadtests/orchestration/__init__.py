"""Makes a run: starts the server, the sampler and the swarm, then writes the folder of the run."""
