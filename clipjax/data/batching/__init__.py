"""The order of examples, and prefetched batches."""
