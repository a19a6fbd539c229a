"""The commands of `loadtests`, a file each. Only here are arguments of the command line known."""
