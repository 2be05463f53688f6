"""A stand-in for the operator that ONNX Runtime has on CUDA alone, so that such a file runs on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def with_stand_ins(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every GroupNorm taken apart into ONNX's own operators, from its documentation."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    for node in model.graph.node:
        changed.graph.node.extend(_group_norm(node, changed.graph) if node.op_type == "GroupNorm" else [node])
    return changed


def _group_norm(node: onnx.NodeProto, graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """`[B,rows,columns,C]`; scale and shift are float32 `[C]`."""
    image, scale, shift = node.input
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert (given["activation"], given["channels_last"]) == (0, 1)
    name, groups = node.output[0], given["groups"]
    for suffix, array in (
        ("grouped", np.array([0, groups, -1])),
        ("ones", np.ones(groups, np.float32)),
        ("zeros", np.zeros(groups, np.float32)),
    ):
        graph.initializer.append(numpy_helper.from_array(array, f"{name}_{suffix}"))
    yield helper.make_node("Transpose", [image], [f"{name}_first"], perm=_TO_FIRST)
    yield helper.make_node("Shape", [f"{name}_first"], [f"{name}_shape"])
    yield helper.make_node("Reshape", [f"{name}_first", f"{name}_grouped"], [f"{name}_groups"])
    inputs = [f"{name}_groups", f"{name}_ones", f"{name}_zeros"]
    yield helper.make_node("InstanceNormalization", inputs, [f"{name}_normal"], epsilon=given["epsilon"])
    yield helper.make_node("Reshape", [f"{name}_normal", f"{name}_shape"], [f"{name}_back"])
    yield helper.make_node("Transpose", [f"{name}_back"], [f"{name}_last"], perm=_TO_LAST)
    yield helper.make_node("Mul", [f"{name}_last", scale], [f"{name}_scaled"])
    yield helper.make_node("Add", [f"{name}_scaled", shift], [name])
