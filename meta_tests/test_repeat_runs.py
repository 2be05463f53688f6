"""`tools.repeat_runs`: sides in turn, each run by a process of its own; interrupted, it is taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from fixtures.comparison import compare
from fixtures.measure.fork_server import fork_server
from fixtures.results.reading import read_run
from meta_tests.conftest import HANGS_S, ROOT, SMALL_SPEC, Ended, Suite, _main, wait_until
from meta_tests.runs import ended, is_one_message, row, run_of
from tools.repeat_runs import Side, in_turn, main

# A checkout whose suite measures nothing, takes no time, and writes down how it was called.
STAND_IN = """\
import time
from pathlib import Path

here = Path(__file__).parent

def pytest_addoption(parser):
    for option in ("--out", "--run-id", "--tag"):
        parser.addoption(option)
    parser.addoption("--resume", action="store_true")

def pytest_collection_modifyitems(config):
    option = config.option
    folder = Path(option.out) / option.run_id
    folder.mkdir(parents=True, exist_ok=option.resume)
    with (here / "calls").open("a") as calls:
        print(folder.parent.name, folder.name, option.tag, option.resume, file=calls)
    (folder / "summary.json").write_text((here / "begun.json").read_text())
    while (here / "hang").exists():
        time.sleep(0.01)
    (folder / "summary.json").write_text((here / "complete.json").read_text())
"""


@dataclass(frozen=True)
class Checkout:
    """The stand-in, measured as sides `a` and `b`."""

    folder: Path

    @property
    def calls(self) -> list[str]:
        """Side, run, its own argument, and whether it was taken up: of every process so far."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def arguments(self, *arguments: str) -> list[str]:
        """Of the tool, for two repeats."""
        sides = [word for name in "ab" for word in ("--side", f"{name}=--tag={name}")]
        sides += [word for name in "ab" for word in ("--checkout", f"{name}={self.folder}")]
        out = ("--out", str(self.folder / "out"), "--run-id", "r", "--repeats", "2")
        return [*out, *sides, *arguments, "--", "-q", "-p", "no:cacheprovider"]

    def run(self, *arguments: str) -> Ended:
        """Measure in this process."""
        return ended(main, *self.arguments(*arguments))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take longer than the stand-in
    folder = tmp_path / "checkout"
    (folder / "bench_tests").mkdir(parents=True)
    (folder / "conftest.py").write_text(STAND_IN)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "bench_tests" / "test_it.py").write_text("def test_it(): assert True\n")
    (folder / "begun.json").write_text(run_of(row(), complete=False).model_dump_json())
    (folder / "complete.json").write_text(run_of(row()).model_dump_json())
    return Checkout(folder)


def test_sides_are_measured_in_turn_and_every_other_round_backwards() -> None:
    sides = [Side(name) for name in "abc"]
    order = [f"{side.name}{repeat}" for repeat, side in in_turn(sides, 4)]
    assert order == ["a1", "b1", "c1", "c2", "b2", "a2", "a3", "b3", "c3", "c4", "b4", "a4"]
    assert [repeat for repeat, _ in in_turn(sides[:1], 3)] == [1, 2, 3]


def test_every_run_is_a_process_with_the_arguments_of_its_side_and_what_is_complete_is_kept(checkout: Checkout) -> None:
    said = checkout.run()
    assert said.returncode == 0, said.stderr
    assert checkout.calls == ["a 1 a False", "b 1 b False", "b 2 b False", "a 2 a False"]
    folders = " ".join(str(checkout.folder / "out" / "r" / name) for name in "ab")
    assert f"python -m tools.compare_runs {folders}\n" in said.stdout
    again = checkout.run()
    assert (again.returncode, len(checkout.calls)) == (0, 4)
    assert again.stdout.count("measured before") == 4


@pytest.mark.parametrize(("before", "after"), [("a=--tag=a", "a=--tag=c"), ("-q", "-qq")])
def test_runs_that_measured_something_else_are_no_repeats(checkout: Checkout, before: str, after: str) -> None:
    assert checkout.run().returncode == 0
    said = ended(main, *(after if word == before else word for word in checkout.arguments()))
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert "--run-id r: arguments of a=" in said.stderr
    assert "with which 2 were measured. Choose another name." in said.stderr
    assert len(checkout.calls) == 4
    assert ended(main, *checkout.arguments("--repeats", "3")).returncode == 0, "more of the same"
    assert len(checkout.calls) == 6


def test_arguments_that_measured_nothing_may_be_corrected(checkout: Checkout) -> None:
    assert checkout.run("--side", "c=--unknown", "--checkout", f"c={checkout.folder}").returncode == 4
    assert checkout.run("--side", "c=--tag=c", "--checkout", f"c={checkout.folder}").returncode == 0
    assert len(checkout.calls) == 6


def test_interrupted_it_says_how_to_go_on_and_takes_the_run_up_again(checkout: Checkout) -> None:
    hang = checkout.folder / "hang"
    hang.touch()
    command = [sys.executable, "-m", "tools.repeat_runs", *checkout.arguments()]
    # A group of its own, as a terminal has it: Ctrl-C reaches the tool and its pytest.
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    begun = checkout.folder / "out" / "r" / "a" / "1" / "summary.json"
    wait_until(lambda: begun.exists() and begun.stat().st_size > 0)
    os.killpg(process.pid, signal.SIGINT)
    out, err = (text.decode() for text in process.communicate(timeout=HANGS_S))
    assert process.returncode == 130, err
    assert f"interrupted; the same command goes on with {begun.parent}\n" in out
    assert "Traceback" not in err
    hang.unlink()
    assert checkout.run().returncode == 0
    assert checkout.calls == ["a 1 a False", "a 1 a True", "b 1 b False", "b 2 b False", "a 2 a False"]


def test_bad_input_of_a_run_ends_everything_with_its_exit_code(checkout: Checkout) -> None:
    said = checkout.run("--side", "c=--unknown", "--checkout", f"c={checkout.folder}")
    assert said.returncode == 4, "pytest's own"
    assert [call.split()[0] for call in checkout.calls] == ["a", "b"]


def test_a_run_that_fails_is_no_reason_to_stop_and_is_said_by_the_exit_code(checkout: Checkout) -> None:
    (checkout.folder / "bench_tests" / "test_it.py").write_text("def test_it(): assert False\n")
    assert (checkout.run().returncode, len(checkout.calls)) == (1, 4)


def test_a_checkout_is_measured_by_its_own_environment(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    assert Side("a", (), tmp_path).python == sys.executable
    python.parent.mkdir(parents=True)
    python.touch()
    assert (Side("a", (), tmp_path).python, Side("a").python) == (str(python), sys.executable)


@pytest.mark.parametrize(
    ("arguments", "says"),
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
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.setattr("tools.repeat_runs.subprocess.Popen", lambda *_, **__: pytest.fail("something ran"))
    said = ended(main, "--run-id", "r", "--out", tmp_path / "out", *arguments)
    assert said.returncode == 2
    assert is_one_message(said.stderr), said.stderr
    assert says in said.stderr
    assert not (tmp_path / "out").exists()


def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    said = ended(main, "--run-id", "x" * 300, "--out", tmp_path)
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert "folder=File name too long, expected a folder to write to." in said.stderr


def test_a_run_that_cannot_be_read_is_not_measured_over(checkout: Checkout) -> None:
    damaged = checkout.folder / "out" / "r" / "a" / "1" / "summary.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    said = checkout.run()
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert (damaged.read_text(), checkout.calls) == ("{", [])


class Forked:
    """In the place of `subprocess.Popen`: the real suite, forked from a process that has already imported torch.

    The third one is interrupted as soon as it has a finished case.
    """

    started = 0

    def __init__(self, command: list[str], cwd: Path) -> None:
        assert (command[1:3], cwd) == (["-m", "pytest"], ROOT)
        self._folder = Path(command[command.index("--out") + 1]) / command[command.index("--run-id") + 1]
        logs = (self._folder.parents[3] / "said", self._folder.parents[3] / "errors")
        self._process = fork_server().Process(target=_main, args=(command[3:], *logs))
        self._process.start()
        type(self).started += 1
        self._is_interrupted = type(self).started == 3

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._process.join()

    def wait(self, timeout: float | None = None) -> int | None:
        results = self._folder / "results.jsonl"
        if self._is_interrupted:
            self._is_interrupted = False
            wait_until(lambda: not self._process.is_alive() or (results.exists() and bool(results.read_text())))
            assert self._process.pid
            os.kill(self._process.pid, signal.SIGINT)
            raise KeyboardInterrupt
        self._process.join(timeout)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


def test_two_sides_of_the_real_suite_interrupted_and_taken_up_again(
    suite: Suite, small_spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SMALL_SPEC.replace("height: 64, width: 96", "height: 32, width: 32").replace("[1, 2]", "[1, 2, 4]")
    small_spec.write_text(spec)
    monkeypatch.setattr("tools.repeat_runs.subprocess.Popen", Forked)
    ours = ["--repeats", "2", "--run-id", "r", "--out", str(suite.folder / "out"), "--side", "a=", "--side", "b="]
    theirs = ["--device", "cpu", "--models-root", str(suite.models_root), "--spec", str(small_spec)]
    command = [*ours, "--", "-p", "no:cacheprovider", *theirs, "-k", "test_latency and midas_small_64"]
    first = ended(main, *command)
    assert first.returncode == 130, first.stderr
    cut = suite.folder / "out" / "r" / "b" / "2"
    assert not json.loads((cut / "summary.json").read_text())["complete"]
    before = rounds_of(cut)
    assert ended(main, *command).returncode == 0
    assert Forked.started == 5
    after = rounds_of(cut)
    assert {case_id: after[case_id] for case_id in before} == before, "a finished case is not measured again"
    sides = [suite.folder / "out" / "r" / name for name in "ab"]
    for side in sides:
        runs = [read_run(side / str(repeat)) for repeat in (1, 2)]
        assert all(run.complete and len(run.cases) == 3 for run in runs)
    (pair,) = compare(sides).pairs
    assert [case.processes for case in pair.cases] == [(2, 2)] * 3
    assert all(case.ratio and case.processes == (2, 2) for case in pair.cases)


def rounds_of(run: Path) -> dict[str, list[Any]]:
    """Case → its rounds in milliseconds."""
    rounds: dict[str, list[Any]] = {}
    for line in (run / "results.jsonl").read_text().splitlines():
        measured = json.loads(line)
        rounds.setdefault(measured["case_id"], []).append(measured["latency_ms"])
    return rounds
