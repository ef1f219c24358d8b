from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import plain_embedding, save_stable_diffusion

from m2n2_backend.backbones.empty_prompt import empty_prompt_embedding
from m2n2_backend.errors import BackboneUnavailable


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("weights") / "sd2")


def test_the_empty_prompt_is_the_text_encoders_and_is_kept(folder: Path, tmp_path: Path) -> None:
    embedding = empty_prompt_embedding(folder, tmp_path / "new")
    torch.testing.assert_close(embedding, plain_embedding(folder))
    [file] = (tmp_path / "new").iterdir()
    assert file.suffix == ".safetensors"
    assert torch.equal(empty_prompt_embedding(folder, tmp_path / "new"), embedding)


def test_a_kept_empty_prompt_is_read_without_the_text_encoder(folder: Path, tmp_path: Path) -> None:
    empty_prompt_embedding(folder, tmp_path)
    [file] = tmp_path.iterdir()
    marked = torch.full((1, 77, 16), 42.0)
    save_file({"embedding": marked}, file)
    assert torch.equal(empty_prompt_embedding(folder, tmp_path), marked)


def test_a_damaged_empty_prompt_is_made_anew(folder: Path, tmp_path: Path) -> None:
    embedding = empty_prompt_embedding(folder, tmp_path)
    [file] = tmp_path.iterdir()
    for damage in (b"", b"nonsense", file.read_bytes()[:-100]):
        file.write_bytes(damage)
        assert torch.equal(empty_prompt_embedding(folder, tmp_path), embedding)
        assert len(file.read_bytes()) > 4 * embedding.numel()


def test_a_cache_folder_that_cannot_be_written_costs_a_warning_only(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    embedding = empty_prompt_embedding(folder, tmp_path / "file" / "cache")
    assert embedding.shape == (1, 77, 16)
    assert "cannot keep the empty prompt" in caplog.text


def test_a_text_encoder_that_cannot_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "sd2")
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BackboneUnavailable, match=r"text encoder in .* cannot be loaded") as caught:
        empty_prompt_embedding(folder, tmp_path)
    assert "\n" not in str(caught.value)
