"""What libraries print while they load: progress bars and reports that say nothing a user could act on."""

from __future__ import annotations

import logging


def quiet_transformers() -> None:
    """Silence transformers; to be called where it is imported anyway."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def quiet_diffusers() -> None:
    """Silence diffusers and what it loads with; to be called where it is imported anyway."""
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    quiet_transformers()


def quiet_downloads() -> None:
    """Silence a line for every request: they carry addresses, and ours say what matters."""
    for name in ("httpx", "httpcore", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
