"""Reads images' captions and classes: from tables, JSON and files next to images."""
