"""Weights that do not belong to their config would be random numbers: they are refused where they have a part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_vits import save_family
from safetensors.torch import load_file, save_file
from tiny_models import plain_embedding, save_stable_diffusion

from m2n2_backend.backbones.empty_prompt import empty_prompt_embedding
from m2n2_backend.backbones.stable_diffusion import StableDiffusion
from m2n2_backend.backbones.vit import VisionTransformer
from m2n2_backend.errors import BackboneUnavailable

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")


def without(path: Path, dropped: Callable[[str], bool]) -> None:
    tensors = {name: tensor for name, tensor in load_file(path).items() if not dropped(name)}
    save_file(tensors, path, metadata={"format": "pt"})


def load_vit(folder: Path, layers: list[int] | None = None) -> VisionTransformer:
    return VisionTransformer.load(folder, name="tiny", revision="r", layers=layers, grid=4, device=CPU)


def load_sd(folder: Path) -> StableDiffusion:
    return StableDiffusion.load(folder, name="sd2", grid=8, device=CPU, cache_dir=folder / "cache")


@pytest.mark.parametrize("family", ["ViT", "Dinov2", "CLIPVision"])
def test_a_config_beside_weights_of_another_model_is_refused(family: str, tmp_path: Path) -> None:
    save_family(family, tmp_path)
    save_file({"some.weight": torch.ones(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneUnavailable, match=r"lacks the weights .* and \d+ more") as caught:
        load_vit(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_size_are_refused_in_one_line(tmp_path: Path) -> None:
    save_family("ViT", tmp_path)
    path = tmp_path / "model.safetensors"
    shapes = {
        name: tensor[..., :8].contiguous() if tensor.ndim == 2 else tensor for name, tensor in load_file(path).items()
    }
    save_file(shapes, path, metadata={"format": "pt"})
    with pytest.raises(BackboneUnavailable, match=r"tiny in .* cannot be loaded") as caught:
        load_vit(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    save_family("ViT", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor * float("nan") if "norm" in name else tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BackboneUnavailable, match="not finite"):
        load_vit(tmp_path)


def test_a_pickle_of_code_is_refused_without_the_advice_to_run_it(tmp_path: Path) -> None:
    save_family("ViT", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BackboneUnavailable, match="cannot be loaded, fetch it again") as caught:
        load_vit(tmp_path)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["embeddings.position_embedding", "embeddings.cls_token", ".1.", "layernorm_before"])
def test_a_weight_that_a_layer_needs_may_not_be_missing(tmp_path: Path, lost: str) -> None:
    save_family("ViT", tmp_path)
    without(tmp_path / "model.safetensors", lambda name: lost in name)
    with pytest.raises(BackboneUnavailable, match="lacks the weights"):
        load_vit(tmp_path, [1])


def test_weights_after_the_last_layer_that_is_read_may_be_missing(tmp_path: Path) -> None:
    save_family("ViT", tmp_path)
    before = load_vit(tmp_path, [1])
    after = ("pooler", ".2.", "layernorm.weight", "layernorm.bias", ".1.output", ".1.intermediate")
    without(tmp_path / "model.safetensors", lambda name: any(part in name for part in after))
    image = torch.randint(0, 256, (20, 30, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    assert torch.equal(load_vit(tmp_path, [1]).features(image).blocks[0].keys, before.features(image).blocks[0].keys)
    with pytest.raises(BackboneUnavailable, match="lacks the weights"):
        load_vit(tmp_path, [2])


def test_a_classifiers_file_serves_the_model_in_it(tmp_path: Path) -> None:
    from random_vits import SIZES
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(ViTConfig(patch_size=4, intermediate_size=32, **SIZES)).save_pretrained(tmp_path)
    assert load_vit(tmp_path).grid == 4


def test_of_images_and_texts_only_the_images_part_is_needed(tmp_path: Path) -> None:
    save_family("CLIP", tmp_path)
    without(tmp_path / "model.safetensors", lambda name: name.startswith("text_model") or "projection" in name)
    assert load_vit(tmp_path).grid == 4
    without(tmp_path / "model.safetensors", lambda name: "position_embedding" in name)
    with pytest.raises(BackboneUnavailable, match=r"lacks the weights .*position_embedding"):
        load_vit(tmp_path)


@pytest.mark.parametrize(
    ("part", "file", "lost"),
    [
        ("unet", "diffusion_pytorch_model.safetensors", "up_blocks.3.attentions.1.transformer_blocks.0.attn1.to_k"),
        ("unet", "diffusion_pytorch_model.safetensors", "time_embedding"),
        ("vae", "diffusion_pytorch_model.safetensors", "encoder.conv_in"),
        ("vae", "diffusion_pytorch_model.safetensors", "quant_conv"),
        ("text_encoder", "model.safetensors", "layers.1."),
        ("text_encoder", "model.safetensors", "final_layer_norm"),
        ("text_encoder", "model.safetensors", "token_embedding"),
    ],
)
def test_a_weight_that_stable_diffusion_needs_may_not_be_missing(
    tmp_path: Path, part: str, file: str, lost: str
) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    without(folder / part / file, lambda name: lost in name)
    with pytest.raises(BackboneUnavailable, match=rf"{part.split('_')[0]}.*lack") as caught:
        load_sd(folder)
    assert "\n" not in str(caught.value)


def test_the_vaes_decoder_may_be_missing(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    without(
        folder / "vae/diffusion_pytorch_model.safetensors", lambda name: name.startswith(("decoder", "post_quant"))
    )
    assert load_sd(folder).grid == 8


def test_a_vae_with_the_names_of_the_first_releases_is_whole(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    former = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    tensors = load_file(path)
    image = torch.randint(0, 256, (20, 30, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    expected = load_sd(folder).features(image).blocks[0].keys
    for new, old in former.items():
        tensors = {name.replace(new, old) if "attentions" in name else name: value for name, value in tensors.items()}
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    assert torch.equal(load_sd(folder).features(image).blocks[0].keys, expected)


@pytest.mark.parametrize("where", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("other", ["<|endoftext|>", None])
@pytest.mark.parametrize("written", ["!", {"content": "!", "lstrip": False, "normalized": False}])
def test_the_padding_of_stable_diffusion_2_is_token_0_whichever_file_names_it(
    tmp_path: Path, where: str, other: str | None, written: object
) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    vocabulary = json.loads((folder / "tokenizer/vocab.json").read_text())
    first = next(token for token, number in vocabulary.items() if number == 0)
    vocabulary["!"] = vocabulary.pop(first)
    (folder / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / "tokenizer" / name
        marks = {**json.loads(path.read_text()), "pad_token": written if name == where else other}
        path.write_text(json.dumps({key: mark for key, mark in marks.items() if mark is not None}))
    start, end = len(vocabulary) - 2, len(vocabulary) - 1
    torch.testing.assert_close(
        empty_prompt_embedding(folder, tmp_path / "cache"), embedding_of(folder, [start, end] + [0] * 75)
    )


def test_the_padding_of_stable_diffusion_1_is_the_end_token(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "sd", "sd1")
    expected = embedding_of(folder, [52] + [53] * 76)
    torch.testing.assert_close(empty_prompt_embedding(folder, tmp_path / "cache"), expected)
    torch.testing.assert_close(plain_embedding(folder), expected)


@pytest.mark.parametrize("left", [{}, {"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}])
def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path: Path, left: dict[str, int]) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    (folder / "tokenizer/vocab.json").write_text(json.dumps(left))
    with pytest.raises(BackboneUnavailable, match=r"tokenizer in .* (knows|cannot be loaded)"):
        empty_prompt_embedding(folder, tmp_path / "cache")
    (folder / "tokenizer/vocab.json").unlink()
    with pytest.raises(BackboneUnavailable, match=r"tokenizer in .* (knows|cannot be loaded)"):
        empty_prompt_embedding(folder, tmp_path / "cache")


def test_a_tokenizer_without_a_length_of_its_own_fills_the_text_encoders(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    expected = plain_embedding(folder)
    path = folder / "tokenizer/tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["model_max_length"]
    path.write_text(json.dumps(config))
    torch.testing.assert_close(empty_prompt_embedding(folder, tmp_path / "cache"), expected)


@torch.no_grad()
def embedding_of(folder: Path, tokens: list[int]) -> torch.Tensor:
    from transformers import CLIPTextModel

    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    return encoder(torch.tensor([tokens])).last_hidden_state
