"""CLAP: the audio tower against a recording of the upstream implementation, the text tower against transformers.

Exports and texts use small models of the same layers; smoke_tests/ export the official audio tower.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

from fixtures.models import family_named
from fixtures.models.parts.clap import AUDIO_MODELS, EMBEDDING, PADDING, ClapAudioTower, ClapModel, ClapTextTower
from fixtures.models.parts.htsat import HtsAt, SpectrogramInput, merging_order, shift_mask, stretch_matrix, window_order
from fixtures.models.parts.mel import frames_of
from fixtures.models.parts.upstream_clap import UpstreamAudioTower, UpstreamTextTower
from fixtures.synthetic.weights import drawn_tensor, generator

REFERENCE = Path(__file__).parent / "reference"
KEYS = json.loads((REFERENCE / "clap_htsat_tiny.keys.json").read_text())
SMALL_ROBERTA = RobertaConfig(
    vocab_size=1000,
    hidden_size=96,
    num_hidden_layers=3,
    num_attention_heads=12,
    intermediate_size=384,
    max_position_embeddings=514,
    type_vocab_size=1,
    pad_token_id=PADDING,
    layer_norm_eps=1e-5,
)

Tower = TypeVar("Tower", ClapAudioTower, ClapTextTower)


def wave(name: str, batch: int, samples: int = 480_000) -> NDArray[np.float32]:
    """The waveforms of a recording: six tones plus a little noise, from its name."""
    rng = generator(f"wave:{name}:{batch}:{samples}")
    seconds = np.arange(samples) / 48_000
    out = np.zeros((batch, samples), np.float32)
    for index in range(batch):
        for _ in range(6):
            level, hertz, phase = rng.uniform(0.02, 0.15), rng.uniform(80, 6000), rng.uniform(0, 6.28)
            out[index] += (level * np.sin(2 * np.pi * hertz * seconds + phase)).astype(np.float32)
        out[index] += 0.01 * rng.standard_normal(samples).astype(np.float32)
    return out


@pytest.fixture(scope="module")
def recording() -> Any:
    return np.load(REFERENCE / "clap_audio_10s.npz")


class AudioPart(nn.Module):
    """The part of a CLAP model that the audio tower is made from, with the model's own keys."""

    def __init__(self, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.audio_branch = HtsAt(width, depths)
        width = self.audio_branch.num_features
        self.audio_projection = nn.Sequential(nn.Linear(width, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING))


class TextPart(nn.Module):
    """The part of a CLAP model that the text tower is made from: a RoBERTa of three layers, narrow."""

    def __init__(self) -> None:
        super().__init__()
        width = SMALL_ROBERTA.hidden_size
        self.text_branch = RobertaModel(SMALL_ROBERTA)
        self.text_projection = nn.Sequential(nn.Linear(width, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING))


def loaded(build: Callable[[], nn.Module], kept: Container[str], seed: int = 0) -> ClapModel:
    """A part with weights from a seed, and the tables `kept` as the constructor makes them.

    Built without memory, so that everything that a tower needs comes from the checkpoint.
    """
    with torch.device("meta"):
        module = build()
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    weights = {key: torch.as_tensor(drawn_tensor(key, shapes[key], seed)) for key in shapes if key not in kept}
    if weights.keys() != shapes.keys():
        weights |= {key: value for key, value in build().state_dict().items() if key in kept}
    module.load_state_dict(weights, strict=True, assign=True)
    return cast(ClapModel, module.eval())


def is_table(key: str) -> bool:
    """Whether an entry follows from the architecture: a family's `constants`."""
    return key.endswith(family_named("clap").constants)


@pytest.fixture(scope="module")
def audio(recording: Any) -> ClapAudioTower:
    kept = recording["kept_keys"].tolist()
    return ClapAudioTower(loaded(lambda: AudioPart(*AUDIO_MODELS["HTSAT-tiny"]), kept, int(recording["seed"]))).eval()


@pytest.fixture(scope="module")
def text_part() -> ClapModel:
    return loaded(TextPart, ())


@pytest.fixture(scope="module")
def text(text_part: ClapModel) -> ClapTextTower:
    return ClapTextTower(text_part).eval()


@pytest.fixture(scope="module")
def ids() -> Tensor:
    """A sentence as long as there is room, and two padded ones; the shortest holds two tokens."""
    tokens = torch.from_numpy(generator("ids").integers(3, SMALL_ROBERTA.vocab_size, (3, 77)))
    tokens[:, 0] = 0
    tokens[1, 40:] = PADDING
    tokens[2, 2:] = PADDING
    return tokens


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def cast_copy(tower: Tower, dtype: torch.dtype) -> Tower:
    """A tower in another dtype; the layers that it shares with the model stay as they are."""
    copied = copy.deepcopy(tower)
    copied.cast(dtype)
    return copied


def embedded(tower: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        output: Tensor = tower(inputs)
    return output


def test_keys_are_those_of_the_official_checkpoint(recording: Any) -> None:
    with torch.device("meta"):
        model = ClapModel("HTSAT-tiny").state_dict()
        part = AudioPart(*AUDIO_MODELS["HTSAT-tiny"]).state_dict()
    assert {key: [list(value.shape), str(value.dtype)] for key, value in model.items()} == KEYS
    assert {key: list(value.shape) for key, value in part.items()} == {key: KEYS[key][0] for key in part}
    assert {key for key in model if is_table(key)} == set(recording["kept_keys"].tolist())


def test_base_model_is_wider_and_deeper() -> None:
    with torch.device("meta"):
        keys = ClapModel("HTSAT-base").state_dict()
    assert keys["audio_branch.patch_embed.proj.weight"].shape == (128, 1, 4, 4)
    assert keys["audio_branch.layers.2.blocks.11.attn_mask"].shape == (4, 64, 64)
    assert keys["audio_branch.layers.3.blocks.1.attn.relative_position_bias_table"].shape == (225, 32)
    assert keys["audio_branch.norm.weight"].shape == (1024,)
    assert keys["audio_projection.0.weight"].shape == (512, 1024)
    assert "audio_branch.layers.3.blocks.1.attn_mask" not in keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_audio_output_is_that_of_upstream(audio: ClapAudioTower, recording: Any, dtype: torch.dtype) -> None:
    waveform = torch.from_numpy(wave(str(recording["input_name"]), 1)).to(dtype)
    output = embedded(cast_copy(audio, dtype), waveform)
    assert output.dtype == dtype
    # The recording is float32, and so were the tables and folded constants once.
    assert relative_error(output, torch.from_numpy(recording["audio_embedding"])) < 2e-6


CHANGED = ["spectrogram.log_mel.filters", "encoder.steps.1.qkv.weight", "encoder.steps.3.bias", "projection.0.weight"]


@pytest.mark.parametrize("name", CHANGED)
def test_changed_weight_shows_in_the_error(audio: ClapAudioTower, recording: Any, name: str) -> None:
    changed = copy.deepcopy(audio)
    with torch.no_grad():
        {**dict(changed.named_parameters()), **dict(changed.named_buffers())}[name].mul_(1.001)
    output = embedded(changed, torch.from_numpy(wave(str(recording["input_name"]), 1)))
    assert relative_error(output, torch.from_numpy(recording["audio_embedding"])) > 4e-6


def test_fp16_keeps_the_spectrogram_in_float32(audio: ClapAudioTower) -> None:
    waveform = torch.from_numpy(wave("loud and silent", 2)) * torch.tensor([[1.0], [0.0]])
    half = cast_copy(audio, torch.float16)
    assert {buffer.dtype for buffer in half.spectrogram.buffers()} == {torch.float32}
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    for found, expected in zip(embedded(half, waveform), embedded(audio, waveform), strict=True):
        assert found.dtype == torch.float16
        assert relative_error(found, expected) < 5e-3


def test_text_tower_is_roberta_of_transformers(text: ClapTextTower, text_part: ClapModel, ids: Tensor) -> None:
    roberta: nn.Module = RobertaModel(SMALL_ROBERTA)
    roberta.load_state_dict(text_part.text_branch.state_dict())
    with torch.inference_mode():
        states = roberta.eval()(input_ids=ids, attention_mask=(ids != PADDING).long())
        expected = text_part.text_projection(states.pooler_output)
    for found, row in zip(embedded(text, ids), expected, strict=True):
        assert relative_error(found, row) < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-5), (torch.float16, 1e-2)], ids=str)
def test_text_tower_computes_in_any_dtype(text: ClapTextTower, ids: Tensor, dtype: torch.dtype, limit: float) -> None:
    output = embedded(cast_copy(text, dtype), ids[1:])
    assert output.dtype == dtype
    assert relative_error(output, embedded(text, ids[1:])) < limit


def test_padding_changes_nothing(text: ClapTextTower, text_part: ClapModel, ids: Tensor) -> None:
    short = ClapTextTower(text_part, tokens=40).eval()
    assert relative_error(embedded(short, ids[1:2, :40]), embedded(text, ids[1:2])) < 1e-5


def test_stretch_is_the_upstream_resize() -> None:
    spectrogram = torch.randn(2, 64, 1001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    resized = nn.functional.interpolate(spectrogram[:, None], (64, 1024), mode="bicubic", align_corners=True)[:, 0]
    torch.testing.assert_close(spectrogram @ stretch_matrix(1001), resized)
    assert torch.equal(stretch_matrix(1024), torch.eye(1024, dtype=torch.float64))


def test_waveform_of_too_many_frames_is_refused() -> None:
    net = HtsAt(32, (2, 2, 2, 2))
    assert frames_of(480 * 1023) == 1024
    with torch.inference_mode():
        assert SpectrogramInput(net, 480 * 1023).eval()(torch.zeros(1, 480 * 1023)).shape == (1, 64, 1024)
    with pytest.raises(ValueError, match="samples=491520 make 1025 frames, expected at most 1024"):
        SpectrogramInput(net, 480 * 1024)


def test_masks_separate_windows_that_wrap_around() -> None:
    order = window_order(16, 4).reshape(4, 64)
    assert order[0, 0] == 4 * 16 + 4
    assert set(order[3, [0, 4, 32, 36]].tolist()) == {12 * 16 + 12, 12 * 16, 12, 0}
    mask = shift_mask(16)
    assert not mask[0].any()
    assert mask[3, 0].unique(return_counts=True)[1].tolist() == [48, 16]
    assert set(mask.unique().tolist()) == {-100.0, 0.0}


def test_four_neighbours_are_merged_column_by_column() -> None:
    assert merging_order(16)[:8].tolist() == [0, 16, 1, 17, 2, 18, 3, 19]
    assert merging_order(64).sort().values.equal(torch.arange(64 * 64))


# --- the truth of the gate ---


def test_text_tower_is_that_of_transformers(text: ClapTextTower, text_part: ClapModel, ids: Tensor) -> None:
    roberta = copy.deepcopy(text_part.text_branch)
    embeddings = roberta.embeddings
    for name in dict(embeddings.named_buffers(recurse=False)):
        setattr(embeddings, name, None)  # as `ClapModel` leaves them
    original = UpstreamTextTower(roberta, text_part.text_projection, PADDING).eval()
    assert relative_error(embedded(text, ids), embedded(original, ids)) < 1e-5


def test_audio_tower_is_that_of_transformers() -> None:
    depths = (2, 2, 2, 2)
    tables = [key for key in AudioPart(32, depths).state_dict() if is_table(key)]
    part = loaded(lambda: AudioPart(32, depths), tables).double()
    original = UpstreamAudioTower(part.state_dict(), 32, depths).eval().double()
    tower = cast_copy(ClapAudioTower(copy.deepcopy(part).float(), samples=48_000).eval(), torch.float64)
    waveform = torch.from_numpy(wave("loud and silent", 1)).double()[:, :48_000]
    assert relative_error(embedded(tower, waveform), embedded(original, waveform)) < 1e-6
