"""Weight files of other projects: reading them without running anything in them."""
