"""Tests that need a GPU: CUDA graphs, timers against independent measures, memory against a hand-written script."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fixtures import manifest, spec
from fixtures.cases import Case, Export
from fixtures.export.accuracy import FLOORS, relative_error
from fixtures.export.exporter import write_model
from fixtures.export.formats import aoti
from fixtures.export.gate import Gate, GateError, GateSettings, Make
from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.measure import protocol, timing
from fixtures.measure.device_state import DeviceState
from fixtures.measure.host_speed import HostSpeed
from fixtures.measure.protocol import measuring_plan
from fixtures.measure.retries import Watch
from fixtures.measure.rounds import ClockError
from fixtures.nvml import Gpu
from fixtures.packages import platform_here
from fixtures.precision import precision_class
from fixtures.runtimes import Runtime, runtime_class
from fixtures.spec import Dtype, Variant
from fixtures.subject import Sources, TorchSubject, device_inputs, locate_checkpoint, torch_module
from fixtures.triton.branches import served_branch
from fixtures.triton.client import Array
from fixtures.triton.installation import Installation
from fixtures.triton.load import LoadTarget, closed_loop
from fixtures.triton.repository import write_repository
from fixtures.triton.server import LocalServer
from fixtures.weights.bundle import Bundle, Weights
from meta_tests.bundles import synthetic_bundle
from meta_tests.conftest import ROOT, SMALL_SPEC, Suite
from meta_tests.exports import Published
from meta_tests.loading import CONTENT, torch_subject
from meta_tests.packages import published_package

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

DEVICE = torch.device("cuda", 0)
MIDAS = Variant(name="m", family="midas", model="MiDaS_small", height=256, width=256, channels_last=True)
RAFT = Variant(name="r", family="raft", model="raft_small", height=256, width=256)
SMALL_MIDAS = Variant(name="sm", family="midas", model="MiDaS_small", height=64, width=96)
HYBRID_384 = Variant(name="midas_hybrid_384", family="midas", model="DPT_Hybrid", height=384, width=384)
SMALL_RAFT = Variant(name="sr", family="raft", model="raft_small", height=128, width=128)

PACKAGES_SPEC = """\
schema_version: 1
name: packages
dtype: fp16
runtimes: [torch, torch-aoti, torch-aoti-graph]
variants:
  - {name: midas_small_256, family: midas, model: MiDaS_small, height: 256, width: 256, channels_last: true}
"""


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def entered(root: Path, variant: Variant, name: str, batch: int = 1, dtype: Dtype = "fp16") -> Runtime[Any]:
    subject = torch_subject(variant, dtype, DEVICE, Bundle(root))
    inputs = device_inputs(subject, Case(variant, batch, dtype, name), CONTENT, protocol.INPUT_SETS)
    return runtime_class(name)(subject, inputs)


def timed(runtime: Runtime[Any], batch: int = 1) -> timing.Timing:
    with precision_class(runtime.subject.dtype_used):
        plan = measuring_plan("cuda", spec.CpuLimits())
        return timing.time_runtime(runtime, batch, plan, Watch(host_speed=HostSpeed()), lambda _: None, lambda _: None)


@pytest.mark.parametrize("variant", [MIDAS, RAFT], ids=["midas", "raft"])
@pytest.mark.parametrize("batch", [1, 8])
def test_cuda_graph_replays_the_eager_function(bundle_root: Path, variant: Variant, batch: int) -> None:
    with precision_class("fp32"):
        runtime = entered(bundle_root, variant, "torch-graph", batch, "fp32")
        with runtime, torch.inference_mode():
            for index in (2, 0, 3):
                expected = runtime.subject.module(*runtime.inputs[index])
                error = (runtime.infer(index) - expected).norm() / expected.norm()
                assert error < 1e-5


@pytest.mark.parametrize(("variant", "batch"), [(MIDAS, 1), (MIDAS, 8), (RAFT, 1)])
def test_p50_of_a_graph_is_within_3_percent_of_cuda_events(bundle_root: Path, variant: Variant, batch: int) -> None:
    ours = timed(entered(bundle_root, variant, "torch-graph", batch), batch).host_p50_ms

    independent = entered(bundle_root, variant, "torch", batch)
    graph, module, frames = torch.cuda.CUDAGraph(), independent.subject.module, independent.inputs[0]
    with precision_class(independent.subject.dtype_used), torch.inference_mode():
        for _ in range(3):
            module(*frames)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            module(*frames)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(600)]
    for begin, end in events:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    theirs = statistics.median(begin.elapsed_time(end) for begin, end in events[300:])
    assert ours == pytest.approx(theirs, rel=0.03)


def test_two_measurements_of_a_gpu_bound_case_agree(bundle_root: Path) -> None:
    first, second = (timed(entered(bundle_root, RAFT, "torch-graph", 8), 8).host_p50_ms for _ in range(2))
    assert first == pytest.approx(second, rel=0.02)


def test_eager_row_is_launch_bound_and_graph_row_is_not(bundle_root: Path) -> None:
    assert timed(entered(bundle_root, MIDAS, "torch")).launch_bound is True
    assert timed(entered(bundle_root, MIDAS, "torch-graph")).launch_bound is False


def test_host_slowdown_is_recorded_where_rounds_wait_for_the_host(bundle_root: Path) -> None:
    eager = timed(entered(bundle_root, MIDAS, "torch")).host_slowdown
    assert eager is not None
    assert eager >= 1
    assert timed(entered(bundle_root, RAFT, "torch-graph", 8), 8).host_slowdown is None


def test_timer_that_does_not_wait_for_the_gpu_is_refused(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "host_timer", lambda _: time.perf_counter)
    with pytest.raises(ClockError, match="must wait for the device"):
        # Enough work that launching it takes less time on any host.
        timed(entered(bundle_root, RAFT, "torch-graph", 32), 32)


def test_precision_classes_reach_the_kernels(bundle_root: Path) -> None:
    outputs = {}
    for dtype in ("fp32", "tf32", "fp16"):
        runtime = entered(bundle_root, MIDAS, "torch", dtype=dtype)
        with precision_class(runtime.subject.dtype_used), runtime:
            outputs[dtype] = runtime.infer(0).double()
    truth = outputs["fp32"]
    errors = {dtype: float((output - truth).norm() / truth.norm()) for dtype, output in outputs.items()}
    # Random weights amplify rounding; the point is that the switches reach the kernels.
    assert 1e-5 < errors["tf32"] < 0.2
    assert 1e-5 < errors["fp16"] < 0.2


def test_only_other_processes_are_foreign() -> None:
    gpu = Gpu.first_visible()
    assert gpu is not None
    state = DeviceState.establish(DEVICE, gpu)
    sample = state.sample(frozenset())
    assert sample.sm_clock_mhz is not None
    assert sample.sm_clock_mhz > 100
    program = "import torch, sys; x = torch.ones(1, device='cuda'); print('up', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        crowded = state.sample(frozenset()).foreign_processes
        other.communicate()
    assert crowded == sample.foreign_processes + 1


def test_memory_equals_that_of_a_hand_written_script(suite: Suite) -> None:
    path = suite.folder / "midas.yaml"
    text = SMALL_SPEC.replace("height: 64, width: 96", "height: 256, width: 256, channels_last: true, batches: [8]")
    path.write_text(text.replace("fp32", "fp16"))
    on_gpu = Suite(suite.folder, suite.models_root, "cuda")
    ended = on_gpu.run("--spec", str(path), "--run-id", "r", "-k", "test_memory and midas")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (line,) = (suite.folder / "out" / "r" / "memory.jsonl").read_text().splitlines()
    stages: dict[str, float] = json.loads(line)["memory"]["gpu_used_mb"]
    checkpoint = suite.models_root / "torch_cache/hub/checkpoints/midas_v21_small_256.pt"
    command = [sys.executable, "-m", "meta_tests.hand_written_memory", str(checkpoint)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    loaded, steady = (float(number) for number in printed)
    assert stages["steady"] - stages["context"] == pytest.approx(steady, rel=0.1)
    assert stages["loaded"] - stages["context"] == pytest.approx(loaded, rel=0.1)
    assert stages["before"] < stages["context"] < stages["loaded"] < stages["steady"]


@pytest.mark.parametrize("passes", ["test_latency", "test_"], ids=["latency alone", "both passes"])
def test_case_out_of_gpu_memory_is_a_row_and_the_run_continues(suite: Suite, passes: str) -> None:
    path = suite.folder / "large.yaml"
    large = "height: 1024, width: 1024, batches: [1024]"
    path.write_text(SMALL_SPEC.replace("[1, 2]", "[1]").replace("height: 64, width: 96", large))
    on_gpu = Suite(suite.folder, suite.models_root, "cuda")
    held = torch.ones(1, device=DEVICE)  # this process is on the GPU, too: foreign to the run
    ended = on_gpu.run("--spec", str(path), "--run-id", "r", "-k", passes)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary: dict[str, Any] = json.loads((suite.folder / "out" / "r" / "summary.json").read_text())
    large_case, small_case = summary["cases"]
    assert (large_case["status"], large_case["latency_ms"]) == ("oom", None)
    assert small_case["latency_ms"]["p50"] >= small_case["device_p50_ms"] > 0
    assert small_case["telemetry"]["samples"] > 0
    assert summary["complete"] is True
    assert held.is_cuda
    assert small_case["status"] == "unstable"
    assert "unstable: 1 foreign process(es) on the GPU" in small_case["notes"]


def test_subject_is_loaded_once_for_its_batches_and_runtimes(bundle_root: Path, suite: Suite) -> None:
    path = suite.folder / "small.yaml"
    path.write_text(SMALL_SPEC.replace("[torch]", "[torch, torch-graph]"))
    on_gpu = Suite(suite.folder, bundle_root, "cuda")
    assert on_gpu.run("--spec", str(path), "--run-id", "r", "-k", "test_latency and raft").returncode == 0
    summary: dict[str, Any] = json.loads((suite.folder / "out" / "r" / "summary.json").read_text())
    assert len(summary["cases"]) == 4
    assert len({case["cold_start"]["load_ms"] for case in summary["cases"]}) == 1


def test_loaded_subject_is_on_the_device(bundle_root: Path) -> None:
    subject: TorchSubject = torch_subject(RAFT, "fp16", DEVICE, Bundle(bundle_root))
    tensors = [*subject.module.parameters(), *subject.module.buffers()]
    assert tensors
    assert all(tensor.device == DEVICE for tensor in tensors)
    assert subject.dtype_used == "fp16"


def gate_for(root: Path, folder: Path, export: Export, make: Make | None = None) -> Gate:
    bundle, variant = Bundle(root), export.variant
    weights = bundle.weights(locate_checkpoint(variant, bundle))
    reference = Reference(variant, weights.path, parity_inputs(CONTENT, variant))
    settings = GateSettings(folder, export.file, "24.08", on_cuda=True, target_python=None, reproduce="again")
    return Gate(export, reference, weights, settings, make)


@pytest.mark.parametrize("variant", [SMALL_MIDAS, SMALL_RAFT], ids=["midas", "raft"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_file_passes_its_gate_on_cuda_and_is_timed(
    bundle_root: Path, tmp_path: Path, variant: Variant, dtype: Dtype
) -> None:
    record = gate_for(bundle_root, tmp_path, Export(variant, 2, dtype)).publish()
    classes = {(one.provider, one.dtype) for one in record.parity if one.passed}
    on_cuda = {("cuda", "fp16")} if dtype == "fp16" else {("cuda", "fp32"), ("cuda", "tf32")}
    assert classes == on_cuda | {("cpu", dtype)}
    assert record.placement is not None
    assert set(record.placement.nodes) == {"CUDAExecutionProvider"}

    sources = Sources(Bundle(bundle_root), tmp_path)
    torch_runtime = entered(bundle_root, variant, "torch", 2, dtype)
    for name in ("onnxruntime", "onnxruntime-graph"):
        case = Case(variant, 2, dtype, name)
        subject = runtime_class(name).load_subject(case, DEVICE, sources)
        with precision_class(dtype), torch_runtime, runtime_class(name)(subject, torch_runtime.inputs) as runtime:
            for index in (2, 0, 3, 1, 4, 2):
                expected = torch_runtime.infer(index)
                error = (runtime.infer(index) - expected).norm() / expected.norm()
                assert error < (1e-3 if dtype == "fp32" else 0.3)
            assert timed_within(runtime) > 0


def timed_within(runtime: Runtime[Any]) -> float:
    started = time.perf_counter()
    runtime.infer(0)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def test_gate_names_a_node_without_a_cuda_kernel(bundle_root: Path, tmp_path: Path) -> None:
    def with_a_bit_shift(export: Export, weights: Weights, path: Path) -> None:
        write_model(export, weights, path)
        model = onnx.load(path)
        last = model.graph.node[-1]
        name, last.output[0] = last.output[0], "whole"
        one = onnx.helper.make_tensor("one", onnx.TensorProto.UINT64, [1], [1])
        nothing = onnx.helper.make_tensor("nothing", onnx.TensorProto.FLOAT, [1], [0])
        model.graph.initializer.extend([one, nothing])
        make_node = onnx.helper.make_node
        model.graph.node.extend(
            [
                make_node("Cast", ["whole"], ["bits"], to=onnx.TensorProto.UINT64),
                make_node("BitShift", ["bits", "one"], ["shifted"], name="a_shift", direction="RIGHT"),
                make_node("Cast", ["shifted"], ["back"], to=onnx.TensorProto.FLOAT),
                make_node("Mul", ["back", "nothing"], ["zeros"]),
                make_node("Add", ["whole", "zeros"], [name]),
            ]
        )
        onnx.save(model, path)

    gate = gate_for(bundle_root, tmp_path, Export(SMALL_MIDAS, 2, "fp32"), with_a_bit_shift)
    with pytest.raises(GateError) as caught:
        gate.publish()
    gate.close()
    assert "a_shift (BitShift)" in str(caught.value)
    assert "CPUExecutionProvider" in str(caught.value)
    assert not list(tmp_path.rglob("*.onnx"))


# --- packages ---


@pytest.fixture(scope="module")
def package(bundle_root: Path) -> Published:
    """MiDaS_small at 256 in fp16, compiled for this GPU; it has passed its gate."""
    return published_package(bundle_root, Export(MIDAS, 1, "fp16", format="aoti"), on_cuda=True)


def opened(package: Published, root: Path, name: str) -> Runtime[Any]:
    """A runtime of the package, on real content."""
    case = Case(package.export.variant, 1, "fp16", name)
    subject = runtime_class(name).load_subject(case, DEVICE, Sources(Bundle(root), package.folder, device=DEVICE))
    inputs = device_inputs(subject, case, replace(CONTENT, models_root=root), protocol.INPUT_SETS)
    return runtime_class(name)(subject, inputs)


def test_package_passes_its_gate_for_this_gpu(package: Published) -> None:
    record = manifest.published(package.folder, package.export.file)
    assert (record.platform, record.precision) == (platform_here(DEVICE), "fp16")
    assert [(one.provider, one.dtype, one.passed) for one in record.parity] == [("cuda", "fp16", True)]


def test_package_is_judged_and_measured_with_and_without_a_graph(
    package: Published, bundle_root: Path, tmp_path: Path
) -> None:
    spec_path = tmp_path / "packages.yaml"
    spec_path.write_text(PACKAGES_SPEC)
    suite = Suite(tmp_path, bundle_root, "cuda")
    ended = suite.run(
        "--spec", str(spec_path), "--onnx-dir", str(package.folder), "--run-id", "r", "-k", "test_latency"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary: dict[str, Any] = json.loads((tmp_path / "out" / "r" / "summary.json").read_text())
    eager, plain, graph = summary["cases"]
    for case in (eager, plain, graph):
        # This process may be on the GPU, too, which makes a case unstable.
        assert case["status"] in ("ok", "unstable"), case
        assert 0 <= case["output_error"] <= case["output_budget"]
    assert graph["launch_bound"] is False
    assert graph["latency_ms"]["p50"] < eager["latency_ms"]["p50"]


@pytest.mark.skipif(
    not torch.__version__.startswith("2.11."),
    reason="needs torch 2.11, whose Inductor is known to compile channels-last weights of DPT_Hybrid wrongly",
)
def test_gate_refuses_a_package_of_channels_last_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter once made weights channels last, and left norms and weights for Inductor to compile as they were."""

    def channels_last(*arguments: Any) -> Any:
        module = torch_module(*arguments)
        module.model.to(memory_format=torch.channels_last)
        return module

    monkeypatch.setattr(aoti, "torch_module", channels_last)
    monkeypatch.setattr(aoti, "has_group_norms", lambda _program: False)
    root = synthetic_bundle(tmp_path / "root", ["DPT_Hybrid"])
    gate = gate_for(root, tmp_path / "files", Export(HYBRID_384, 1, "fp16", format="aoti"))
    with pytest.raises(GateError, match=r"parity on cuda in fp16: .*expected at most"):
        gate.publish()
    gate.close()
    assert not list((tmp_path / "files").rglob("*.pt2"))


def test_server_answers_from_a_package_as_this_process_does(
    package: Published,
    bundle_root: Path,
    tmp_path: Path,
    installation: Installation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The real Python backend, over gRPC with shared memory; clients at once get the answers of their own frames."""
    branch = served_branch(package.export, package.folder)
    write_repository(tmp_path / "repository", [branch], "cuda")
    runtime = opened(package, bundle_root, "torch-aoti-graph")
    with precision_class("fp16"), runtime:
        sets = [tuple(tensor.cpu().numpy() for tensor in one_set) for one_set in runtime.inputs]
        expected = [runtime.infer(index).double().cpu().numpy() for index in range(len(sets))]
    assert all(relative_error(one, other) > 10 * FLOORS["fp16"] for one, other in combinations(expected, 2))
    local_ms = timed(opened(package, bundle_root, "torch-aoti-graph")).host_p50_ms
    errors: list[float] = []

    def check(index: int, answer: Array) -> None:
        errors.append(relative_error(answer.astype(np.float64), expected[index]))

    with LocalServer(installation, tmp_path / "repository") as server:
        target = LoadTarget(server.endpoint, "grpc+shm", branch.requested, sets)
        alone = closed_loop(target, 1, 500, check)
        together = closed_loop(target, 8, 1000, check)
    assert len(errors) == 1500
    assert max(errors) <= FLOORS["fp16"]
    medians = [f"{statistics.median(load.latencies_ms):.2f} ms" for load in (alone, together)]
    with capsys.disabled():
        sys.stdout.write(f"\np50 of a package: {local_ms:.2f} ms in process, 1 and 8 clients: {', '.join(medians)}\n")
