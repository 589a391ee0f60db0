"""A component whose module does not run."""

1 / 0  # noqa: B018
