"""Tensors of a configuration, as the ONNX Runtime backend compares and completes them; and on a real server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.triton.client import open_client
from fixtures.triton.emulation.tensors import Completion, completion, tensor_problems
from fixtures.triton.live import LiveServer
from fixtures.triton.repository import VERSION
from meta_tests.served import SmallServer

# A deprecation warning of a library is no defect of a server.
pytestmark = pytest.mark.filterwarnings("default:::tritonclient")

Shape = Sequence[int | str]


def graph_of(inputs: Shape = (1, 3), output: Shape = (1, 3), dtype: int = TensorProto.FLOAT) -> onnx.GraphProto:
    """Of a file that adds w, a default that requests may replace, to x; its outputs are y and their sum s, a scalar."""
    make = helper.make_tensor_value_info
    return helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node("ReduceSum", ["y"], ["s"], keepdims=0)],
        "g",
        [make("x", dtype, inputs), make("w", dtype, [1])],
        [make("y", dtype, output), make("s", dtype, [])],
        [numpy_helper.from_array(np.ones(1, helper.tensor_dtype_to_np_dtype(dtype)), "w")],
    )


def tensor(name: str, *dims: int, **changes: Any) -> dict[str, Any]:
    """A tensor in the server's JSON, which writes 64-bit integers as text."""
    return {"name": name, "data_type": "TYPE_FP32", "dims": [str(length) for length in dims or (1, 3)]} | changes


def config(**changes: Any) -> dict[str, Any]:
    return {"name": "m", "max_batch_size": 0, "input": [tensor("x")], "output": [tensor("y")]} | changes


def problems(graph: onnx.GraphProto, **changes: Any) -> list[str]:
    return list(tensor_problems(config(**changes), graph))


# --- accepted ---


@pytest.mark.parametrize(
    ("graph", "changes"),
    [
        (graph_of(), {}),
        (graph_of(), {"output": [tensor("y"), tensor("s", 1)]}),
        (graph_of(), {"output": [tensor("s", 1)]}),
        (graph_of(), {"output": [tensor("s", 1, 1)]}),
        (graph_of(), {"input": [tensor("x"), tensor("w", 1, optional=True)]}),
        (graph_of(), {"input": [tensor("x", 3, reshape={"shape": ["1", "3"]})]}),
        (graph_of(inputs=("n", 3)), {"input": [tensor("x", 7, 3)]}),
        (graph_of(inputs=("n", 3)), {"input": [tensor("x", -1, 3)]}),
        (graph_of(output=("n", 3)), {"output": [tensor("y", -1, 3)]}),
        (graph_of(("n", 3), ("n", 3)), {"max_batch_size": 8, "input": [tensor("x", 3)], "output": [tensor("y", 3)]}),
        (
            graph_of(dtype=TensorProto.DOUBLE),
            {"input": [tensor("x", data_type="TYPE_FP64")], "output": [tensor("y", data_type="TYPE_FP64")]},
        ),
    ],
    ids=[
        "as the file",
        "scalar output as [1]",
        "output not listed",
        "scalar output as [1, 1]",
        "default value listed",
        "reshape",
        "open input, fixed dims",
        "open input, open dims",
        "open output, open dims",
        "batching",
        "float64",
    ],
)
def test_tensors_are_accepted(graph: onnx.GraphProto, changes: dict[str, Any]) -> None:
    assert problems(graph, **changes) == []


# --- refused ---

EXPECTS = "the model expects {} but the model configuration specifies shape {}"
FIRST = (
    "for the model to support batching the shape should have at least 1 dimension and the first dimension must be -1; "
    "but shape expected by the model is [1, 3]"
)


@pytest.mark.parametrize(
    ("graph", "changes", "says"),
    [
        (graph_of(), {"input": [tensor("x", 1, 4)]}, ["tensor 'x': " + EXPECTS.format([1, 3], [1, 4])]),
        (graph_of(), {"output": [tensor("y", 3)]}, ["tensor 'y': " + EXPECTS.format([1, 3], [3])]),
        (graph_of(), {"input": [tensor("x", -1, 3)]}, ["tensor 'x': " + EXPECTS.format([1, 3], [-1, 3])]),
        (graph_of(), {"output": [tensor("y", 1, -1)]}, ["tensor 'y': " + EXPECTS.format([1, 3], [1, -1])]),
        (
            graph_of(output=("n", 3)),
            {"output": [tensor("y", 1, 3)]},
            ["tensor 'y': " + EXPECTS.format([-1, 3], [1, 3])],
        ),
        (
            graph_of(("n", 3), ("n", "m")),
            {"max_batch_size": 8, "input": [tensor("x", 3)], "output": [tensor("y", 3)]},
            ["tensor 'y': " + EXPECTS.format([-1, -1], [-1, 3])],
        ),
        (
            graph_of(),
            {"input": [tensor("x", reshape={"shape": ["3"]})]},
            ["tensor 'x': " + EXPECTS.format([1, 3], [3])],
        ),
        (
            graph_of(),
            {"output": [tensor("s", 2)]},
            ["tensor 's': a scalar should only provide 1 in the model configuration, which provides [2]"],
        ),
        (
            graph_of(),
            {"input": [tensor("x", data_type="TYPE_FP16")]},
            ["tensor 'x': the model is TYPE_FP32 but the configuration says TYPE_FP16"],
        ),
        (
            graph_of(),
            {"input": [tensor("x"), tensor("z")]},
            [
                "unable to load model 'm', configuration expects 2 inputs, model provides 1",
                "unexpected inference input 'z', allowed inputs are: w, x",
            ],
        ),
        (graph_of(), {"input": []}, ["unable to load model 'm', configuration expects 0 inputs, model provides 1"]),
        (
            graph_of(),
            {"output": [tensor("OUTPUT__0")]},
            ["unexpected inference output 'OUTPUT__0', allowed outputs are: s, y"],
        ),
        (
            graph_of(),
            {"max_batch_size": 8, "input": [tensor("x", 3)], "output": [tensor("y", 3)]},
            [f"tensor 'x': {FIRST}", f"tensor 'y': {FIRST}"],
        ),
        (
            graph_of(("n", 3), ("n", 3)),
            {
                "max_batch_size": 8,
                "input": [tensor("x", 3), tensor("x", 3, optional=True)],
                "output": [tensor("y", 3)],
            },
            ["optional input 'x' is not supported for models that support batching"],
        ),
    ],
    ids=[
        "dims",
        "rank",
        "open dims of a fixed input",
        "open dims of a fixed output",
        "fixed dims of an open output",
        "fixed dims of an open output, batched",
        "reshape",
        "scalar",
        "dtype",
        "input that the file has not",
        "input not listed",
        "output that the file has not",
        "batching of a fixed file",
        "optional input, batched",
    ],
)
def test_tensors_that_differ_are_refused(graph: onnx.GraphProto, changes: dict[str, Any], says: list[str]) -> None:
    assert problems(graph, **changes) == says


# --- completed ---

X, Y, S = (
    {"name": name, "data_type": "TYPE_FP32", "dims": dims} for name, dims in (("x", [1, 3]), ("y", [1, 3]), ("s", [1]))
)
EMPTY: dict[str, Any] = {"input": [], "output": []}


def test_lists_that_are_missing_come_from_the_file() -> None:
    assert completion(config(**EMPTY), graph_of()) == Completion(None, [X], [Y, S])
    assert completion(config(output=[]), graph_of()) == Completion(None, [], [Y, S])
    assert completion(config(input=[]), graph_of()) == Completion(None, [X], [])
    assert completion(config(), graph_of()) == Completion()


def test_completed_configuration_is_accepted() -> None:
    added = completion(config(**EMPTY), graph_of())
    assert problems(graph_of(), input=added.inputs, output=added.outputs) == []


def test_file_with_open_batches_is_batched() -> None:
    graph = graph_of(("n", 3), ("n", 3))
    del graph.output[1]
    added = completion(config(**EMPTY), graph)
    assert (added.max_batch_size, [entry["dims"] for entry in (*added.inputs, *added.outputs)]) == (4, [[3], [3]])
    assert completion(config(**EMPTY, max_batch_size=16), graph).max_batch_size == 16


def test_batching_of_a_fixed_file_is_not_completed() -> None:
    with pytest.raises(ValueError, match="autofill failed for model 'm': model does not support batching"):
        completion(config(**EMPTY, max_batch_size=8), graph_of())


def test_batch_of_scalars_is_not_completed() -> None:
    graph = graph_of(("n",), ("n",))
    del graph.output[1]
    with pytest.raises(ValueError, match="needs a `reshape`"):
        completion(config(**EMPTY), graph)


# --- on a server ---


@contextmanager
def model_beside(server: SmallServer, name: str, text: str) -> Iterator[None]:
    """A model beside those of the repository, of the file of `graph_of`, loaded."""
    folder = server.repository / name
    (folder / VERSION).mkdir(parents=True)
    model = helper.make_model(graph_of(), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / VERSION / "model.onnx")
    (folder / "config.pbtxt").write_text(text)
    with LiveServer(server.endpoint) as live:
        try:
            live.load(name)
            yield
        finally:
            live.unload(name)
            shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("", ["y", "s"]),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: [1, 3] } output { name: "s" data_type: TYPE_FP32 dims: 1 }'
            'optimization { execution_accelerators { gpu_execution_accelerator { name: "cuda" '
            'parameters { key: "use_tf32" value: "0" } } } } '
            'parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
            ["s"],
        ),
    ],
    ids=["nothing listed", "scalar alone, options of a GPU"],
)
def test_server_answers_for_what_the_real_backend_takes(
    small_server: SmallServer, text: str, outputs: list[str]
) -> None:
    name = f"taken_{len(outputs)}"
    config_text = f'backend: "onnxruntime" instance_group {{ kind: KIND_CPU }} {text}'
    with model_beside(small_server, name, config_text), open_client(small_server.endpoint, "http") as client:
        answers = client.send(name, {"x": np.array([[1, 2, 3]], np.float32)}, outputs)
    expected = {"y": [[2, 3, 4]], "s": [9]}
    assert {key: answer.tolist() for key, answer in answers.items()} == {key: expected[key] for key in outputs}
