"""fixtures/export/exporter.py: what a written file holds beside the graph, and how large it may be."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper, numpy_helper

from fixtures.cases import Export
from fixtures.errors import InputError
from fixtures.export import exporter
from fixtures.export.exporter import write_model
from fixtures.weights.bundle import Weights
from meta_tests.exports import MIDAS
from meta_tests.test_export_graph_checks import SHAPE, model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def exported_by_hand(_export: Export, _checkpoint: Path) -> onnx_ir.Model:
    content = model(helper.make_node("Add", ["given", "weight"], ["answer"], name="add"))
    content.graph.initializer.append(numpy_helper.from_array(np.ones(SHAPE, np.float32), "weight"))
    content.graph.node[0].doc_string = "/home/engineer/model.py"
    return onnx_ir.from_proto(content)


def test_file_names_its_origin_and_no_path_of_the_machine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_exported", exported_by_hand)
    weights = Weights(Path("checkpoint"), "checkpoint", "5" * 64, synthetic=True)
    write_model(Export(MIDAS, 1, "tf32"), weights, path)
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert properties.pop("exporter").startswith("pretriton-bench ")
    assert properties == {"family": "midas", "model": "MiDaS_small", "precision": "fp32", "weights_sha256": "5" * 64}
    assert b"engineer" not in path.read_bytes()


def test_weights_beyond_the_protobuf_limit_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_exported", exported_by_hand)
    monkeypatch.setattr(exporter, "_PROTOBUF_LIMIT", 8)
    weights = Weights(Path("checkpoint"), "checkpoint", "5" * 64, synthetic=True)
    said = re.escape("midas_small_64-b1-fp32: weights=0.0 GiB: file=too large, expected less than 2 GiB")
    with pytest.raises(InputError, match=said):
        write_model(Export(MIDAS, 1, "fp32"), weights, path)
    assert not path.exists()
