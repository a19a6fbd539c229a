"""Every performance figure of the server, taken again beside its peers in one run: python -m benchmarks --help.

Part of the source tree, not of the distribution. docs/performance.md says how the figures are taken, and why so.
"""
