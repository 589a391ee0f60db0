"""Reads files, folders and object stores, which hold the examples of the sources."""
