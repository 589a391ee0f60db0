"""What several losses share; no component."""
