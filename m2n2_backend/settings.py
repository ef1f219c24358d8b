"""All settings, read once from the environment."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from m2n2_backend.errors import SettingsError
from m2n2_backend.files import cache_home

if TYPE_CHECKING:
    from m2n2_backend.m2n2.hyperparameters import Hyperparameters

BackboneName = Literal["auto", "sd2", "sd1", "dinov2", "vit", "color"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]

logger = logging.getLogger(__name__)

_PREFIX = "M2N2_"

# What Kubernetes puts into every pod for a Service whose name begins with "m2n2"; those of ports hold an address.
_SERVICE_NAME = re.compile(
    r"M2N2_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.IGNORECASE
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)


def default_cache_dir() -> Path:
    """Where files are kept that can be made again, if no setting names another folder.

    Raises:
        SettingsError: No folder can be written.
    """
    return cache_home() / "m2n2_backend"


class Settings(BaseSettings):
    """Frozen settings of one process; every field is an environment variable ``M2N2_<FIELD>``.

    Build it with :func:`load_settings`, which also warns of unknown names.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, validate_default=True
    )

    backbone: BackboneName = Field("auto", description="Which attention to read")
    model: str | None = Field(None, description="Hub id or folder of the weights; the backbone's own if unset")
    layers: Annotated[tuple[int, ...] | None, NoDecode] = Field(
        None, description="ViT layers, comma separated, counted from 0; the middle one if unset, of DINOv2 the last"
    )
    grid: int | None = Field(
        None, ge=8, le=160, description="Side of the attention grid; the backbone's own if unset"
    )
    device: DeviceName = Field("auto", description="Where the model runs")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of each model process; its share of the cores if unset"
    )
    cache_dir: Path = Field(default_factory=default_cache_dir, description="Folder of the disk cache")

    working_size: int = Field(
        1024, ge=64, le=4096, description="Longest side, in pixels, at which masks are computed"
    )
    despeckle: float = Field(
        1e-4, ge=0.0, le=0.01, description="Specks and holes below this share of the image go; 0 keeps all"
    )
    least_cells: float = Field(
        4.0, ge=0.0, le=100.0, description="One click's segment has at least this many attention cells; 0 = any size"
    )
    refine: bool = Field(
        True,
        description="Bound each click by its radius, let color decide in doubt and at the edge; off = the paper's",
    )
    views: bool = Field(
        True,
        description="Encode windows of large photographs too, for small objects; up to two for a first click",
    )
    device_cache: int | None = Field(
        None,
        ge=0,
        description="Bytes for matrices and maps of images in work; 256 MB on a CPU, most of a free GPU if unset",
    )
    memory_cache: int | None = Field(
        None,
        ge=0,
        description="Bytes for attention features and upsampling tables; 256 MB on a CPU, 2 GB beside an accelerator",
    )
    disk_cache: int = Field(
        10 * 1024**3, ge=0, description="Bytes for attention features on disk, below `M2N2_CACHE_DIR`; 0 keeps none"
    )
    store: str | None = Field(
        None,
        description="Folder or fsspec address, such as `s3://bucket/m2n2`, that all machines share in its place",
    )
    workers: int | None = Field(
        None, ge=1, le=64, description="Model processes; one for each GPU, or one on a CPU, if unset"
    )
    ray_address: str | None = Field(
        None, description="Address of the Ray cluster, such as `head:6379`, for `cluster` and `serve --cluster`"
    )
    queue: int = Field(40, ge=1, description="Clicks that may wait for the model; further clicks get a 503")

    host: str = Field("127.0.0.1", description="Address that `serve` binds")
    port: int = Field(9090, ge=1, le=65535, description="Port that `serve` binds")
    http_threads: int = Field(
        40,
        ge=1,
        le=512,
        description="Threads for clicks that wait for the model, and as many for those that wait for images",
    )
    deadline: float = Field(90.0, gt=0, le=100, description="Seconds after which /predict answers 503")
    max_body_bytes: int = Field(
        32 * 1024**2, ge=64 * 1024, description="Largest request; it holds the task's regions and its data URLs"
    )
    basic_auth_user: str | None = Field(None, description="User name Label Studio must send; none if unset")
    basic_auth_password: SecretStr | None = Field(None, description="Password that belongs to it")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level logged")

    label_studio_url: str | None = Field(
        None, validation_alias="LABEL_STUDIO_URL", description="Where this server reaches Label Studio"
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias="LABEL_STUDIO_API_KEY",
        description="Legacy token or personal access token, to read uploaded images",
    )
    local_files_root: Path | None = Field(
        None, description="Folder below which /data/local-files paths are read straight from disk"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further hosts, comma separated, that images may come from although private"
    )
    download_timeout: float = Field(20.0, gt=0, description="Seconds for one image download")
    prefetch: int = Field(
        2, ge=0, le=50, description="Next tasks whose images are encoded when a task is opened; needs the token"
    )
    image_fresh: float = Field(
        300.0, ge=0, description="Seconds for which an address is taken to hold the same image without asking"
    )
    max_image_bytes: int = Field(64 * 1024**2, ge=1024, description="Largest image file")
    max_image_pixels: int = Field(100_000_000, ge=1, description="Most pixels of an image")

    def method(self) -> Hyperparameters:
        """The method as the product runs it: these limits of size, specks and segments, refined or the paper's."""
        from m2n2_backend.m2n2.hyperparameters import Hyperparameters  # here, as it loads PyTorch

        return Hyperparameters(
            working_size=self.working_size,
            despeckle=self.despeckle,
            least_cells=self.least_cells,
            refine=self.refine,
            views=self.working_size if self.views else 0,
        )

    @field_validator("layers", mode="before")
    @classmethod
    def _split_layers(cls, value: object) -> object:
        return [int(part) for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return value

    @field_validator("label_studio_url")
    @classmethod
    def _clean_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/") if value else None

    @field_validator("port", mode="before")
    @classmethod
    def _explain_service(cls, value: object) -> object:
        if isinstance(value, str) and _SERVICE_ADDRESS.match(value):
            raise ValueError(
                "M2N2_PORT is not a port but the address of a Service called m2n2, which Kubernetes puts into every "
                "pod: set enableServiceLinks: false in the pod's spec, or M2N2_PORT in the container's env"
            )
        return value


def unknown_names(environment: Mapping[str, str]) -> list[str]:
    """A sentence about each variable that looks like a setting but is not one; Kubernetes' own are passed over."""
    known = [
        str(field.validation_alias or f"{_PREFIX}{name.upper()}") for name, field in Settings.model_fields.items()
    ]
    return [
        f"unknown setting {name}: {_nearest(name.upper(), known)}"
        for name, value in sorted(environment.items())
        if name.upper().startswith(_PREFIX) and name.upper() not in known and not _is_of_service(name, value)
    ]


def load_settings(**overrides: object) -> Settings:
    """Read the environment; ``overrides`` (None = not given) win over it.

    Unknown ``M2N2_`` variables of the environment are warned of in the log and change nothing.

    Raises:
        SettingsError: A value is out of range, or an override is unknown; the message names it.
    """
    for sentence in unknown_names(os.environ):
        logger.warning("%s", sentence)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"setting {name}: {first['msg']} (got {first['input']!r})") from error


def _nearest(name: str, known: list[str]) -> str:
    by_end = {one.removeprefix(_PREFIX): one for one in known}  # the prefix that all share makes all of them alike
    near = difflib.get_close_matches(name.removeprefix(_PREFIX), by_end, n=1)
    return f"did you mean {by_end[near[0]]}?" if near else "m2n2_backend/SETTINGS.md lists all settings"


def _is_of_service(name: str, value: str) -> bool:
    if _SERVICE_NAME.fullmatch(name):
        return True
    return name.upper().endswith("_PORT") and _SERVICE_ADDRESS.match(value) is not None
