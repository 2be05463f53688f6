"""tools/summarize.py as a command: what it writes, and that it needs neither torch nor pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.results.run_lock import only_writer
from meta_tests.conftest import HANGS_S, ROOT
from meta_tests.result_rows import case, lines
from meta_tests.runs import ended, is_one_message
from tools.summarize import main


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([*lines(case(), case(batch=8)), '{"bench": "pretriton", "la']) + "\n")
    return path


@pytest.mark.parametrize("option", [(), ("--in",)], ids=["FILE", "--in FILE"])
def test_summary_is_written_and_unusable_lines_are_named(rows: Path, option: tuple[str, ...]) -> None:
    output = rows.with_name("summary.json")
    done = ended(main, *option, rows, "-o", output, "--bench", "pretriton")
    assert done.returncode == 0, done.stderr
    assert "unusable: 1 x line that is no JSON" in done.stderr
    summary = json.loads(output.read_text())
    assert summary["table"] == {"midas_small_256": {"1": 1.2, "8": 1.2}}
    assert summary["unusable"] == {"line that is no JSON": 1}
    assert (summary["run_id"], summary["complete"]) == ("run", False)
    assert summary["environment"]["gpu"] == "X"


def test_summary_is_printed_without_an_output(rows: Path) -> None:
    assert len(json.loads(ended(main, rows).stdout)["cases"]) == 2


def test_one_run_of_several_is_chosen(rows: Path) -> None:
    rows.write_text(rows.read_text() + "\n".join(lines(case())).replace('"run_id":"run"', '"run_id":"second"'))
    assert json.loads(ended(main, rows, "--run-id", "second").stdout)["run_id"] == "second"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "file=No such file"),
        ("", "usable cases=0 (nothing)"),
        ('{"benchmarks": [{}]}', "benchmark without a case"),
    ],
)
def test_file_without_a_case_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "input.json"
    if content is not None:
        path.write_text(content)
    done = ended(main, path, "-o", tmp_path / "summary.json")
    assert done.returncode == 2
    assert is_one_message(done.stderr)
    assert says in done.stderr
    assert not (tmp_path / "summary.json").exists()


def test_summary_of_a_run_that_is_being_written_is_refused(rows: Path) -> None:
    with only_writer(rows.parent):
        done = ended(main, rows, "-o", rows.with_name("summary.json"))
        assert ended(main, rows, "-o", rows.with_name("other.json")).returncode == 0
    assert done.returncode == 2
    assert is_one_message(done.stderr.splitlines(keepends=True)[-1])
    assert f"ERROR: --run-id {rows.parent.name}: writer=process {os.getpid()} on " in done.stderr
    assert not rows.with_name("summary.json").exists()


def test_command_imports_neither_torch_nor_pytest(rows: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['pytest'] = None; sys.argv[0] = 'summarize'\n"
        "from tools import command_line, summarize; command_line.run(summarize.main)"
    )
    command = [sys.executable, "-c", program, str(rows)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["cases"]) == 2
