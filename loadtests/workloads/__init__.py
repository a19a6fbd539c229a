"""The named workloads: their stages, and the message that is sent."""
