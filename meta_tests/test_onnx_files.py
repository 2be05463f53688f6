"""fixtures/onnx_files.py: versions and external data of a file."""

from __future__ import annotations

from pathlib import Path

from onnx import helper

from fixtures.onnx_files import FileFacts, facts_of
from meta_tests.test_export_graph_checks import contrib_opset, model, with_weights_beside


def test_versions_are_read_from_the_file(tmp_path: Path) -> None:
    content, path = model(), tmp_path / "model.onnx"
    contrib_opset(content)
    path.write_bytes(content.SerializeToString())
    assert facts_of(path) == FileFacts({"": 18, "com.microsoft": 2}, 10, (), {})


def test_contrib_operators_are_counted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gelu", ["given"], ["one"], domain="com.microsoft"),
        helper.make_node("Gelu", ["one"], ["two"], domain="com.microsoft"),
        helper.make_node("Gelu", ["two"], ["answer"]),
    ]
    path = tmp_path / "model.onnx"
    path.write_bytes(model(*nodes).SerializeToString())
    assert facts_of(path).contrib_operators == {"Gelu": 2}


def test_files_with_weights_are_named_even_if_they_are_gone(tmp_path: Path) -> None:
    data = with_weights_beside(tmp_path / "model.onnx")
    data.unlink()
    assert facts_of(tmp_path / "model.onnx").data_files == (data,)
