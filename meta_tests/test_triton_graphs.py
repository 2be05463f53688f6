"""The graphs that a repository adds, compared with the bench's module and each model's official transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torchvision.transforms._presets import OpticalFlow
from torchvision.transforms.v2 import functional

from fixtures.export.interface import Interface
from fixtures.export.served import most_grey_levels
from fixtures.modalities import batches
from fixtures.modalities.frames import frame_files, read_frame
from fixtures.modalities.preprocess import Preprocess
from fixtures.onnx_session import open_session
from fixtures.records import TensorRecord
from fixtures.spec import Variant
from fixtures.triton.branches import ServedBranch, served_branch
from fixtures.triton.graphs import fused_model, preprocess_model
from meta_tests.branches import DPT, recorded, with_frame
from meta_tests.exports import MIDAS, RAFT, published

Frames = NDArray[np.uint8]
Array = NDArray[Any]

# The model's own size, larger, smaller and odd, one axis alone, and one pixel.
FRAME_SIZES = [None, (180, 320), (47, 33), (128, 50), (64, 201), (1, 1)]


def contents(count: int, batch: int, size: tuple[int, int]) -> dict[str, tuple[Frames, ...]]:
    """Name → `count` different batches of frames: photographs, and synthetic ones."""
    shape = (batch, *size, 3)
    noise = np.random.default_rng(0)
    checkerboard = np.broadcast_to(255 * (np.indices(size).sum(axis=0) % 2)[..., None], shape).astype(np.uint8)
    return {
        "photographs": batches([read_frame(file, size) for file in frame_files(None)], count, batch, 1)[0],
        "noise": tuple(noise.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)),
        "black": (np.zeros(shape, np.uint8),) * count,
        "white": (np.full(shape, 255, np.uint8),) * count,
        "checkerboard": tuple(np.roll(checkerboard, index, axis=1) for index in range(count)),
    }


def midas_transform(mean: Array, std: Array, frames: Frames, size: tuple[int, int]) -> Array:
    """MiDaS, `hubconf.py` and `transforms.py`: /255, Resize, NormalizeImage, PrepareForNet."""
    height, width = size
    images = [cv2.resize(frame / 255.0, (width, height), interpolation=cv2.INTER_CUBIC) for frame in frames]
    return ((np.stack(images) - mean) / std).transpose(0, 3, 1, 2)


def raft_transform(frames: Frames, size: tuple[int, int]) -> Array:
    """The preset of torchvision's weights, after a resize in float: in UINT8 it would round."""
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).double() / 255
    if images.shape[-2:] != size:
        images = functional.resize(images, list(size), antialias=False)
    transformed, _ = OpticalFlow()(images, images)
    result: Array = transformed.numpy()
    return result


IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
HALF = (np.array([0.5] * 3), np.array([0.5] * 3))
OFFICIAL: dict[str, Callable[..., Array]] = {
    MIDAS.model: partial(midas_transform, *IMAGENET),
    DPT.model: partial(midas_transform, *HALF),
    RAFT.model: raft_transform,
}


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(model, path)
    return path


def grey_levels(branch: ServedBranch, difference: Array) -> float:
    """The largest difference of normalised tensors, in grey levels of the frame."""
    assert branch.normalization
    return float(np.abs(difference * 255 * np.reshape(branch.normalization.std, (1, 3, 1, 1))).max())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("frame_size", FRAME_SIZES, ids=lambda size: "own" if size is None else f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("variant", [MIDAS, DPT, RAFT], ids=lambda variant: variant.model)
def test_preprocess_equals_the_module_and_the_official_transform(
    tmp_path: Path, variant: Variant, frame_size: tuple[int, int] | None, batch: int
) -> None:
    branch = recorded(with_frame(variant, frame_size), batch)
    session = open_session(saved(preprocess_model(branch), tmp_path), "cpu", "fp32")
    assert branch.normalization
    size = variant.size
    module = Preprocess(branch.normalization, size, torch.float32)
    for name, frames in contents(len(branch.inputs), batch, branch.frame_size).items():
        given = dict(zip([tensor.name for tensor in branch.inputs], frames, strict=True))
        outputs = session.run([tensor.name for tensor in branch.record.inputs], given)
        for output, one in zip(outputs, frames, strict=True):
            assert output.shape == (batch, 3, *size)
            of_bench = module(torch.from_numpy(np.ascontiguousarray(one))).numpy()
            assert grey_levels(branch, output - of_bench) <= most_grey_levels(branch.frame_size), name
            official = OFFICIAL[variant.model](one, size=size)
            assert grey_levels(branch, output - official) <= most_grey_levels(branch.frame_size), name


RESNET = Variant(name="r", family="torchvision", model="resnet50", height=64, width=96)
CLIP = Variant(name="c", family="clip", model="ViT-B-32", tower="image", height=64, width=64)
FITTED = {
    "crop, bilinear": (RESNET, (180, 320)),
    "crop, portrait": (RESNET, (320, 180)),
    "crop, enlarged": (RESNET, (40, 50)),
    "crop, bicubic": (CLIP, (180, 320)),
    "squash, antialiased": (CLIP.model_copy(update={"fit": "squash"}), (180, 64)),
    "pad, columns": (CLIP.model_copy(update={"fit": "pad"}), (180, 101)),
    "pad, rows": (RESNET.model_copy(update={"fit": "pad"}), (60, 320)),
    "pad without antialiasing": (MIDAS.model_copy(update={"fit": "pad"}), (180, 180)),
    "crop without antialiasing": (RAFT.model_copy(update={"fit": "crop"}), (180, 320)),
}


@pytest.mark.parametrize("fitted", FITTED)
def test_fitted_preprocess_equals_the_module(tmp_path: Path, fitted: str) -> None:
    variant, frame_size = FITTED[fitted]
    branch = recorded(with_frame(variant, frame_size), 2)
    path = saved(preprocess_model(branch), tmp_path)
    assert fixed_interface(path) == Interface(branch.inputs, branch.record.inputs)
    assert branch.normalization
    module = Preprocess(branch.normalization, variant.size, torch.float32)
    session = open_session(path, "cpu", "fp32")
    for name, frames in contents(len(branch.inputs), 2, frame_size).items():
        outputs = session.run(None, dict(zip([tensor.name for tensor in branch.inputs], frames, strict=True)))
        for output, one in zip(outputs, frames, strict=True):
            of_bench = module(torch.from_numpy(np.ascontiguousarray(one))).numpy()
            assert grey_levels(branch, output - of_bench) <= most_grey_levels(frame_size), name


@pytest.mark.parametrize("interpolation", [cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_LANCZOS4])
def test_another_interpolation_exceeds_the_bound(tmp_path: Path, interpolation: int) -> None:
    """Proves that the comparison above can fail."""
    branch = recorded(with_frame(DPT, (180, 320)))
    session = open_session(saved(preprocess_model(branch), tmp_path), "cpu", "fp32")
    (frames,) = contents(1, 1, branch.frame_size)["photographs"]
    (output,) = session.run(None, {"INPUT__0": frames})
    resized = cv2.resize(frames[0] / 255.0, DPT.size[::-1], interpolation=interpolation)
    official = (resized.transpose(2, 0, 1)[None] - 0.5) / 0.5
    assert grey_levels(branch, output - official) > 100 * most_grey_levels(branch.frame_size)


def fixed_interface(path: Path) -> Interface:
    """The interface that a file declares, after the full checker, and a check that no dimension is dynamic."""
    onnx.checker.check_model(path, full_check=True)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True).graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name
    return Interface(*(tuple(map(tensor_record, values)) for values in (graph.input, graph.output)))


def tensor_record(value: onnx.ValueInfoProto) -> TensorRecord:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    return TensorRecord(name=value.name, dtype=TensorProto.DataType.Name(tensor.elem_type), shape=shape)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("frame_size", [None, (720, 1280)], ids=["own", "720x1280"])
@pytest.mark.parametrize("variant", [MIDAS, DPT, RAFT], ids=lambda variant: variant.model)
def test_preprocess_file_has_fixed_shapes(
    tmp_path: Path, variant: Variant, frame_size: tuple[int, int] | None, batch: int
) -> None:
    branch = recorded(with_frame(variant, frame_size), batch)
    path = saved(preprocess_model(branch), tmp_path)
    assert fixed_interface(path) == Interface(branch.inputs, branch.record.inputs)


def test_preprocess_inputs_have_the_names_of_the_contract() -> None:
    def names(variant: Variant) -> list[tuple[str, int]]:
        graph = preprocess_model(recorded(variant)).graph
        return [(value.name, value.type.tensor_type.elem_type) for value in (*graph.input, *graph.output)]

    assert names(MIDAS) == [("INPUT__0", TensorProto.UINT8), ("input", TensorProto.FLOAT)]
    assert names(RAFT) == [
        ("INPUT0__0", TensorProto.UINT8),
        ("INPUT1__0", TensorProto.UINT8),
        ("input0", TensorProto.FLOAT),
        ("input1", TensorProto.FLOAT),
    ]


def test_frames_of_the_model_size_are_not_resized() -> None:
    operators = [node.op_type for node in preprocess_model(recorded(with_frame(MIDAS, (64, 96)))).graph.node]
    assert operators == ["Transpose", "Cast", "Mul", "Add"]
    assert "Resize" in [node.op_type for node in preprocess_model(recorded(with_frame(MIDAS, (64, 97)))).graph.node]


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 9), (21, 10), (23, 11)])
def test_preprocess_has_the_versions_of_the_branchs_file(tmp_path: Path, opset: int, ir_version: int) -> None:
    opsets = {"": opset, "com.microsoft": 1}
    branch = recorded(with_frame(MIDAS, (180, 320)), opsets=opsets, ir_version=ir_version)
    model = preprocess_model(branch)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == ir_version
    assert branch.normalization
    (frames,) = contents(1, 1, (180, 320))["noise"]
    (output,) = open_session(saved(model, tmp_path), "cpu", "fp32").run(None, {"INPUT__0": frames})
    expected = Preprocess(branch.normalization, (64, 96), torch.float32)(torch.from_numpy(frames)).numpy()
    assert grey_levels(branch, output - expected) <= most_grey_levels(branch.frame_size)


# --- preprocess and file in one ---


def published_branch(
    bundle_root: Path, variant: Variant, batch: int, frame_size: tuple[int, int] | None
) -> ServedBranch:
    place = published(bundle_root, variant, batch=batch)
    return served_branch(replace(place.export, variant=with_frame(variant, frame_size)), place.folder)


@pytest.mark.parametrize(
    ("variant", "batch", "frame_size"),
    [(MIDAS, 1, None), (MIDAS, 1, (180, 320)), (MIDAS, 2, (47, 33)), (RAFT, 1, None), (RAFT, 1, (180, 320))],
    ids=["midas", "midas resized", "midas batch 2", "raft", "raft resized"],
)
def test_fused_equals_preprocess_then_model(
    bundle_root: Path, tmp_path: Path, variant: Variant, batch: int, frame_size: tuple[int, int] | None
) -> None:
    branch = published_branch(bundle_root, variant, batch, frame_size)
    path = saved(fused_model(branch), tmp_path, "fused.onnx")
    assert fixed_interface(path) == Interface(branch.inputs, branch.outputs)
    preprocess = open_session(saved(preprocess_model(branch), tmp_path), "cpu", "fp32")
    model, fused = (open_session(file, "cpu", "fp32") for file in (branch.file, path))
    sets = contents(len(branch.inputs), batch, branch.frame_size)
    for name in ("photographs", "noise"):
        given = dict(zip([tensor.name for tensor in branch.inputs], sets[name], strict=True))
        between = [tensor.name for tensor in branch.record.inputs]
        (expected,) = model.run(None, dict(zip(between, preprocess.run(between, given), strict=True)))
        (output,) = fused.run(["OUTPUT__0"], given)
        assert np.linalg.norm(output - expected) <= 1e-6 * np.linalg.norm(expected), name


def test_fused_has_the_names_of_the_contract(bundle_root: Path) -> None:
    def names(variant: Variant) -> tuple[list[str], list[str]]:
        graph = fused_model(published_branch(bundle_root, variant, 1, (180, 320))).graph
        return [value.name for value in graph.input], [value.name for value in graph.output]

    assert names(MIDAS) == (["INPUT__0"], ["OUTPUT__0"])
    assert names(RAFT) == (["INPUT0__0", "INPUT1__0"], ["OUTPUT__0"])


def test_output_that_is_also_an_inner_tensor_is_renamed_everywhere(tmp_path: Path) -> None:
    shape = (1, 3, 64, 96)
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
    answers = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("first", "second")]
    nodes = [helper.make_node("Neg", ["input"], ["first"]), helper.make_node("Abs", ["first"], ["second"])]
    graph = helper.make_graph(nodes, "two", [given], answers)
    opset = helper.make_opsetid("", 18)
    path = saved(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path)
    outputs = tuple(TensorRecord(name=name, dtype="FLOAT", shape=shape) for name in ("first", "second"))
    branch = replace(recorded(outputs=outputs), file=path)
    fused = saved(fused_model(branch), tmp_path, "fused.onnx")
    onnx.checker.check_model(fused, full_check=True)
    frames = np.zeros((1, 64, 96, 3), np.uint8)
    first, second = open_session(fused, "cpu", "fp32").run(["OUTPUT0__0", "OUTPUT1__0"], {"INPUT__0": frames})
    np.testing.assert_array_equal(np.abs(first), second)
