"""Every family, as a user has it: offline from the bundle to published files, judged, and served."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from fixtures.cases import Export
from fixtures.errors import InputError
from fixtures.export import accuracy
from fixtures.export.accuracy import relative_error
from fixtures.export.exporter import write_model
from fixtures.export.graph_checks import graph_problems
from fixtures.export.interface import interface_of
from fixtures.export.parity import Infer, evaluate, judge
from fixtures.export.task_metrics import TASK_METRICS
from fixtures.files import sha256_of
from fixtures.manifest import read_manifest
from fixtures.modalities import Array
from fixtures.models import tower_of
from fixtures.onnx_session import open_session, run
from fixtures.results.run_folder import RunFolder
from fixtures.sessions.options import Options
from fixtures.sessions.setup import Setup
from fixtures.spec import Variant, load_spec
from fixtures.subject import load_model, locate_checkpoint, resolved
from fixtures.target import target_of
from fixtures.triton.access import ServerAccess
from fixtures.triton.branches import served_branch
from fixtures.triton.config import read_config
from fixtures.triton.emulation.rules import load_problems
from fixtures.triton.repository import write_repository
from fixtures.weights.bundle import Bundle
from meta_tests.exports import FEW, MIDAS, Published, Tamper, published
from meta_tests.families import IN_ONNXRUNTIME, NAMES, Families, all_families
from meta_tests.loading import CONTENT
from meta_tests.references import StoredReference
from meta_tests.test_models_clap import wave
from meta_tests.test_models_midas import REFERENCE
from tools.make_bundle import make_bundle

NEW = NAMES[2:]  # test_export_gate.py has the others


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Families]:
    with all_families(tmp_path_factory.mktemp("families") / "all") as made:
        yield made


# --- offline ---


def test_every_family_is_exported_and_measured_without_a_network(families: Families) -> None:
    assert families.sealed.network == []
    published = {record.variant for record in read_manifest(families.onnx_dir).files.values()}
    assert published == set(NAMES)
    results, _ = RunFolder(families.run).recover()
    assert {(one.facts.variant, one.facts.runtime) for one in results if one.facts.status == "ok"} == {
        *((name, "torch") for name in NAMES),
        *((name, "onnxruntime") for name in IN_ONNXRUNTIME),
    }


def test_same_weights_give_the_same_bytes_in_another_process(
    families: Families, bundle_root: Path, tmp_path: Path
) -> None:
    midas = published(bundle_root, MIDAS)
    assert midas.weights.sha256 == families.published("midas").weights.sha256
    assert sha256_of(midas.file) == sha256_of(families.published("midas").file)
    raft = families.published("raft")
    write_model(raft.export, raft.weights, tmp_path / "raft.onnx")
    assert sha256_of(tmp_path / "raft.onnx") == sha256_of(raft.file)


def test_sessions_write_to_their_own_folders_alone(families: Families) -> None:
    sealed = families.sealed
    folder, caches = Path(sealed.folder), ("torch_cache", "hf_cache", "clip_cache")
    allowed = [folder / name for name in ("out", "onnx", *sealed.left)]
    allowed += [Path(os.devnull), *(Path(sealed.models_root) / cache for cache in caches)]
    assert sealed.written
    assert [path for path in sealed.written if not any(Path(path).is_relative_to(where) for where in allowed)] == []
    assert not any(sealed.left.values()), "files for the time of a session are removed"


def test_rows_have_the_units_and_sizes_of_their_kind(families: Families) -> None:
    results, _ = RunFolder(families.run).recover()
    found = {one.facts.variant: (one.facts.unit, one.facts.input_bucket) for one in results}
    assert found["clip_image"] == ("frame", {"height": 64, "width": 96})
    assert found["raft"] == ("frame_pair", {"height": 128, "width": 128})
    assert found["clap_audio"] == ("segment", {"duration_s": 2})
    assert found["clip_text"] == ("prompt", {"tokens": 77})
    assert found["clap_text"] == ("prompt", {"tokens": 16})


def test_classes_are_those_of_the_weights(families: Families) -> None:
    spec = load_spec(families.spec)
    open_spec = spec.with_variants(tuple(one.model_copy(update={"classes": None}) for one in spec.variants))
    found = {one.name: one.classes for one in resolved(open_spec, Bundle(families.models_root)).variants}
    assert found["torchvision"] == 365
    assert found["timm"] == 10
    assert found["midas"] is None


def test_training_checkpoint_gives_the_output_of_upstream(families: Families, tmp_path: Path) -> None:
    """LAION's, as it is written and read, with the official audio tower beside a narrow text tower."""
    make_bundle(tmp_path / "root", seed=0, models=["HTSAT-tiny"])
    clap = np.load(REFERENCE / "clap_audio_10s.npz")
    variant = families.export("clap_audio").variant.model_copy(update={"model": "HTSAT-tiny", "duration_s": 10})
    module = load_model(variant, locate_checkpoint(variant, Bundle(tmp_path / "root")))
    with torch.inference_mode():
        output = module(torch.from_numpy(wave("clap_audio_10s", 1))).double().numpy()
    assert relative_error(output, clap["audio_embedding"].astype(np.float64)) < 1e-4


def test_missing_tokenizer_is_refused_before_anything_is_measured(families: Families, tmp_path: Path) -> None:
    (tmp_path / "audio/laion_clap").mkdir(parents=True)
    os.link(families.models_root / "audio/laion_clap/clap_ckpt.pt", tmp_path / "audio/laion_clap/clap_ckpt.pt")
    bundle, spec = Bundle(tmp_path), load_spec(families.spec)
    content, server = replace(CONTENT, models_root=tmp_path), ServerAccess()
    setup = Setup(Options(), families.spec, spec, torch.device("cpu"), bundle, content, server, "why")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/hf_cache/hub/models--roberta-base: folder=missing")):
        setup.require_usable([families.export("clap_text").variant])


# Without a kernel for CUDA, or control flow: none of them belongs in an exported file.
UNWANTED = {"ArgMax", "STFT", "DFT", "MelWeightMatrix", "Loop", "If", "Scan", "NonZero", "ScatterND", "CumSum"}


@pytest.mark.parametrize("name", NAMES)
def test_file_has_no_operator_that_a_branch_can_do_without(families: Families, name: str) -> None:
    graph = onnx.load(families.published(name).file).graph
    assert not {node.op_type for node in graph.node} & UNWANTED


# --- the gate ---


def largest_weight_changed(model: onnx.ModelProto) -> None:
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    largest = max(weights, key=lambda tensor: int(np.prod(tensor.dims)))
    changed = 1.1 * numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), largest.name))


@pytest.fixture
def no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws widen the budget of what fails, and each loads the model again; test_export_gate.py makes them all."""
    monkeypatch.setattr(accuracy, "_DRAWS", 0)


@pytest.mark.parametrize("name", NEW)
def test_parity_fails_for_another_weight(families: Families, name: str, tmp_path: Path, no_draws: None) -> None:
    place = families.published(name)
    place.tampered(largest_weight_changed)(place.export, place.weights, tmp_path / "changed.onnx")
    session = open_session(tmp_path / "changed.onnx", "cpu", "fp32")
    assert not passes(place, lambda tensors: run(session, tensors))


@pytest.mark.parametrize("name", NEW)
def test_parity_fails_for_an_input_in_another_order(families: Families, name: str, no_draws: None) -> None:
    """Channels of an image in reverse, as BGR; a sound in reverse; a text one token later."""
    place = families.published(name)
    session = open_session(place.file, "cpu", "fp32")
    is_text = place.export.variant.kind == "text"

    def in_order(tensors: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(np.roll(one, 1, axis=1) if is_text else np.flip(one, axis=1) for one in tensors)

    assert passes(place, lambda tensors: run(session, tensors))
    assert not passes(place, lambda tensors: run(session, in_order(tensors)))


def passes(place: Published, infer: Infer) -> bool:
    """Whether outputs are those of the float64 module, on two inputs of the gate's eight."""
    variant = place.export.variant
    inputs = [place.reference.inputs[index] for index in FEW]
    reference = StoredReference(variant, place.weights.path, inputs)
    evaluation = evaluate(infer, [given.tensors for given in inputs], 1)
    return judge(reference, evaluation, "cpu", "fp32", TASK_METRICS[tower_of(variant).task]).passed


def dynamic_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def another_output_name(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "answer"


def another_input_dtype(model: onnx.ModelProto) -> None:
    tensor_type = model.graph.input[0].type.tensor_type
    is_float = tensor_type.elem_type == onnx.TensorProto.FLOAT
    tensor_type.elem_type = onnx.TensorProto.DOUBLE if is_float else onnx.TensorProto.INT32


OTHER_INTERFACES: dict[Tamper, str] = {
    dynamic_batch: "axis 0=batch, expected a fixed length",
    another_output_name: "output names=answer, expected",
    another_input_dtype: "dtype=",
}


@pytest.mark.parametrize("name", NEW)
def test_gate_refuses_another_interface(families: Families, name: str, tmp_path: Path) -> None:
    """On the exported graph without its weights, which are not read before the interface is right."""
    export = families.export(name)
    graph = onnx.load(families.onnx_dir / export.file)
    for tensor in graph.graph.initializer:
        tensor.ClearField("raw_data")
    for tamper, says in OTHER_INTERFACES.items():
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        tamper(changed)
        (tmp_path / "changed.onnx").write_bytes(changed.SerializeToString())
        (problem,) = graph_problems(tmp_path / "changed.onnx", interface_of(export), target_of("24.08"))
        assert says in problem


# --- served ---


def test_repository_serves_every_family_under_its_names(families: Families, tmp_path: Path) -> None:
    branches = [served_branch(families.export(name), families.onnx_dir) for name in NAMES]
    write_repository(tmp_path / "repository", branches, "cpu", fused=True)
    for branch in branches:
        frames = branch.export.variant.kind == "image"
        assert set(branch.models) == ({"preprocess", "model", "fused", "ensemble"} if frames else {"model", "ensemble"})
        for model in branch.models.values():
            folder = tmp_path / "repository" / model.name
            config = read_config((folder / "config.pbtxt").read_text())
            if config.platform == "ensemble":
                assert [step.model_name for step in config.ensemble_scheduling.step][-1] == f"{branch.name}_onnx"
                continue
            written = onnx.load(folder / "1" / "model.onnx", load_external_data=False)
            assert [value.name for value in written.graph.input] == [tensor.name for tensor in config.input]
    text = served_branch(families.export("clip_text"), families.onnx_dir)
    assert text.name == "clip_text"
    assert [(one.name, one.dtype, one.shape) for one in text.inputs] == [("INPUT__0", "INT64", (1, 77))]
    assert [(one.name, one.dtype, one.shape) for one in text.outputs] == [("OUTPUT__0", "FLOAT", (1, 512))]
    audio = served_branch(families.export("clap_audio"), families.onnx_dir)
    assert audio.name == "clap_audio_2s"
    assert [(one.dtype, one.shape) for one in audio.inputs] == [("FLOAT", (1, 96_000))]
    assert served_branch(families.export("clip_image"), families.onnx_dir).name == "clip_image_64x96"


def test_file_of_other_weights_is_not_served(families: Families) -> None:
    """Two variants of one network are exported to one path unless a spec says otherwise."""
    export = families.export("torchvision")
    for changes, says in (
        ({"weights": "visual/other.pth"}, "weights of torchvision/resnet18_64.onnx=visual/places365"),
        (
            {"weights": export.variant.weights, "classes": 10},
            "classes of torchvision/resnet18_64.onnx=365",
        ),
    ):
        other = replace(export, variant=export.variant.model_copy(update=changes))
        with pytest.raises(InputError, match=re.escape(says)):
            served_branch(other, families.onnx_dir)


def test_backend_loads_a_text_tower_as_configured(families: Families, tmp_path: Path) -> None:
    branch = served_branch(families.export("clap_text"), families.onnx_dir)
    write_repository(tmp_path / "repository", [branch], "cpu")
    model = tmp_path / "repository" / branch.models["model"].name
    config = read_config((model / "config.pbtxt").read_text())
    as_json = {
        "name": config.name,
        "input": [{"name": one.name, "data_type": "TYPE_INT64", "dims": list(one.dims)} for one in config.input],
        "output": [{"name": one.name, "data_type": "TYPE_FP32", "dims": list(one.dims)} for one in config.output],
    }
    assert load_problems(as_json, model / "1" / "model.onnx", "24.08", on_gpu=False) == []


def test_variant_of_another_tower_is_another_branch() -> None:
    image = Variant(name="i", family="clip", model="ViT-B-32", tower="image", height=224, width=224)
    text = Variant(name="t", family="clip", model="ViT-B-32", tower="text", tokens=77)
    assert Export(image, 8, "fp32").branch == "clip_image_224_b8"
    assert Export(image, 1, "fp32").file == "clip/vit_b_32_image_224.onnx"
    assert Export(text, 1, "fp32").branch == "clip_text"
    assert Export(text, 1, "fp32").file == "clip/vit_b_32_text_77.onnx"
