"""Client connections that are light enough for thousands of them in one process."""
