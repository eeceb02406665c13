"""Results as tables: Markdown, CSV, and for the terminal."""
