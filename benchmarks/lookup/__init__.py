"""The benchmark of the searches: every lookup beside every rival, checked first, timed in turns."""
