"""One module per released format: its names, options and layout."""
