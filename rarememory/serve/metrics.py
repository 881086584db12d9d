"""What Prometheus counts; with several workers, of all of them together."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

REQUESTS = Counter("rarememory_requests", "Requests, by what they asked for.", ["verb", "status"])
SECONDS = Histogram("rarememory_request_seconds", "From a request to its answer.", ["verb"])
VERSION = Gauge(
    "rarememory_version", "The latest change that a worker knows.", multiprocess_mode="max"
)
FOLLOWING = Gauge(
    "rarememory_following", "1 while every worker follows the store.", multiprocess_mode="min"
)


def exposed() -> bytes:
    """The numbers as Prometheus reads them."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
