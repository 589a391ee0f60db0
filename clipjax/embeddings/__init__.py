"""Embeddings on disk: a header, and parts that are whole or absent."""
