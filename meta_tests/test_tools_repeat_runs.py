"""tools.repeat_runs: sides in turn, each repeat a process of its own, and an interrupted repeat is resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.processes import guarded
from fixtures.results.reading import read_run
from meta_tests.conftest import ROOT, SMALL_SPEC, Ended, Suite, wait_until
from meta_tests.forked import ForkedPython
from meta_tests.runs import ended, is_one_message, row, run_of
from meta_tests.stub_pytest import calls_of, install
from tools.repeat_runs import Side, in_turn, main

# The stub answers in tenths of a second; a machine of two cores that runs other tests is slower.
ANSWERS_S = 30


@dataclass(frozen=True)
class Checkout:
    """A checkout with the stub in the place of pytest, measured as sides `a` and `b`."""

    folder: Path

    @property
    def calls(self) -> list[str]:
        """Side, run, the side's own argument, and whether it was resumed: of every process so far."""
        return [
            f"{Path(call['out']).name} {call['run_id']} {call['tag']}" + " resumed" * call["resume"]
            for call in calls_of(self.folder)
        ]

    def arguments(self, *arguments: str) -> list[str]:
        """Of the tool, for two repeats."""
        sides = [word for name in "ab" for word in ("--side", f"{name}=--tag={name}")]
        sides += [word for name in "ab" for word in ("--checkout", f"{name}={self.folder}")]
        out = ("--out", str(self.folder / "out"), "--run-id", "r", "--repeats", "2")
        return [*out, *sides, *arguments, "--", "-q", "-p", "no:cacheprovider"]

    def run(self, *arguments: str) -> Ended:
        """Measure; the tool runs in this process, each repeat in one of its own."""
        return ended(main, *self.arguments(*arguments))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "checkout"
    begun, whole = (run_of(row(), complete=complete).model_dump_json() for complete in (False, True))
    install(folder, {"summary.json": begun}, {"summary.json": whole})
    return Checkout(folder)


def test_every_other_round_measures_sides_in_reverse() -> None:
    sides = [Side(name) for name in "abc"]
    order = [f"{side.name}{repeat}" for repeat, side in in_turn(sides, 4)]
    assert order == ["a1", "b1", "c1", "c2", "b2", "a2", "a3", "b3", "c3", "c4", "b4", "a4"]
    assert [repeat for repeat, _ in in_turn(sides[:1], 3)] == [1, 2, 3]


def test_each_repeat_gets_arguments_of_its_side_and_complete_runs_are_kept(checkout: Checkout) -> None:
    first = checkout.run()
    assert first.returncode == 0, first.stderr
    assert checkout.calls == ["a 1 a", "b 1 b", "b 2 b", "a 2 a"]
    assert calls_of(checkout.folder)[0]["words"] == ["bench_tests", "-q", "-p", "no:cacheprovider"]
    folders = " ".join(str(checkout.folder / "out" / "r" / name) for name in "ab")
    assert f"python -m tools.compare_runs {folders}\n" in first.stdout
    again = checkout.run()
    assert (again.returncode, len(checkout.calls)) == (0, 4)
    assert again.stdout.count("measured before") == 4


@pytest.mark.parametrize(("before", "after"), [("a=--tag=a", "a=--tag=c"), ("-q", "-qq")])
def test_other_arguments_under_the_same_name_are_refused(checkout: Checkout, before: str, after: str) -> None:
    assert checkout.run().returncode == 0
    refused = ended(main, *(after if word == before else word for word in checkout.arguments()))
    assert refused.returncode == 2
    assert is_one_message(refused.stderr)
    assert "--run-id r: arguments of a=" in refused.stderr
    assert "with which 2 were measured. Choose another name." in refused.stderr
    assert len(checkout.calls) == 4


def test_more_repeats_of_the_same_arguments_are_added(checkout: Checkout) -> None:
    assert checkout.run().returncode == 0
    assert ended(main, *checkout.arguments("--repeats", "3")).returncode == 0
    assert checkout.calls[4:] == ["a 3 a", "b 3 b"]


def test_arguments_that_measured_nothing_may_be_corrected(checkout: Checkout) -> None:
    assert checkout.run("--side", "c=--unknown", "--checkout", f"c={checkout.folder}").returncode == 4
    assert checkout.run("--side", "c=--tag=c", "--checkout", f"c={checkout.folder}").returncode == 0
    assert len(checkout.calls) == 6


def test_interrupted_tool_says_how_to_go_on_and_resumes_the_run(checkout: Checkout) -> None:
    hang = checkout.folder / "hang"
    hang.touch()
    command = [sys.executable, "-m", "tools.repeat_runs", *checkout.arguments()]
    pipe = subprocess.PIPE
    # A group of its own, as a terminal has it: Ctrl-C reaches the tool and its pytest.
    process = subprocess.Popen(guarded(command), cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    begun = checkout.folder / "out" / "r" / "a" / "1" / "summary.json"
    wait_until(begun.exists, ANSWERS_S)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=ANSWERS_S)
    assert process.returncode == 130, err
    assert f"interrupted; the same command goes on with {begun.parent}\n" in out
    assert "Traceback" not in err
    hang.unlink()
    assert checkout.run().returncode == 0
    assert checkout.calls == ["a 1 a", "a 1 a resumed", "b 1 b", "b 2 b", "a 2 a"]


def test_bad_input_of_a_run_ends_the_tool_with_its_exit_code(checkout: Checkout) -> None:
    refused = checkout.run("--side", "c=--unknown", "--checkout", f"c={checkout.folder}")
    assert refused.returncode == 4, "pytest's own"
    assert checkout.calls == ["a 1 a", "b 1 b"]


def test_failing_runs_do_not_stop_the_tool_and_make_its_exit_code_1(checkout: Checkout) -> None:
    (checkout.folder / "fails").touch()
    assert (checkout.run().returncode, len(checkout.calls)) == (1, 4)


def test_checkout_is_measured_by_its_own_environment(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    assert Side("a", (), tmp_path).python == sys.executable
    python.parent.mkdir(parents=True)
    python.touch()
    assert (Side("a", (), tmp_path).python, Side("a").python) == (str(python), sys.executable)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats: value=0, expected at least 1."),
        (["--side", "midas"], "--side: value='midas', expected NAME=…"),
        (["--side", "a/b=-k midas"], "--side: value='a/b=-k midas', expected NAME=…"),
        (["--side", "a=", "--side", "a=-k raft"], "--side: value='a=-k raft', expected NAME=…, each name once"),
        (
            ["--side", 'a=-k "midas'],
            "--side a: value='-k \"midas' (No closing quotation), expected arguments",
        ),
        (["--side", "a=--run-id=x"], "--run-id=x: value=among pytest's arguments, expected that of this tool."),
        (["--", "--out", "x"], "--out: value=among pytest's arguments, expected that of this tool."),
        (["--", "--benchmark-json=x.json"], "--benchmark-json=x.json: value=among pytest's arguments"),
        (["--checkout", "a=."], "--checkout: side=a, expected one of run."),
        (
            ["--side", "a=", "--checkout", "a=nowhere"],
            "--checkout: nowhere=no checkout, expected a folder",
        ),
    ],
)
def test_bad_input_is_refused_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("tools.repeat_runs.subprocess.Popen", lambda *_, **__: pytest.fail("a run was started"))
    refused = ended(main, "--run-id", "r", "--out", tmp_path / "out", *arguments)
    assert refused.returncode == 2
    assert is_one_message(refused.stderr), refused.stderr
    assert message in refused.stderr
    assert not (tmp_path / "out").exists()


def test_name_too_long_for_a_folder_is_refused(tmp_path: Path) -> None:
    refused = ended(main, "--run-id", "x" * 300, "--out", tmp_path)
    assert refused.returncode == 2
    assert is_one_message(refused.stderr)
    assert "folder=File name too long, expected a folder to write to." in refused.stderr


def test_damaged_run_is_refused_and_not_overwritten(checkout: Checkout) -> None:
    damaged = checkout.folder / "out" / "r" / "a" / "1" / "summary.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    refused = checkout.run()
    assert refused.returncode == 2
    assert is_one_message(refused.stderr)
    assert (damaged.read_text(), checkout.calls) == ("{", [])


class InterruptedSuite(ForkedPython):
    """The real suite, of which the first session is interrupted as soon as it has a finished case."""

    started = 0

    def __init__(self, command: list[str], cwd: Path) -> None:
        assert (command[1:3], cwd) == (["-m", "pytest"], ROOT)
        super().__init__(command)
        type(self).started += 1
        run = Path(command[command.index("--out") + 1]) / command[command.index("--run-id") + 1]
        self._interrupted_at = run / "results.jsonl" if type(self).started == 1 else None

    def wait(self, timeout: float | None = None) -> int | None:
        if self._interrupted_at is None:
            return super().wait(timeout)
        results, self._interrupted_at = self._interrupted_at, None
        wait_until(lambda: self.poll() is not None or (results.exists() and bool(results.read_text())))
        self.send_signal(signal.SIGINT)
        raise KeyboardInterrupt


def test_real_suite_is_interrupted_and_resumed(suite: Suite, small_spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SMALL_SPEC.replace("height: 64, width: 96", "height: 32, width: 32").replace("[1, 2]", "[1, 2, 4]")
    small_spec.write_text(spec)
    monkeypatch.setattr("tools.repeat_runs.subprocess.Popen", InterruptedSuite)
    monkeypatch.setattr(InterruptedSuite, "started", 0)
    ours = ["--repeats", "1", "--run-id", "r", "--out", str(suite.folder / "out"), "--side", "a="]
    theirs = ["--device", "cpu", "--models-root", str(suite.models_root), "--spec", str(small_spec)]
    command = [*ours, "--", "-p", "no:cacheprovider", *theirs, "-k", "test_latency and midas_small_64"]
    first = ended(main, *command)
    assert first.returncode == 130, first.stderr
    run = suite.folder / "out" / "r" / "a" / "1"
    assert json.loads((run / "summary.json").read_text())["complete"] is False
    before = rounds_of(run)
    assert ended(main, *command).returncode == 0
    assert InterruptedSuite.started == 2
    after = rounds_of(run)
    assert {case_id: after[case_id] for case_id in before} == before, "a finished case is not measured again"
    assert (read_run(run).complete, len(read_run(run).cases)) == (True, 3)
    assert "a, 1: measured before" in ended(main, *command).stdout


def rounds_of(run: Path) -> dict[str, list[Any]]:
    """Case → its rounds in milliseconds."""
    rounds: dict[str, list[Any]] = {}
    for line in (run / "results.jsonl").read_text().splitlines():
        measured = json.loads(line)
        rounds.setdefault(measured["case_id"], []).append(measured["latency_ms"])
    return rounds
