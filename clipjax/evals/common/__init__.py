"""Helpers that several evaluators share; no components."""
