"""Long campaigns that try to break a memory: each try has an outcome, and the outcomes are counted.

A file is a campaign: what it tries without end, the outcomes that are right, and how many tries a
published result has at least. `python -m benchmarks.soak` runs them all, each in a process of its
own, so that a crash is an outcome too, and ends with the table of counts.
"""
