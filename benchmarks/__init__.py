"""Measure the performance of gserver beside other servers: python -m benchmarks --help.

This package is part of the source tree and not of the distribution. It has the client in C, the list of jobs and the
order of the measurements; it reads processes, pins them to cores and builds the peers with modules of loadtests.
docs/performance.md explains how each figure is taken and why.
"""
