"""The servers under test: how each is named, built, started and probed."""
