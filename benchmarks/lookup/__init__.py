"""The benchmark of the searches: every lookup and every rival, checked first, then timed."""
