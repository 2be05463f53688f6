"""CLIP against the outputs of the upstream implementation, recorded for weights made from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fixtures.models import Problem, family_named
from fixtures.models.parts.clip import ClipModel, ClipTextTower
from fixtures.spec import Variant
from fixtures.subject import load_model
from fixtures.synthetic.files import save_checkpoint
from meta_tests.test_models_midas import REFERENCE, image, state_dict_of

CLIP = family_named("clip")
IMAGE = Variant(name="i", family="clip", model="ViT-B-32", tower="image", height=224, width=224)
TEXT = Variant(name="t", family="clip", model="ViT-B-32", tower="text", tokens=77)
OUTPUTS = {"image_embedding": IMAGE, "text_embedding": TEXT}


@pytest.fixture(scope="module")
def recording() -> Any:
    return np.load(REFERENCE / "clip_image_224.npz")


def loaded(variant: Variant, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.device("meta"):
        module = CLIP.build(variant)
    weights = {key: value.clone() for key, value in state_dict_of("clip_vit_b_32", 0).items()}
    module.load_state_dict(weights, strict=True, assign=True)
    tower = CLIP.finalize(module.eval().requires_grad_(False), variant)
    CLIP.cast(tower, dtype)
    return tower


def relative_error(module: nn.Module, recording: Any, name: str, dtype: torch.dtype = torch.float32) -> float:
    shape = tuple(int(length) for length in recording["input_shape"])
    frames = torch.from_numpy(image(str(recording["input_name"]), shape)).to(dtype)
    given = frames if name == "image_embedding" else torch.from_numpy(recording["tokens"])
    with torch.inference_mode():
        output = module(given).double().numpy()
    expected = recording[name].astype(np.float64)
    return float(np.linalg.norm(output - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", OUTPUTS)
def test_output_is_that_of_upstream(recording: Any, name: str, dtype: torch.dtype) -> None:
    """The recording is float32; random weights amplify its roundings to 1e-6."""
    assert relative_error(loaded(OUTPUTS[name], dtype), recording, name, dtype) < 1e-5


def test_official_archive_gives_output_of_upstream(recording: Any, tmp_path: Path) -> None:
    """As OpenAI's archive is written and read."""
    archive = tmp_path / "ViT-B-32.pt"
    save_checkpoint(state_dict_of("clip_vit_b_32", 0), archive, "torchscript")
    for name, variant in OUTPUTS.items():
        assert relative_error(load_model(variant, archive), recording, name) < 1e-4
    archive.unlink()  # 605 MB, which pytest would keep


@pytest.mark.parametrize("name", OUTPUTS)
def test_changed_weight_shows_in_the_error(recording: Any, name: str) -> None:
    module = loaded(OUTPUTS[name])
    with torch.no_grad():
        module.get_parameter("transformer.resblocks.0.mlp.c_fc.weight").mul_(1.01)
    assert relative_error(module, recording, name, torch.float32) > 1e-4


def test_end_of_text_is_first_of_highest_tokens() -> None:
    with torch.device("meta"):
        model = CLIP.build(TEXT)
    assert isinstance(model, ClipModel)
    tower = ClipTextTower(model)
    tower.descending = torch.arange(76, -1, -1).float()
    rows = torch.randint(0, 49408, (200, 77), generator=torch.Generator().manual_seed(0))
    rows[:50] %= 3  # many highest ones
    rows[50] = 0
    rows[51] = 49407
    is_end = tower._is_end(rows)
    assert torch.equal(is_end.sum(dim=-1), torch.ones(200, dtype=torch.int64))
    highest = [int(np.argmax(row)) for row in rows.numpy()]
    assert is_end.int().argmax(dim=-1).tolist() == highest


@pytest.mark.parametrize(("size", "patches"), [((224, 224), 49), ((336, 336), 100), ((448, 320), 140)], ids=str)
def test_keys_fit_any_size(size: tuple[int, int], patches: int) -> None:
    variant = IMAGE.model_copy(update={"height": size[0], "width": size[1]})
    module = loaded(variant)
    assert module.get_buffer("position").shape == (1, patches, 768)
    with torch.inference_mode():
        assert tuple(module(torch.zeros(1, 3, *size)).shape) == CLIP.output_shape(variant, 1)


@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_widths_of_published_models(model: str) -> None:
    with torch.device("meta"):
        keys = CLIP.build(IMAGE.model_copy(update={"model": model})).state_dict()
    patch = int(model[-2:])
    assert keys["visual.conv1.weight"].shape[2:] == (patch, patch)
    assert keys["visual.positional_embedding"].shape[0] == (224 // patch) ** 2 + 1
    assert keys["text_projection"].shape[1] == keys["visual.proj"].shape[1]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens": 64}, Problem("tokens", 64, "77, the context length of ViT-B-32", "Write 77.")),
        ({"tower": None}, Problem("tower", None, "one of image, text for clip")),
        ({"tower": "audio"}, Problem("tower", "audio", "one of image, text for clip")),
        ({"model": "RN50"}, Problem("model", "RN50", "one of ViT-B-32, ViT-B-16, ViT-L-14")),
    ],
    ids=str,
)
def test_unknown_variant_is_a_problem(changes: dict[str, Any], problem: Problem) -> None:
    assert CLIP.problem(TEXT.model_copy(update=changes)) == problem


def test_tower_with_size_of_another_kind_is_a_problem() -> None:
    problem = CLIP.problem(TEXT.model_copy(update={"tower": "image"}))
    assert problem
    assert problem.key == "tokens"
    assert "`height` and `width` instead" in problem.rule


def test_keys_are_those_of_the_official_checkpoint() -> None:
    with torch.device("meta"):
        keys = CLIP.build(IMAGE).state_dict()
    assert keys.keys() == state_dict_of("clip_vit_b_32", 0).keys()
