"""Carries out a run: the server, the swarm and the sampler, and then the folder of the run."""
