"""Image addresses as they stand in tasks → the files behind them."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Protocol

import httpx

from m2n2_backend.errors import ImageNotAllowed, ImageUnavailable, InvalidImage, M2N2Error
from m2n2_backend.images import natural_size
from m2n2_backend.labelstudio.images.download import Clock, shown
from m2n2_backend.labelstudio.images.downloader import Downloader, is_below, require_port
from m2n2_backend.labelstudio.images.local import from_data_url, from_disk
from m2n2_backend.labelstudio.images.spelling import as_browsers_read
from m2n2_backend.settings import Settings
from m2n2_backend.worker.interface import SourceImage

_LONGEST_VALIDATOR = 200
_BUCKETS = ("s3", "s3a", "gs", "azure-blob")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image as a task names it.

    Attributes:
        url: Address, data URL, bucket URI or a path of Label Studio.
        task_id: The task, needed for bucket URIs only.
        hostname: The address that Label Studio gave itself in /setup; never trusted. Used where no setting gives one,
            and to recognize images of Label Studio under that name.
        project: Label Studio's id of the project that the image is read for.
    """

    url: str
    task_id: int | str | None = None
    hostname: str | None = None
    project: str | None = None

    @property
    def is_data(self) -> bool:
        """Whether the address holds the file."""
        return as_browsers_read(self.url[:64])[:5].lower() == "data:"

    @property
    def key(self) -> bytes:
        """A hash of all that decides which file it is and who may read it; in buckets, the task decides too."""
        scheme = _SCHEME.match(as_browsers_read(self.url))
        task = self.task_id if scheme and scheme.group(1).lower() in _BUCKETS else None
        parts = (self.url, self.hostname, task)
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class Validators:
    """The headers by which a server recognizes one version of a file.

    Attributes:
        etag: The response's ``ETag``, "" where it had none.
        modified: Its ``Last-Modified``, "" where it had none.
    """

    etag: str = ""
    modified: str = ""

    @staticmethod
    def of(headers: Mapping[str, str]) -> Validators:
        """The validators of a response, without those too long to be remembered for thousands of images."""
        etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
        return Validators(etag if len(etag) <= _LONGEST_VALIDATOR else "", modified[:_LONGEST_VALIDATOR])

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request that wants the file only if it is another version."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.modified}
        return {name: value for name, value in named.items() if value}


class Media(Protocol):
    """Turns references into files: a :class:`MediaReader`, or a cache around one."""

    def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
        """Read one image; see :meth:`MediaReader.fetch`.

        Args:
            ref: The image.
            deadline: ``time.monotonic()`` after which nobody waits.
            data_needed: Whether the file is needed; else its hash and size are enough, if they are known.
        """
        ...

    def host(self, ref: ImageRef) -> str:
        """See :meth:`MediaReader.host`."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class MediaReader:
    """Reads images over HTTP, from Label Studio, from its local files and from data URLs.

    Threads may share one.
    """

    def __init__(self, settings: Settings, *, clock: Clock = time.monotonic) -> None:
        """Set up the reader; nothing is opened yet."""
        self._clock = clock
        self._settings = settings
        self._downloader = Downloader(settings, clock)

    def fetch(self, ref: ImageRef, *, deadline: float = float("inf"), data_needed: bool = True) -> SourceImage:
        """Read one image file.

        The file is read even where ``data_needed`` is false: there is no other way to know its hash. Beside the
        deadline, ``download_timeout`` applies.

        Raises:
            ImageNotAllowed: The address or path is outside of what this server may read.
            ImageTooLarge: The file has more than ``max_image_bytes``.
            ImageUnavailable: It could not be read; the message says why, and the setting that helps.
            InvalidImage: It is not an image, or its data URL or its address cannot be read.
            NotReady: Other images that are being read take too much memory.
        """
        image, _ = self.fetch_if_changed(ref, Validators(), deadline=deadline)
        assert image is not None, "without validators nothing is unchanged"
        return image

    def fetch_if_changed(
        self, ref: ImageRef, known: Validators, *, deadline: float
    ) -> tuple[SourceImage | None, Validators]:
        """Read one image file, unless its server says that it is still the version of ``known``.

        Returns:
            The image, None if it has not changed, and the validators for the next time.

        Raises:
            M2N2Error: As for :meth:`fetch`.
        """
        data, validators = self._data(ref, known, min(deadline, self._clock() + self._settings.download_timeout))
        if data is None:
            return None, known
        try:
            size = natural_size(data, max_pixels=self._settings.max_image_pixels)
        except InvalidImage as error:
            if ref.is_data:
                form = "" if ";base64" in ref.url[:200].lower().replace(" ", "") else ", which is not base64"
                raise InvalidImage(f"{error} (in the task's data URL{form})") from error
            raise
        return SourceImage.of(data, size), validators

    def host(self, ref: ImageRef) -> str:
        """The host that is asked for an image; "" for Label Studio of the settings, and where no server is asked."""
        if ref.is_data:
            return ""
        try:
            url = self._locate(replace(ref, url=as_browsers_read(ref.url)))
        except (M2N2Error, httpx.InvalidURL, UnicodeError):
            return ""
        return self._downloader.host(url)

    def close(self) -> None:
        """Do nothing: no connection outlives a read."""

    def _data(self, ref: ImageRef, known: Validators, deadline: float) -> tuple[bytes | None, Validators]:
        limit = self._settings.max_image_bytes
        ref = replace(ref, url=as_browsers_read(ref.url))
        if ref.is_data:
            return from_data_url(ref.url, limit), Validators()
        try:
            root = self._settings.local_files_root
            named = httpx.URL(ref.url)
            if root is not None and self._is_local_file(named):
                return from_disk(root, named.params.get("d", ""), limit), Validators()
            url = self._locate(ref)
            require_port(url)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InvalidImage(f"the image's address cannot be parsed: {error}") from error
        try:
            reply = self._downloader.download(url, known.headers, deadline)
        except ImageNotAllowed as error:
            if self._downloader.base is not None or ref.hostname is None or not is_below(url, ref.hostname):
                raise
            raise ImageNotAllowed(
                f"the image is in Label Studio, which says it runs at {shown(httpx.URL(ref.hostname))}: set "
                "LABEL_STUDIO_URL to where this server reaches it, and LABEL_STUDIO_API_KEY"
            ) from error
        if reply.status == HTTPStatus.NOT_MODIFIED:
            return None, known
        return reply.body, Validators.of(reply.headers)

    def _locate(self, ref: ImageRef) -> httpx.URL:
        """The http(s) address to ask."""
        url = ref.url
        scheme = _SCHEME.match(url)
        name = scheme.group(1).lower() if scheme else ""
        if name in _BUCKETS:
            if not re.fullmatch(r"[0-9]+", str(ref.task_id)):
                raise ImageUnavailable(f"a {name}:// image is read through Label Studio, which needs the task's id")
            uri = base64.urlsafe_b64encode(url.encode()).decode()
            return self._below_base(f"/tasks/{ref.task_id}/presign/?fileuri={uri}", ref)
        if name in ("http", "https"):
            return self._under_its_own_name(httpx.URL(url), ref)
        if url.startswith("/") and not url.startswith("//"):
            return self._below_base(url, ref)
        raise ImageNotAllowed(
            f"an image address that begins with {(name or url)[:10]!r} is not supported: use http(s), s3, gs, "
            "azure-blob, a data URL or a path of Label Studio"
        )

    def _below_base(self, path: str, ref: ImageRef) -> httpx.URL:
        base = self._downloader.base or (httpx.URL(ref.hostname) if ref.hostname else None)
        if base is None:
            raise ImageUnavailable("the image's address is relative: set LABEL_STUDIO_URL to where Label Studio runs")
        prefix = base.path.rstrip("/")
        return base.join(path if prefix and path.startswith(f"{prefix}/") else prefix + path)

    def _under_its_own_name(self, url: httpx.URL, ref: ImageRef) -> httpx.URL:
        """Label Studio's files are asked of the address in the settings, whatever name Label Studio gives itself.

        A false hostname gains nothing: the same path could have been given without any.
        """
        if self._downloader.base is None or ref.hostname is None or not is_below(url, ref.hostname):
            return url
        name = httpx.URL(ref.hostname)
        path = url.raw_path.decode("ascii")[len(name.path.rstrip("/")) :]
        moved = self._below_base(path, ref)
        return moved if self._downloader.takes_token(moved) else url

    def _is_local_file(self, url: httpx.URL) -> bool:
        on_label_studio = not (url.scheme or url.raw_host) or self._downloader.is_label_studio(url)
        return on_label_studio and url.path.rstrip("/").endswith("/data/local-files")
