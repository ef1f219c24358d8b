"""The HTTP contract that Label Studio expects of an ML backend."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any

from cachetools import LRUCache
from flask import Flask, Response, g, jsonify, request

from m2n2_backend import __version__
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.labelstudio.contract.models import PredictRequest, SetupRequest
from m2n2_backend.labelstudio.contract.openapi import openapi
from m2n2_backend.labelstudio.contract.reading import read
from m2n2_backend.labelstudio.images.reader import Media, MediaReader
from m2n2_backend.labelstudio.meter import Meter
from m2n2_backend.labelstudio.predictor import Predictor
from m2n2_backend.labelstudio.prefetch import Prefetcher
from m2n2_backend.server import errors
from m2n2_backend.server.access import OPEN_ROUTE, authorize, credentials
from m2n2_backend.server.body import JsonReader
from m2n2_backend.server.metrics import Metrics
from m2n2_backend.server.status_page import RecentRequests, StatusPage
from m2n2_backend.server.titles import ProjectTitles
from m2n2_backend.settings import Settings
from m2n2_backend.worker.figures import WorkerStats
from m2n2_backend.worker.interface import Pool, Status
from m2n2_backend.worker.shares import FILES_AT_ONCE

logger = logging.getLogger(__name__)

MAX_PROJECTS = 1024
_SHOWN_ROUTES = ("/setup", "/predict")
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def create_app(
    settings: Settings,
    pool: Pool,
    media: Media | None = None,
    prefetcher: Prefetcher | None = None,
    titles: ProjectTitles | None = None,
) -> Flask:
    """Make the web application.

    Args:
        pool: The model; the caller closes it.
        media: Where images are read; a :class:`MediaReader` of the settings if None.
        prefetcher: Prepares the images of opened tasks; nothing is prefetched if None.
        titles: Titles of projects for the status page; it shows none if None.

    Raises:
        SettingsError: Only one of basic auth's user name and password is set, or Label Studio could not send one.
    """
    app = Flask("m2n2_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    routes = _Routes(settings, pool, media or MediaReader(settings), prefetcher, titles)
    app.before_request(routes.start)
    app.after_request(routes.finish)
    app.add_url_rule("/", view_func=routes.index)
    app.add_url_rule("/health", view_func=routes.health)
    app.add_url_rule("/versions", view_func=routes.versions)
    app.add_url_rule("/metrics", view_func=routes.metrics)
    app.add_url_rule("/openapi.json", view_func=routes.openapi)
    app.add_url_rule("/setup", view_func=routes.setup, methods=["POST"])
    app.add_url_rule("/predict", view_func=routes.predict, methods=["POST"])
    app.add_url_rule(OPEN_ROUTE, view_func=routes.webhook, methods=["POST"])
    errors.install(app)
    return app


class _Routes:
    """The routes of one app and what they share."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        media: Media,
        prefetcher: Prefetcher | None,
        titles: ProjectTitles | None,
    ) -> None:
        self._metrics = Metrics(pool)
        self._metrics_text = b""
        self._makes_metrics = threading.Lock()
        self._pool = pool
        self._recent = RecentRequests()
        self._page = StatusPage()
        self._titles = titles
        self._deadline = settings.deadline
        self._credentials = credentials(settings)
        meter = Meter(
            self._metrics.segmented,
            pool.stats,
            at_once=min(settings.queue, settings.http_threads),
            most_bytes=FILES_AT_ONCE * settings.max_image_bytes,
        )
        self._predictor = Predictor(pool, media, prefetcher=prefetcher, meter=meter)
        self._hostnames = _Hostnames(are_trusted=self._credentials is not None)
        self._hinted: LRUCache[str, tuple[str, ...]] = LRUCache(MAX_PROJECTS)
        self._hinting = threading.Lock()
        self._openapi = json.dumps(openapi(__version__))
        self._json = JsonReader()

    def start(self) -> None:
        g.started = time.monotonic()
        g.subject = g.cause = g.project = ""
        g.score = None
        authorize(request, self._credentials)

    def finish(self, response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "other"
        seconds = time.monotonic() - g.started
        self._metrics.observe(route, response.status_code, seconds)
        if route in _SHOWN_ROUTES:
            status, method = response.status_code, request.method
            self._recent.add(f"{method} {route}", g.subject, status, g.cause, seconds, g.score, g.project)
            if self._titles is not None and status < 400:
                self._titles.want(g.project)
        return response

    def index(self) -> Response:
        status = self._pool.status()
        # Browsers name HTML; to parse a header of thousands of types would take a quarter of a second.
        if "text/html" in request.headers.get("Accept", ""):
            page = self._page.render(status, self._pool.stats(), self._recent, self._titles)
            return Response(page, mimetype="text/html", headers={"Content-Security-Policy": _PAGE_POLICY})
        return jsonify({"name": "m2n2-backend", "version": __version__, **_described(status)})

    def health(self) -> Response:
        status = self._pool.status()
        if status.state == "failed":
            raise BackboneUnavailable(status.detail or "the model could not be loaded")
        replicas = [_replica(worker) for worker in self._pool.stats() if worker.name]
        where = {"replicas": replicas} if replicas else {}
        return jsonify({"status": "UP", "model_class": "M2N2", **_described(status), **where})

    def versions(self) -> Response:
        return jsonify({"versions": [self._pool.status().model_version]})

    def metrics(self) -> Response:
        # While one request makes the text, others get the latest one: many at once would keep /health waiting.
        if self._makes_metrics.acquire(blocking=not self._metrics_text):
            try:
                self._metrics_text = self._metrics.render()
            finally:
                self._makes_metrics.release()
        return Response(self._metrics_text, mimetype="text/plain; version=0.0.4")

    def openapi(self) -> Response:
        return Response(self._openapi, mimetype="application/json")

    def setup(self) -> Response:
        body = read(SetupRequest, self._body())
        project = body.project or ""
        # This comes first: clicks may come although the config is refused now, because it may have been changed.
        self._hostnames.put(project, body.hostname)
        config = self._predictor.configs.read(body.label_config)
        config.require_sound()
        for warning in config.warnings:
            logger.warning("project %s: %s", project, warning)
        # Label Studio asks with every page that it loads; hints are logged once.
        with self._hinting:
            new = self._hinted.get(project) != config.hints
            self._hinted[project] = config.hints
        for hint in config.hints if new else ():
            logger.info("project %s: %s", project, hint)
        answer: dict[str, Any] = {"model_version": self._pool.status().model_version}
        answer |= {"warnings": list(config.warnings)} if config.warnings else {}
        answer |= {"hints": list(config.hints)} if config.hints else {}
        return jsonify(answer)

    def predict(self) -> Response:
        deadline = time.monotonic() + self._deadline
        body = read(PredictRequest, self._body())
        hostname = self._hostnames.get(body.project or "")
        results = self._predictor.predict(body, hostname=hostname, deadline=deadline)
        g.score = next((one["score"] for one in results if isinstance(one, dict)), None)
        return jsonify({"results": results})

    def webhook(self) -> Response:
        return jsonify({"status": "ignored"})

    def _body(self) -> object:
        body = self._json.read(request)
        g.subject = errors.subject(body)
        g.project = errors.project(body)
        return body


class _Hostnames:
    """The address that each project's Label Studio gave itself.

    Where callers are trusted, the latest address is kept, for the latest projects. Elsewhere anybody may call, and
    the first address is kept, for the first projects.
    """

    def __init__(self, *, are_trusted: bool) -> None:
        self._are_trusted = are_trusted
        self._lock = threading.Lock()
        self._by_project: LRUCache[str, str] = LRUCache(MAX_PROJECTS)

    def put(self, project: str, hostname: object) -> None:
        if not isinstance(hostname, str) or not hostname.startswith(("http://", "https://")) or len(hostname) > 2048:
            return
        with self._lock:
            kept = self._by_project.get(project)
            if self._are_trusted or (kept is None and len(self._by_project) < MAX_PROJECTS):
                self._by_project[project] = kept = hostname
        if kept != hostname:
            logger.warning(
                "project %s: the address %s that /setup gives for Label Studio is ignored, %s: set "
                "LABEL_STUDIO_URL, or M2N2_BASIC_AUTH_USER and M2N2_BASIC_AUTH_PASSWORD, or start this server again",
                project,
                hostname,
                "as there are too many projects" if kept is None else f"as another caller gave {kept} before",
                extra={"kind": "hostname"},
            )

    def get(self, project: str) -> str | None:
        with self._lock:
            return self._by_project.get(project)


def _described(status: Status) -> dict[str, str]:
    return {
        "state": status.state,
        "model_version": status.model_version,
        "backbone": status.backbone,
        "device": status.device,
        "detail": status.detail,
    }


def _replica(worker: WorkerStats) -> dict[str, Any]:
    """One replica of a cluster."""
    return {
        "name": worker.name,
        "node": worker.node,
        "device": worker.device,
        "alive": worker.alive,
        "silence": round(worker.silence, 1),
        "waiting": worker.figures.waiting,
        "tiers": {
            name: {"bytes": tier.bytes, "entries": tier.entries, "trouble": str(tier.trouble or "")}
            for name, tier in worker.figures.tiers.items()
        },
    }
