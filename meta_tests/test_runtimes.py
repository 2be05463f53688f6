"""Runtimes give the function of the module, and touch nothing before they are entered."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from fixtures import registry
from fixtures.cases import Case
from fixtures.errors import OutputError
from fixtures.models import family_named
from fixtures.precision import dtype_used, precision_class
from fixtures.runtimes import Runtime, TorchRuntime, runtime_class
from fixtures.spec import Dtype, Frame, Variant
from fixtures.subject import PreprocessAndModel, TorchSubject, device_inputs
from fixtures.weights.bundle import Bundle
from meta_tests.loading import CONTENT, torch_subject
from meta_tests.packages import compiled_once

CPU = torch.device("cpu")
MIDAS = Variant(name="m", family="midas", model="MiDaS_small", height=64, width=96)
RAFT = Variant(name="r", family="raft", model="raft_small", height=128, width=128)


@pytest.fixture(scope="module")
def subject(bundle_root: Path) -> TorchSubject:
    return torch_subject(RAFT, "fp16", CPU, Bundle(bundle_root))


def test_plug_ins_are_named_by_their_files() -> None:
    assert {"midas", "torchvision"} < set(registry.names("models"))
    assert registry.files("runtimes")["torch-graph"].name == "torch_graph.py"
    assert "--init--" not in registry.names("runtimes")
    for name in registry.names("runtimes"):
        assert issubclass(runtime_class(name), Runtime)


def test_eager_runs_the_module(subject: TorchSubject) -> None:
    inputs = device_inputs(subject, Case(RAFT, 2, "fp16", "torch"), CONTENT, 2)
    with runtime_class("torch")(subject, inputs) as runtime, torch.inference_mode():
        for index in range(2):
            output = runtime.infer(index)
            subject.check_output(output, 2)
            assert torch.equal(output, subject.module(*inputs[index]))


def test_nothing_is_built_before_entering(subject: TorchSubject) -> None:
    for name in registry.names("runtimes"):
        own = vars(runtime_class(name)(subject, []))
        assert own.pop("subject") is subject
        assert not any(own.values())


def test_runtime_is_closed_when_load_fails(subject: TorchSubject) -> None:
    closed = []

    class Failing(TorchRuntime):
        def load(self) -> None:
            raise MemoryError

        def infer(self, index: int) -> torch.Tensor:
            raise AssertionError(index)

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(MemoryError), Failing(subject, []):
        pass
    assert closed == [True]


@compiled_once()
def test_each_compilation_uses_an_empty_cache_and_removes_it(
    subject: TorchSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    small = replace(subject, module=cast(PreprocessAndModel, torch.nn.Hardtanh()))
    folders = []
    for _ in range(2):
        torch._dynamo.utils.counters.clear()
        with runtime_class("torch-compile")(small, [(torch.tensor([-2.0, 0.5]),)]) as runtime:
            assert runtime.infer(0).tolist() == [-1.0, 0.5]
            folders.append(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
            assert any(folders[-1].rglob("*.py"))
            assert Path(os.environ["TRITON_CACHE_DIR"]).parent == folders[-1]
        assert torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"] == 0
    assert folders[0] != folders[1]
    assert not any(folder.exists() for folder in folders)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert not any(tmp_path.iterdir())


def test_frame_of_another_size_is_resized_by_the_module(bundle_root: Path) -> None:
    variant = MIDAS.model_copy(update={"frame": Frame(height=90, width=160)})
    subject = torch_subject(variant, "fp32", CPU, Bundle(bundle_root))
    inputs = device_inputs(subject, Case(variant, 1, "fp32", "torch"), CONTENT, 1)
    assert inputs[0][0].shape == (1, 90, 160, 3)
    with torch.inference_mode():
        subject.check_output(subject.module(*inputs[0]), 1)


def test_outputs_of_synthetic_weights_have_spread(bundle_root: Path) -> None:
    for variant in (MIDAS, RAFT):
        subject = torch_subject(variant, "fp32", CPU, Bundle(bundle_root))
        inputs = device_inputs(subject, Case(variant, 2, "fp32", "torch"), CONTENT, 1)
        with torch.inference_mode():
            output = subject.module(*inputs[0])
        assert 0.1 < output.std() < 1000


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (torch.zeros(1, 2, 128, 128, dtype=torch.float16), "expected (1, 2, 128, 128) float32"),
        (torch.zeros(1, 128, 128), "expected (1, 2, 128, 128)"),
        (torch.full((1, 2, 128, 128), torch.nan), "32768 of 32768 output values are not finite in fp32"),
        (torch.zeros(1, 2, 128, 128).index_fill(3, torch.tensor([5]), torch.inf), "256 of 32768"),
    ],
    ids=["dtype", "shape", "nan", "one column infinite"],
)
def test_output_that_is_no_result_is_refused(subject: TorchSubject, output: torch.Tensor, says: str) -> None:
    with pytest.raises(OutputError) as caught:
        subject.check_output(output, 1)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("requested", "family_name", "device", "used"),
    [
        ("fp16", "midas", "cuda", "fp16"),
        ("fp16", "raft", "cuda", "fp16"),
        ("tf32", "raft", "cuda", "tf32"),
        ("fp16", "midas", "cpu", "fp32"),
        ("tf32", "midas", "cpu", "fp32"),
    ],
)
def test_dtype_used(requested: Dtype, family_name: str, device: str, used: str) -> None:
    assert dtype_used(requested, family_named(family_name).compute_dtypes, device) == used


@pytest.mark.parametrize(("dtype", "matmul", "convolutions"), [("fp32", "highest", False), ("tf32", "high", True)])
def test_precision_class_covers_matmuls_and_convolutions(dtype: Dtype, matmul: str, convolutions: bool) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with precision_class(dtype):
        assert torch.get_float32_matmul_precision() == matmul
        assert torch.backends.cudnn.allow_tf32 is convolutions
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


def test_signature_changes_with_the_function(bundle_root: Path, subject: TorchSubject) -> None:
    bundle = Bundle(bundle_root)
    same = torch_subject(RAFT, "fp32", CPU, bundle)
    renamed = torch_subject(RAFT.model_copy(update={"name": "other"}), "fp32", CPU, bundle)
    larger = torch_subject(RAFT.model_copy(update={"height": 160}), "fp32", CPU, bundle)
    assert subject.signature == same.signature == renamed.signature
    assert larger.signature != same.signature


def test_signature_changes_with_the_activation_and_with_the_fit_of_frames_that_are_resized(bundle_root: Path) -> None:
    bundle, frame = Bundle(bundle_root), Frame(height=90, width=160)

    def signature(**changes: object) -> str:
        return torch_subject(RAFT.model_copy(update=changes), "fp32", CPU, bundle).signature

    assert signature() == signature(fit="crop") != signature(activation="gelu")
    assert signature(frame=frame) == signature(frame=frame, fit="squash") != signature(frame=frame, fit="crop")
