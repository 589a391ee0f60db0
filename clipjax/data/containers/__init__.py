"""Reads files that hold many examples: tar shards, parquet, ArrayRecord."""
