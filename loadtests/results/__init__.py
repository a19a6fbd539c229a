"""What a run leaves: its folder, its figures, and whether they can be believed."""
