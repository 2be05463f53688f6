"""fixtures.measure.timing: outputs checked before any round, and a real model timed by the whole protocol."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest
import torch

from fixtures.cases import Case
from fixtures.errors import OutputError
from fixtures.measure.host_speed import HostSpeed
from fixtures.measure.protocol import INPUT_SETS, RETRIES, MeasuringPlan
from fixtures.measure.retries import Watch, is_slowed
from fixtures.measure.timing import time_runtime
from fixtures.runtimes import runtime_class
from fixtures.spec import Variant
from fixtures.subject import device_inputs
from fixtures.weights.bundle import Bundle
from meta_tests.loading import CONTENT, torch_subject

MIDAS = Variant(name="m", family="midas", model="MiDaS_small", height=64, width=96)
FEW_ROUNDS = MeasuringPlan(warmup_s=0, warmup_min_calls=1, rounds_s=0, min_rounds=INPUT_SETS)


@pytest.mark.parametrize("wrong", [0, INPUT_SETS - 1], ids=["first", "last"])
def test_wrong_output_of_any_input_set_ends_the_case_before_a_round(wrong: int) -> None:
    runtime = mock.MagicMock(inputs=range(INPUT_SETS), infer=lambda index: index)
    runtime.subject.device = torch.device("cpu")
    runtime.__exit__.return_value = None

    def check_output(output: int, _batch: int) -> None:
        if output == wrong:
            raise OutputError("not finite")

    runtime.subject.check_output = check_output
    with pytest.raises(OutputError, match="not finite"):
        time_runtime(runtime, 1, FEW_ROUNDS, Watch(), lambda _: None, lambda _: None)
    runtime.begin_rounds.assert_not_called()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not move threads")
def test_real_model_is_timed_with_its_host_watched(bundle_root: Path) -> None:
    """On a CPU, where runs watch no host; there is no device clock, so only a clearly slowed host counts."""
    subject = torch_subject(MIDAS, "fp32", torch.device("cpu"), Bundle(bundle_root))
    inputs = device_inputs(subject, Case(MIDAS, 1, "fp32", "torch"), CONTENT, INPUT_SETS)
    speed, usable, lines = HostSpeed(), os.sched_getaffinity(0), list[str]()
    judged, runtime = list[int](), runtime_class("torch")(subject, inputs)
    watch = Watch(host_speed=speed)
    timing = time_runtime(
        runtime, 1, FEW_ROUNDS, watch, lines.append, lambda outputs: judged.extend(index for index, _ in outputs)
    )
    assert judged == 2 * list(range(INPUT_SETS)), "before the rounds, and after them"
    assert (timing.status, timing.device_p50_ms, timing.launch_bound) == ("ok", None, None)
    assert len(timing.rounds_ms) == INPUT_SETS
    assert timing.host_slowdown is None or is_slowed(timing.host_slowdown)
    slowdown = speed.slowdown()
    assert slowdown is not None
    assert slowdown >= 1
    assert os.sched_getaffinity(0) == usable
    assert lines[:3] == ["preparing", "first call", "warming up"]
    assert 1 <= sum(text.startswith(f"{INPUT_SETS} rounds of about") for text in lines) <= 1 + RETRIES
