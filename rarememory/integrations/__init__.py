"""Integrations with other packages, one file each, imported only by those who use them."""
