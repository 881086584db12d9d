"""The commands of `rarememory`, one file for each long one, and what they share."""
