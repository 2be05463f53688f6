"""The tools as commands: what they write, what they refuse, and that summarize needs neither torch nor pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fixtures.bundle import FOLDERS, SYNTHETIC_MARKER, Bundle
from fixtures.checkpoint import read_state_dict
from fixtures.errors import InputError
from meta_tests.conftest import ROOT
from meta_tests.test_results import case, lines
from tools.make_bundle import make_bundle
from tools.summarize import summarize_file


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tools.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


# --- make_bundle ---


def test_a_bundle_has_the_official_layout(bundle_root: Path) -> None:
    assert all((bundle_root / folder).is_dir() for folder in FOLDERS)
    marker = json.loads((bundle_root / SYNTHETIC_MARKER).read_text())
    assert sorted(marker["files"]) == [
        "torch_cache/hub/checkpoints/midas_v21_small_256.pt",
        "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth",
    ]
    for name, digest in marker["files"].items():
        assert Bundle(bundle_root).weights(bundle_root / name).sha256 == digest


def test_the_seed_decides_the_weights(bundle_root: Path, tmp_path: Path) -> None:
    name = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"
    same = make_bundle(tmp_path / "same", 0, ["raft_small"])
    other = make_bundle(tmp_path / "other", 1, ["raft_small"])
    assert same[name] == json.loads((bundle_root / SYNTHETIC_MARKER).read_text())["files"][name]
    assert other[name] != same[name]
    for key, value in read_state_dict(tmp_path / "other" / name).items():
        assert torch.isfinite(value.float()).all(), key


def test_a_bundle_is_never_written_over(bundle_root: Path) -> None:
    with pytest.raises(InputError, match="path=exists, expected a new or empty folder"):
        make_bundle(bundle_root, 0)


def test_bad_arguments_end_with_one_message_and_code_2(tmp_path: Path) -> None:
    ended = tool("make_bundle", "--out", str(tmp_path / "b"), "--model", "DPT_Huge")
    assert ended.returncode == 2
    assert ended.stderr.startswith("ERROR: --model DPT_Huge: model=unknown, expected one of MiDaS_small, DPT_Hybrid")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "b").exists()


# --- summarize ---


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([*lines(case(), case(batch=8)), '{"bench": "pretriton", "la']) + "\n")
    return path


@pytest.mark.parametrize("option", [(), ("--in",)], ids=["FILE", "--in FILE"])
def test_summarize_writes_the_summary_and_names_what_was_unusable(rows: Path, option: tuple[str, ...]) -> None:
    output = rows.with_name("summary.json")
    ended = tool("summarize", *option, str(rows), "-o", str(output), "--bench", "pretriton")
    assert ended.returncode == 0, ended.stderr
    assert "unusable: 1 x line that is no JSON" in ended.stderr
    summary = json.loads(output.read_text())
    assert summary["table"] == {"midas_small_256": {"1": 1.2, "8": 1.2}}
    assert summary["unusable"] == {"line that is no JSON": 1}
    assert (summary["run_id"], summary["complete"]) == ("run", False)
    assert summary["environment"]["gpu"] == "X"


def test_summarize_prints_without_an_output(rows: Path) -> None:
    ended = tool("summarize", str(rows))
    assert len(json.loads(ended.stdout)["cases"]) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "file=No such file"),
        ("", "usable cases=0 (nothing)"),
        ('{"benchmarks": [{}]}', "benchmark without a case"),
    ],
)
def test_summarize_refuses_what_holds_no_case(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "input.json"
    if content is not None:
        path.write_text(content)
    ended = tool("summarize", str(path), "-o", str(tmp_path / "summary.json"))
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "summary.json").exists()


def test_another_bench_is_left_out(rows: Path) -> None:
    with pytest.raises(InputError, match=r"row of another bench \(pretriton\)"):
        summarize_file(rows, bench="served")


def test_summarize_imports_neither_torch_nor_pytest(rows: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['pytest'] = None\n"
        "from tools.summarize import summarize_file; from pathlib import Path\n"
        f"print(len(summarize_file(Path({str(rows)!r})).cases))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.strip() == "2", ended.stderr
