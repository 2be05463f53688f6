"""pytest-benchmark's own comparison on files of this suite: its `compare` command, and `--benchmark-compare-fail`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from meta_tests.conftest import HANGS_S, SMALL_SPEC, Ended, Suite

CASE = "midas_small_32-b1-fp32-torch"
SPEC = SMALL_SPEC.replace("midas_small_64", "midas_small_32").replace("height: 64, width: 96", "height: 32, width: 32")


@dataclass(frozen=True)
class Measured:
    """A run of one case that pytest-benchmark has saved twice: as a JSON of its own, and in its storage."""

    suite: Suite
    json_path: Path
    storage: Path

    @property
    def saved(self) -> Path:
        """The file in the storage."""
        (path,) = self.storage.glob("*/0001_before.json")
        return path

    def against_saved(self, factor: float) -> Ended:
        """Resume the run beside a saved one that took `factor` of the time: the recorded rounds are played back."""
        kept = self.saved.read_text()
        made_faster(self.saved, factor)
        try:
            compared_with = ("--benchmark-compare=0001", "--benchmark-compare-fail=median:5%")
            return self.suite.run(*self.arguments, "--resume", *compared_with)
        finally:
            self.saved.write_text(kept)

    @property
    def arguments(self) -> list[str]:
        """Of both sessions."""
        spec, storage = self.suite.folder / "small.yaml", f"--benchmark-storage=file://{self.storage}"
        return ["--spec", str(spec), "--run-id", "r", storage, "-k", f"test_latency and {CASE}"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, bundle_root: Path) -> Measured:
    folder = tmp_path_factory.mktemp("measured")
    (folder / "small.yaml").write_text(SPEC)
    run = Measured(Suite(folder, bundle_root), folder / "before.json", folder / "storage")
    ended = run.suite.run(*run.arguments, f"--benchmark-json={run.json_path}", "--benchmark-save=before")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return run


def made_faster(path: Path, factor: float) -> None:
    """Edit what was saved, as if it had taken `factor` of the time."""
    document = json.loads(path.read_text())
    for entry in document["benchmarks"]:
        for key in ("min", "max", "mean", "median", "q1", "q3", "total", "ld15iqr", "hd15iqr", "iqr", "stddev"):
            entry["stats"][key] *= factor
    path.write_text(json.dumps(document))


def compared(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_benchmark", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)


def test_compare_command_shows_both_runs(measured: Measured, tmp_path: Path) -> None:
    later = Path(shutil.copy(measured.json_path, tmp_path / "later.json"))
    made_faster(later, 0.5)
    ended = compared(measured.json_path, later, "--columns=median")
    assert ended.returncode == 0, ended.stderr
    (before, after) = (
        next(line for line in ended.stdout.splitlines() if CASE in line and name in line)
        for name in ("before", "later")
    )
    assert "(2.00)" in before
    assert "(1.0)" in after


def test_saved_run_three_percent_faster_passes_and_no_case_is_measured_again(measured: Measured) -> None:
    rows = measured.suite.folder / "out" / "r" / "results.jsonl"
    before = rows.read_bytes()
    ended = measured.against_saved(0.97)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "Comparing against benchmarks from" in ended.stderr
    assert CASE in ended.stdout
    assert "Performance has regressed" not in said
    assert rows.read_bytes() == before


def test_saved_run_ten_percent_faster_fails_the_session(measured: Measured) -> None:
    ended = measured.against_saved(0.9)
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0, said
    assert "Performance has regressed" in said
    assert f"{CASE}] (0001_before) - Field 'median' has failed PercentageRegressionCheck: 11.1" in said
