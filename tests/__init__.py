"""The tests: one file for each module, with the same name."""
