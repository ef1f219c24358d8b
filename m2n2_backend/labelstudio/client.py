"""Label Studio's API: what the backend and its commands ask of Label Studio, and the little they change there.

The requests are our own and not those of label-studio-sdk (2.1): it renews no access token that Label Studio refuses,
its refresh leaves out the path of a Label Studio that runs below one, and its errors show headers and a body instead
of a cause and a cure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from m2n2_backend.errors import ImageUnavailable, LabelStudioUnavailable, SettingsError, TokenRefused
from m2n2_backend.labelstudio.contract.reading import objects_in
from m2n2_backend.labelstudio.images.download import HttpReply, shown
from m2n2_backend.labelstudio.images.tokens import TokenAuth, TokenSource
from m2n2_backend.settings import Settings
from m2n2_backend.tls import advice, tls_context

SECONDS = 60.0
"""Limit of each wait: to list a project's models, Label Studio first asks each of them for its health."""

PAGE = 100
"""Tasks of one request; whole tasks hold masks, and half as many are asked for."""

BACKEND_TITLE = "M2N2"

Json = dict[str, Any]


@dataclass(frozen=True)
class ApiReply:
    """What Label Studio answered.

    Attributes:
        status: HTTP status.
        data: The body, None where it is not JSON.
    """

    status: int
    data: Any

    @property
    def detail(self) -> str:
        """Label Studio's own words for what went wrong; empty where it gave none."""
        if not isinstance(self.data, dict):
            return ""
        parts = [str(self.data.get("detail") or "").rstrip(".")]
        if errors := self.data.get("validation_errors"):
            parts.append(json.dumps(errors, ensure_ascii=False)[:300])
        return ": ".join(filter(None, parts))


class LabelStudioClient:
    """A Label Studio as the user of a token sees it. Threads may share one.

    The token is sent to Label Studio's own address alone: redirects are not followed, and no proxy is used. Every
    question raises ``LabelStudioUnavailable`` as :meth:`call` does.
    """

    def __init__(self, url: str, key: str | None, *, seconds: float = SECONDS) -> None:
        """Set up the client; nothing is sent yet. ``key`` is of either kind; None asks without a token.

        Raises:
            SettingsError: As for :func:`~m2n2_backend.tls.tls_context`.
        """
        self._token = TokenSource(key, self._refresh)
        self._http = httpx.Client(
            base_url=url,
            auth=TokenAuth(self._token, seconds),
            headers={"User-Agent": "m2n2-backend", "Accept": "application/json"},
            timeout=seconds,
            # Minutes may pass between two questions, after which a kept connection is often dead.
            limits=httpx.Limits(max_keepalive_connections=0),
            verify=tls_context(),
            trust_env=False,
        )

    @staticmethod
    def of(settings: Settings, *, seconds: float = SECONDS) -> LabelStudioClient:
        """The client for the settings' address and token.

        Raises:
            SettingsError: One of them is not set.
        """
        url, key = settings.label_studio_url, settings.label_studio_api_key
        if url is None or key is None:
            raise SettingsError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY: the tasks are read from Label Studio")
        return LabelStudioClient(url, key.get_secret_value().strip(), seconds=seconds)

    @property
    def is_personal(self) -> bool:
        """Whether the key is a personal access token."""
        return self._token.is_personal

    def ask(self, method: str, path: str, body: object = None, *, files: Any = None, **query: Any) -> ApiReply:
        """Send one request, and return any answer.

        Args:
            path: The path below Label Studio's address, with a slash in front.
            body: Sent as JSON unless it is None.
            files: Files to upload: name of the field → name and content of the file.

        Raises:
            LabelStudioUnavailable: No connection, no answer in time, or a redirect.
            TokenRefused: The personal access token was refused, or the key is not a valid token.
        """
        if not path.startswith("/"):
            raise ValueError(f"{path!r} does not begin with a slash")
        try:
            answer = self._http.request(method, path, json=body, files=files, params=query or None)
        except ImageUnavailable as error:
            raise TokenRefused(str(error)) from error
        except httpx.RequestError as error:
            late = isinstance(error, httpx.TimeoutException)
            cause = "timed out" if late else f"failed: {str(error) or type(error).__name__}"
            finding = f"asking Label Studio {cause} ({shown(error.request.url)})"
            raise LabelStudioUnavailable(finding, advice(error)) from error
        if answer.has_redirect_location:
            where = shown(answer.url.join(answer.headers["Location"]))
            raise LabelStudioUnavailable(
                f"Label Studio redirects {shown(answer.url)} to {where}: set LABEL_STUDIO_URL to the address it wants"
            )
        try:
            return ApiReply(answer.status_code, answer.json())
        except (ValueError, RecursionError):
            return ApiReply(answer.status_code, None)

    def call(self, method: str, path: str, body: object = None, *, files: Any = None, **query: Any) -> Any:
        """Send one request that should succeed; see :meth:`ask`. The answer's JSON is returned, None without any.

        Raises:
            LabelStudioUnavailable: Label Studio declines it, or as for :meth:`ask`.
        """
        reply = self.ask(method, path, body, files=files, **query)
        if not 200 <= reply.status < 300:
            cause = f": {reply.detail}" if reply.detail else ""
            raise LabelStudioUnavailable(
                f"Label Studio answered {reply.status} for {method} {path}{cause}; "
                "`m2n2-backend doctor` checks address and token"
            )
        return reply.data

    def project(self, project: int) -> Json:
        """What Label Studio says about a project, with ``label_config`` and ``task_number``."""
        data = self.call("GET", f"/api/projects/{project}/")
        if not isinstance(data, dict):
            raise LabelStudioUnavailable(f"Label Studio's answer about project {project} is not a JSON object")
        return data

    def tasks(self, project: int, *, whole: bool = False) -> Iterator[Json]:
        """Every task of a project in the order of the ids; ``whole`` ones come with annotations and predictions.

        Each page begins after an id, so that no task is missed while others are made or deleted.
        """
        last = 0
        while found := self._after(project, last, PAGE // 2 if whole else PAGE, whole=whole):
            yield from found
            last = max(int(task["id"]) for task in found)

    def upcoming(self, project: str, task_id: object, count: int) -> Sequence[Json]:
        """The next tasks without annotations: what annotators get where tasks come in their order.

        They come after ``task_id``, and are at most ``count``; ``project`` is as /predict names it, "1.1795354407".
        """
        number = project_number(project)
        if number is None or not isinstance(task_id, int):
            return []
        return self._after(number, task_id, count, unlabeled=True)

    def post_prediction(self, task: int, prediction: Mapping[str, Any]) -> None:
        """Store a prediction, an object with ``result``, ``score`` and ``model_version``, for a task."""
        self.call("POST", "/api/predictions/", {"task": task, **prediction})

    def models(self, project: int) -> list[Json]:
        """The backends that a project is connected to; Label Studio first asks each of them for its health."""
        return objects(self.call("GET", "/api/ml/", project=project))

    def connect_backend(self, project: int, url: str) -> None:
        """Make the backend at an address the project's model, with interactive preannotations."""
        wanted = {"project": project, "url": url, "title": BACKEND_TITLE, "is_interactive": True}
        ours = [model["id"] for model in self.models(project) if model.get("title") == BACKEND_TITLE]
        method, path = ("PATCH", f"/api/ml/{ours[0]}") if ours else ("POST", "/api/ml/")
        self.call(method, path, wanted)

    def refusal_of_backend(self, url: str) -> str:
        """Why Label Studio would not accept a backend at an address; empty where it would.

        The question is a request to connect one that names no project, which can only be declined.

        Raises:
            LabelStudioUnavailable: As for :meth:`ask`.
        """
        reply = self.ask("POST", "/api/ml/", {"url": url})
        return "" if reply.status == 400 else reply.detail or f"status {reply.status}"

    def _after(
        self, project: int, task_id: int, count: int, *, whole: bool = False, unlabeled: bool = False
    ) -> list[Json]:
        items = [{"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": task_id}]
        if unlabeled:
            none = {"operator": "equal", "type": "Number", "value": 0}
            items.append({"filter": "filter:tasks:total_annotations", **none})
        query = json.dumps({"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]})
        fields = "all" if whole else "task_only"
        data = self.call("GET", "/api/tasks/", project=project, page=1, page_size=count, query=query, fields=fields)
        return objects(data.get("tasks") if isinstance(data, dict) else data)

    def _refresh(self, content: bytes, deadline: float) -> HttpReply:
        headers = {"Content-Type": "application/json"}
        answer = self._http.post("/api/token/refresh/", content=content, headers=headers, auth=httpx.Auth())
        return HttpReply(answer.status_code, answer.headers, answer.content)


def objects(data: Any) -> list[Json]:
    """The objects with an id in a list that Label Studio sent; nothing is found in another value."""
    return [one for one in objects_in(data) if "id" in one]


def project_number(project: str) -> int | None:
    """The id in a project as /predict names it, "1.1795354407"; None where it is not one."""
    number = project.partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None
