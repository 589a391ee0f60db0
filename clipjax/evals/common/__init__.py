"""What several evaluators share; no component."""
