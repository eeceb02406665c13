"""Ground of all rooms that touch files: names that may become paths, reading, writing, and reasons in words."""
