"""fixtures/subject.py: an exported file is measured only if it is what the gate published for the case."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fixtures.cases import Case
from fixtures.errors import InputError
from fixtures.manifest import enter
from fixtures.manifest import published as published_record
from fixtures.spec import Dtype, Frame, Variant
from fixtures.subject import Sources, require_exported
from fixtures.weights.bundle import Bundle, Weights
from meta_tests.exports import RAFT, Published, published


@pytest.fixture
def raft(bundle_root: Path, tmp_path: Path) -> Published:
    """The exported RAFT in a folder to do damage to."""
    return published(bundle_root, RAFT).copy(tmp_path / "onnx")


def refusal(place: Published, bundle: Bundle, dtype: Dtype = "fp32", variant: Variant = RAFT) -> str:
    """Why the file is not measured: a message that names the file and how to make it."""
    with pytest.raises(InputError) as caught:
        require_exported(Case(variant, 1, dtype, "onnxruntime"), Sources(bundle, place.folder))
    assert str(caught.value).startswith(f"{place.file}: ")
    assert "Export it: `pytest export_tests" in str(caught.value)
    return str(caught.value)


def test_published_file_is_that_of_its_case(raft: Published, bundle_root: Path) -> None:
    record = require_exported(Case(RAFT, 1, "fp32", "onnxruntime"), Sources(Bundle(bundle_root), raft.folder))
    assert record.weights.sha256 == raft.weights.sha256


def test_missing_file_is_refused(raft: Published, bundle_root: Path) -> None:
    raft.file.unlink()
    assert "file=missing, expected an exported file." in refusal(raft, Bundle(bundle_root))


def test_file_changed_by_one_byte_is_refused(raft: Published, bundle_root: Path) -> None:
    content = bytearray(raft.file.read_bytes())
    content[len(content) // 2] ^= 1
    raft.file.unlink()
    raft.file.write_bytes(content)
    assert "sha256=another, expected the " in refusal(raft, Bundle(bundle_root))


def test_file_of_another_precision_class_is_refused(raft: Published, bundle_root: Path) -> None:
    message = refusal(raft, Bundle(bundle_root), "fp16")
    assert re.search("=fp32, expected fp16 for raft_small_128-b1-fp16-onnxruntime", message)
    assert "Export it: `pytest export_tests --dtype fp16` with the same --spec and --onnx-dir." in message


def test_file_whose_frames_a_server_would_fit_otherwise_is_refused(raft: Published, bundle_root: Path) -> None:
    frames = Frame(height=180, width=320)
    other = RAFT.model_copy(update={"fit": "crop", "frame": frames})
    message = refusal(raft, Bundle(bundle_root), variant=other)
    assert "resize=squash, bilinear, expected crop, bilinear for raft_small_128-b1-fp32-onnxruntime." in message
    sources = Sources(Bundle(bundle_root), raft.folder)
    for variant in (RAFT.model_copy(update={"frame": frames}), RAFT.model_copy(update={"fit": "crop"})):
        assert require_exported(Case(variant, 1, "fp32", "onnxruntime"), sources)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"height": 160}, "height=128, expected 160 for raft_small_128-b1-fp32-onnxruntime."),
        ({"model": "raft_large"}, "model=raft_small, expected raft_large for raft_small_128-b1-fp32-onnxruntime."),
    ],
)
def test_file_of_another_branch_at_its_path_is_refused(
    raft: Published, bundle_root: Path, change: dict[str, object], says: str
) -> None:
    path = raft.export.file.removesuffix(".onnx")
    own = {"onnx": path, "weights": raft.weights.name}
    assert says in refusal(raft, Bundle(bundle_root), variant=RAFT.model_copy(update={**own, **change}))


def test_file_of_another_activation_is_refused(raft: Published, bundle_root: Path) -> None:
    message = refusal(raft, Bundle(bundle_root), variant=RAFT.model_copy(update={"activation": "gelu"}))
    assert "activation=None, expected gelu for raft_small_128-b1-fp32-onnxruntime." in message


def test_file_of_another_graph_is_refused(raft: Published, bundle_root: Path) -> None:
    sources = Sources(Bundle(bundle_root), raft.folder)
    with pytest.raises(InputError, match="graph=portable, expected contrib for raft_small_128-b1-fp32-onnxruntime"):
        require_exported(Case(RAFT, 1, "fp32", "onnxruntime", graph="contrib"), sources)


def test_file_for_cuda_alone_is_refused_on_a_cpu(raft: Published, bundle_root: Path) -> None:
    enter(
        raft.folder,
        raft.export.file,
        published_record(raft.folder, raft.export.file).model_copy(update={"graph": "cuda"}),
    )
    sources = Sources(Bundle(bundle_root), raft.folder, device=torch.device("cpu"))
    with pytest.raises(InputError, match="graph=cuda, expected contrib or portable on a CPU"):
        require_exported(Case(RAFT, 1, "fp32", "onnxruntime", graph="cuda"), sources)


def test_file_of_other_weights_is_refused(raft: Published, bundle_root: Path) -> None:
    bundle = Bundle(bundle_root)
    bundle.remember(Weights(raft.weights.path, raft.weights.name, "0" * 64, synthetic=True))
    assert f"weights=others, expected those of {raft.weights.name}." in refusal(raft, bundle)
