"""Arrays in files: reading them, and fetching the files."""
