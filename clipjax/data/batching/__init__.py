"""Which example comes when, and batches made ahead of their use."""
