"""Doors to other packages: one a file, each imported only when it is asked for by name."""
