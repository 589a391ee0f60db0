"""A run's checkpoints. Only this package imports orbax."""
