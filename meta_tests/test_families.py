"""Every family, as a person has it: offline from the bundle to published files, judged, and served."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from fixtures.cases import Export, exports_of
from fixtures.errors import InputError
from fixtures.export.accuracy import relative_error
from fixtures.export.gate import GateError
from fixtures.manifest import read_manifest
from fixtures.results.run_folder import RunFolder
from fixtures.spec import Variant, load_spec
from fixtures.subject import load_model, locate_checkpoint, resolved
from fixtures.triton.branches import served_branch
from fixtures.triton.config import read_config
from fixtures.triton.emulation.rules import load_problems
from fixtures.triton.repository import write_repository
from fixtures.weights.bundle import Bundle
from meta_tests.conftest import HANGS_S, ROOT, Ended, Suite, environment
from meta_tests.exports import Published, Tamper, reference_of
from meta_tests.test_models_clap import wave
from meta_tests.test_models_midas import REFERENCE, image
from tools.make_bundle import make_bundle

SPEC = """\
schema_version: 1
name: families
dtype: fp32
runtimes: [torch, onnxruntime]
protocol: {cpu_budget_s: 0.2, cpu_warmup_s: 0}
variants:
  - {name: midas, family: midas, model: MiDaS_small, height: 64, width: 96}
  - {name: raft, family: raft, model: raft_small, height: 128, width: 128}
  - {name: clip_image, family: clip, model: ViT-B-32, tower: image, height: 64, width: 96}
  - {name: clip_text, family: clip, model: ViT-B-32, tower: text, tokens: 77}
  - {name: clap_audio, family: clap, model: HTSAT-tiny, tower: audio, duration_s: 2}
  - {name: clap_text, family: clap, model: HTSAT-tiny, tower: text, tokens: 16}
  - name: torchvision
    family: torchvision
    model: resnet18
    height: 64
    width: 64
    weights: visual/places365/resnet18_places365.pth.tar
    classes: 365
  - name: timm
    family: timm
    model: vit_tiny_patch16_224
    height: 64
    width: 96
    weights: visual/timm/vit_tiny.safetensors
    classes: 10
"""
NAMES = ("midas", "raft", "clip_image", "clip_text", "clap_audio", "clap_text", "torchvision", "timm")
NEW = NAMES[2:]  # the others' gates have files of their own


@dataclass(frozen=True)
class Place:
    """What sealed runs have left behind."""

    suite: Suite
    spec: Path
    exported: Ended
    measured: Ended
    log: Path

    @property
    def onnx_dir(self) -> Path:
        return self.suite.folder / "onnx"

    def export(self, name: str) -> Export:
        spec = resolved(load_spec(self.spec), Bundle(self.suite.models_root))
        return next(export for export in exports_of(spec) if export.variant.name == name)

    def published(self, name: str) -> Published:
        """A file of theirs with all that judges another one in its place."""
        export, bundle = self.export(name), Bundle(self.suite.models_root)
        weights = bundle.weights(locate_checkpoint(export.variant, bundle))
        return Published(export, reference_of(self.suite.models_root, export.variant), weights, self.onnx_dir)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A bundle of every family, exported and measured by processes without a network."""
    folder = tmp_path_factory.mktemp("families")
    spec = folder / "families.yaml"
    spec.write_text(SPEC)
    make_bundle(folder / "root", seed=0, specs=[spec])
    suite = Suite(folder, folder / "root")
    always = ["--spec", str(spec), "--onnx-dir", str(folder / "onnx")]
    _, *rest = suite.arguments(*always)
    exported = sealed(folder, ["export_tests", *rest])
    measured = sealed(folder, ["bench_tests/test_latency.py", *rest, "--run-id", "sealed"])
    return Place(suite, spec, exported, measured, folder / "sealed.log")


def sealed(folder: Path, arguments: list[str]) -> Ended:
    """Run pytest in a process of its own, with a home and a place for temporary files that nothing else writes to."""
    own = {name: str(folder / name.lower()) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    for path in own.values():
        Path(path).mkdir(exist_ok=True)
    (folder / "cwd").mkdir(exist_ok=True)
    tests, *rest = arguments
    unset = {name: value for name, value in environment().items() if not name.startswith(("TORCHINDUCTOR", "ORT_"))}
    also = {"SEALED_LOG": str(folder / "sealed.log"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "meta_tests.sealed",
            str(ROOT / tests),
            *rest,
            "-q",
            "--show-capture=no",
        ],
        env={**unset, **own, **also},
        cwd=folder / "cwd",
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def notes(place: Place, kind: str) -> list[str]:
    return [line.removeprefix(f"{kind} ") for line in place.log.read_text().splitlines() if line.startswith(kind)]


# --- offline ---


def test_every_family_loads_runs_and_exports_without_a_network(place: Place) -> None:
    assert place.exported.returncode == 0, place.exported.stdout
    assert place.measured.returncode == 0, place.measured.stdout
    assert notes(place, "network") == []
    published = {record.variant for record in read_manifest(place.onnx_dir).files.values()}
    assert published == set(NAMES)
    results, _ = RunFolder(place.suite.folder / "out" / "sealed").recover()
    assert {(one.facts.variant, one.facts.runtime) for one in results if one.facts.status == "ok"} == {
        (name, runtime) for name in NAMES for runtime in ("torch", "onnxruntime")
    }


def test_nothing_is_written_elsewhere(place: Place) -> None:
    folder = place.suite.folder
    # What is temporary may be written, and has to be gone in the end.
    gone = [folder / name for name in ("home", "tmpdir", "xdg_cache_home", "xdg_config_home", "cwd")]
    allowed = [folder / "out", place.onnx_dir, Path(os.devnull), *gone]
    allowed += [folder / "root" / cache for cache in ("torch_cache", "hf_cache", "clip_cache")]
    written = [Path(path) for path in notes(place, "writes")]
    assert written
    elsewhere = [path for path in written if not any(path.is_relative_to(where) for where in allowed)]
    assert elsewhere == []
    for place_of_nothing in gone:
        assert list(place_of_nothing.iterdir()) == [], place_of_nothing.name


def test_rows_have_the_units_and_sizes_of_their_kind(place: Place) -> None:
    results, _ = RunFolder(place.suite.folder / "out" / "sealed").recover()
    found = {one.facts.variant: (one.facts.unit, one.facts.input_bucket) for one in results}
    assert found["clip_image"] == ("frame", {"height": 64, "width": 96})
    assert found["raft"] == ("frame_pair", {"height": 128, "width": 128})
    assert found["clap_audio"] == ("segment", {"duration_s": 2})
    assert found["clip_text"] == ("prompt", {"tokens": 77})
    assert found["clap_text"] == ("prompt", {"tokens": 16})


def test_classes_are_those_of_the_weights(place: Place) -> None:
    spec = load_spec(place.spec)
    open_spec = spec.with_variants(tuple(one.model_copy(update={"classes": None}) for one in spec.variants))
    found = {one.name: one.classes for one in resolved(open_spec, Bundle(place.suite.models_root)).variants}
    assert found["torchvision"] == 365
    assert found["timm"] == 10
    assert found["midas"] is None


def test_the_bundle_gives_the_outputs_of_the_upstream_implementations(place: Place) -> None:
    """Through the official files, as they are written and read: OpenAI's archive, LAION's training checkpoint."""
    clip, clap = np.load(REFERENCE / "clip_image_224.npz"), np.load(REFERENCE / "clap_audio_10s.npz")
    frames = image(str(clip["input_name"]), tuple(int(length) for length in clip["input_shape"]))
    full = {"clip_image": {"height": 224, "width": 224}, "clap_audio": {"duration_s": 10}, "clip_text": {}}
    given = {"clip_image": frames, "clip_text": clip["tokens"], "clap_audio": wave("clap_audio_10s", 1)}
    expected = {
        "clip_image": clip["image_embedding"],
        "clip_text": clip["text_embedding"],
        "clap_audio": clap["audio_embedding"],
    }
    for name, changes in full.items():
        variant = place.export(name).variant.model_copy(update=changes)
        module = load_model(variant, locate_checkpoint(variant, Bundle(place.suite.models_root)))
        with torch.inference_mode():
            output = module(torch.from_numpy(given[name])).double().numpy()
        assert relative_error(output, expected[name].astype(np.float64)) < 1e-4, name


# --- the gate ---


def floats(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]


def a_weight_changed(model: onnx.ModelProto) -> None:
    largest = max(floats(model), key=lambda tensor: int(np.prod(tensor.dims)))
    changed = 1.1 * numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), largest.name))


def a_dynamic_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def another_output_name(model: onnx.ModelProto) -> None:
    before = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["answer" if name == before else name for name in node.output]
    model.graph.output[0].name = "answer"


def another_input_dtype(model: onnx.ModelProto) -> None:
    tensor_type = model.graph.input[0].type.tensor_type
    is_float = tensor_type.elem_type == onnx.TensorProto.FLOAT
    tensor_type.elem_type = onnx.TensorProto.DOUBLE if is_float else onnx.TensorProto.INT32


def a_constant_answer(model: onnx.ModelProto) -> None:
    (output,) = model.graph.output
    shape = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
    model.graph.initializer.append(numpy_helper.from_array(np.full(shape, 0.5, np.float32), "half"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    last = next(node for node in model.graph.node if output.name in node.output)
    last.output[list(last.output).index(output.name)] = "unused"
    model.graph.node.append(onnx.helper.make_node("Mul", ["unused", "nothing"], ["zeros"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["zeros", "half"], [output.name]))


def an_input_rearranged(axis: int, order: str) -> Tamper:
    """Every reader of the input gets it with an axis in another order."""

    def tamper(model: onnx.ModelProto) -> None:
        name = model.graph.input[0].name
        length = model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value
        indices = {"reversed": np.arange(length)[::-1], "later": np.roll(np.arange(length), 1)}[order]
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(indices), "order"))
        for node in model.graph.node:
            node.input[:] = ["rearranged" if given == name else given for given in node.input]
        model.graph.node.insert(0, onnx.helper.make_node("Gather", [name, "order"], ["rearranged"], axis=axis))

    return tamper


REFUSED: list[tuple[Tamper, str]] = [
    (a_weight_changed, "expected at most"),
    (a_dynamic_batch, "axis 0=batch, expected a fixed length"),
    (another_output_name, "output names=answer, expected"),
    (another_input_dtype, "dtype="),
    (a_constant_answer, "degenerate"),
]
OF_A_KIND: dict[str, tuple[Tamper, str]] = {
    "image": (an_input_rearranged(1, "reversed"), "expected at most"),
    "audio": (an_input_rearranged(1, "reversed"), "expected at most"),
    "text": (an_input_rearranged(1, "later"), "expected at most"),
}


@pytest.mark.parametrize("name", NEW)
def test_the_gate_refuses_what_is_not_the_function(place: Place, name: str, tmp_path: Path) -> None:
    good = place.published(name).at(tmp_path / "onnx")
    source = place.onnx_dir / good.export.file
    for tamper, says in [*REFUSED, OF_A_KIND[good.export.variant.kind]]:
        gate = good.gate(changed(source, tamper))
        with pytest.raises(GateError) as caught:
            gate.publish()
        gate.close()
        assert says in str(caught.value), tamper.__name__
        assert not (good.folder / good.export.file).exists()


def changed(source: Path, tamper: Tamper) -> Callable[[Export, object, Path], None]:
    def make(_export: Export, _weights: object, path: Path) -> None:
        model = onnx.load(source)
        tamper(model)
        onnx.save(model, path)

    return make


# --- served ---


def test_a_repository_serves_every_family_under_its_names(place: Place, tmp_path: Path) -> None:
    branches = [served_branch(place.export(name), place.onnx_dir) for name in NAMES]
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
    text = served_branch(place.export("clip_text"), place.onnx_dir)
    assert text.name == "clip_text"
    assert [(one.name, one.dtype, one.shape) for one in text.inputs] == [("INPUT__0", "INT64", (1, 77))]
    assert [(one.name, one.dtype, one.shape) for one in text.outputs] == [("OUTPUT__0", "FLOAT", (1, 512))]
    audio = served_branch(place.export("clap_audio"), place.onnx_dir)
    assert audio.name == "clap_audio_2s"
    assert [(one.dtype, one.shape) for one in audio.inputs] == [("FLOAT", (1, 96_000))]
    assert served_branch(place.export("clip_image"), place.onnx_dir).name == "clip_image_64x96"


def test_a_file_of_other_weights_is_not_served(place: Place) -> None:
    """Two variants of one network are exported to one path unless a spec says otherwise."""
    export = place.export("torchvision")
    for changes, says in (
        ({"weights": "visual/other.pth"}, "weights of torchvision/resnet18_64.onnx=visual/places365"),
        (
            {"weights": export.variant.weights, "classes": 10},
            "classes of torchvision/resnet18_64.onnx=365",
        ),
    ):
        other = replace(export, variant=export.variant.model_copy(update=changes))
        with pytest.raises(InputError, match=re.escape(says)):
            served_branch(other, place.onnx_dir)


def test_what_text_needs_is_missed_before_anything_is_measured(place: Place, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "audio/laion_clap").mkdir(parents=True)
    os.link(place.suite.models_root / "audio/laion_clap/clap_ckpt.pt", root / "audio/laion_clap/clap_ckpt.pt")
    (tmp_path / "out").mkdir()
    for tests in ("bench_tests", "export_tests"):
        _, *rest = Suite(tmp_path, root).arguments("--spec", str(place.spec), "-k", "clap_text and not onnxruntime")
        ended = sealed(tmp_path, [tests, *rest, "--onnx-dir", str(tmp_path / "onnx")])
        assert ended.returncode == 2, ended.stdout
        assert f"{root}/hf_cache/hub/models--roberta-base: folder=missing" in ended.stderr
        assert "Traceback" not in ended.stdout + ended.stderr
    assert not any((tmp_path / "out").iterdir())
    assert not (tmp_path / "onnx").exists()


def test_the_backend_has_nothing_against_them(place: Place, tmp_path: Path) -> None:
    branch = served_branch(place.export("clap_text"), place.onnx_dir)
    write_repository(tmp_path / "repository", [branch], "cpu")
    model = tmp_path / "repository" / branch.models["model"].name
    config = read_config((model / "config.pbtxt").read_text())
    as_json = {
        "name": config.name,
        "input": [{"name": one.name, "data_type": "TYPE_INT64", "dims": list(one.dims)} for one in config.input],
        "output": [{"name": one.name, "data_type": "TYPE_FP32", "dims": list(one.dims)} for one in config.output],
    }
    assert load_problems(as_json, model / "1" / "model.onnx", "24.08") == []


def test_a_variant_of_another_tower_is_another_branch() -> None:
    image = Variant(name="i", family="clip", model="ViT-B-32", tower="image", height=224, width=224)
    text = Variant(name="t", family="clip", model="ViT-B-32", tower="text", tokens=77)
    assert Export(image, 8, "fp32").branch == "clip_image_224_b8"
    assert Export(image, 1, "fp32").file == "clip/vit_b_32_image_224.onnx"
    assert Export(text, 1, "fp32").branch == "clip_text"
    assert Export(text, 1, "fp32").file == "clip/vit_b_32_text_77.onnx"
