"""The peers: servers to compare with, written as their own documentation does. Programs, not modules to import."""
