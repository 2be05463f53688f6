"""fixtures/export/graphs.py: files with contrib operators pass the gate where they are right, and only there."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from fixtures.cases import Export
from fixtures.errors import InputError
from fixtures.export.gate import Gate, GateError, GateSettings
from fixtures.export.graph_checks import graph_remarks
from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.manifest import published as published_record
from fixtures.records import OnnxGraph
from fixtures.spec import Variant
from fixtures.subject import locate_checkpoint
from fixtures.weights.bundle import Bundle
from meta_tests.bundles import synthetic_bundle
from meta_tests.exports import Published, Tamper, published
from meta_tests.file_records import record as entry
from meta_tests.loading import CONTENT

WEIGHTS = "visual/timm/test_vit.safetensors"
VIT = Variant(name="vit", family="timm", model="test_vit", height=64, width=96, weights=WEIGHTS, classes=10)
SPEC = f"""\
schema_version: 1
name: transformer
dtype: fp32
runtimes: [onnxruntime]
variants:
  - {{name: vit, family: timm, model: test_vit, height: 64, width: 96, weights: {WEIGHTS}, classes: 10}}
"""
BLOCKS = 6


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Published:
    root = synthetic_bundle(tmp_path_factory.mktemp("transformer") / "root", spec=SPEC)
    return published(root, VIT, graph="contrib")


def test_contrib_file_passes_its_gate_and_names_its_operators(transformer: Published) -> None:
    record = published_record(transformer.folder, transformer.export.file)
    assert record.graph == "contrib"
    assert record.contrib_operators == {
        "BiasGelu": BLOCKS,
        "MultiHeadAttention": BLOCKS,
        "SkipLayerNormalization": 2 * BLOCKS + 1,  # the first adds the positions
    }
    assert list(graph_remarks(record)) == [
        "contrib operators of graph contrib: 6 BiasGelu, 6 MultiHeadAttention, 13 SkipLayerNormalization; without a "
        "place for: none"
    ]
    assert [(one.provider, one.dtype, one.passed) for one in record.parity] == [("cpu", "fp32", True)]


@pytest.mark.parametrize(
    ("graph", "operators", "says"),
    [
        ("contrib", {}, "none; without a place for: BiasGelu, Gelu, MultiHeadAttention, SkipLayerNormalization"),
        ("contrib", {"Gelu": 2}, "2 Gelu; without a place for: BiasGelu, MultiHeadAttention, SkipLayerNormalization"),
        ("contrib", {"BiasGelu": 1, "Gelu": 1}, "1 Gelu; without a place for: MultiHeadAttention, SkipLayerNormali"),
        ("cuda", {"BiasGelu": 1}, "without a place for: GroupNorm, MultiHeadAttention, SkipLayerNormalization"),
    ],
)
def test_remark_names_the_operators_that_found_no_place(graph: str, operators: dict[str, int], says: str) -> None:
    (remark,) = graph_remarks(entry(graph=graph, contrib_operators=operators))
    assert says in remark


def test_portable_file_has_no_remark_on_contrib_operators() -> None:
    assert list(graph_remarks(entry(graph="portable", contrib_operators={"MultiHeadAttention": 1}))) == []


def first(model: onnx.ModelProto, operator: str, inputs: int = 0) -> onnx.NodeProto:
    """The first node of an operator with so many inputs, or more."""
    nodes = (node for node in model.graph.node if node.op_type == operator)
    found: onnx.NodeProto = next(node for node in nodes if len([name for name in node.input if name]) >= inputs)
    return found


def heads_doubled(model: onnx.ModelProto) -> None:
    attributes = first(model, "MultiHeadAttention").attribute
    heads = next(attribute for attribute in attributes if attribute.name == "num_heads")
    heads.i *= 2


def another_scale(model: onnx.ModelProto) -> None:
    attributes = first(model, "MultiHeadAttention").attribute
    scale = next(attribute for attribute in attributes if attribute.name == "scale")
    scale.f *= 1.1


def query_and_key_of_another_head(model: onnx.ModelProto) -> None:
    node = first(model, "MultiHeadAttention")
    node.input[1], node.input[2] = node.input[2], node.input[1]


def skip_left_out(model: onnx.ModelProto) -> None:
    node = first(model, "SkipLayerNormalization")
    node.input[1] = node.input[0]


def bias_left_out(model: onnx.ModelProto) -> None:
    node = first(model, "SkipLayerNormalization", inputs=5)
    del node.input[4]


def approximated(model: onnx.ModelProto) -> None:
    first(model, "BiasGelu").op_type = "FastGelu"


@pytest.mark.parametrize(
    "tamper",
    [heads_doubled, another_scale, query_and_key_of_another_head, skip_left_out, bias_left_out],
)
def test_gate_refuses_another_function(transformer: Published, tmp_path: Path, tamper: Tamper) -> None:
    gate = transformer.at(tmp_path).gate(transformer.tampered(tamper))
    with pytest.raises(GateError, match=r"parity on cpu in fp32: .*error="):
        gate.publish()
    gate.close()


def test_gate_refuses_an_operator_that_no_rule_knows(transformer: Published, tmp_path: Path) -> None:
    gate = transformer.at(tmp_path).gate(transformer.tampered(approximated))
    assert gate.graph_problems[0].startswith("operator=FastGelu of ONNX Runtime, expected one of BiasGelu, ")
    gate.close()


def test_file_for_cuda_is_refused_without_a_gpu_before_it_is_written(transformer: Published, tmp_path: Path) -> None:
    place = Published(Export(VIT, 1, "fp32", graph="cuda"), transformer.reference, transformer.weights, tmp_path)
    with pytest.raises(InputError, match="onnx_graph of vit=cuda, expected contrib or portable without a GPU to judge"):
        place.gate(transformer.unchanged)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("graph", ["contrib", "cuda"])
def test_dpt_hybrid_of_each_graph_passes_its_gate_on_a_gpu(tmp_path: Path, graph: OnnxGraph) -> None:
    hybrid = Variant(name="hybrid", family="midas", model="DPT_Hybrid", height=128, width=128)
    bundle = Bundle(synthetic_bundle(tmp_path / "root", ["DPT_Hybrid"]))
    export = Export(hybrid, 2, "fp16", graph=graph)
    weights = bundle.weights(locate_checkpoint(hybrid, bundle))
    reference = Reference(hybrid, weights.path, parity_inputs(CONTENT, hybrid))
    settings = GateSettings(tmp_path, export.file, "24.08", on_cuda=True, target_python=None, reproduce="again")
    record = Gate(export, reference, weights, settings).publish()
    assert record.contrib_operators.get("GroupNorm", 0) == (52 if graph == "cuda" else 0)
    assert {one.provider for one in record.parity} == ({"cuda"} if graph == "cuda" else {"cpu", "cuda"})
    assert record.placement is not None
    assert set(record.placement.nodes) == {"CUDAExecutionProvider"}
