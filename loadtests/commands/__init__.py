"""The commands of `loadtests`, one file each. Only these modules and cli.py parse arguments."""
