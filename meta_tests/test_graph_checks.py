"""What is refused about a file without knowing its model, on files of one or two nodes; and how a file is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from fixtures.cases import Export
from fixtures.errors import InputError
from fixtures.export import exporter
from fixtures.export.exporter import write_model
from fixtures.export.graph_checks import graph_problems
from fixtures.export.interface import Interface, interface_of
from fixtures.export.staging import Staging
from fixtures.onnx_files import external_data_files, opsets
from fixtures.records import TensorRecord
from fixtures.target import target_of
from fixtures.weights.bundle import Weights
from meta_tests.exports import MIDAS, RAFT

SHAPE = (1, 2)
PROMISED = Interface(
    inputs=(TensorRecord(name="given", dtype="FLOAT", shape=SHAPE),),
    outputs=(TensorRecord(name="answer", dtype="FLOAT", shape=SHAPE),),
)
Change = Callable[[onnx.ModelProto], None]


def model(*nodes: onnx.NodeProto, shape: tuple[int | str, ...] = SHAPE) -> onnx.ModelProto:
    """`given` → `answer` through one node or several."""
    given, answer = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("given", "answer"))
    graph = helper.make_graph(list(nodes or [helper.make_node("Relu", ["given"], ["answer"])]), "g", [given], [answer])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def problems(path: Path, content: onnx.ModelProto, triton: str = "24.08") -> list[str]:
    path.write_bytes(content.SerializeToString())
    return graph_problems(path, PROMISED, target_of(triton))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_a_good_file_has_no_problems(path: Path) -> None:
    assert problems(path, model()) == []


def test_the_same_file_has_none_from_another_working_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(model().SerializeToString())
    monkeypatch.chdir(path.parent)
    assert graph_problems(Path(path.name), PROMISED, target_of("24.08")) == []
    assert Path.cwd() == path.parent


def contrib_opset(content: onnx.ModelProto) -> None:
    content.opset_import.append(helper.make_opsetid("com.microsoft", 2))


def machine_learning(content: onnx.ModelProto) -> None:
    content.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))


def later_function(content: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["x"], ["y"])]
    function = helper.make_function("", "Own", ["x"], ["y"], body, [helper.make_opsetid("", 22)])
    content.functions.append(function)


def dynamic_inside(content: onnx.ModelProto) -> None:
    content.graph.value_info.append(helper.make_tensor_value_info("between", TensorProto.FLOAT, ["rows", 2]))


def another_length(content: onnx.ModelProto) -> None:
    content.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3


def another_rank(content: onnx.ModelProto) -> None:
    content.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 1


def no_shape(content: onnx.ModelProto) -> None:
    content.graph.output[0].type.tensor_type.ClearField("shape")


def sequence(content: onnx.ModelProto) -> None:
    content.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("given", TensorProto.FLOAT, SHAPE))


def no_inputs(content: onnx.ModelProto) -> None:
    del content.graph.input[:]


def another_output(content: onnx.ModelProto) -> None:
    content.graph.output.append(content.graph.output[0])


def double_input(content: onnx.ModelProto) -> None:
    content.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def dangling(content: onnx.ModelProto) -> None:
    content.graph.node[0].input[0] = "nothing"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (contrib_opset, "opset=2 of ONNX Runtime, expected at most 1 for Triton 24.08 to 24.11"),
        (machine_learning, "domain=ai.onnx.ml, expected one of ai.onnx, com.microsoft: Triton has no others"),
        (later_function, "opset=22 of ONNX, expected at most 21"),
        (dynamic_inside, "between: axis 0=rows, expected a fixed length"),
        (another_length, "output answer: shape=[1, 3], expected [1, 2]"),
        (another_rank, "input given: shape=[1, 2, 1], expected [1, 2]"),
        (no_shape, "output answer: shape=[], expected [1, 2]"),
        (sequence, "input given: dtype=UNDEFINED, expected FLOAT"),
        (no_inputs, "input names=, expected given"),
        (another_output, "output names=answer, answer, expected answer"),
        (double_input, "input given: dtype=DOUBLE, expected FLOAT"),
        (dangling, "onnx.checker: "),
    ],
    ids=lambda value: value.__name__.replace("_", " ") if callable(value) else "",
)
def test_a_broken_rule_is_named(path: Path, change: Change, says: str) -> None:
    content = model()
    change(content)
    assert problems(path, content)[0].startswith(says)


def test_all_that_is_wrong_is_told_at_once(path: Path) -> None:
    content = model()
    for change in (contrib_opset, another_length, dynamic_inside):
        change(content)
    content.ir_version = 13
    assert len(problems(path, content)) == 4


def test_a_newer_target_takes_what_an_older_one_refuses(path: Path) -> None:
    content = model()
    content.opset_import[0].version, content.ir_version = 23, 11
    assert len(problems(path, content)) == 2
    assert problems(path, content, "25.08") == []


def test_an_empty_file_is_no_model(path: Path) -> None:
    path.write_bytes(b"")
    assert "output names=, expected answer" in graph_problems(path, PROMISED, target_of("24.08"))


def branches_with_external_data(location: str) -> onnx.ModelProto:
    """An If whose two branches add a weight that lies in another file."""

    def branch() -> onnx.GraphProto:
        weight = numpy_helper.from_array(np.ones(SHAPE, np.float32), "weight")
        set_external_data(weight, location, 0, len(weight.raw_data))
        weight.ClearField("raw_data")
        added = helper.make_node("Add", ["given", "weight"], ["sum"])
        return helper.make_graph(
            [added], "branch", [], [helper.make_tensor_value_info("sum", TensorProto.FLOAT, SHAPE)], [weight]
        )

    condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    return model(condition, helper.make_node("If", ["yes"], ["answer"], then_branch=branch(), else_branch=branch()))


def test_weights_of_a_subgraph_have_to_be_there_too(path: Path) -> None:
    content = branches_with_external_data("weights.data")
    assert problems(path, content)[0] == ("external data of weight: weights.data=missing, expected beside model.onnx")
    assert external_data_files(path) == [path.with_name("weights.data")]
    assert (
        "location=/etc/hostname, expected a file beside model.onnx"
        in problems(path, branches_with_external_data("/etc/hostname"))[0]
    )


def test_versions_are_read_from_the_file(path: Path) -> None:
    content = model()
    contrib_opset(content)
    path.write_bytes(content.SerializeToString())
    assert opsets(path) == ({"": 18, "com.microsoft": 2}, 10)
    assert external_data_files(path) == []


# --- what is promised ---


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_the_interface_is_float32_in_every_precision(precision: str) -> None:
    export = Export(RAFT, 3, "fp16" if precision == "fp16" else "tf32" if precision == "tf32" else "fp32")
    interface = interface_of(export)
    tensors = [(tensor.name, tensor.dtype, tensor.shape) for tensor in (*interface.inputs, *interface.outputs)]
    assert tensors == [
        ("input0", "FLOAT", (3, 3, 128, 128)),
        ("input1", "FLOAT", (3, 3, 128, 128)),
        ("flow", "FLOAT", (3, 2, 128, 128)),
    ]


# --- how it is written ---


def exported_by_hand(_export: Export, _checkpoint: Path) -> onnx_ir.Model:
    content = model(helper.make_node("Add", ["given", "weight"], ["answer"], name="add"))
    content.graph.initializer.append(numpy_helper.from_array(np.ones(SHAPE, np.float32), "weight"))
    content.graph.node[0].doc_string = "/home/somebody/model.py"
    return onnx_ir.from_proto(content)


def test_a_file_says_what_it_was_made_of_and_not_where(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_exported", exported_by_hand)
    weights = Weights(Path("checkpoint"), "checkpoint", "5" * 64, synthetic=True)
    write_model(Export(MIDAS, 1, "tf32"), weights, path)
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert properties.pop("exporter").startswith("pretriton-bench ")
    assert properties == {"family": "midas", "model": "MiDaS_small", "precision": "fp32", "weights_sha256": "5" * 64}
    assert b"somebody" not in path.read_bytes()


def test_weights_that_one_file_cannot_hold_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_exported", exported_by_hand)
    monkeypatch.setattr(exporter, "_PROTOBUF_LIMIT", 8)
    weights = Weights(Path("checkpoint"), "checkpoint", "5" * 64, synthetic=True)
    said = re.escape("midas_small_64-b1-fp32: weights=0.0 GiB: file=too large, expected less than 2 GiB")
    with pytest.raises(InputError, match=said):
        write_model(Export(MIDAS, 1, "fp32"), weights, path)
    assert not path.exists()


# --- where it is made ---


def test_what_a_dead_process_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    for name in (".staging-1", ".staging-999999999", ".staging-nobody"):
        (tmp_path / name).mkdir()
    staging = Staging(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".staging-1", staging.folder.name}
    staging.close()
    assert [path.name for path in tmp_path.iterdir()] == [".staging-1"]


def test_a_file_is_published_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.onnx").write_text("older")
    staging = Staging(tmp_path)
    path = staging.path("a/b.onnx")
    path.write_text("newer")
    assert staging.publish(path) == tmp_path / "a" / "b.onnx"
    assert (tmp_path / "a" / "b.onnx").read_text() == "newer"
    assert not path.exists()


def test_a_folder_in_the_place_of_a_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    staging = Staging(tmp_path)
    staging.path("a.onnx").write_text("newer")
    with pytest.raises(InputError, match=r"a\.onnx: file=Is a directory, expected a path to write to\."):
        staging.publish(staging.path("a.onnx"))
