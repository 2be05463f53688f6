"""fixtures/export/exporter.py: what a written file holds beside the graph, and how large it may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper, numpy_helper

from fixtures.cases import Export
from fixtures.export import exporter
from fixtures.export.exporter import write_model
from fixtures.onnx_files import facts_of
from fixtures.onnx_session import open_session, run
from fixtures.weights.bundle import Weights
from meta_tests.exports import MIDAS
from meta_tests.test_export_graph_checks import model

WIDE = (1, 128)  # 512 bytes of weights: below 256 they stay inside


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def exported_by_hand(_export: Export, _checkpoint: Path) -> onnx_ir.Model:
    content = model(helper.make_node("Add", ["given", "weight"], ["answer"], name="add"), shape=WIDE)
    content.graph.initializer.append(numpy_helper.from_array(np.ones(WIDE, np.float32), "weight"))
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


@pytest.mark.parametrize("asked", [True, False], ids=["on demand", "beyond the limit"])
def test_weights_lie_beside_the_file(path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    monkeypatch.setattr(exporter, "_exported", exported_by_hand)
    monkeypatch.setattr(exporter, "_MOST_INSIDE", 10**9 if asked else 8)
    weights = Weights(Path("checkpoint"), "checkpoint", "5" * 64, synthetic=True)
    write_model(Export(MIDAS, 1, "fp32"), weights, path, external_data=asked)
    (data,) = facts_of(path).data_files
    assert data == path.with_name("model.onnx.data")
    np.testing.assert_array_equal(np.frombuffer(data.read_bytes(), np.float32), np.ones(WIDE, np.float32).ravel())
    onnx.checker.check_model(path, full_check=True)
    run(open_session(path, "cpu", "fp32"), (np.ones(WIDE, np.float32),))
