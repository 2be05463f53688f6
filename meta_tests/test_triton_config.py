"""Configurations of a branch's models: fixed shapes, explicit devices, each option where the backend reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fixtures.records import Provider
from fixtures.spec import Dtype, Serving, Variant
from fixtures.triton.branches import ServedBranch, ServedModel
from fixtures.triton.config import ServedOn, config_text, configs, read_config
from meta_tests.branches import DPT, recorded, with_frame
from meta_tests.exports import MIDAS, RAFT
from meta_tests.file_records import with_tuning

VARIANTS = [with_frame(MIDAS, (180, 320)), DPT, RAFT]
# The backend writes these over an accelerator's parameters, from its own defaults where the model names none.
OVERWRITTEN = {"cudnn_conv_algo_search", "arena_extend_strategy", "gpu_mem_limit", "do_copy_in_default_stream"}
DATA_TYPES = {"UINT8": "TYPE_UINT8", "FLOAT": "TYPE_FP32"}
EVERY_OPTION = Serving(
    instances=3,
    gpus=(1, 4),
    arena_extend_strategy="same_as_requested",
    gpu_mem_limit_mb=2048,
)

every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.model)
every_device = pytest.mark.parametrize("served_on", ["cuda", "cpu"])


def steps(branch: ServedBranch, served_on: ServedOn = "cuda") -> dict[str, Any]:
    """The configurations of all models but the ensemble."""
    return {name: config for name, config in configs(branch, served_on, True).items() if name != branch.name}


def accelerator(config: Any) -> dict[str, str]:
    (only,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert only.name == "cuda"
    return dict(only.parameters)


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


@every_device
@every_variant
@pytest.mark.parametrize("batch", [1, 8])
def test_every_model_has_fixed_shapes(variant: Variant, batch: int, served_on: ServedOn) -> None:
    branch = recorded(variant, batch)
    found = configs(branch, served_on, True)
    models: dict[str, ServedModel] = {model.name: model for model in branch.models.values()}
    assert list(found) == [f"preprocess_{branch.name}", f"{branch.name}_onnx", f"{branch.name}_fused", branch.name]
    for name, config in found.items():
        assert config.name == name
        assert config.max_batch_size == 0
        assert not config.HasField("dynamic_batching")
        for given, tensors in ((config.input, models[name].inputs), (config.output, models[name].outputs)):
            said = [(one.name, model_config_pb2.DataType.Name(one.data_type), tuple(one.dims)) for one in given]
            assert said == [(one.name, DATA_TYPES[one.dtype], one.shape) for one in tensors]
            assert all(dims[0] == batch and min(dims) > 0 for _, _, dims in said)


def test_ensemble_takes_frames_and_the_file_takes_planes() -> None:
    found = configs(recorded(with_frame(RAFT, (180, 320)), 2), "cpu", True)
    shapes = {name: [list(one.dims) for one in config.input] for name, config in found.items()}
    frames, planes = [[2, 180, 320, 3]] * 2, [[2, 3, 128, 128]] * 2
    assert shapes == {
        "preprocess_raft_128_b2": frames,
        "raft_128_b2_onnx": planes,
        "raft_128_b2_fused": frames,
        "raft_128_b2": frames,
    }


def test_fused_is_configured_only_on_request() -> None:
    assert list(configs(recorded(), "cuda", False)) == ["preprocess_midas_64x96", "midas_64x96_onnx", "midas_64x96"]


@every_device
@every_variant
def test_text_round_trips(variant: Variant, served_on: ServedOn) -> None:
    for config in configs(recorded(variant, serving=EVERY_OPTION), served_on, True).values():
        assert read_config(config_text(config)) == config


@pytest.mark.parametrize("text", ["max_batch_sizes: 0", "name: 7", "input {", 'platform: "ensemble'])
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(text_format.ParseError):
        read_config(text)


# --- where it runs ---


@every_variant
def test_gpu_instances_are_explicit(variant: Variant) -> None:
    for config in steps(recorded(variant, serving=EVERY_OPTION)).values():
        assert (config.backend, config.default_model_filename) == ("onnxruntime", "model.onnx")
        (group,) = config.instance_group
        assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == "KIND_GPU"
        assert (group.count, list(group.gpus)) == (3, [1, 4])


def test_default_is_one_instance_on_gpu_0() -> None:
    for config in steps(recorded()).values():
        (group,) = config.instance_group
        assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == "KIND_GPU"
        assert (group.count, list(group.gpus)) == (1, [0])


@every_variant
def test_cpu_configuration_has_neither_gpus_nor_cuda_options(variant: Variant) -> None:
    for config in steps(recorded(variant), "cpu").values():
        (group,) = config.instance_group
        assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == "KIND_CPU"
        assert (group.count, list(group.gpus)) == (1, [])
        assert not config.HasField("optimization")
        assert not config.parameters


# --- options of CUDA ---


@pytest.mark.parametrize(("dtype", "use_tf32"), [("fp32", "0"), ("tf32", "1"), ("fp16", "1")])
def test_tf32_is_off_in_fp32_alone(dtype: Dtype, use_tf32: str) -> None:
    for config in steps(recorded(dtype=dtype)).values():
        assert accelerator(config) == {"use_tf32": use_tf32}


@pytest.mark.parametrize("serving", [Serving(), EVERY_OPTION], ids=["defaults", "every option"])
def test_overwritten_options_stand_in_parameters(serving: Serving) -> None:
    for config in steps(recorded(serving=serving)).values():
        assert not OVERWRITTEN & set(accelerator(config))
        assert set(parameters(config)) <= OVERWRITTEN


def test_options_are_written_as_the_backends_numbers() -> None:
    for config in steps(recorded()).values():
        assert parameters(config) == {"cudnn_conv_algo_search": "0", "arena_extend_strategy": "0"}
    for config in steps(recorded(serving=EVERY_OPTION)).values():
        assert parameters(config) == {
            "cudnn_conv_algo_search": "0",
            "arena_extend_strategy": "1",
            "gpu_mem_limit": "2147483648",
        }


# --- options that a file was tuned to ---


def tuned(options: dict[str, str], provider: Provider = "cuda", serving: Serving | None = None) -> ServedBranch:
    """MIDAS with a file that was tuned on a provider in fp32."""
    return replace(branch := recorded(serving=serving), record=with_tuning(branch.record, options, provider))


@pytest.mark.parametrize(
    ("options", "in_accelerator", "algo_search"),
    [
        ({}, {}, "0"),
        ({"prefer_nhwc": "1", "fuse_conv_bias": "1"}, {"prefer_nhwc": "1", "fuse_conv_bias": "1"}, "0"),
        ({"prefer_nhwc": "1", "cudnn_conv_algo_search": "heuristic"}, {"prefer_nhwc": "1"}, "1"),
        ({"cudnn_conv_algo_search": "default"}, {}, "2"),
    ],
)
def test_tuned_options_stand_where_the_backend_reads_them(
    options: dict[str, str], in_accelerator: dict[str, str], algo_search: str
) -> None:
    branch = tuned(options)
    for name, config in steps(branch).items():
        is_file = name != branch.models["preprocess"].name
        assert accelerator(config) == {"use_tf32": "0", **(in_accelerator if is_file else {})}
        assert parameters(config)["cudnn_conv_algo_search"] == (algo_search if is_file else "0")


def test_options_tuned_on_a_gpu_are_not_served_on_a_cpu() -> None:
    for config in steps(tuned({"prefer_nhwc": "1"}), "cpu").values():
        assert not config.HasField("optimization")
        assert not config.parameters


def test_options_tuned_on_a_cpu_are_the_backends_numbers() -> None:
    branch = tuned({"intra_op_thread_count": "2", "execution_mode": "parallel"}, "cpu")
    file = steps(branch, "cpu")[branch.models["model"].name]
    assert parameters(file) == {"intra_op_thread_count": "2", "execution_mode": "1"}


def test_options_tuned_without_tensorrt_are_left_out_beside_it() -> None:
    branch = tuned({"prefer_nhwc": "1"}, serving=Serving(accelerator="tensorrt"))
    assert all("prefer_nhwc" not in config_text(config) for config in steps(branch).values())


@pytest.mark.parametrize(("dtype", "precision_mode"), [("fp32", "FP32"), ("fp16", "FP16")])
def test_tensorrt_comes_before_cuda_on_request(dtype: Dtype, precision_mode: str) -> None:
    """By keys that the backend knows; nothing here loads TensorRT."""
    for config in steps(recorded(dtype=dtype, serving=Serving(accelerator="tensorrt"))).values():
        asked = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert [one.name for one in asked] == ["tensorrt", "cuda"]
        assert dict(asked[0].parameters) == {
            "precision_mode": precision_mode,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "/tmp/tensorrt_engines",
        }


@every_device
@every_variant
def test_cuda_graphs_are_never_enabled(variant: Variant, served_on: ServedOn) -> None:
    for config in configs(recorded(variant, serving=EVERY_OPTION), served_on, True).values():
        assert "graph" not in config_text(config)


# --- warm-up, and the ensemble ---


@every_device
@every_variant
@pytest.mark.parametrize("batch", [1, 8])
def test_every_step_has_a_warmup(variant: Variant, batch: int, served_on: ServedOn) -> None:
    for config in steps(recorded(variant, batch), served_on).values():
        (warmup,) = config.model_warmup
        assert warmup.batch_size == 1  # a model without batching is warmed up once
        assert set(warmup.inputs) == {one.name for one in config.input}
        for one in config.input:
            given = warmup.inputs[one.name]
            assert (given.data_type, list(given.dims), given.zero_data) == (one.data_type, list(one.dims), True)


@every_device
@every_variant
def test_ensemble_has_no_backend_options(variant: Variant, served_on: ServedOn) -> None:
    branch = recorded(variant, serving=EVERY_OPTION)
    config = configs(branch, served_on, True)[branch.name]
    assert (config.platform, config.backend) == ("ensemble", "")
    assert not config.model_warmup
    assert not config.instance_group
    assert not config.HasField("optimization")
    assert not config.parameters


@pytest.mark.parametrize("fused", [False, True])
@every_variant
def test_ensemble_maps_every_input_and_output(variant: Variant, fused: bool) -> None:
    branch = recorded(variant)
    found = configs(branch, "cuda", fused)
    ensemble = found[branch.name]
    written = {one.name for one in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = found[step.model_name]
        assert step.model_version == -1
        assert set(step.input_map) == {one.name for one in model.input}
        assert set(step.output_map) == {one.name for one in model.output}
        assert set(step.input_map.values()) <= written
        assert not set(step.output_map.values()) & written
        written |= set(step.output_map.values())
    assert {one.name for one in ensemble.output} <= written
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == [
        f"preprocess_{branch.name}",
        f"{branch.name}_onnx",
    ]


def test_each_frame_of_a_pair_reaches_its_own_input() -> None:
    branch = recorded(RAFT)
    first, second = configs(branch, "cuda", False)[branch.name].ensemble_scheduling.step
    assert dict(first.input_map) == {"INPUT0__0": "INPUT0__0", "INPUT1__0": "INPUT1__0"}
    assert dict(first.output_map) == {"input0": "preprocessed_input0", "input1": "preprocessed_input1"}
    assert dict(second.input_map) == dict(first.output_map)
    assert dict(second.output_map) == {"flow": "OUTPUT__0"}


def test_ensemble_links_tensors_of_equal_type_and_shape() -> None:
    for variant in VARIANTS:
        branch = recorded(variant)
        found = configs(branch, "cuda", False)
        ensemble = found[branch.name]
        known = {one.name: (one.data_type, list(one.dims)) for one in ensemble.input}
        for step in ensemble.ensemble_scheduling.step:
            model = found[step.model_name]
            for one in model.input:
                assert known[step.input_map[one.name]] == (one.data_type, list(one.dims))
            known.update({step.output_map[one.name]: (one.data_type, list(one.dims)) for one in model.output})
        for one in ensemble.output:
            assert known[one.name] == (one.data_type, list(one.dims))
