"""The tools as commands: what they write, what they refuse, and that summarize needs neither torch nor pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.errors import InputError
from fixtures.records import MemoryCase, Summary
from fixtures.results.reading import summarize_file
from fixtures.results.run_folder import plain
from fixtures.results.summary import summarize_case
from fixtures.weights.bundle import FOLDERS, SYNTHETIC_MARKER, Bundle
from fixtures.weights.checkpoint import read_state_dict
from meta_tests.conftest import HANGS_S, ROOT
from meta_tests.test_results import case, lines
from meta_tests.test_spec import places, values
from tools.make_bundle import make_bundle


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tools.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)


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


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(InputError, match="link: path=exists, expected a new or empty folder"):
        make_bundle(tmp_path / "link", 0)


def test_a_full_disk_ends_with_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    command = f"{sys.executable} -m tools.make_bundle --model raft_small --out {tmp_path / 'b'}"
    limited = ["bash", "-c", f"ulimit -f 100; exec {command}"]
    ended = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert ended.returncode == 2, ended.stderr
    assert (
        "folder=raft_small_C_T_V2-01064c6d.pth could not be written whole, expected a writable folder" in ended.stderr
    )
    assert "Traceback" not in ended.stderr
    assert not any(tmp_path.iterdir())


def test_bad_arguments_end_with_one_message_and_code_2(tmp_path: Path) -> None:
    ended = tool("make_bundle", "--out", str(tmp_path / "b"), "--model", "DPT_Huge")
    assert ended.returncode == 2
    assert ended.stderr.startswith("ERROR: --model DPT_Huge: model=unknown, expected one of HTSAT-tiny, HTSAT-base")
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


def test_two_runs_in_one_file_are_told_apart(rows: Path) -> None:
    rows.write_text(rows.read_text() + "\n".join(lines(case())).replace('"run_id":"run"', '"run_id":"second"'))
    with pytest.raises(InputError, match=r"run_id=run, second, expected rows of one run\. Choose one with --run-id\."):
        summarize_file(rows)
    first, second = (summarize_file(rows, run_id=run_id) for run_id in ("run", "second"))
    assert [len(summary.cases) for summary in (first, second)] == [2, 1]
    assert second.cases == first.cases[:1]
    assert second.run_id == "second"
    assert second.unusable["row of another run (run)"] == 10
    ended = tool("summarize", str(rows), "--run-id", "second")
    assert json.loads(ended.stdout)["run_id"] == "second"


def document() -> dict[str, Any]:
    timed, untimed = (plain(summarize_case(one)) for one in (case(), case(batch=8, rounds=0, status="oom")))
    entry = {"extra_info": {"case": timed}, "stats": {"data": [1e-3, 2e-3]}}
    memory = plain(MemoryCase(case_id="m", status="ok"))
    run = {"run_id": "run", "complete": True, "environment": {"gpu": "X"}, "run": {}}
    run |= {"cases_without_timing": [untimed], "memory_cases": [memory]}
    return {"benchmarks": [entry], "pretriton": run}


def test_a_benchmark_json_has_timed_and_untimed_cases(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(document()))
    summary = summarize_file(path)
    assert ([one.status for one in summary.cases], summary.complete, summary.unusable) == (["ok", "oom"], True, {})
    assert summary.memory_cases == (MemoryCase(case_id="m", status="ok"),)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("pretriton", "cases_without_timing"), {"a": 1}, "cases_without_timing that is no list"),
        (("pretriton", "cases_without_timing"), [7, {}], "case without timing that is no case"),
        (("pretriton", "memory_cases"), [7], "memory of a case that is no case"),
        (("pretriton", "environment"), [1], "environment that is no dict"),
        (("pretriton", "run_id"), 7, "run_id that is no str"),
        (("pretriton", "run"), "r", "run that is no dict"),
        (("pretriton",), [], "pretriton that is no dict"),
        (("benchmarks", 0, "stats", "data"), [1e-3, 0], "benchmark without a case of this suite"),
        (("benchmarks", 0, "stats", "data"), [-1e-3], "benchmark without a case of this suite"),
        (("benchmarks", 0, "stats", "data"), [5e-324], "benchmark without a case of this suite"),
        (("benchmarks", 0, "stats", "data"), [float("nan")], "benchmark without a case of this suite"),
        (("benchmarks", 0, "stats", "data"), [10**400], "benchmark without a case of this suite"),
        (("benchmarks", 0, "extra_info", "case"), "case", "benchmark without a case of this suite"),
        (("benchmarks", 0, "extra_info", "case", "batch"), 0, "benchmark without a case of this suite"),
    ],
    ids=repr,
)
def test_what_a_benchmark_json_should_not_hold_is_counted(
    tmp_path: Path, place: tuple[str | int, ...], value: object, reason: str
) -> None:
    summary = summary_with(tmp_path / "bench.json", document(), place, value)
    assert summary is not None
    assert set(summary.unusable) == {reason}


def summary_with(path: Path, content: Any, place: tuple[str | int, ...], value: object) -> Summary | None:
    """The summary of a benchmark JSON with another value in one place; None where it is refused."""
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    path.write_text(json.dumps(content, default=str))
    try:
        summary = summarize_file(path)
    except InputError:
        return None
    summary.model_dump_json()
    return summary


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(places(document())), value=values | st.just("\ud800") | st.just(10**400))
def test_any_value_in_any_place_is_summarized_or_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    summary_with(tmp_path / "bench.json", document(), place, value)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(places(json.loads(lines(case())[0]))), value=values | st.just("\ud800") | st.just(10**400))
def test_any_value_in_any_place_of_a_row_is_summarized_or_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    summary_with(tmp_path / "results.jsonl", json.loads(lines(case(rounds=1))[0]), place, value)


def test_summarize_imports_neither_torch_nor_pytest(rows: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['pytest'] = None\n"
        "from fixtures.results.reading import summarize_file; from pathlib import Path\n"
        f"print(len(summarize_file(Path({str(rows)!r})).cases))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert ended.stdout.strip() == "2", ended.stderr
