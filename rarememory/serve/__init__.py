"""A service over a memory in a store, by HTTP: `rarememory serve`.

`service` is the application (FastAPI), `limits` refuses what is too large, too slow or without the
token, `bodies` says what requests and answers are, `metrics` counts for Prometheus, and `processes`
runs several workers on one port. A worker holds nothing that is not in the store.
"""
