"""torch's tables of operators, made once in a process: each export makes them anew, which takes 0.38 CPU seconds.

The sealed session of `families.py`, which exports every family, is without this: it exports as a person's session does.
"""

from __future__ import annotations

from functools import cache
from typing import cast

from torch._export import utils as export_utils
from torch.onnx._internal.exporter._registration import ONNXRegistry

from fixtures.export.exporter import OPSET


def keep_operator_table() -> None:
    """From now on an export of this process, or of one that is forked from it, gets a copy of the first table."""
    # No test registers operators of its own, which is why torch enters all of them again thirty times an export.
    export_utils._materialize_cpp_cia_ops = cache(export_utils._materialize_cpp_cia_ops)
    make = cache(ONNXRegistry.from_torchlib)

    def kept(cls: type[ONNXRegistry], opset_version: int = OPSET) -> ONNXRegistry:
        table = cls()
        table._opset_version = opset_version
        # An export enters translations of its own.
        table.functions = {operator: list(found) for operator, found in make(opset_version).functions.items()}
        return table

    ONNXRegistry.from_torchlib = cast("classmethod[ONNXRegistry, [int], ONNXRegistry]", classmethod(kept))  # type: ignore
