"""What all rooms need around files: names that may become paths, reading, writing, and reasons in words."""
