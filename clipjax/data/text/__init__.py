"""Captions before they are ids: cleaning, variation, packing into rows."""
