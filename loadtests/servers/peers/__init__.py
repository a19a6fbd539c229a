"""The servers to compare with, each as its own documentation would write it; programs, and not modules to import."""
