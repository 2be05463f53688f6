"""fixtures/standard_streams.py: no encoding of standard output ends a tool or a session in a traceback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.results.summary import summarize
from fixtures.results.table import latency_table
from meta_tests.conftest import HANGS_S, ROOT, environment
from meta_tests.result_rows import case, lines

ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


def ended(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**environment(), **variables},
        capture_output=True,
        encoding="latin-1",
        timeout=HANGS_S,
        check=False,
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows in a folder with a Cyrillic name, of a case with characters of several lengths in UTF-16."""
    path = tmp_path / "итоги прогона" / "results.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{line}\n" for line in lines(case(error="é → 犬 🐕"))) + "{\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("variables", ASCII, ids=["ascii", "latin-1", "LC_ALL=C"])
def test_json_on_standard_output_is_the_same_in_every_encoding(rows: Path, variables: dict[str, str]) -> None:
    done = ended("-m", "tools.summarize", rows, **variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cases"][0]["error"] == "é → 犬 🐕"
    assert "unusable: 1 x line that is no JSON" in done.stderr


def test_table_has_lines_that_the_encoding_of_the_output_has(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summarize([case()], run_id="r", complete=True)
    assert "┃ variant" in latency_table(summary, 120)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert "| variant" in latency_table(summary, 120)
    assert latency_table(summary, 120).isascii()


def test_files_are_utf_8_whatever_the_system_is(rows: Path) -> None:
    output = rows.with_name("сводка.json")
    done = ended("-m", "tools.summarize", rows, "-o", output, **ASCII[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_bytes())["cases"][0]["error"] == "é → 犬 🐕"


def test_reader_that_ends_early_gets_no_traceback(rows: Path) -> None:
    """Such as `| head`: the reading end is closed before the tool writes."""
    command = f"{sys.executable} -m tools.summarize '{rows}' | true; exit ${{PIPESTATUS[0]}}"
    # More than a pipe holds, so that the tool has to wait for a reader.
    text = "".join(f"{line}\n" for batch in range(1, 200) for line in lines(case(batch=batch, rounds=1)))
    rows.write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_session_of_pytest_escapes_what_its_encoding_lacks(tmp_path: Path) -> None:
    """Otherwise pytest escapes line ends too, and a table becomes one line."""
    (tmp_path / "test_a.py").write_text("def test():\n    raise AssertionError('Ж\\nsecond line')\n", encoding="utf-8")
    command = ("-m", "pytest", "-p", "conftest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path)
    done = ended(*command, "-p", "no:cacheprovider", "-p", "no:xdist", PYTHONIOENCODING="ascii")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "AssertionError: \\u0416\n" in done.stdout
    assert "second line\n" in done.stdout
