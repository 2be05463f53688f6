"""Served branches without an export: a manifest entry alone, or one with a stand-in file of one or two nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fixtures.cases import Export
from fixtures.export.interface import interface_of
from fixtures.files import sha256_of
from fixtures.manifest import enter
from fixtures.models import tower_of
from fixtures.records import FileRecord
from fixtures.spec import SIZE_KEYS, Dtype, Frame, Serving, Variant
from fixtures.triton.branches import ServedBranch
from meta_tests.exports import MIDAS, RAFT
from meta_tests.file_records import record

DPT = Variant(name="midas_hybrid_64", family="midas", model="DPT_Hybrid", height=64, width=96)


def with_frame(variant: Variant, size: tuple[int, int] | None) -> Variant:
    """The variant for clients that send frames of this size."""
    frame = Frame(height=size[0], width=size[1]) if size else None
    return variant.model_copy(update={"frame": frame})


def record_of(export: Export, **changes: Any) -> FileRecord:
    """The manifest entry of an export that has passed its gate."""
    variant, interface = export.variant, interface_of(export)
    facts: dict[str, Any] = {
        "variant": variant.name,
        "family": variant.family,
        "model": variant.model,
        "tower": variant.tower,
        "activation": variant.activation,
        **{key: getattr(variant, key) for keys in SIZE_KEYS.values() for key in keys},
        "batch": export.batch,
        "precision": export.file_dtype,
        "inputs": interface.inputs,
        "outputs": interface.outputs,
        "normalization": tower_of(variant).modality.normalization_for(variant),
    }
    return record(**facts | changes)


def recorded(
    variant: Variant = MIDAS,
    batch: int = 1,
    dtype: Dtype = "fp32",
    serving: Serving | None = None,
    **changes: Any,
) -> ServedBranch:
    """A branch with a manifest entry and without a file."""
    export = Export(variant, batch, dtype, serving or Serving())
    return ServedBranch(export, record_of(export, **changes), Path("nowhere.onnx"), "24.08")


def stand_in(export: Export) -> onnx.ModelProto:
    """A file with the interface of an export: the mean of the channels, or for RAFT the frames' difference."""
    interface = interface_of(export)
    inputs, outputs = (
        [helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape) for tensor in tensors]
        for tensors in (interface.inputs, interface.outputs)
    )
    names = [value.name for value in inputs]
    if export.variant.family == RAFT.family:
        weight = numpy_helper.from_array(np.eye(2, 3, dtype=np.float32), "weight")
        nodes = [
            helper.make_node("Sub", names, ["difference"]),
            helper.make_node("Einsum", ["difference", "weight"], [outputs[0].name], equation="bchw,dc->bdhw"),
        ]
    else:
        weight = numpy_helper.from_array(np.full(3, 1 / 3, np.float32), "weight")
        nodes = [helper.make_node("Einsum", [names[0], "weight"], [outputs[0].name], equation="bchw,c->bhw")]
    graph = helper.make_graph(nodes, "stand_in", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def publish_stand_in(folder: Path, export: Export, external: bool = False, **changes: Any) -> Path:
    """Write a stand-in and enter it in the folder's manifest as if it had passed its gate; returns its path.

    Args:
        external: keep its weight in a file beside it.
        changes: fields of the manifest entry.
    """
    path = folder / export.file
    path.parent.mkdir(parents=True, exist_ok=True)
    data = f"{path.name}.data"
    onnx.save(stand_in(export), path, save_as_external_data=external, location=data, size_threshold=0)
    for written in path.parent.glob(f"{path.name}*"):
        written.chmod(0o644)  # as exports are, so that a repository links them
    digests = {data: sha256_of(path.with_name(data))} if external else {}
    enter(folder, export.file, record_of(export, **{"sha256": sha256_of(path), "data": digests} | changes))
    return path
