"""tools.check_bundle: its table, its JSON, its exit codes, and that code beside a tokenizer never runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import offline
from fixtures.bundle_check.digests import LOCK
from fixtures.files import sha256_of
from fixtures.records import BundleCheck, BundleLock
from meta_tests.conftest import HANGS_S, ROOT, environment
from meta_tests.models_root import RAFT, SQUEEZENET, TOKENIZER, ModelsRoot, half, of
from tools import check_bundle as tool
from tools import command_line


@pytest.fixture
def place(tmp_path: Path) -> ModelsRoot:
    return ModelsRoot(tmp_path)


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tool shuts the network of its process, and says so in the environment."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    offline.open_network()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["check_bundle", *arguments])
    return tool.main()


@pytest.mark.usefixtures("_environment")
def test_table_has_100_columns_and_lists_every_problem_below(
    place: ModelsRoot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.without_tokenizers()
    assert run(monkeypatch, *place.arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    digest = sha256_of(place.root / RAFT)[:12]
    (row,) = [line.split() for line in lines if "raft_small_C" in line]
    assert row == ["raft_small_C_T_V2-01064c6d.pth", "yes", "3.8", digest, "recorded", "now", "yes"]
    assert "note: 2 files are synthetic: what is computed from them means nothing" in lines
    assert lines[-1].startswith(f"{place.root}: all in order; 4 artifacts, ")
    assert "MiB, 3 digests made, " in lines[-1]
    assert os.environ["HF_HUB_OFFLINE"] == "1"

    half(place.root / RAFT)
    (place.root / SQUEEZENET).unlink()
    assert run(monkeypatch, *place.arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if "raft_small_C" in line and "PROBLEM" not in line]
    assert row[-2:] == ["CHANGED", "NO"]
    problems = [line for line in lines if line.startswith("PROBLEM: ")]
    assert len(problems) == 3
    assert problems[0].startswith(f"PROBLEM: {place.root / RAFT}: content=damaged")
    assert problems[1].startswith(f"PROBLEM: {place.root / RAFT}: sha256=")
    assert problems[2].startswith(f"PROBLEM: {place.root / SQUEEZENET}: file=missing")
    assert ": 3 problems; 4 artifacts, " in lines[-1]


def test_json_is_the_only_output_and_code_beside_a_tokenizer_never_runs(place: ModelsRoot) -> None:
    """A process from nothing, whose standard input would say yes to running the code."""
    configuration = place.snapshot / "tokenizer_config.json"
    data = json.loads(configuration.read_text()) | {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    configuration.write_text(json.dumps(data))
    ran = place.folder / "ran.txt"
    configuration.with_name("own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    (place.root / RAFT).unlink()
    command = [sys.executable, "-m", "tools.check_bundle", *place.arguments, "--json"]
    unset = environment() | {"HF_MODULES_CACHE": str(place.folder / "modules")}
    ended = subprocess.run(
        command, cwd=ROOT, env=unset, input="y\n", capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert not ran.exists()
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr == ""
    check = BundleCheck.model_validate_json(ended.stdout)
    assert (check.models_root, check.lock) == (str(place.root), str(place.root / LOCK))
    assert [artifact.path for artifact in check.artifacts if artifact.problems] == [RAFT]
    assert of(check, TOKENIZER).loads == "yes"


@pytest.mark.usefixtures("_environment")
def test_lock_may_lie_elsewhere(place: ModelsRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = place.folder / "own.json"
    assert run(monkeypatch, *place.arguments, "--lock", str(elsewhere)) == 0
    assert RAFT in BundleLock.model_validate_json(elsewhere.read_bytes()).files
    assert not (place.root / LOCK).exists()


@pytest.mark.usefixtures("_environment")
def test_root_that_cannot_be_written_is_a_note(
    place: ModelsRoot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fixtures.bundle_check.digests.write_atomically", refuse)
    assert run(monkeypatch, *place.arguments) == 0
    said = f"note: {place.root / LOCK}: digests are not recorded (Read-only file system); name a file elsewhere with"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--models-root", "/nowhere"], "--models-root: value=/nowhere, expected a folder that exists"),
        (["--spec", "absent.yaml"], "absent.yaml: file=No such file"),
        (["--catalog", "absent"], "absent: entries=0"),
        (["--lock", "absent/lock.json"], "--lock absent/lock.json: folder=not writable"),
        (["--lock", "README.md"], "README.md: content=damaged"),
    ],
)
def test_bad_input_ends_with_one_message_and_code_2(
    place: ModelsRoot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: list[str], says: str
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["check_bundle", *place.arguments, *change])
    with pytest.raises(SystemExit) as ended:
        command_line.run(tool.main)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("ERROR: ")
    assert says in printed.err
    assert printed.out == ""
