"""The file of one encoded photograph: safetensors that name and check their contents."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures
from m2n2_backend.m2n2.state import EncodedImage

SUFFIX = ".safetensors"
"""Ending of the files."""

_FORMAT = "m2n2-encoded-1"


def file_name(key: str, fingerprint: str) -> str:
    """The name of a photograph's file. Each model, and each version of the format, has a folder of its own.

    So servers of two versions can share one folder.
    """
    own = hashlib.sha256(f"{_FORMAT} {fingerprint}".encode()).hexdigest()[:16]
    return f"{own}/{key[:2]}/{key}{SUFFIX}"


def pack(encoded: EncodedImage, key: str, fingerprint: str) -> bytes:
    """The bytes of an encoded photograph's file."""
    tensors = {"guide": torch.from_numpy(np.require(encoded.guide, requirements=["C", "W"]))}
    for index, block in enumerate(encoded.features.blocks):
        tensors[f"queries.{index}"] = block.queries.contiguous().cpu()
        tensors[f"keys.{index}"] = block.keys.contiguous().cpu()
        if block.special is not None:
            tensors[f"special.{index}"] = block.special.contiguous().cpu()
    header = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "key": key,
        "size": encoded.size,
        "grid": (encoded.features.height, encoded.features.width),
        "scales": [block.scale for block in encoded.features.blocks],
        "weights": [block.weight for block in encoded.features.blocks],
    }
    return save(tensors, {"header": json.dumps(header), "checksum": _checksum(json.dumps(header), tensors)})


def unpack(data: bytes, key: str, fingerprint: str) -> EncodedImage:
    """Read what :func:`pack` wrote.

    Raises:
        ValueError: The file is damaged, or belongs to another photograph, model or version; the message says which.
    """
    try:
        tensors = load(data)
        metadata = _metadata(data)
        text = metadata["header"]
        header = json.loads(text)
        if header["format"] != _FORMAT or header["fingerprint"] != fingerprint or header["key"] != key:
            raise ValueError("it was written for another image, model or version")
        if metadata["checksum"] != _checksum(text, tensors):
            raise ValueError("its checksum is wrong")
        blocks = tuple(
            AttentionBlock(
                tensors[f"queries.{index}"], tensors[f"keys.{index}"], scale, weight, tensors.get(f"special.{index}")
            )
            for index, (scale, weight) in enumerate(zip(header["scales"], header["weights"], strict=True))
        )
        height, width = header["size"]
        features = AttentionFeatures(blocks, *header["grid"])
        if not features.is_finite:
            raise ValueError("its features are not finite")
        return EncodedImage((height, width), features, tensors["guide"].numpy())
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error


def _metadata(data: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file, which `load` leaves out: after 8 bytes of length comes JSON."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length])["__metadata__"])


def _checksum(header: str, tensors: dict[str, torch.Tensor]) -> str:
    """CRC-32 of header and contents. It detects damage, not malice."""
    value = zlib.crc32(header.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].contiguous().view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"
