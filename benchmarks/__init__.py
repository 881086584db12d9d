"""Reproduces every number that README and docs print."""
