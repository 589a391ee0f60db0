"""Captions: cleaning, augmentation, packing of ids into rows."""
