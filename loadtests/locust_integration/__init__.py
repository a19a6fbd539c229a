"""What is tied to Locust: its events, its load shape, its statistics and its web page."""
