"""What a worker is started with, in a local process or elsewhere. It travels, so it holds no secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m2n2_backend.backbones.device.cores import usable_cores
from m2n2_backend.settings import Settings

if TYPE_CHECKING:
    from m2n2_backend.m2n2.paper.attention import Backbone

SECRETS = ("label_studio_url", "label_studio_api_key", "basic_auth_user", "basic_auth_password")
"""Settings that only the web process may know."""


def load(settings: Settings, device: str) -> Backbone:
    """Load the backbone of the settings on a device.

    Raises:
        BackboneUnavailable: Weights, device or memory are missing; the message names the cure.
        SettingsError: ``model`` is missing where it is needed, or given where it has no meaning.
    """
    from m2n2_backend.backbones.registry import backbone_loader  # here, as it loads PyTorch

    return backbone_loader(settings, device)()


@dataclass(frozen=True)
class WorkerOptions:
    """What one worker is started with.

    Attributes:
        settings: The settings of the service, without what only the web process may know.
        device: This worker's device, such as ``cuda:1``.
        workers: Number of workers on this machine, which share its cores.
        on_device: Number of those that are on this worker's device, and share its memory.
        load: Settings and device → backbone; a function that can be pickled.
        clicks: Whether clicks will come; else images are encoded and nothing else.
    """

    settings: Settings
    device: str
    workers: int = 1
    on_device: int = 1
    load: Callable[[Settings, str], Backbone] = load
    clicks: bool = True

    @staticmethod
    def of(
        settings: Settings,
        device: str,
        *,
        workers: int = 1,
        on_device: int = 1,
        load: Callable[[Settings, str], Backbone] = load,
        clicks: bool = True,
    ) -> WorkerOptions:
        """Options without the secrets of the settings."""
        public = settings.model_copy(update=dict.fromkeys(SECRETS))
        return WorkerOptions(public, device, workers, on_device, load, clicks)

    @property
    def threads(self) -> int:
        """Number of CPU threads this worker may use."""
        return self.settings.threads or max(1, usable_cores() // self.workers)
