"""fixtures/export/graph_checks.py: every rule of a file, on models of one or two nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from fixtures.export.graph_checks import graph_problems
from fixtures.export.interface import Interface
from fixtures.onnx_files import facts_of
from fixtures.records import TensorRecord
from fixtures.target import target_of

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


def test_good_file_has_no_problems(path: Path) -> None:
    assert problems(path, model()) == []


def test_good_file_has_no_problems_from_another_working_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def dynamic_batch(content: onnx.ModelProto) -> None:
    content.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def unknown_axis(content: onnx.ModelProto) -> None:
    content.graph.output[0].type.tensor_type.shape.dim[1].Clear()


def empty_axis(content: onnx.ModelProto) -> None:
    content.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0


def output_renamed(content: onnx.ModelProto) -> None:
    content.graph.node[0].output[0] = content.graph.output[0].name = "reply"


def half_precision_output(content: onnx.ModelProto) -> None:
    content.graph.node[0].output[0] = "before"
    content.graph.node.append(helper.make_node("Cast", ["before"], ["answer"], to=TensorProto.FLOAT16))
    content.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def later_opset(content: onnx.ModelProto) -> None:
    content.opset_import[0].version = 22


def later_ir_version(content: onnx.ModelProto) -> None:
    content.ir_version = 11


def unknown_domain(content: onnx.ModelProto) -> None:
    content.opset_import.append(helper.make_opsetid("my.operators", 1))
    content.graph.node[0].domain = "my.operators"


def unknown_contrib_operator(content: onnx.ModelProto) -> None:
    content.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    content.graph.node[0].domain, content.graph.node[0].op_type = "com.microsoft", "FastGelu"


def operator_of_cuda(content: onnx.ModelProto) -> None:
    content.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    content.graph.node[0].domain, content.graph.node[0].op_type = "com.microsoft", "GroupNorm"


def unknown_operator(content: onnx.ModelProto) -> None:
    content.graph.node[0].op_type = "Convolve"


def constant(content: onnx.ModelProto, value: object, dtype: type) -> str:
    name = f"constant_{len(content.graph.initializer)}"
    content.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
    return name


def fails_in_a_run(content: onnx.ModelProto) -> None:
    """Takes a row that depends on the output, and is not there."""
    content.graph.node[0].output[0] = "before"
    content.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["before"], ["highest"], keepdims=0),
            helper.make_node("Cast", ["highest"], ["row"], to=TensorProto.INT64),
            helper.make_node("Add", ["row", constant(content, [7], np.int64)], ["absent"]),
            helper.make_node("Gather", ["before", "absent"], ["answer"], axis=0),
        ]
    )


def another_shape_in_a_run(content: onnx.ModelProto) -> None:
    """Reshapes to lengths that are computed from the output, beyond what shape inference sees."""
    content.graph.node[0].output[0] = "before"
    content.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["before"], ["highest"], keepdims=0),
            helper.make_node("Mul", ["highest", constant(content, 0, np.float32)], ["nothing"]),
            helper.make_node("Cast", ["nothing"], ["nought"], to=TensorProto.INT64),
            helper.make_node("Add", ["nought", constant(content, [2, 1], np.int64)], ["shape"]),
            helper.make_node("Reshape", ["before", "shape"], ["answer"]),
        ]
    )


def test_tensor_without_elements_is_no_problem(path: Path) -> None:
    """Swin's shifted windows make one at some sizes: a length of 0 is a length."""
    content = model()
    content.graph.value_info.append(helper.make_tensor_value_info("nothing", TensorProto.FLOAT, [0, 2]))
    assert problems(path, content) == []


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
        (dynamic_batch, "given: axis 0=batch, expected a fixed length"),
        (unknown_axis, "answer: axis 1=unknown, expected a fixed length"),
        (empty_axis, "input given: shape=[0, 2], expected [1, 2]"),
        (output_renamed, "output names=reply, expected answer"),
        (half_precision_output, "output answer: dtype=FLOAT16, expected FLOAT"),
        (later_opset, "opset=22 of ONNX, expected at most 21 for Triton 24.08 to 24.11 (ONNX Runtime 1.18.1)"),
        (later_ir_version, "IR version=11, expected at most 10 for Triton 24.08"),
        (unknown_domain, "domain=my.operators, expected one of ai.onnx, com.microsoft"),
        (unknown_contrib_operator, "operator=FastGelu of ONNX Runtime, expected one of BiasGelu, "),
        (
            operator_of_cuda,
            "operator=GroupNorm (1 nodes), expected operators that ONNX Runtime runs on cpu: it has this one for cuda "
            "alone. Export with `onnx_graph: contrib`, or judge on a GPU",
        ),
        (unknown_operator, "onnx.checker: No Op registered for Convolve"),
        (fails_in_a_run, "ONNX Runtime does not run it: "),
        (another_shape_in_a_run, "output answer: shape=[2, 1] of zeros, expected [1, 2]"),
    ],
    ids=lambda value: value.__name__.replace("_", " ") if callable(value) else "",
)
def test_broken_rule_is_named(path: Path, change: Change, says: str) -> None:
    content = model()
    change(content)
    assert problems(path, content)[0].startswith(says)


def test_all_problems_are_named_at_once(path: Path) -> None:
    content = model()
    for change in (contrib_opset, another_length, dynamic_inside):
        change(content)
    content.ir_version = 13
    assert len(problems(path, content)) == 4


def test_newer_target_takes_a_later_opset(path: Path) -> None:
    content = model()
    content.opset_import[0].version, content.ir_version = 23, 11
    assert len(problems(path, content)) == 2
    assert problems(path, content, "25.08") == []


def test_empty_file_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    assert "output names=, expected answer" in graph_problems(path, PROMISED, target_of("24.08"))


def inputs_in_another_order() -> tuple[onnx.ModelProto, Interface]:
    """A model of two inputs, and what it promises about them."""
    names = ("input0", "input1")
    first, second, answer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in (*names, "answer")
    )
    graph = helper.make_graph([helper.make_node("Sub", names, ["answer"])], "g", [second, first], [answer])
    promised = tuple(TensorRecord(name=name, dtype="FLOAT", shape=SHAPE) for name in names)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return content, Interface(promised, PROMISED.outputs)


def test_inputs_in_another_order_are_refused(path: Path) -> None:
    content, promised = inputs_in_another_order()
    path.write_bytes(content.SerializeToString())
    assert graph_problems(path, promised, target_of("24.08")) == ["input names=input1, input0, expected input0, input1"]


# --- weights beside the file ---


def with_weights_beside(path: Path) -> Path:
    """Write a good model whose weight lies in a second file. Returns that one."""
    content = model(helper.make_node("Add", ["given", "weight"], ["answer"]))
    content.graph.initializer.append(numpy_helper.from_array(np.ones(SHAPE, np.float32), "weight"))
    onnx.save(content, path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path.with_name("model.data")


def cut_short(_path: Path, data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-1])


def missing(_path: Path, data: Path) -> None:
    data.unlink()


def relocated(path: Path, key: str, value: str) -> None:
    """Change an entry of where the weights are."""
    content = onnx.load(path, load_external_data=False)
    for entry in content.graph.initializer[0].external_data:
        entry.value = value if entry.key == key else entry.value
    path.write_bytes(content.SerializeToString())


def in_a_folder_below(path: Path, data: Path) -> None:
    (path.parent / "below").mkdir()
    data.rename(path.parent / "below" / data.name)
    relocated(path, "location", f"below/{data.name}")


def in_another_folder(path: Path, data: Path) -> None:
    relocated(path, "location", str(data.rename(path.parent.parent / data.name)))


def behind_a_link(_path: Path, data: Path) -> None:
    data.symlink_to(data.rename(data.parent.parent / data.name))


def before_the_beginning(path: Path, _data: Path) -> None:
    relocated(path, "offset", "-4096")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut_short, "model.data=7 bytes, expected at least 8"),
        (missing, "model.data=missing, expected beside model.onnx"),
        (in_a_folder_below, "location=below/model.data, expected a file beside model.onnx"),
        (in_another_folder, "/model.data, expected a file beside model.onnx"),
        (behind_a_link, "location=model.data, expected a file beside model.onnx"),
        (before_the_beginning, "offset must be non-negative"),
    ],
    ids=lambda value: value.__name__.replace("_", " ") if callable(value) else "",
)
def test_weights_that_a_server_would_not_find_are_refused(
    path: Path, change: Callable[[Path, Path], None], says: str
) -> None:
    data = with_weights_beside(path)
    assert graph_problems(path, PROMISED, target_of("24.08")) == []
    change(path, data)
    (problem,) = graph_problems(path, PROMISED, target_of("24.08"))
    assert problem.startswith("external data of weight: ")
    assert problem.endswith(says) or says in problem


def test_weight_of_a_constant_node_may_lie_beside_the_file(path: Path) -> None:
    weight = numpy_helper.from_array(np.ones(SHAPE, np.float32), "weight")
    path.with_name("model.data").write_bytes(weight.raw_data)
    node = helper.make_node("Constant", [], ["weight"], value=weight)
    set_external_data(node.attribute[0].t, "model.data", 0, len(weight.raw_data))
    node.attribute[0].t.ClearField("raw_data")
    content = model(node, helper.make_node("Add", ["given", "weight"], ["answer"]))
    assert problems(path, content) == []
    assert facts_of(path).data_files == (path.with_name("model.data"),)


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


def test_missing_weights_of_a_subgraph_are_refused(path: Path) -> None:
    content = branches_with_external_data("weights.data")
    assert problems(path, content)[0] == ("external data of weight: weights.data=missing, expected beside model.onnx")
    assert facts_of(path).data_files == (path.with_name("weights.data"),)
    assert (
        "location=/etc/hostname, expected a file beside model.onnx"
        in problems(path, branches_with_external_data("/etc/hostname"))[0]
    )
