"""fixtures/sessions/setup.py: device, spec, bundle and content, each refused with one message where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fixtures.errors import InputError
from fixtures.measure.protocol import INPUT_SETS
from fixtures.modalities import MOST_INPUT_SETS
from fixtures.sessions.setup import choose_device
from meta_tests.conftest import SMALL_SPEC
from meta_tests.plans import plan_of

pytestmark = pytest.mark.usefixtures("own_environment")


def refusal(folder: Path, root: Path, text: str = SMALL_SPEC, **options: Any) -> str:
    with pytest.raises(InputError) as refused:
        plan_of(folder, text, root, **options)
    return str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[torch]", "[torhc]", "spec.yaml:4: runtimes[0]='torhc', expected one of onnxruntime"),
        ("MiDaS_small", "MiDaS_huge", "midas_small_64.model='MiDaS_huge', expected one of MiDaS_small"),
        ("height: 128", "height: 96", "raft_small_128.height=96, expected a multiple of 32 from 128 on for raft."),
    ],
)
def test_spec_that_breaks_a_rule_is_refused(tmp_path: Path, bundle_root: Path, old: str, new: str, says: str) -> None:
    assert says in refusal(tmp_path, bundle_root, SMALL_SPEC.replace(old, new))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "fp8"}, "--dtype: value='fp8', expected one of fp32, tf32, fp16"),
        ({"device": "tpu"}, "--device: value='tpu', expected one of auto, cuda, cpu"),
        (
            {"variants": "midas_small_64,typo"},
            "--variants midas_small_64,typo: variant='typo', expected names of",
        ),
        ({"spec": "/nowhere/s.yaml"}, "/nowhere/s.yaml: "),
        ({"models_root": "/nowhere"}, "--models-root: value=/nowhere, expected a folder that exists"),
        ({"frames": "/nowhere"}, "--frames /nowhere: "),
        ({"audio": "/nowhere"}, "--audio /nowhere: "),
        ({"prompts": "/nowhere"}, "/nowhere: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_option_with_a_wrong_value_is_refused(
    tmp_path: Path, bundle_root: Path, options: dict[str, Any], says: str
) -> None:
    assert says in refusal(tmp_path, bundle_root, **options)


def test_only_frames_that_are_used_are_read(tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index in range(40):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(photographs / f"{index:02}.png")
    (photographs / "39.png").write_text("no image")
    decoded: list[Path] = []
    monkeypatch.setattr("fixtures.sessions.setup.decode", decoded.append)
    content = plan_of(tmp_path, SMALL_SPEC, bundle_root, frames=str(photographs)).content
    # Batches of 2, and the second input of RAFT is the frame after the first.
    used = [photographs / f"{index:02}.png" for index in range(MOST_INPUT_SETS * 2 + 1)]
    assert decoded == list(content.frames) == used
    assert len(content.digests()) == len(used) + 1


def test_inputs_of_a_bench_are_no_more_than_are_read() -> None:
    assert INPUT_SETS <= MOST_INPUT_SETS


def test_damaged_frame_is_refused_before_anything_is_measured(tmp_path: Path, bundle_root: Path) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    says = refusal(tmp_path, bundle_root, frames=str(tmp_path / "photographs"))
    assert says.startswith(f"{tmp_path}/photographs/a.png: image=")


def test_device_is_the_one_that_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == ("cpu", "cpu because torch finds no CUDA GPU")
    with pytest.raises(InputError, match="--device cuda: GPU=none that torch can use, expected a CUDA GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == ("cuda", "cuda because there is a GPU")
    assert choose_device("cpu") == ("cpu", "cpu because --device says so")
