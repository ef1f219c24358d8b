"""The same predictor for people who host their models in a label-studio-ml 2.x server.

That server is only published as a git repository, and therefore not a dependency: this module can be imported
where it is installed. A ``_wsgi.py`` for it:

    from label_studio_ml.api import init_app
    from m2n2_backend.labelstudio.ml_backend import ml_backend_class
    from m2n2_backend.settings import load_settings
    from m2n2_backend.worker.local.pool import ProcessPool

    settings = load_settings()
    app = init_app(model_class=ml_backend_class(ProcessPool(settings), settings))

Errors reach Label Studio as "500 INTERNAL SERVER ERROR" there, with the cause in that server's log only; the
server of this package names the cause in the status line.
"""

from __future__ import annotations

import time
from typing import Any

from m2n2_backend.labelstudio.contract.models import PredictRequest
from m2n2_backend.labelstudio.contract.reading import read
from m2n2_backend.labelstudio.images.cached import CachedImages
from m2n2_backend.labelstudio.predictor import Predictor
from m2n2_backend.settings import Settings
from m2n2_backend.worker.interface import Pool

try:
    from label_studio_ml.model import LabelStudioMLBase
    from label_studio_ml.response import ModelResponse
except ImportError as error:
    raise ImportError(
        "label-studio-ml 2.x is needed: pip install git+https://github.com/HumanSignal/label-studio-ml-backend"
    ) from error


def ml_backend_class(pool: Pool, settings: Settings) -> type[Any]:
    """A ``LabelStudioMLBase`` around a model, for ``label_studio_ml.api.init_app``.

    That server makes an object of the class for every request, so the model and the cache of images
    belong to the class.
    """
    predictor = Predictor(pool, CachedImages.of(settings))

    class M2N2Backend(LabelStudioMLBase):  # type: ignore[misc]
        """Interactive segmentation by clicks and boxes."""

        def setup(self) -> None:
            """Tell Label Studio the model's version."""
            self.set("model_version", pool.status().model_version)

        def predict(
            self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any
        ) -> ModelResponse:
            """Answer one request; see :meth:`Predictor.predict`."""
            body = {
                "tasks": tasks,
                "params": {"context": context},
                "label_config": self.label_config,
                "project": self.project_id,
            }
            deadline = time.monotonic() + settings.deadline
            results = predictor.predict(read(PredictRequest, body), deadline=deadline)
            version = pool.status().model_version
            return ModelResponse(model_version=version, predictions=results)

    return M2N2Backend
