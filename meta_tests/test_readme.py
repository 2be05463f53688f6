"""README.md: its first screen is short, its figures are those of the stored run, and one of its commands is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meta_tests.conftest import Suite
from meta_tests.pages import DOCS, README, commands, tables, words

TEXT = README.read_text()


def test_first_screen_is_at_most_40_lines_and_the_whole_150() -> None:
    lines = TEXT.splitlines()
    second_heading = next(index for index, line in enumerate(lines) if line.startswith("## "))
    assert second_heading <= 40
    assert len(lines) <= 150


def test_first_screen_has_four_rows_of_the_whole_table() -> None:
    """Which is that of a stored run (test_docs_results.py)."""
    first, (whole,) = (tables(README, heading) for heading in ("pretriton-bench", "Measured"))
    cells = {tuple(row[:2]): (row[2], row[4], row[5]) for row in whole}
    (rows,) = first
    assert len(rows) == 4
    for variant, batch, *shown in rows:
        assert tuple(shown) == cells[variant, batch]


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
