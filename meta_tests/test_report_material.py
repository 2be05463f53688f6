"""What a report reads, and which files it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.decision import choose
from fixtures.errors import InputError
from fixtures.report import read_material
from fixtures.results.summary import summarize
from meta_tests.conftest import HANGS_S, ROOT
from meta_tests.report_pages import page_of, written
from meta_tests.result_rows import case


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return written(tmp_path / "run", summarize([case()], run_id="run", complete=True))


def test_tool_ends_with_one_message_and_code_2_without_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.render_report", str(tmp_path / "missing"), "-o", str(tmp_path / "x.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: ")
    assert "missing: file=No such file or directory, expected a readable file." in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "content", "says"),
    [
        ("choice", "{}", "run_id=Field required, expected a choice of this suite"),
        ("choice", None, "file=No such file or directory"),
        ("manifest", '{"files": 7}', "files=Input should be an object, expected what the export gate wrote"),
        ("manifest", None, "file=No such file or directory, expected the manifest of exported files"),
        ("baseline", "", "expected rows of this suite"),
    ],
)
def test_file_of_another_kind_is_refused(
    run: Path, tmp_path: Path, option: str, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "file.json").write_text(content)
    with pytest.raises(InputError, match=re.escape(says)):
        page_of(run, **{option: tmp_path / "file.json"})


def test_choice_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = summarize([case()], run_id="other", complete=True)
    (run / "choice.json").write_text(choose(other, {}).model_dump_json())
    with pytest.raises(InputError, match=r"choice\.json: run_id=other, expected a choice from run run\. Choose again"):
        read_material(run, None, None, None)


def test_cases_are_ordered_by_branch_series_and_batch_and_what_is_served_comes_first(tmp_path: Path) -> None:
    ids = ["b-8-torch", "a-2-triton", "a-8-torch", "a-1-torch", "b-1-onnxruntime"]
    results = [
        case(variant, batch=int(batch), runtime=runtime, id="-".join((variant, batch, runtime)))
        for variant, batch, runtime in (one.split("-") for one in ids)
    ]
    material = read_material(written(tmp_path, summarize(results, run_id="run", complete=True)), None, None, None)
    assert [one.id for one in material.cases] == ids
    assert [one.id for one in material.ordered] == [
        *("b-1-onnxruntime", "b-8-torch"),
        *("a-2-triton", "a-1-torch", "a-8-torch"),
    ]
