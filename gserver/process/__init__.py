"""This process on its machine: its terminal, its pid file, its user, its name, and the service manager above it."""
