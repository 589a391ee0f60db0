"""Weight files of other projects: read without running code in them."""
