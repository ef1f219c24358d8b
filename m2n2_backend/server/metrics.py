"""Prometheus metrics of one app."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from m2n2_backend.worker.interface import Answer, Pool, Work

_WORKER = ["worker"]
_TIER = ["worker", "tier"]
_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 30, 100)


class Metrics:
    """The metrics of /metrics; each app has its own registry, so that several may live in one process."""

    def __init__(self, pool: Pool) -> None:
        """Set up all metrics.

        Args:
            pool: Asked for its state and its workers' figures at every scrape.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "m2n2_http_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "m2n2_http_request_seconds", "Time to answer, by route", ["route"], buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._segments = Counter(
            "m2n2_segments", "Objects asked of the model by kind of prompt and outcome", ["kind", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._parts = Histogram(
            "m2n2_model_seconds",
            "Parts of an answer: wait (queue), load (disk or file), encode (model), prepare (matrix and table), "
            "segment (clicks to mask), rle",
            ["part"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        ready = Gauge("m2n2_model_ready", "1 where the model can answer, else 0", registry=self._registry)
        ready.set_function(lambda: float(pool.status().state in ("ready", "degraded")))
        self._registry.register(_WorkerCollector(pool))

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            route: The route's rule, never the path as it was sent: anyone can invent paths.
            status: HTTP status.
            seconds: Time it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def segmented(self, work: Work, answer: Answer | None, error: Exception | None) -> None:
        """Count one object: its answer, or the error it ended with."""
        kind = "box" if work.prompts is not None and work.prompts.boxes else "clicks"
        self._segments.labels(kind, "ok" if error is None else type(error).__name__).inc()
        for part, milliseconds in (answer.timings_ms if answer else {}).items():
            self._parts.labels(part).observe(milliseconds / 1000.0)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _WorkerCollector(Collector):
    """Figures that the workers count themselves, read at every scrape."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client."""
        workers = self._pool.stats()
        for family, name in (
            (GaugeMetricFamily("m2n2_worker_alive", "1 where the worker can take work", labels=_WORKER), "alive"),
            (GaugeMetricFamily("m2n2_worker_waiting", "Clicks not answered yet", labels=_WORKER), "waiting"),
            (
                GaugeMetricFamily("m2n2_worker_age", "Seconds the step in work has been running", labels=_WORKER),
                "age",
            ),
            (GaugeMetricFamily("m2n2_worker_silence", "Seconds since it was heard of", labels=_WORKER), "silence"),
            (GaugeMetricFamily("m2n2_worker_rss", "Resident memory in bytes", labels=_WORKER), "rss"),
            (CounterMetricFamily("m2n2_worker_restarts", "Starts after a death", labels=_WORKER), "restarts"),
            (
                CounterMetricFamily("m2n2_worker_superseded", "Answered with newer masks", labels=_WORKER),
                "superseded",
            ),
            (CounterMetricFamily("m2n2_worker_timed_out", "Deadlines that passed", labels=_WORKER), "timed_out"),
            (CounterMetricFamily("m2n2_worker_refused", "Found the queue full", labels=_WORKER), "refused"),
            (CounterMetricFamily("m2n2_worker_encoded", "Times the model ran", labels=_WORKER), "encoded"),
        ):
            for index, worker in enumerate(workers):
                family.add_metric([worker.name or str(index)], float(getattr(worker, name)))
            yield family
        for family, name in (
            (GaugeMetricFamily("m2n2_cache_bytes", "Held by a cache tier", labels=_TIER), "bytes"),
            (GaugeMetricFamily("m2n2_cache_limit", "Most bytes of a cache tier", labels=_TIER), "limit"),
            (GaugeMetricFamily("m2n2_cache_entries", "Images in a cache tier", labels=_TIER), "entries"),
            (CounterMetricFamily("m2n2_cache_hits", "Found in a cache tier", labels=_TIER), "hits"),
            (CounterMetricFamily("m2n2_cache_misses", "Not found in a cache tier", labels=_TIER), "misses"),
            (CounterMetricFamily("m2n2_cache_evictions", "Evicted from a cache tier", labels=_TIER), "evictions"),
            (
                CounterMetricFamily("m2n2_cache_failures", "Could not be written, read or reached", labels=_TIER),
                "failures",
            ),
            (CounterMetricFamily("m2n2_cache_damaged", "Files that could not be used", labels=_TIER), "damaged"),
            (GaugeMetricFamily("m2n2_cache_paused", "1 where it is left alone for a while", labels=_TIER), "paused"),
            (GaugeMetricFamily("m2n2_cache_troubled", "1 where it cannot be used now", labels=_TIER), "troubled"),
        ):
            for index, worker in enumerate(workers):
                for tier, figures in worker.tiers.items():
                    family.add_metric([worker.name or str(index), tier], float(getattr(figures, name)))
            yield family
