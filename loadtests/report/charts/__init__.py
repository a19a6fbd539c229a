"""The charts of reports: their data, their marks and colours, and the whole pictures."""
