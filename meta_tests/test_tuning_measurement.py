"""fixtures/tuning/measurement.py: one survey of many sets of options, whatever becomes of one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.measure.protocol import MeasuringPlan, measuring_plan
from fixtures.records import Status, TuningMeasurement
from fixtures.spec import CpuLimits
from fixtures.tuning import measurement
from fixtures.tuning.candidates import Options
from fixtures.tuning.journal import Journal
from fixtures.tuning.measurement import TimingRequest, survey

SETS: list[Options] = [{"execution_mode": name} for name in ("one", "breaks", "three", "four")]


class Killed(BaseException):
    """A process that is killed in the middle of a set."""


@dataclass
class Processes:
    """Stands in for processes; each has the names of the sets that it came to."""

    came_to: list[list[str]] = field(default_factory=list)
    raises: BaseException | None = None
    plan: MeasuringPlan = field(default_factory=lambda: measuring_plan("cpu", CpuLimits()))

    def run(self, work: Callable[[Any], int], request: Any, failed: Callable[[Status, str], int]) -> int:
        self.came_to.append([])
        try:
            return work(request)
        except Killed:
            return failed("error", "the process ended")

    def timed(self, wanted: TuningMeasurement, plan: MeasuringPlan) -> TuningMeasurement:
        assert plan.rounds_s == self.plan.rounds_s / 4
        name = wanted.options["execution_mode"]
        self.came_to[-1].append(name)
        if name == "breaks" and self.raises:
            raise self.raises
        return wanted.model_copy(update={"status": "ok", "error": None})


def surveyed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, raises: BaseException | None = None
) -> tuple[Sequence[Sequence[str]], list[str | None]]:
    """What processes came to, and the status of each set of options in tuning.jsonl."""
    processes = Processes(raises=raises)
    wanted = TuningMeasurement(
        file="a.onnx",
        sha256="0" * 64,
        provider="cpu",
        dtype="fp32",
        device="a processor",
        driver=None,
        onnxruntime="1",
        call="now",
        process=0,
        options={},
        status="error",
    )
    monkeypatch.setattr(measurement, "in_fresh_process", processes.run)
    monkeypatch.setattr(measurement._TimingProcess, "prepared", lambda _request: processes)
    survey(cast(TimingRequest, SimpleNamespace(onnx_dir=folder, wanted=wanted)), SETS)
    found = [Journal(folder).of_call(wanted.model_copy(update={"options": options})) for options in SETS]
    return processes.came_to, [one.status if one else None for one in found]


def test_all_sets_are_timed_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came_to, found = surveyed(tmp_path, monkeypatch)
    assert came_to == [["one", "breaks", "three", "four"]]
    assert found == ["ok"] * 4


def test_sets_after_one_that_fails_are_timed_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came_to, found = surveyed(tmp_path, monkeypatch, RuntimeError("CUDA error: an illegal memory access"))
    assert came_to == [["one", "breaks"], ["three", "four"]]
    assert found == ["ok", "error", "ok", "ok"]


def test_killed_process_ends_the_survey_with_what_it_has_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came_to, found = surveyed(tmp_path, monkeypatch, Killed())
    assert came_to == [["one", "breaks"]]
    assert found == ["ok", None, None, None]
