"""CLAP: the audio tower against a recording of the upstream implementation, the text tower against transformers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import RobertaModel

from fixtures.models.parts.clap import PADDING, ClapAudioTower, ClapModel, ClapTextTower, roberta_base
from fixtures.models.parts.htsat import HtsAt, SpectrogramInput, merging_order, shift_mask, stretch_matrix, window_order
from fixtures.models.parts.mel import frames_of
from fixtures.synthetic.weights import generator, synthetic_tensor

REFERENCE = Path(__file__).parent / "reference"
KEYS = json.loads((REFERENCE / "clap_htsat_tiny.keys.json").read_text())
# Without a kernel for CUDA, or control flow: none of them belongs in an exported file.
UNWANTED = {"ArgMax", "STFT", "DFT", "MelWeightMatrix", "Loop", "If", "Scan", "NonZero", "ScatterND", "CumSum"}

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


@pytest.fixture(scope="module")
def weights(recording: Any) -> dict[str, Tensor]:
    """A checkpoint: tables as a model is built with them, the rest from the seed."""
    kept = set(recording["kept_keys"].tolist())
    built = ClapModel("HTSAT-tiny").state_dict()
    assert kept <= set(built)
    seed = int(recording["seed"])
    return {
        key: value if key in kept else torch.as_tensor(synthetic_tensor(key, tuple(value.shape), seed))
        for key, value in built.items()
    }


@pytest.fixture(scope="module")
def model(weights: dict[str, Tensor]) -> ClapModel:
    """Built without memory, so that whatever a tower needs comes from the checkpoint."""
    with torch.device("meta"):
        loaded = ClapModel("HTSAT-tiny")
    loaded.load_state_dict(weights, strict=True, assign=True)
    return loaded.eval()


@pytest.fixture(scope="module")
def audio(model: ClapModel) -> ClapAudioTower:
    return ClapAudioTower(model).eval()


@pytest.fixture(scope="module")
def text(model: ClapModel) -> ClapTextTower:
    return ClapTextTower(model).eval()


@pytest.fixture(scope="module")
def ids() -> Tensor:
    """A sentence as long as there is room, and two padded ones; the shortest holds two tokens."""
    tokens = torch.from_numpy(generator("ids").integers(3, 50_000, (3, 77)))
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


def test_it_has_the_keys_of_the_official_checkpoint(weights: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        empty = ClapModel("HTSAT-tiny").state_dict()
    for state in (weights, empty):
        assert {key: [list(value.shape), str(value.dtype)] for key, value in state.items()} == KEYS


def test_the_base_model_is_wider_and_deeper() -> None:
    with torch.device("meta"):
        keys = ClapModel("HTSAT-base").state_dict()
    assert keys["audio_branch.patch_embed.proj.weight"].shape == (128, 1, 4, 4)
    assert keys["audio_branch.layers.2.blocks.11.attn_mask"].shape == (4, 64, 64)
    assert keys["audio_branch.layers.3.blocks.1.attn.relative_position_bias_table"].shape == (225, 32)
    assert keys["audio_branch.norm.weight"].shape == (1024,)
    assert keys["audio_projection.0.weight"].shape == (512, 1024)
    assert "audio_branch.layers.3.blocks.1.attn_mask" not in keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_is_the_upstream_function(audio: ClapAudioTower, recording: Any, dtype: torch.dtype) -> None:
    waveform = torch.from_numpy(wave(str(recording["input_name"]), 1)).to(dtype)
    output = embedded(cast_copy(audio, dtype), waveform)
    assert output.dtype == dtype
    # The recording is float32, and so were the tables and folded constants once.
    assert relative_error(output, torch.from_numpy(recording["audio_embedding"])) < 2e-6


CHANGED = ["spectrogram.log_mel.filters", "encoder.steps.1.qkv.weight", "encoder.steps.3.bias", "projection.0.weight"]


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_weight_is_seen(audio: ClapAudioTower, recording: Any, name: str) -> None:
    changed = copy.deepcopy(audio)
    with torch.no_grad():
        {**dict(changed.named_parameters()), **dict(changed.named_buffers())}[name].mul_(1.001)
    output = embedded(changed, torch.from_numpy(wave(str(recording["input_name"]), 1)))
    assert relative_error(output, torch.from_numpy(recording["audio_embedding"])) > 4e-6


def test_in_fp16_the_spectrogram_stays_in_float32(audio: ClapAudioTower) -> None:
    waveform = torch.from_numpy(wave("loud and silent", 2)) * torch.tensor([[1.0], [0.0]])
    half = cast_copy(audio, torch.float16)
    assert {buffer.dtype for buffer in half.spectrogram.buffers()} == {torch.float32}
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    for found, expected in zip(embedded(half, waveform), embedded(audio, waveform), strict=True):
        assert found.dtype == torch.float16
        assert relative_error(found, expected) < 5e-3


def test_the_text_tower_is_transformers_roberta(
    text: ClapTextTower, model: ClapModel, weights: dict[str, Tensor], ids: Tensor
) -> None:
    prefix = "text_branch."
    roberta: nn.Module = RobertaModel(roberta_base())
    roberta.load_state_dict({key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)})
    with torch.inference_mode():
        pooled = roberta.eval()(input_ids=ids, attention_mask=(ids != PADDING).long()).pooler_output
        expected = model.text_projection(pooled)
    for found, row in zip(embedded(text, ids), expected, strict=True):
        assert relative_error(found, row) < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-5), (torch.float16, 1e-2)], ids=str)
def test_the_text_tower_computes_in_any_dtype(
    text: ClapTextTower, ids: Tensor, dtype: torch.dtype, limit: float
) -> None:
    output = embedded(cast_copy(text, dtype), ids[1:])
    assert output.dtype == dtype
    assert relative_error(output, embedded(text, ids[1:])) < limit


def test_padding_changes_nothing(text: ClapTextTower, model: ClapModel, ids: Tensor) -> None:
    short = ClapTextTower(model, tokens=40).eval()
    assert relative_error(embedded(short, ids[1:2, :40]), embedded(text, ids[1:2])) < 1e-5


def exported_error(tower: nn.Module, inputs: Tensor, path: Path) -> float:
    """Relative error of ONNX Runtime with an exported tower, whose graph is checked on the way."""
    program = torch.onnx.export(tower, (torch.zeros_like(inputs),), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    assert not {node.op_type for node in program.model.graph} & UNWANTED
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return relative_error(torch.from_numpy(output), embedded(tower, inputs))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # about torch's own calls
def test_onnx_runtime_agrees_on_audio(audio: ClapAudioTower, tmp_path: Path) -> None:
    assert exported_error(audio, torch.from_numpy(wave("two of them", 2)), tmp_path / "audio.onnx") < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_runtime_agrees_on_text(text: ClapTextTower, ids: Tensor, tmp_path: Path) -> None:
    assert exported_error(text, ids[:2], tmp_path / "text.onnx") < 1e-5


def test_the_stretch_is_the_upstream_resize() -> None:
    spectrogram = torch.randn(2, 64, 1001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    resized = nn.functional.interpolate(spectrogram[:, None], (64, 1024), mode="bicubic", align_corners=True)[:, 0]
    torch.testing.assert_close(spectrogram @ stretch_matrix(1001), resized)
    assert torch.equal(stretch_matrix(1024), torch.eye(1024, dtype=torch.float64))


def test_a_waveform_that_does_not_fit_is_refused() -> None:
    net = HtsAt(96, (2, 2, 6, 2))
    assert frames_of(480 * 1023) == 1024
    with torch.inference_mode():
        assert SpectrogramInput(net, 480 * 1023).eval()(torch.zeros(1, 480 * 1023)).shape == (1, 64, 1024)
    with pytest.raises(ValueError, match="samples=491520 make 1025 frames, expected at most 1024"):
        SpectrogramInput(net, 480 * 1024)


def test_windows_wrap_around_and_masks_tell_their_parts_apart() -> None:
    order = window_order(16, 4).reshape(4, 64)
    assert order[0, 0] == 4 * 16 + 4
    assert set(order[3, [0, 4, 32, 36]].tolist()) == {12 * 16 + 12, 12 * 16, 12, 0}
    mask = shift_mask(16)
    assert not mask[0].any()
    assert mask[3, 0].unique(return_counts=True)[1].tolist() == [48, 16]
    assert set(mask.unique().tolist()) == {-100.0, 0.0}


def test_four_neighbours_are_merged_column_after_column() -> None:
    assert merging_order(16)[:8].tolist() == [0, 16, 1, 17, 2, 18, 3, 19]
    assert merging_order(64).sort().values.equal(torch.arange(64 * 64))
