"""The client side of a connection, light enough for thousands of them in one process."""
