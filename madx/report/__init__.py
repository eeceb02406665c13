"""Tables, pictures and pages: reads results and writes files."""
