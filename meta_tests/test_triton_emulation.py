"""The emulated backend refuses what the real one refuses, and combines CUDA options as the real one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from onnx import TensorProto, helper, numpy_helper

from fixtures.cases import Export
from fixtures.spec import Serving
from fixtures.triton.branches import ServedBranch, served_branch
from fixtures.triton.config import ServedOn, configs
from fixtures.triton.emulation.rules import OVERWRITTEN, cuda_options, load_problems, session_options
from fixtures.triton.repository import VERSION, write_repository
from meta_tests.branches import publish_stand_in
from meta_tests.exports import MIDAS
from meta_tests.file_records import with_tuning

SHAPE = (1, 3)
STALE = "the backend binds other buffers in each request, so that a graph replays stale data"
Pairs = Mapping[str, str]


def model(opset: int = 18, ir_version: int = 10) -> onnx.ModelProto:
    """One node that adds w to x."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.ones(SHAPE, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that every release loads."""
    path = tmp_path / "m" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model(), path)
    return path


def tensor(name: str, **changes: Any) -> dict[str, Any]:
    """A tensor in the server's JSON, which writes 64-bit integers as text."""
    return {"name": name, "data_type": "TYPE_FP32", "dims": ["1", "3"]} | changes


def config(**changes: Any) -> dict[str, Any]:
    return {"name": "m", "max_batch_size": 0, "input": [tensor("x")], "output": [tensor("y")]} | changes


def accelerated(name: str, pairs: Pairs, **changes: Any) -> dict[str, Any]:
    """A configuration that asks for an accelerator of a GPU."""
    accelerators = {"gpu_execution_accelerator": [{"name": name, "parameters": dict(pairs)}]}
    return config(optimization={"execution_accelerators": accelerators}, **changes)


def parameters(**values: str) -> dict[str, Any]:
    return {key: {"string_value": value} for key, value in values.items()}


def problems(asked: Mapping[str, Any], path: Path, triton: str, on_gpu: bool = True) -> list[str]:
    return load_problems(asked, path, triton, on_gpu)


@pytest.mark.parametrize(
    ("name", "pairs", "triton", "says"),
    [
        ("rocm", {}, "24.08", ["unknown Execution Accelerator 'rocm' is requested"]),
        ("cuda", {}, "24.08", []),
        ("tensorrt", {"precision_mode": "FP16", "trt_engine_cache_enable": "1"}, "24.08", []),
        ("tensorrt", {"precision_mode": "FP8"}, "24.08", ["unsupported precision mode 'FP8' is requested"]),
        (
            "tensorrt",
            {"trt_engine_cache_enable": "yes", "max_workspace_size_bytes": "much"},
            "24.08",
            [
                "trt_engine_cache_enable: failed to convert 'yes' to a boolean",
                "max_workspace_size_bytes: failed to convert 'much' to an integer",
            ],
        ),
        ("cuda", {"cudnn_conv_use_max_workspace": "1"}, "24.08", []),
        (
            "tensorrt",
            {"precision_mode": "FP16", "trt_fp16_enable": "1"},
            "24.08",
            ["unknown parameter 'trt_fp16_enable' is provided for TensorRT Execution Accelerator"],
        ),
        (
            "cuda",
            {"cudnn_use_max_workspace": "1"},
            "26.02",
            ["unknown parameter 'cudnn_use_max_workspace' is provided for the CUDA Execution Accelerator"],
        ),
        ("cuda", {"use_tf32": "0"}, "24.08", []),
        (
            "cuda",
            {"prefer_nhwc": "1"},
            "24.08",
            ["parameter 'prefer_nhwc' of the CUDA Execution Accelerator is unknown before Triton 24.12"],
        ),
        ("cuda", {"use_tf32": "0", "prefer_nhwc": "1"}, "24.12", []),
        (
            "cuda",
            {"enable_cuda_graph": "1"},
            "26.02",
            [f"enable_cuda_graph: {STALE}"],
        ),
    ],
)
def test_accelerator_options_are_held_to_the_release(
    path: Path, name: str, pairs: Pairs, triton: str, says: list[str]
) -> None:
    assert problems(accelerated(name, pairs), path, triton) == says


@pytest.mark.parametrize(
    "asked",
    [
        accelerated("rocm", {}),
        accelerated("cuda", {"enable_cuda_graph": "1", "gpu_mem_limit": "1", "no_option": "1"}),
        accelerated("tensorrt", {"trt_fp16_enable": "1"}),
        config(parameters=parameters(cudnn_conv_algo_search="9", arena_extend_strategy="many")),
    ],
    ids=["accelerator", "cuda", "tensorrt", "parameters"],
)
def test_cpu_instance_reads_no_option_of_a_gpu(path: Path, asked: dict[str, Any]) -> None:
    assert problems(asked, path, "24.08", on_gpu=False) == []
    assert problems(asked, path, "24.08", on_gpu=True)


def test_cpu_accelerators_are_checked_too(path: Path) -> None:
    for name, says in (("openvino", []), ("xnnpack", ["unknown Execution Accelerator 'xnnpack' is requested"])):
        accelerators = {"cpu_execution_accelerator": [{"name": name}]}
        asked = config(optimization={"execution_accelerators": accelerators})
        assert problems(asked, path, "24.08") == problems(asked, path, "24.08", on_gpu=False) == says


def test_overwritten_keys_are_four() -> None:
    assert sorted(OVERWRITTEN) == [
        "arena_extend_strategy",
        "cudnn_conv_algo_search",
        "do_copy_in_default_stream",
        "gpu_mem_limit",
    ]


@pytest.mark.parametrize("key", sorted(OVERWRITTEN))
def test_overwritten_key_is_refused_in_an_accelerator(path: Path, key: str) -> None:
    assert problems(accelerated("cuda", {key: "1"}), path, "26.02") == [
        f"{key}: the backend overwrites it here; write it in the model's top-level `parameters`"
    ]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cudnn_conv_algo_search": "0", "arena_extend_strategy": "1"}, []),
        ({"cudnn_conv_algo_search": "2"}, []),
        ({"cudnn_conv_algo_search": "3"}, ["unsupported cudnn_conv_algo_search value '3' is requested"]),
        ({"cudnn_conv_algo_search": "DEFAULT"}, ["unsupported cudnn_conv_algo_search value 'DEFAULT' is requested"]),
        ({"arena_extend_strategy": "2"}, ["unsupported arena_extend_strategy value '2' is requested"]),
    ],
)
def test_parameters_take_only_known_numbers(path: Path, values: dict[str, str], says: list[str]) -> None:
    assert problems(config(parameters=parameters(**values)), path, "24.08") == says


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"intra_op_thread_count": "2", "inter_op_thread_count": "0", "execution_mode": "1"}, []),
        ({"intra_op_thread_count": "-1"}, []),  # the backend takes numbers below one for the default
        ({"intra_op_thread_count": " 2 threads"}, []),  # and reads no further than the number
        ({"intra_op_thread_count": "two"}, ["intra_op_thread_count: failed to convert 'two' to an integer"]),
        ({"intra_op_thread_count": ""}, ["intra_op_thread_count: failed to convert '' to an integer"]),
        ({"inter_op_thread_count": "9" * 10}, [f"inter_op_thread_count: failed to convert '{'9' * 10}' to an integer"]),
        ({"execution_mode": "2"}, ["Expected values for execution_mode are 0 or 1 but got 2"]),
        ({"execution_mode": "-1"}, ["Expected values for execution_mode are 0 or 1 but got -1"]),
        ({"execution_mode": "parallel"}, ["execution_mode: failed to convert 'parallel' to an integer"]),
        ({"enable_mem_arena": "True", "enable_mem_pattern": "off"}, []),
        ({"enable_mem_arena": "no"}, ["enable_mem_arena: failed to convert 'no' to a boolean"]),
        (
            {"share_session_between_instances": ""},
            ["share_session_between_instances: failed to convert '' to a boolean"],
        ),
        ({"a_key_of_another_backend": "any"}, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("on_gpu", [True, False])
def test_parameters_of_every_device_are_read_as_the_backend_does(
    path: Path, values: dict[str, str], says: list[str], on_gpu: bool
) -> None:
    assert problems(config(parameters=parameters(**values)), path, "24.08", on_gpu) == says


def test_session_gets_the_threads_that_were_asked_for() -> None:
    asked = parameters(intra_op_thread_count="2", inter_op_thread_count="-3", execution_mode="1")
    assert session_options(config(parameters=asked)) == {"intra_op_thread_count": 2, "execution_mode": 1}
    assert session_options(config()) == {}


@pytest.mark.parametrize(
    ("opset", "triton", "says"),
    [
        (21, "24.08", []),
        (22, "24.08", ["opset 22: ONNX Runtime 1.18.1 supports up to 21"]),
        (22, "25.02", ["opset 22: ONNX Runtime 1.20.1 supports up to 21"]),
        (22, "25.03", []),
    ],
)
def test_opset_is_held_to_the_release(path: Path, opset: int, triton: str, says: list[str]) -> None:
    onnx.save(model(opset=opset), path)
    assert problems(config(), path, triton) == says


def test_opsets_of_other_domains_are_ignored(path: Path) -> None:
    other = model()
    other.opset_import.append(helper.make_opsetid("com.microsoft", 99))
    onnx.save(other, path)
    assert problems(config(), path, "24.08") == []


@pytest.mark.parametrize(
    ("triton", "says"),
    [
        ("24.08", ["unsupported model IR version: 11, max supported IR version: 10"]),
        ("25.05", ["unsupported model IR version: 11, max supported IR version: 10"]),
        ("25.08", []),
    ],
)
def test_ir_version_is_held_to_the_release(path: Path, triton: str, says: list[str]) -> None:
    onnx.save(model(ir_version=11), path)
    assert problems(config(), path, triton) == says


def save_with_data_at(path: Path, location: str) -> None:
    """The model with its weights in a file beside it, which it seeks at `location`."""
    onnx.save(model(), path, save_as_external_data=True, location="data", size_threshold=0)
    moved = onnx.load(path, load_external_data=False)
    (entry,) = [pair for pair in moved.graph.initializer[0].external_data if pair.key == "location"]
    entry.value = location
    path.write_bytes(moved.SerializeToString())


def test_external_data_in_the_folder_is_accepted(path: Path) -> None:
    save_with_data_at(path, "data")
    assert problems(config(), path, "24.08") == []


def test_missing_external_data_is_refused(path: Path) -> None:
    save_with_data_at(path, "weights")
    assert problems(config(), path, "24.08") == [
        f"external data of 'w' is missing: {path.with_name('weights').resolve()}"
    ]


@pytest.mark.parametrize("location", ["../data", "/dev/zero", "link"])
def test_external_data_outside_of_the_folder_is_refused(path: Path, location: str) -> None:
    outside = path.parent.parent / "data"
    outside.write_bytes(bytes(12))
    path.with_name("link").symlink_to(outside)
    save_with_data_at(path, location)
    (problem,) = problems(config(), path, "24.08")
    assert problem.startswith("external data of 'w' lies outside of the model's folder: ")
    assert problem.endswith("/dev/zero" if location == "/dev/zero" else str(outside.resolve()))


def test_missing_file_is_refused(path: Path) -> None:
    path.unlink()
    assert problems(config(), path, "24.08") == [f"unable to find '{path}' for model 'm'"]


def test_file_that_is_no_onnx_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for content in (b"no ONNX", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert problems(config(), path, "24.08") == [f"{path} is no ONNX model"]
    path.write_bytes(b"")  # which protobuf reads as a message without fields
    assert problems(config(), path, "24.08")


def test_all_problems_are_reported_at_once(path: Path) -> None:
    onnx.save(model(opset=22, ir_version=11), path)
    wrong = accelerated("rocm", {}, input=[], parameters=parameters(cudnn_conv_algo_search="9"))
    assert len(problems(wrong, path, "24.08")) == 5


SERVINGS = [
    Serving(),
    Serving(gpu_mem_limit_mb=64, gpus=(0, 1)),
]


@pytest.mark.parametrize("served_on", ["cpu", "cuda"])
@pytest.mark.parametrize("serving", SERVINGS, ids=["defaults", "every option"])
def test_written_configuration_is_accepted(tmp_path: Path, serving: Serving, served_on: ServedOn) -> None:
    branch = branch_in(tmp_path / "onnx", serving)
    write_repository(tmp_path / "repository", [branch], served_on, fused=True)
    written = configs(branch, served_on, fused=True)
    assert written.popitem()[0] == branch.name  # the ensemble, which is no file
    for name, one in written.items():
        file = tmp_path / "repository" / name / VERSION / "model.onnx"
        assert problems(_as_json(one), file, "24.12", served_on == "cuda") == []
        for tensors in (one.input, one.output):
            tensors[0].dims[0] += 1
            assert len(problems(_as_json(one), file, "24.12")) == 1
            tensors[0].dims[0] -= 1


def branch_in(folder: Path, serving: Serving) -> ServedBranch:
    """MIDAS with a stand-in for its file, published in a folder."""
    export = Export(MIDAS, 1, "fp32", serving)
    publish_stand_in(folder, export)
    return served_branch(export, folder, "24.12")


def _as_json(one: Any) -> dict[str, Any]:
    written: dict[str, Any] = json_format.MessageToDict(one, preserving_proto_field_name=True)
    return written


DEFAULTS = {
    "device_id": "0",
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "arena_extend_strategy": "kNextPowerOfTwo",
}


def with_accelerators(*accelerators: tuple[str, Pairs]) -> dict[str, Any]:
    found: Sequence[Any] = [{"name": name, "parameters": pairs} for name, pairs in accelerators]
    return config(optimization={"execution_accelerators": {"gpu_execution_accelerator": found}})


def test_options_default_to_the_backends() -> None:
    assert cuda_options(config(), 0) == DEFAULTS
    assert cuda_options(config(), 3) == DEFAULTS | {"device_id": "3"}


def test_accelerator_options_reach_the_provider() -> None:
    asked = with_accelerators(("cuda", {"use_tf32": "0", "prefer_nhwc": "1"}))
    assert cuda_options(asked, 0) == DEFAULTS | {"use_tf32": "0", "prefer_nhwc": "1"}


def test_overwritten_options_come_from_parameters_alone() -> None:
    asked = with_accelerators(("cuda", dict.fromkeys(OVERWRITTEN, "7")))
    assert cuda_options(asked, 0) == DEFAULTS
    asked["parameters"] = parameters(cudnn_conv_algo_search="1", arena_extend_strategy="1", gpu_mem_limit="4096")
    assert cuda_options(asked, 0) == {
        "device_id": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "4096",
    }


def test_tensorrt_options_do_not_reach_cuda() -> None:
    asked = with_accelerators(("tensorrt", {"precision_mode": "FP16"}), ("cuda", {"use_tf32": "0"}))
    assert cuda_options(asked, 0) == DEFAULTS | {"use_tf32": "0"}


@pytest.mark.parametrize("serving", SERVINGS, ids=["defaults", "every option"])
def test_written_configuration_becomes_the_options_of_the_spec(tmp_path: Path, serving: Serving) -> None:
    branch = branch_in(tmp_path, serving)
    tuned_to = {"prefer_nhwc": "1", "cudnn_conv_algo_search": "heuristic"}
    if serving.gpu_mem_limit_mb:
        branch = replace(branch, record=with_tuning(branch.record, tuned_to, "cuda"))
    asked = _as_json(configs(branch, "cuda", fused=False)[branch.models["model"].name])
    every = {"prefer_nhwc": "1", "cudnn_conv_algo_search": "HEURISTIC", "gpu_mem_limit": str(64 * 1024**2)}
    added = every if serving.gpu_mem_limit_mb else {}
    assert cuda_options(asked, 0) == DEFAULTS | {"use_tf32": "0"} | added
