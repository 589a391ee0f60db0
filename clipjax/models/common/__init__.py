"""Layers and wrappers that several models share; no component."""
