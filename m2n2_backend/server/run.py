"""Serve the app: gunicorn watches one web process, waitress receives requests in it, the model is made in it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.labelstudio.images.cached import CachedImages
from m2n2_backend.labelstudio.prefetch import Prefetcher, Upcoming
from m2n2_backend.logs import log_to_stderr
from m2n2_backend.server.access import credentials, open_to_strangers
from m2n2_backend.server.app import create_app
from m2n2_backend.server.incoming import Limits
from m2n2_backend.server.titles import ProjectTitles
from m2n2_backend.server.web_worker import WebWorker
from m2n2_backend.settings import Settings
from m2n2_backend.tls import tls_context
from m2n2_backend.worker.interface import Pool

logger = logging.getLogger(__name__)

PoolFactory = Callable[[Settings], Pool]

_WATCHDOG_SECONDS = 60
# Threads beside those that may wait for the model and for images: clicks that are refused at once need one, too.
_SPARE_THREADS = 32
_GRACE_SECONDS = 20
_OVERSLEPT_SECONDS = 3.0  # of a loop that turns every second
# For the list of the next tasks, which nobody waits for.
_UPCOMING_SECONDS = 10.0


def serve(settings: Settings, pool_factory: PoolFactory) -> None:
    """Serve until a signal, then leave the process.

    SIGTERM and SIGHUP (a closed terminal; unless it was ignored at the start, as nohup does) let the requests that
    were begun be answered, SIGINT and SIGQUIT do not. gunicorn's SIGUSR2, SIGTTIN and SIGTTOU are ignored.

    Args:
        settings: Address, threads, log level, and the app's settings.
        pool_factory: Makes the model's pool. It is called in the serving process, after the fork: an
            accelerator that was touched before a fork cannot be used after it.

    Raises:
        SettingsError: Only one of basic auth's user name and password is set, or Label Studio could not send one;
            or the certificate authorities that the environment names cannot be read.
        SystemExit: Otherwise always; the status is 0 after a signal.
    """
    credentials(settings)
    tls_context()  # the web process needs it, but gunicorn would only say that it failed
    log_to_stderr(settings.log_level)
    if warning := open_to_strangers(settings):
        logger.warning("%s; %s", *warning)
    _Server(settings, pool_factory).run()


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's application hooks."""

    def __init__(self, settings: Settings, pool_factory: PoolFactory) -> None:
        self._settings = settings
        self._pool_factory = pool_factory
        self.limits = Limits(settings.max_body_bytes, credentials=credentials(settings))
        self._open: list[Pool | CachedImages | Prefetcher] = []
        super().__init__()

    def run(self) -> None:
        """Serve."""
        _Arbiter(self).run()

    def load_config(self) -> None:
        """Called by gunicorn before anything else."""
        options = {
            "bind": _bind(self._settings),
            "workers": 1,
            "worker_class": f"{WebWorker.__module__}.{WebWorker.__name__}",  # as text: older releases take no class
            "threads": 2 * self._settings.http_threads + _SPARE_THREADS,
            "timeout": _WATCHDOG_SECONDS,
            "graceful_timeout": _GRACE_SECONDS,
            "loglevel": "warning",
            "worker_exit": self._close,
            # No file for a remote control, which nobody asked for.
            "control_socket_disable": True,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """Called by gunicorn in the serving process."""
        pool = self._pool_factory(self._settings)
        self._open.append(pool)
        media = CachedImages.of(self._settings)
        self._open.append(media)
        prefetcher = Prefetcher(
            pool, media, timeout=self._settings.download_timeout, upcoming=upcoming_tasks(self._settings)
        )
        self._open.append(prefetcher)
        app = create_app(self._settings, pool, media, prefetcher, ProjectTitles.of(self._settings))
        logger.info(
            "listening on http://%s, backbone %s; Label Studio refuses backends on private addresses unless "
            "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false is in its environment",
            _bind(self._settings),
            pool.status().backbone,
        )
        return app

    def give_up(self) -> None:
        """Answer those who still wait for the model with an error."""
        for pool in self._open[:1]:
            pool.close()

    def _close(self, server: Any, worker: Any) -> None:
        while self._open:
            self._open.pop().close()


class _Arbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's process that watches the only web process, which keeps the settings of its start."""

    def __init__(self, server: _Server) -> None:
        super().__init__(server)
        self._looked_at = self._awake_since = time.monotonic()

    def init_signals(self) -> None:
        """Called by gunicorn at the start."""
        hangup_is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        super().init_signals()
        if hangup_is_ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_hup(self) -> None:
        """End as after SIGTERM: to read the settings again, as gunicorn does, would find the same ones."""
        self.handle_term()

    def handle_usr2(self) -> None:
        """Do nothing; gunicorn starts a second server beside this one, with a model of its own."""

    def handle_ttin(self) -> None:
        """Do nothing; gunicorn starts a second web process, with a model of its own."""

    def handle_ttou(self) -> None:
        """Do nothing, as for the opposite."""

    def murder_workers(self) -> None:
        """End a web process that hangs, once this one has been awake for as long: both may have been stopped."""
        now = time.monotonic()
        if now - self._looked_at > _OVERSLEPT_SECONDS:
            self._awake_since = now
        self._looked_at = now
        if now - self._awake_since > self.timeout:
            super().murder_workers()


def upcoming_tasks(settings: Settings) -> Upcoming | None:
    """Finds the tasks that annotators get next; None where Label Studio cannot be asked, or none are prefetched."""
    if settings.prefetch == 0 or settings.label_studio_url is None or settings.label_studio_api_key is None:
        return None
    studio = LabelStudioClient.of(settings, seconds=_UPCOMING_SECONDS)
    return partial(studio.upcoming, count=settings.prefetch)


def _bind(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"
