"""Synthetic scenes: their grammar, captions and pixels."""
