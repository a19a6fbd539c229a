"""loadtests: load tests for raw TCP servers with Locust; the server is sampled, and runs can be compared.

Importing Locust patches the interpreter, so only locustfile.py, users/ and locust_integration/ import it.
"""
