"""What goes wrong while libraries load a model, in one line."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from m2n2_backend.backbones.device.errors import is_out_of_memory
from m2n2_backend.errors import BackboneUnavailable, M2N2Error, one_line

_SHOWN = 3


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Explain errors of the body; running out of memory passes through.

    Args:
        what: The model or its folder, the beginning of the message.

    Raises:
        BackboneUnavailable: Whatever a library raised.
    """
    try:
        yield
    except M2N2Error:
        raise
    except (
        Exception
    ) as error:  # a damaged file comes out as pickle's, safetensors', zip's, KeyError, AttributeError …
        if is_out_of_memory(error):
            raise
        # PyTorch advises to run whatever code is in the file.
        advises = "weights_only" in str(error)
        cause = "the file is damaged, or holds other things than tensors" if advises else one_line(error)
        raise BackboneUnavailable(f"{what} cannot be loaded, fetch it again: {cause}") from error


def refuse_missing(what: str, missing: Collection[str]) -> None:
    """Weights that the file lacks would be random numbers.

    Args:
        what: The model or its folder, the beginning of the message.
        missing: Names of needed weights that the file has not got.

    Raises:
        BackboneUnavailable: There are some.
    """
    if missing:
        names = ", ".join(sorted(missing)[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise BackboneUnavailable(
            f"{what} cannot be loaded: its file lacks the weights {names}{more}, which would be random numbers; "
            "config.json and the weights must be of the same model: fetch both again"
        )


def quiet_transformers() -> None:
    """Silence transformers' progress bars and reports; to be called where it is imported anyway."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def quiet_diffusers() -> None:
    """Silence diffusers and what it loads with; to be called where it is imported anyway."""
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    quiet_transformers()
