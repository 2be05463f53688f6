"""A whole case is timed as its rounds are: warm-up, rounds that are watched, and what is known afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fixtures.cases import Case
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


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not move threads")
def test_a_real_branch_is_timed_with_its_host_watched(bundle_root: Path) -> None:
    """On a CPU, where nobody looks otherwise; there is no clock of a device, so only a clearly slowed host counts."""
    subject = torch_subject(MIDAS, "fp32", torch.device("cpu"), Bundle(bundle_root))
    inputs = device_inputs(subject, Case(MIDAS, 1, "fp32", "torch"), CONTENT, INPUT_SETS)
    pace, usable, said = HostSpeed(), os.sched_getaffinity(0), list[str]()
    timing = time_runtime(runtime_class("torch")(subject, inputs), 1, FEW_ROUNDS, Watch(host_speed=pace), said.append)
    assert (timing.status, timing.device_p50_ms, timing.launch_bound) == ("ok", None, None)
    assert len(timing.rounds_ms) == INPUT_SETS
    assert timing.host_slowdown is None or is_slowed(timing.host_slowdown)
    slowdown = pace.slowdown()
    assert slowdown is not None
    assert slowdown >= 1
    assert os.sched_getaffinity(0) == usable
    assert said[:3] == ["preparing", "first call", "warming up"]
    assert 1 <= sum(text.startswith(f"{INPUT_SETS} rounds of about") for text in said) <= 1 + RETRIES
