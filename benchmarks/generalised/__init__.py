"""Generalised few-shot learning: an existing classifier's old classes and new ones, at once."""
