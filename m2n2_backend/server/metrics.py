"""Prometheus metrics of one app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from m2n2_backend.worker.pool import Pool


class Metrics:
    """What /metrics tells; each app has its own registry, so that several may live in one process."""

    def __init__(self, pool: Pool) -> None:
        """Set up all metrics.

        Args:
            pool: Asked for its state at every scrape.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "m2n2_http_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "m2n2_http_request_seconds",
            "Time to answer, by route",
            ["route"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=self._registry,
        )
        ready = Gauge("m2n2_model_ready", "1 where the model can answer, else 0", registry=self._registry)
        ready.set_function(lambda: float(pool.status().state == "ready"))

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            route: The route's rule, never the path as it was sent: anyone can invent paths.
            status: HTTP status.
            seconds: Time it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
