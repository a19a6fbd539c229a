"""loadtests: Locust swarms on raw TCP, the server sampled meanwhile, runs that can be compared.

Nothing here imports Locust but users, hooks and locustfile: importing Locust patches the interpreter.
"""
