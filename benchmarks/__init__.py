"""Reproduces every number that README prints."""
