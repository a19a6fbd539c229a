"""The servers under test: specs, builds, start commands, and the check that a server is ready."""
