"""Compares two sides of runs, in pairs or sets, and follows many runs as a trend."""
