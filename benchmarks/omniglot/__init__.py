"""Omniglot: an encoder is trained under a memory, and tested as the paper does and further."""
