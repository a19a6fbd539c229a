"""Workloads: the profiles, their stages over time, and custom messages."""
