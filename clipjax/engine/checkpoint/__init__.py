"""Checkpoints of a run. Only this package imports orbax."""
