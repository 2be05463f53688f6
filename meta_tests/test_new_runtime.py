"""A new runtime is one new file: nothing else is edited, and everything works with it."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch

import fixtures.runtimes
from fixtures import registry
from fixtures.cases import cases_of
from fixtures.comparison import compare
from fixtures.decision import choose
from fixtures.declarations import declaration
from fixtures.environment import environment
from fixtures.errors import InputError, OutputError
from fixtures.measure.out_of_memory import is_out_of_memory
from fixtures.measure.protocol import INPUT_SETS
from fixtures.parallel.schedule import longest_first
from fixtures.report import read_material, render
from fixtures.results.reading import read_run
from fixtures.sessions import bench as bench_module
from fixtures.sessions.bench import Bench
from fixtures.sessions.options import Options
from fixtures.sessions.plan import Plan, make_plan
from fixtures.sessions.run_log import RunLog
from fixtures.spec import load_spec
from meta_tests.runs import choice_of, row, stored

# A library that runs a module on one item of the batch after the other, and has a memory of its own.
LIBRARY = """
__version__ = "1.0"


class ArenaFullError(Exception):
    pass


def each(module, inputs):
    import torch

    return torch.cat([module(*(tensor[item : item + 1] for tensor in inputs)) for item in range(len(inputs[0]))])
"""

# The file of a person who has that library.
RUNTIME = '''
"""looper: the items of a batch one after the other."""

import looper
import torch
from torch import Tensor

from fixtures.declarations import Declaration
from fixtures.runtimes import TorchRuntime

DECLARATION = Declaration(
    title="Looper",
    place=90,
    libraries={"looper": "Looper"},
    file=None,
    judged_by="torch module",
    triton_backend="looper",
    compiles=True,
    launches_once=True,
    out_of_memory_types=("looper.ArenaFullError",),
    out_of_memory_phrases=("no room in the loop",),
    to_measure="`runtimes: [looper]` in the spec measures the loop",
)


class Looper(TorchRuntime):
    declaration = DECLARATION

    @torch.inference_mode()
    def infer(self, index: int) -> Tensor:
        return looper.each(self.subject.module, self.inputs[index])


RUNTIME = Looper
'''

# The same of an exported file.
FILE_RUNTIME = RUNTIME.replace("file=None", 'file="onnx"').replace("torch module", "export gate")

SPEC = """\
schema_version: 1
name: new_runtime
dtype: fp32
runtimes: [looper, torch]
batches: [2]
protocol: {cpu_budget_s: 0.1, cpu_warmup_s: 0}
variants:
  - {name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 64}
"""

CASE, TORCH_CASE = "midas_small_64-b2-fp32-looper", "midas_small_64-b2-fp32-torch"
HOW_TO_MEASURE = "<code>runtimes: [looper]</code> in the spec measures the loop"


@dataclass(frozen=True)
class Checkout:
    """A checkout with one more file in fixtures/runtimes, and the bench on it."""

    folder: Path
    bundle_root: Path

    @property
    def spec(self) -> Path:
        return self.folder / "spec.yaml"

    def plan(self, run_id: str = "run") -> Plan:
        options = Options(
            spec=str(self.spec),
            device="cpu",
            models_root=str(self.bundle_root),
            offline=False,
            out=str(self.folder / "out"),
            run_id=run_id,
            onnx_dir=str(self.folder / "onnx"),
        )
        return make_plan(options)

    def measure(self, *case_ids: str, run_id: str = "run") -> Path:
        """The folder of a run of these cases."""
        plan = self.plan(run_id)
        log = RunLog(plan, environment("cpu", None))
        bench = Bench(plan, log, None, lambda *_: None)
        for case_id in case_ids:
            bench.latency(plan.case(case_id))
        return log.folder.path


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle_root: Path) -> Iterator[Checkout]:
    """The file lies where a checkout's new file would, and its library where installed ones do."""
    runtimes, installed = tmp_path / "fixtures" / "runtimes", tmp_path / "site-packages" / "looper"
    runtimes.mkdir(parents=True)
    for file in registry.files("runtimes").values():
        (runtimes / file.name).symlink_to(file)
    (runtimes / "looper.py").write_text(RUNTIME)
    (tmp_path / "fixtures" / "models").symlink_to(registry._FIXTURES / "models")
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text(LIBRARY)
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.setattr(registry, "_FIXTURES", tmp_path / "fixtures")
    monkeypatch.setattr(fixtures.runtimes, "__path__", [*fixtures.runtimes.__path__, str(runtimes)])
    monkeypatch.syspath_prepend(installed.parent)
    monkeypatch.setattr(bench_module, "limit_host_memory", lambda: None)  # of the process of all tests
    with mock.patch.dict(os.environ):  # a plan says where libraries have their caches
        yield Checkout(tmp_path, bundle_root)
    for name in ("looper", "fixtures.runtimes.looper"):
        sys.modules.pop(name, None)


def report(run: Path) -> str:
    """The page of a run."""
    return render(read_material(run, None, None, None))


def test_spec_accepts_it(checkout: Checkout) -> None:
    assert [case.id for case in cases_of(load_spec(checkout.spec))] == [CASE, TORCH_CASE]


def test_it_is_measured_and_reported(checkout: Checkout) -> None:
    run = checkout.measure(CASE, TORCH_CASE)
    summary = read_run(run)
    case, by_torch = summary.cases
    assert (case.id, case.status, by_torch.status) == (CASE, "ok", "ok")
    assert case.rounds >= 5
    assert case.output_error is not None
    assert case.output_budget is not None
    assert 0 < case.output_error <= case.output_budget
    assert case.judging_s is not None
    assert by_torch.judging_s is not None
    assert 0 < by_torch.judging_s < case.judging_s  # the first case pays for the outputs to judge by
    assert summary.environment["looper"] == "1.0"
    page = report(run)
    assert re.search(r"<dt>Looper</dt>\s*<dd>1\.0</dd>", page)
    assert "torch against ONNX Runtime against Triton against AOTInductor against Looper" in page
    assert HOW_TO_MEASURE not in page


def test_report_says_how_to_measure_it(checkout: Checkout) -> None:
    page = report(stored(checkout.folder / "without", row()))
    assert HOW_TO_MEASURE in page


@pytest.mark.usefixtures("stored_references")
def test_output_of_another_shape_is_an_error_row(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    looper = importlib.import_module("looper")
    monkeypatch.setattr(looper, "each", lambda _, inputs: torch.zeros(len(inputs[0]) + 1, 64, 64))
    with pytest.raises(OutputError, match=r"output=\(3, 64, 64\)"):
        checkout.measure(CASE)
    (case,) = read_run(checkout.folder / "out" / "run").cases
    assert case.status == "error"
    assert case.latency_ms is None


@pytest.mark.usefixtures("stored_references")
@pytest.mark.parametrize(
    "wrong", [lambda right: right * 1.02, lambda right: right.flip(0)], ids=["2% larger", "rows of other items"]
)
def test_wrong_output_is_an_error_row_with_its_figures(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    looper = importlib.import_module("looper")
    right = looper.each
    monkeypatch.setattr(looper, "each", lambda module, inputs: wrong(right(module, inputs)))
    with pytest.raises(OutputError, match=r"photograph 0 in row 0 of input set 0: error=.* expected at most"):
        checkout.measure(CASE)
    summary = read_run(checkout.folder / "out" / "run")
    (case,) = summary.cases
    assert (case.status, case.latency_ms, case.rounds, summary.table) == ("error", None, 0, {})
    assert case.output_error is not None
    assert case.output_budget is not None
    assert case.output_error > 0.01 > case.output_budget
    (rejected,) = choose(summary, {}).roles[0].rejected
    assert (rejected.case_id, rejected.bound) == (CASE, "status")


@pytest.mark.usefixtures("stored_references")
def test_output_that_is_wrong_from_a_later_call_on_gets_no_time(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a graph that a runtime records in its second or third call may be."""
    looper = importlib.import_module("looper")
    right, calls = looper.each, iter(range(10**9))
    monkeypatch.setattr(
        looper, "each", lambda module, inputs: right(module, inputs) * (1.02 if next(calls) >= INPUT_SETS else 1)
    )
    with pytest.raises(OutputError, match=r"in row 0 of input set 0 after the rounds: error=0\.02"):
        checkout.measure(CASE)
    run = checkout.folder / "out" / "run"
    (case,) = read_run(run).cases
    assert (case.status, case.latency_ms, case.rounds) == ("error", None, 0)
    assert case.output_error == pytest.approx(0.02, abs=1e-3)
    (line,) = (run / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["latency_ms"] is None


def test_file_that_no_gate_has_published_is_refused(checkout: Checkout) -> None:
    (checkout.folder / "fixtures" / "runtimes" / "looper.py").write_text(FILE_RUNTIME)
    plan = checkout.plan()
    with pytest.raises(InputError, match=r"midas_small_64_b2\.onnx.*Export it"):
        plan.require_measurable([plan.case(CASE)])


@pytest.mark.usefixtures("stored_references")
def test_out_of_memory_is_a_row(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    looper = importlib.import_module("looper")
    full = looper.ArenaFullError("4 MiB")
    monkeypatch.setattr(looper, "each", mock.Mock(side_effect=full))
    (case,) = read_run(checkout.measure(CASE)).cases
    assert (case.status, case.error) == ("oom", "ArenaFullError: 4 MiB")
    assert is_out_of_memory(RuntimeError("no room in the loop for 4 MiB"))
    assert not is_out_of_memory(RuntimeError("no loop"))
    assert not is_out_of_memory(ValueError("no room in the loop"))


def test_comparison_notes_another_version_of_its_library(checkout: Checkout) -> None:
    sides = [checkout.folder / name for name in ("before", "after")]
    for side, version in zip(sides, ("1.0", "1.1"), strict=True):
        stored(side, row(runtime="looper"), environment={"device": "cuda", "gpu": "H200", "looper": version})
    (pair,) = compare(sides).pairs
    assert "looper: 1.0, then 1.1" in pair.notes
    assert pair.cases[0].ratio == pytest.approx(1)


def test_choice_serves_it(checkout: Checkout) -> None:
    role = choice_of(row(runtime="looper", p50=1.0), row(runtime="torch", p50=2.0), row(runtime="onnxruntime", p50=3.0))
    (branch,) = role.branches
    assert (branch.candidate.runtime, branch.servable) == ("looper", "same")
    assert branch.served == branch.candidate


def test_choice_takes_it_where_torch_is_faster(checkout: Checkout) -> None:
    (branch,) = choice_of(row(runtime="torch", p50=1.0), row(runtime="looper", p50=2.0)).branches
    assert (branch.candidate.runtime, branch.servable) == ("looper", "same")
    assert [(one.runtime, one.ratio) for one in branch.references] == [("torch", 0.5)]


def test_workers_take_its_cases_first(checkout: Checkout) -> None:
    text = SPEC + "  - {name: larger, family: midas, model: MiDaS_small, height: 96, width: 96, runtimes: [torch]}\n"
    checkout.spec.write_text(text)
    assert declaration("looper").compiles
    assert longest_first(cases_of(load_spec(checkout.spec))) == ["midas_small_64", "larger"]


def test_run_of_a_checkout_with_another_runtime_is_readable(tmp_path: Path) -> None:
    """A stored run names a runtime that this checkout does not have."""
    sides = [stored(tmp_path / name, row(runtime="looper"), row(runtime="torch")) for name in ("before", "after")]
    assert "looper" in report(sides[0])
    (pair,) = compare(sides).pairs
    assert [case.ratio for case in pair.cases] == pytest.approx([1, 1])
    (branch,) = choice_of(row(runtime="looper", p50=1.0), row(runtime="onnxruntime", p50=2.0)).branches
    assert branch.candidate.runtime == "onnxruntime", "of an unknown runtime nothing says that Triton serves it"
    assert [one.runtime for one in branch.references] == ["looper"]
