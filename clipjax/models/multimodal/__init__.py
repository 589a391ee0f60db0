"""Parts of the memory network."""
