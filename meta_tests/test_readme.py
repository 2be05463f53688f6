"""README.md: its first screen is short, its figures are those of the stored run, and one of its commands is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meta_tests.conftest import Suite
from meta_tests.pages import DOCS, README, ROOT, commands, tables, words

TEXT = README.read_text()


def test_first_screen_is_at_most_40_lines_and_the_whole_150() -> None:
    lines = TEXT.splitlines()
    second_heading = next(index for index, line in enumerate(lines) if line.startswith("## "))
    assert second_heading <= 40
    assert len(lines) <= 150


def test_first_screen_has_four_rows_of_stored_runs() -> None:
    """Each p50, rounded, with the mark of the rows that wait for the host."""
    packages, files = (cases_of(name) for name in ("h200_packages", "h200"))
    (rows,) = tables(README, "pretriton-bench")
    assert len(rows) == 4
    for variant, batch, *cells in rows:
        key = variant.strip("`"), int(batch)
        measured = [packages[*key, "torch-aoti-graph"], files[*key, "onnxruntime"], packages[*key, "torch-compile"]]
        assert cells == [
            f"{case['latency_ms']['p50']:.2f}" + (" ◦" if case["launch_bound"] else "") for case in measured
        ]


def cases_of(name: str) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Cases of a run on an H200 by variant, batch and runtime."""
    summary: dict[str, Any] = json.loads((ROOT / "meta_tests/data" / name / "summary.json").read_text())
    assert summary["environment"]["gpu"] == "NVIDIA H200"
    return {(case["variant"], case["batch"], case["runtime"]): case for case in summary["cases"]}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_page_is_led_to(page: Path) -> None:
    assert f"](docs/{page.name})" in TEXT


def test_command_measures_and_writes_its_benchmark_json(suite: Suite, small_spec: Path) -> None:
    """As it is shown, but on a small spec and in another folder."""
    (command,) = commands("pytest bench_tests -k midas ")
    _, folder, *arguments = words(command)
    assert folder == "bench_tests"
    json_file = suite.folder / "midas.json"
    arguments = [word.replace("midas.json", str(json_file)) for word in arguments]
    ended = suite.run(*arguments, "--spec", str(small_spec), "--run-id", "shown")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    benchmarks = json.loads(json_file.read_text())["benchmarks"]
    summary = json.loads((suite.folder / "out" / "shown" / "summary.json").read_text())
    assert [case["id"] for case in summary["cases"]] == ["midas_small_64-b1-fp32-torch", "midas_small_64-b2-fp32-torch"]
    assert len(benchmarks) == 2
