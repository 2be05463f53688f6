"""fixtures/export/interface.py: names, dtypes and shapes that other systems rely on."""

from __future__ import annotations

from typing import get_args

import pytest

from fixtures.cases import Export
from fixtures.export.interface import interface_of
from fixtures.records import Dtype
from meta_tests.exports import RAFT


@pytest.mark.parametrize("dtype", get_args(Dtype))
def test_interface_is_float32_in_every_precision_class(dtype: Dtype) -> None:
    interface = interface_of(Export(RAFT, 3, dtype))
    tensors = [(tensor.name, tensor.dtype, tensor.shape) for tensor in (*interface.inputs, *interface.outputs)]
    assert tensors == [
        ("input0", "FLOAT", (3, 3, 128, 128)),
        ("input1", "FLOAT", (3, 3, 128, 128)),
        ("flow", "FLOAT", (3, 2, 128, 128)),
    ]
