"""A Label Studio with projects and models: the answers of release 1.23.2, as recorded, over a real socket."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fake_label_studio import LEGACY, PERSONAL, FakeLabelStudio


def jwt(**claims: Any) -> str:
    """A token whose claims can be read, and whose signature nobody here checks."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + ".c2lnbmF0dXJl"


PERSONAL_JWT = jwt(token_type="refresh", exp=4102444800, user_id="1")

CONFIG = (Path(__file__).resolve().parents[1] / "label_config" / "brush.xml").read_text(encoding="utf-8")
DISABLED = "Authentication token no longer valid: legacy token authentication has been disabled for this organization"


class FakeStudioApi(FakeLabelStudio):
    """Projects are ``id → label config``, models lists of what GET /api/ml tells about each."""

    def __init__(self) -> None:
        self.release = "1.23.2"
        self.legacy_tokens = True
        self.bans_private = False
        self.unknown_hosts: set[str] = set()
        self.projects: dict[int, str] = {}
        self.models: dict[int, list[dict[str, Any]]] = {}
        self.tasks: list[dict[str, Any]] = []
        self.declines_predictions = False
        self.posted: list[tuple[str, Any]] = []
        super().__init__()

    def connect(self, url: str, *, state: str = "CO", config: str = CONFIG, **fields: Any) -> int:
        """Add a project with one model; returns the project's id."""
        project = len(self.projects) + 1
        self.projects[project] = config
        model = {"id": project, "state": state, "url": url, "is_interactive": True, "error_message": None}
        self.models[project] = [{**model, "model_version": "m2n2-0.1.0-color-1-g40", **fields}]
        return project

    def _answer(self, to: BaseHTTPRequestHandler, url: Any) -> None:
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if not url.path.startswith("/api/"):
            super()._answer(to, url)
        elif url.path == "/api/version":
            self._json(to, 200, {"release": self.release})
        elif self._refused(to):
            pass
        elif url.path == "/api/current-user/whoami":
            self._json(to, 200, {"id": 1, "email": "annotator@example.com"})
        elif url.path == "/api/projects/":
            found = [self._project(number) for number in self.projects]
            self._json(to, 200, {"count": len(found), "next": None, "previous": None, "results": found})
        elif url.path == "/api/ml/":
            self._json(to, 200, self.models.get(int(query["project"]), []))
        else:
            self._api(to, url.path, query)

    def add_task(self, project: int, *regions: dict[str, Any], drafts: bool = False, **data: Any) -> int:
        """A task with prompts saved in an annotation or a draft; returns its id."""
        number = len(self.tasks) + 1
        saved = [{"id": number, "result": list(regions), "was_cancelled": False}] if regions else []
        task = {
            "id": number,
            "project": project,
            "data": {"image": "/data/upload/1/a.png", **data},
            "annotations": [] if drafts else saved,
            "drafts": saved if drafts else [],
            "predictions": [],
        }
        self.tasks.append(task)
        return number

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """What was posted for a task."""
        return list(self.tasks[task - 1]["predictions"])

    def _api(self, to: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        project = re.fullmatch(r"/api/projects/(\d+)/?", path)
        if project and int(project[1]) in self.projects:
            number = int(project[1])
            count = len([task for task in self.tasks if task["project"] == number])
            self._json(to, 200, {**self._project(number), "task_number": count})
        elif path == "/api/tasks/":
            size, page = int(query["page_size"]), int(query.get("page", 1))
            found = [task for task in self.tasks if task["project"] == int(query["project"])]
            part = found[(page - 1) * size : page * size]
            if part or page == 1:
                self._json(to, 200, {"tasks": part, "total": len(found)})
            else:
                self._json(to, 404, {"status_code": 404, "detail": "Invalid page."})
        else:
            self._json(to, 404, {"status_code": 404, "detail": "Not found."})

    def _post(self, to: BaseHTTPRequestHandler, sent: Any) -> None:
        self.posted.append((to.path, sent))
        if to.path == "/api/token/refresh/":
            super()._post(to, {"refresh": PERSONAL} if sent == {"refresh": PERSONAL_JWT} else sent)
        elif self._refused(to):
            pass
        elif to.path == "/api/predictions/":
            if self.declines_predictions:
                self._json(to, 400, {"status_code": 400, "detail": "Validation error"})
                return
            prediction = {"id": len(self.posted), **sent}
            self.tasks[sent["task"] - 1]["predictions"].append(prediction)
            self._json(to, 201, prediction)
        else:
            self._judge(to, urlsplit(sent["url"]).hostname or "")
            assert "project" not in sent, "this would connect a model"

    def _judge(self, to: BaseHTTPRequestHandler, host: str) -> None:
        private = host == "localhost" or (
            re.fullmatch(r"[0-9.:a-f]+", host) is not None and ipaddress.ip_address(host).is_private
        )
        if host in self.unknown_hosts:
            self._json(to, 500, {"status_code": 500, "detail": f"Can't resolve hostname {host}"})
        elif private and self.bans_private:
            detail = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
            self._json(to, 403, {"status_code": 403, "detail": detail})
        else:
            errors = {"project": ["This field is required."]}
            self._json(to, 400, {"status_code": 400, "detail": "Validation error", "validation_errors": errors})

    def _access(self) -> str:
        # One for all who ask: the backend and the SDK refresh on their own, and earlier tokens stay valid.
        return jwt(token_type="access", exp=4102444800)

    def _refused(self, to: BaseHTTPRequestHandler) -> bool:
        given = to.headers.get("Authorization", "")
        if given == f"Bearer {self._access()}" or (given == f"Token {LEGACY}" and self.legacy_tokens):
            return False
        if given == f"Token {LEGACY}":
            detail = DISABLED
        elif given.startswith("Token "):
            detail = "Invalid token."
        else:
            detail = "Authentication credentials were not provided."
        self._json(to, 401, {"status_code": 401, "detail": detail})
        return True

    def _project(self, number: int) -> dict[str, Any]:
        return {"id": number, "title": f"project {number}", "label_config": self.projects[number]}

    def _json(self, to: BaseHTTPRequestHandler, status: int, data: Any) -> None:
        self._reply(to, status, json.dumps(data).encode(), "application/json")
