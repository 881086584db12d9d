"""Long campaigns of threads, written rows and sanitizers, whose outcomes are counted."""
