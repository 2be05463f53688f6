"""The everyday commands, one after the other, as a person types them; each test needs the ones before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures.cases import cases_of
from fixtures.registry import names
from fixtures.spec import load_spec

ROOT = Path(__file__).parents[1]
SPEC = Path(__file__).with_name("smoke.yaml")
AGAIN = ("midas_small", "resnet18")  # variants of the second run, which takes as long as a case needs
_HANGS_S = 600
_CATALOG_ENTRY = """\
model_name: midas_small
role: depth
runtime: inprocess
engine: torch
precision: fp32
device_policy: cpu
weights_digest: auto
local_artifacts:
  - {kind: file, path: torch_cache/hub/checkpoints/midas_v21_small_256.pt}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands write."""
    return tmp_path_factory.mktemp("smoke")


def run(folder: Path, *arguments: str) -> str:
    """Run `python -m …` to a successful end; returns its standard output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**environment, "DP_MODELS_ROOT": str(folder / "bundle")},
        capture_output=True,
        text=True,
        timeout=_HANGS_S,
        check=False,
    )
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def suite(folder: Path, tests: str, *arguments: str) -> str:
    """Run a suite of the product on the smoke spec, on a CPU."""
    options = ("--spec", str(SPEC), "--device", "cpu", "--onnx-dir", str(folder / "onnx"))
    return run(folder, "pytest", tests, "-p", "no:cacheprovider", *options, *arguments)


def test_spec_has_a_branch_of_every_family() -> None:
    assert {variant.family for variant in load_spec(SPEC).variants} == set(names("models"))


def test_bundle_is_made_and_in_order(folder: Path) -> None:
    run(folder, "tools.make_bundle", "--out", str(folder / "bundle"), "--spec", str(SPEC))
    catalog = folder / "catalog"
    (catalog / "vision").mkdir(parents=True)
    (catalog / "vision" / "midas_small.yaml").write_text(_CATALOG_ENTRY)
    said = run(folder, "tools.check_bundle", "--spec", str(SPEC), "--catalog", str(catalog), "--json")
    check = json.loads(said)
    assert check["problems"] == []
    assert {artifact["loads"] for artifact in check["artifacts"] if artifact["kind"] == "file"} == {"yes"}


def test_every_family_is_exported_and_passes_its_gate(folder: Path) -> None:
    suite(folder, "export_tests")
    files = json.loads((folder / "onnx" / "manifest.json").read_text())["files"]
    assert {record["family"] for record in files.values()} == set(names("models"))
    assert all(parity["passed"] for record in files.values() for parity in record["parity"])


def measured(folder: Path, run_id: str, *selection: str) -> list[dict[str, Any]]:
    """Run the bench; returns the cases of its summary, which are complete and in order."""
    run_options = ("--out", str(folder / "out"), "--run-id", run_id, f"--benchmark-json={folder / 'b.json'}")
    suite(folder, "bench_tests", *run_options, *selection)
    summary = json.loads((folder / "out" / run_id / "summary.json").read_text())
    assert summary["complete"]
    assert {case["status"] for case in summary["cases"]} == {"ok"}
    assert json.loads((folder / "b.json").read_text())["pretriton"]["complete"]
    cases: list[dict[str, Any]] = summary["cases"]
    return cases


def test_every_case_is_measured(folder: Path) -> None:
    """Memory in fresh processes too, but for the two large networks."""
    cases = measured(folder, "first", "-k", "not (test_memory and (clip or clap))")
    assert [case["id"] for case in cases] == [case.id for case in cases_of(load_spec(SPEC))]
    assert {case["memory"]["source"] for case in cases} == {"fresh_process", "in_process"}


def test_part_of_the_cases_is_measured_again(folder: Path) -> None:
    cases = measured(folder, "second", "-k", f"test_latency and ({' or '.join(AGAIN)})")
    assert len(cases) == 2 * len(AGAIN)


def test_branches_are_chosen(folder: Path) -> None:
    run(folder, "tools.choose_branches", str(folder / "out" / "first"), "-o", str(folder / "choice.json"))
    assert json.loads((folder / "choice.json").read_text())["feasible"]


def test_repository_is_built_of_what_was_chosen(folder: Path) -> None:
    options = ("--spec", str(SPEC), "--onnx-dir", str(folder / "onnx"), "--choice", str(folder / "choice.json"))
    run(folder, "tools.build_model_repository", *options, "--device", "cpu", "--out", str(folder / "served"))
    assert json.loads((folder / "served" / "repository.json").read_text())["branches"]


def test_runs_are_compared(folder: Path) -> None:
    runs = [str(folder / "out" / name) for name in ("first", "second")]
    run(folder, "tools.compare_runs", *runs, "-o", str(folder / "comparison.json"))
    (pair,) = json.loads((folder / "comparison.json").read_text())["pairs"]
    compared = [case for case in pair["cases"] if case["id"].startswith(AGAIN)]
    assert len(compared) == 2 * len(AGAIN)
    assert "not_comparable" not in {case["verdict"] for case in compared}


def test_report_is_rendered(folder: Path) -> None:
    runs = (str(folder / "out" / "first"), "--compare", str(folder / "out" / "second"))
    files = ("--choice", str(folder / "choice.json"), "--manifest", str(folder / "onnx" / "manifest.json"))
    report = folder / "report.html"
    run(folder, "tools.render_report", *runs, *files, "-o", str(report))
    assert all(variant.name in report.read_text() for variant in load_spec(SPEC).variants)
