"""fixtures/export/measured.py: a runtime that computes something else is refused before it is timed, in every class."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from fixtures.cases import Case
from fixtures.export.measured import OutputJudge, WrongOutputError, Yardstick, preprocess_noise
from fixtures.export.task_metrics import TASK_METRICS, TaskMetric
from fixtures.measure.protocol import INPUT_SETS
from fixtures.models import tower_of
from fixtures.records import Dtype
from fixtures.runtimes import runtime_class
from fixtures.spec import Frame, Variant
from fixtures.subject import device_inputs, locate_checkpoint
from fixtures.weights.bundle import Bundle
from meta_tests.exports import MIDAS, RAFT
from meta_tests.loading import CONTENT, torch_subject

pytestmark = pytest.mark.usefixtures("one_draw")

CPU = torch.device("cpu")
BATCH = 3
CLASSES: list[Dtype] = ["fp32", "tf32", "fp16"]


@cache
def yardstick(root: Path, variant: Variant) -> Yardstick:
    content = replace(CONTENT, models_root=root)
    return Yardstick.of(variant, locate_checkpoint(variant, Bundle(root)), content, ("cpu", "fp32"), ([3], INPUT_SETS))


def judge_of(root: Path, variant: Variant, dtype: Dtype = "fp32", ceiling: float | None = None) -> OutputJudge:
    """A judge of one case; on a CPU the truth of all classes is the same."""
    own = replace(yardstick(root, variant), dtype=dtype, variant=variant.model_copy(update={"ceiling": ceiling}))
    return OutputJudge(own, "the case", BATCH)


@pytest.fixture(scope="module", params=[MIDAS, RAFT], ids=["midas", "raft"])
def outputs(request: pytest.FixtureRequest, bundle_root: Path) -> tuple[Variant, list[Tensor]]:
    """A variant, and its right outputs `[3,…]` for all input sets."""
    variant: Variant = request.param
    case = Case(variant, BATCH, "fp32", "torch")
    subject = torch_subject(variant, "fp32", CPU, Bundle(bundle_root))
    with runtime_class("torch")(subject, device_inputs(subject, case, CONTENT, INPUT_SETS)) as runtime:
        return variant, [runtime.infer(index).clone() for index in range(INPUT_SETS)]


@pytest.mark.parametrize("dtype", CLASSES)
def test_right_outputs_pass_in_every_class(
    bundle_root: Path, outputs: tuple[Variant, list[Tensor]], dtype: Dtype
) -> None:
    variant, right = outputs
    judge = judge_of(bundle_root, variant, dtype)
    judge.judge(enumerate(right))
    assert judge.worst is not None
    assert 0 < judge.worst.error <= judge.worst.budget


def test_output_is_judged_before_the_next_one_takes_its_place(
    bundle_root: Path, outputs: tuple[Variant, list[Tensor]]
) -> None:
    """As a CUDA graph writes all of them into one buffer."""
    variant, right = outputs
    buffer = torch.empty_like(right[0])
    judge = judge_of(bundle_root, variant)
    judge.judge((index, buffer.copy_(output)) for index, output in enumerate(right))
    apart = judge_of(bundle_root, variant)
    apart.judge(enumerate(right))
    assert judge.worst == apart.worst


def test_answer_of_the_call_before_is_refused(bundle_root: Path, outputs: tuple[Variant, list[Tensor]]) -> None:
    variant, right = outputs
    with pytest.raises(WrongOutputError, match=r"in row \d of input set 1: error="):
        judge_of(bundle_root, variant, "fp16").judge(enumerate([right[0], *right[:-1]]))


def one_row_larger(output: Tensor) -> Tensor:
    """Row 1 times 1.02."""
    return output * torch.tensor([1, 1.02, 1]).view(-1, *[1] * (output.ndim - 1))


@pytest.mark.parametrize("dtype", CLASSES)
def test_output_times_1_02_is_refused_in_every_class(
    bundle_root: Path, outputs: tuple[Variant, list[Tensor]], dtype: Dtype
) -> None:
    variant, right = outputs
    judge = judge_of(bundle_root, variant, dtype)
    with pytest.raises(
        WrongOutputError, match=r"the case: output for photograph 1 in row 1 of input set 0: error=0.02"
    ):
        judge.judge([(0, one_row_larger(right[0]))])


@pytest.mark.parametrize("dtype", CLASSES)
def test_row_of_another_item_is_refused_in_every_class(
    bundle_root: Path, outputs: tuple[Variant, list[Tensor]], dtype: Dtype
) -> None:
    variant, right = outputs
    judge = judge_of(bundle_root, variant, dtype)
    swapped = right[0][[0, 2, 1]]
    with pytest.raises(WrongOutputError, match=r"in row 1 of input set 0: .*; largest difference .* at \[") as refused:
        judge.judge([(0, swapped)])
    assert refused.value.error > refused.value.budget


def test_first_input_set_is_judged_by_the_measure_of_the_task(
    bundle_root: Path, outputs: tuple[Variant, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output whose numbers are right and whose meaning is not, by a measure that tells row 1 from all others."""
    variant, right = outputs
    row = right[0][1:2].double()
    tells = TaskMetric("planted", lambda output, _: float(torch.equal(torch.as_tensor(output), row)), {"fp32": 0.5})
    monkeypatch.setitem(TASK_METRICS, tower_of(variant).task, tells)
    of_same_items = len(CONTENT.frames) // BATCH
    judge_of(bundle_root, variant).judge([(of_same_items, right[0])])
    with pytest.raises(WrongOutputError, match=r"in row 1 of input set 0: planted=1 .*, expected at most 0\.5\. Look"):
        judge_of(bundle_root, variant).judge([(0, right[0])])


@pytest.mark.parametrize("variant", [MIDAS, RAFT], ids=["midas", "raft"])
def test_yardstick_computes_as_the_bench_does(bundle_root: Path, variant: Variant) -> None:
    """Frames are channels last in both, where torch rounds otherwise than in contiguous ones."""
    subject = torch_subject(variant, "fp32", CPU, Bundle(bundle_root))
    (inputs,) = device_inputs(subject, Case(variant, 1, "fp32", "torch"), CONTENT, 1)
    with torch.inference_mode():
        measured = subject.module(*inputs)
    own = yardstick(bundle_root, variant).reference.outputs("cpu", "fp32")[0]
    np.testing.assert_array_equal(measured.numpy(), own)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_output_that_is_not_finite_is_refused(
    bundle_root: Path, outputs: tuple[Variant, list[Tensor]], value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's plain evaluation: no draw of its rounding allows infinity."""
    variant, right = outputs
    broken = right[0].clone()
    broken.view(-1)[-1] = value
    judge = judge_of(bundle_root, variant, "fp16")
    monkeypatch.setattr(judge.yardstick.reference, "perturbed", mock.Mock(side_effect=AssertionError("a draw")))
    with pytest.raises(WrongOutputError, match=r"in row 2 of input set 0: error=inf .* difference inf at \["):
        judge.judge([(0, broken)])


@pytest.mark.parametrize("places", [{1}, {0, 1, 2, 3}], ids=["one item", "all"])
def test_model_that_overflows_is_named_instead_of_its_runtime(
    bundle_root: Path, outputs: tuple[Variant, list[Tensor]], places: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own output for photograph 1 overflows, and that of the runtime too."""
    variant, right = outputs
    judge = judge_of(bundle_root, variant, "fp16")
    reference = copy.copy(judge.yardstick.reference)
    overflown = [truth * np.inf if place in places else truth for place, truth in enumerate(reference.truth)]
    monkeypatch.setattr(reference, "outputs", lambda _provider, _dtype: overflown)
    judge.yardstick = replace(judge.yardstick, reference=reference)
    broken = right[0].clone()
    broken[1] = float("inf")
    with pytest.raises(WrongOutputError, match=r"the model overflows in fp16: .*Write `dtype: fp32` for the variant"):
        judge.judge([(0, broken)])


def test_soft_yardstick_judges_nothing(bundle_root: Path, outputs: tuple[Variant, list[Tensor]]) -> None:
    """Only where torch's own error is asked for: an output within the floor needs no budget."""
    variant, right = outputs
    judge = judge_of(bundle_root, variant, ceiling=1e-12)
    with pytest.raises(WrongOutputError, match="cannot judge: torch itself is"):
        judge.judge([(0, right[0] * (1 + 1.5e-6))])


@pytest.mark.gpu
def test_judging_leaves_no_memory_of_the_gpu_taken(bundle_root: Path) -> None:
    """Not even where it had to draw: the output is a little further off than torch's own error allows."""
    device = torch.device("cuda", 0)
    variant, bundle = MIDAS, Bundle(bundle_root)
    content = replace(CONTENT, models_root=bundle_root)
    own = Yardstick.of(variant, locate_checkpoint(variant, bundle), content, ("cuda", "fp16"), ([1], 1))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    judge, wrong = OutputJudge(own, "the case", 1), own.reference.truth[0] * 1.02
    with pytest.raises(WrongOutputError, match="row 0 of input set 0"):
        judge.judge((0, torch.from_numpy(wrong).float().to(device)) for _ in range(1))
    gc.collect()
    torch.cuda.empty_cache()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


@pytest.mark.parametrize(("frame", "noise"), [((64, 96), 0.0), ((128, 192), pytest.approx(2 * 192 * 2**-23 / 0.229))])
def test_preprocess_elsewhere_may_differ_where_it_resizes(frame: tuple[int, int], noise: float) -> None:
    variant = MIDAS.model_copy(update={"frame": Frame(height=frame[0], width=frame[1])})
    assert preprocess_noise(variant) == noise
