"""Queries and keys where a network attends with them: rotary embeddings and whatever else it does are in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


@dataclass(frozen=True)
class SelfAttention:
    """What one layer attends with.

    Attributes:
        queries: [batch, heads, n, d], the model's dtype.
        keys: The same shape; heads that share keys have a copy each.
        scale: Factor of the dot product before the softmax.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Watched:
    """What a whole run of a network did.

    Attributes:
        layers: All self-attentions, in the order of the run.
        moved: For each layer and for its worst row the share of the attention, 0 to 1, that the softmax of queries
            and keys puts elsewhere than the network does.
        used: ``id`` of every tensor that took part → how many self-attentions had begun before.
    """

    layers: Sequence[SelfAttention]
    moved: Sequence[float]
    used: Mapping[int, int]


def read_layers(run: Callable[[], object], wanted: Sequence[int]) -> list[SelfAttention]:
    """Run a network until its last wanted layer attends.

    Nothing is changed in the network, and other threads may run it meanwhile.

    Args:
        run: Calls the network, in this thread.
        wanted: Numbers of layers, from 0, ascending.

    Returns:
        One for each wanted layer; fewer where the network has fewer.
    """
    reader = _Reader(wanted)
    with suppress(_PassEnded), reader:
        run()
    return reader.layers


def watch(run: Callable[[], object]) -> Watched:
    """Run a network to its end, and compare each layer's queries and keys with the attention that it computes."""
    watcher = _Watcher()
    with watcher:
        run()
    return Watched(watcher.layers, watcher.moved, watcher.used)


class _PassEnded(Exception):
    """Everything wanted of a network's pass has been read; the rest of it need not run."""


class _Calls(TorchFunctionMode):
    """Sees each call of a function of PyTorch in this thread.

    The models of transformers and diffusers leave their attention to ``scaled_dot_product_attention``.
    """

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            call = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
            if call["query"].ndim == 4 and call["query"].shape[2] == call["key"].shape[2]:  # not to other tokens
                self.attend(call)
        result = func(*args, **kwargs)
        self.called(args, kwargs, result)
        return result

    def attend(self, call: dict[str, Any]) -> None:
        raise NotImplementedError

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> None:
        pass


class _Reader(_Calls):
    def __init__(self, wanted: Sequence[int]) -> None:
        super().__init__()
        self.layers: list[SelfAttention] = []
        self._wanted = wanted
        self._number = 0

    def attend(self, call: dict[str, Any]) -> None:
        if self._number in self._wanted:
            self.layers.append(_read(call))
        if self._number == self._wanted[-1]:
            raise _PassEnded
        self._number += 1


class _Watcher(_Calls):
    def __init__(self) -> None:
        super().__init__()
        self.layers: list[SelfAttention] = []
        self.moved: list[float] = []
        self.used: dict[int, int] = {}

    def attend(self, call: dict[str, Any]) -> None:
        self.layers.append(_read(call))
        self.moved.append(_moved(self.layers[-1], call))

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> None:
        if isinstance(result, torch.Tensor):  # asking for a shape or a dtype does not use a tensor
            self._use([*args, *kwargs.values()])

    def _use(self, values: Sequence[Any]) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                self.used.setdefault(id(value), len(self.layers))
            elif isinstance(value, (tuple, list)):
                self._use(value)


def _read(call: dict[str, Any]) -> SelfAttention:
    queries, keys, scale = call["query"], call["key"], call.get("scale")
    copies = queries.shape[1] // keys.shape[1]
    return SelfAttention(
        queries,
        keys if copies == 1 else keys.repeat_interleave(copies, dim=1),
        queries.shape[-1] ** -0.5 if scale is None else float(scale),
    )


def _moved(layer: SelfAttention, call: dict[str, Any]) -> float:
    """Half the absolute difference of the two matrices, for the worst row: 0 to 1."""
    logits = layer.scale * layer.queries.float() @ layer.keys.float().transpose(2, 3)
    return _worst_row(logits.softmax(dim=-1), _probabilities(**call))


def _worst_row(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().sum(dim=-1).max()) / 2


def _probabilities(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """The network's own attention in 32-bit: what the same call answers where each token's value is its own axis."""
    n = value.shape[2]
    axes = torch.eye(n, device=value.device).expand(*value.shape[:2], n, n)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    return torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), axes, attn_mask=attn_mask, **options
    )
