"""Any Hugging Face vision transformer whose attention can be read exactly (Sec. 13): ViT, DINOv2, DINOv3, CLIP."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.backbones.device.memory import memory_advice, refuse_large_scores
from m2n2_backend.backbones.exactness import check_layers, check_tokens
from m2n2_backend.backbones.loading import loading, quiet_transformers
from m2n2_backend.backbones.self_attention import read_layers
from m2n2_backend.backbones.square import squash
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures

_HALF = (0.5, 0.5, 0.5)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class VisionTransformer:
    """Queries and keys of chosen layers; CLS and register tokens are removed.

    The softmax over the patch tokens alone equals removing the special columns and renormalizing each head's rows;
    the released code renormalizes after the mean over heads, for which the special tokens' keys are kept. The image
    is squashed to a square, as for Stable Diffusion.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        revision: str,
        layers: Sequence[int] | None,
        grid: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        released: bool = False,
        missing: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Wrap a loaded model, after it has been tried out on noise.

        Args:
            model: A transformers vision model without head, on the CPU.
            revision: Identifies the weights; part of the fingerprint.
            layers: Counted from 0, negative from the end; None is :func:`chosen_layers`' own. All count equally.
            grid: Cells per side; the input is ``grid * patch_size`` pixels.
            mean: Per channel, of RGB in [0, 1], as is ``std``.
            released: Resize the image and cut the special tokens as the released code does.
            missing: Tensors of the model that its file lacks, by their names.

        Raises:
            BackboneUnavailable: A layer or a needed tensor is missing, or the attention cannot be read exactly.
        """
        kind = f"{name} ({model.config.model_type})"
        self._model = model.eval().requires_grad_(False)
        self._dtype = next(model.parameters()).dtype
        self._resizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self._patch = _patch_size(model.config, kind)
        refuse_large_scores(device, getattr(model.config, "num_attention_heads", 1), grid)
        self._mean, self._std = (np.asarray(each, np.float32) for each in (mean, std))
        self.grid = grid
        self.device = torch.device("cpu")
        with torch.inference_mode():
            special = check_tokens(self._run, kind, grid=grid, patch=self._patch)
            choose = partial(chosen_layers, kind, str(model.config.model_type), layers)
            self._layers, count = check_layers(
                self._run, kind, choose, special=special, patch=self._patch, missing=missing or {}
            )
        self.device = device
        self._model.to(device)
        self._released = released
        precision = str(self._dtype).removeprefix("torch.")
        ending = "-released" if released else ""
        self.fingerprint = f"vit-{revision}-{precision}-l{'.'.join(map(str, self._layers))}-g{grid}{ending}"
        self.description = f"{name}, {layers_in_words(self._layers, count)}, grid {grid}"

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        revision: str,
        layers: Sequence[int] | None,
        grid: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        released: bool = False,
    ) -> VisionTransformer:
        """Load ``config.json`` and weights from a folder; of a model of images and texts the part for images.

        Args:
            revision: Identifies the weights; part of the fingerprint.
            layers: Counted from 0, negative from the end; None is :func:`chosen_layers`' own.
            dtype: The type of weights and computation, whatever the file holds; part of the fingerprint.

        Raises:
            BackboneUnavailable: The folder holds no vision transformer that can be read exactly, its weights do not
                belong to its ``config.json``, ``layers`` are not in it, or there is too little memory.
        """
        with memory_advice(grid, device):
            model, missing = _load_model(folder, name, dtype)
            mean, std = _normalization(folder, str(model.config.model_type))
            return cls(
                getattr(model, "vision_model", model),
                name=name,
                revision=revision,
                layers=layers,
                grid=grid,
                mean=mean,
                std=std,
                device=device,
                released=released,
                missing=missing,
            )

    @torch.inference_mode()
    def features(self, rgb: NDArray[np.uint8]) -> AttentionFeatures:
        """One forward pass, ended after the last wanted layer.

        Args:
            rgb: uint8 [H, W, 3].

        Returns:
            One block per layer, queries and keys in 16-bit [heads, grid², d] on the device.

        Raises:
            FloatingPointError: The model gives non-finite values.
        """
        side = self.grid * self._patch
        normalized = (squash(rgb, side, area=self._released) / 255.0 - self._mean) / self._std
        pixels = torch.from_numpy(normalized).permute(2, 0, 1)[None]
        cells = self.grid**2
        blocks = []
        for layer in read_layers(lambda: self._run(pixels), self._layers):
            queries, keys = _stored(layer.queries[0, :, -cells:]), _stored(layer.keys[0, :, -cells:])
            special = _stored(layer.keys[0, :, :-cells]) if self._released else None
            blocks.append(AttentionBlock(queries, keys, layer.scale, 1.0 / len(self._layers), special))
        return AttentionFeatures(tuple(blocks), self.grid, self.grid)

    def _run(self, pixels: torch.Tensor) -> None:
        options = {"interpolate_pos_encoding": True} if self._resizes else {}  # others do it without being asked
        self._model(pixels.to(self.device, self._dtype), **options)


def chosen_layers(name: str, model_type: str, asked: Sequence[int] | None, count: int) -> list[int]:
    """The layers to read of a model with ``count`` layers, counted from 0, ascending.

    Where none is asked for, it is the middle layer: on a supervised ViT-Tiny the last one takes more than four times
    the clicks (see the evaluation's README). Of DINOv2 it is the last one, as in the paper (Sec. 13).

    Args:
        name: The model, for messages.
        model_type: Its kind, as transformers calls it.
        asked: Counted from 0, negative from the end.

    Raises:
        BackboneUnavailable: The model does not have these layers.
    """
    if asked is None:
        return [count - 1 if model_type.startswith("dinov2") else count // 2]
    if not asked or not all(-count <= layer < count for layer in asked):
        raise BackboneUnavailable(f"{name} has layers 0 to {count - 1}; asked for {list(asked)}")
    return sorted({layer % count for layer in asked})


def layers_in_words(layers: Sequence[int], count: int) -> str:
    """``layer 6 of 0 to 11``."""
    return f"layer {', '.join(map(str, layers))} of 0 to {count - 1}"


def described_layers(folder: Path, name: str, asked: Sequence[int] | None) -> str:
    """The layers that would be read of the model in a folder, in words; its weights are not loaded.

    Raises:
        BackboneUnavailable: As for :func:`chosen_layers`, or ``config.json`` does not tell the number of layers.
    """
    import transformers

    with loading(f"{name} in {folder}"):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = getattr(config, "vision_config", config)
        kind, count = str(config.model_type), int(config.num_hidden_layers)
    return layers_in_words(chosen_layers(name, kind, asked, count), count)


def _stored(tokens: torch.Tensor) -> torch.Tensor:
    """[heads, t, d] in 16-bit where that holds the values."""
    half = tokens.to(torch.float16).contiguous()
    return half if torch.isfinite(half).all() else tokens.float().contiguous()


def _load_model(folder: Path, name: str, dtype: torch.dtype) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model, and those of its tensors that the file lacks, by their names."""
    import transformers

    quiet_transformers()
    # Releases from 5 on take the file's own type where none is named, earlier ones know the older name only.
    precision = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    with loading(f"{name} in {folder}"):
        _check_kind(json.loads((folder / "config.json").read_text(encoding="utf-8")), name)
        model, report = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **{precision: dtype},
        )
    tensors = model.state_dict(keep_vars=True)
    return model, {key: tensors[key] for key in report["missing_keys"] if key in tensors}


def _check_kind(config: dict[str, Any], name: str) -> None:
    """Tell what transformers would not: why it does not know a model.

    Raises:
        BackboneUnavailable: A model of timm, of code of its own, or of a later release.
    """
    import transformers

    kind = config.get("model_type")
    if kind in transformers.CONFIG_MAPPING:
        return
    if kind is None:
        found = (
            f"a model of timm ({config['architecture']})"
            if "architecture" in config
            else "of a kind it does not tell"
        )
        raise BackboneUnavailable(
            f"{name} is {found}, not of transformers: config.json lacks model_type; name one of transformers, "
            "such as google/vit-base-patch16-224, with --model"
        )
    raise BackboneUnavailable(
        f"{name} is of the kind {kind}, which transformers {transformers.__version__} does not know: "
        + ("its own code is not run" if "auto_map" in config else "install a later release")
        + ", or name another model with --model"
    )


def _patch_size(config: Any, name: str) -> int:
    """Pixels per side of a patch; files write one number or two."""
    size = getattr(config, "patch_size", None)
    sides = set(size) if isinstance(size, (tuple, list)) else {size}
    side = sides.pop()
    if sides or not isinstance(side, int):
        raise BackboneUnavailable(
            f"{name} has no square patches (patch_size: {size}): not a vision transformer to read"
        )
    return side


def _normalization(folder: Path, model_type: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of the checkpoint; where it names none, those its family was trained with."""
    path = folder / "preprocessor_config.json"
    if path.is_file():
        config = json.loads(path.read_text())
        if "image_mean" in config and "image_std" in config:
            return config["image_mean"], config["image_std"]
    return (_HALF, _HALF) if model_type == "vit" else (_IMAGENET_MEAN, _IMAGENET_STD)
