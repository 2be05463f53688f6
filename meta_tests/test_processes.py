"""fixtures/processes.py: children end with their parent, can be interrupted, and get the environment that is meant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import psutil
import pytest

from fixtures.processes import child_environment, guarded, supervised
from meta_tests.conftest import ROOT, wait_until

_SOON_S = 10.0  # for what a kernel or a shell does at once
SLEEP = ["sh", "-c", "echo $$; exec sleep 60"]


@contextmanager
def parent_of(command: str, ignoring: str = "") -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process that starts `command`, an expression of fixtures.processes, and its output."""
    code = f"import signal, subprocess; from fixtures.processes import *; {ignoring}\nsubprocess.run({command})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        yield parent, parent.stdout
        parent.kill()


def ended(pid: int) -> bool:
    """Whether a process ends soon; a zombie has ended, and waits for a parent that may be slow to look."""
    wait_until(lambda: _status(pid) in (None, psutil.STATUS_ZOMBIE), _SOON_S)
    return True


def _status(pid: int) -> str | None:
    """State of a process, or None when there is none; asked in one step, because it may end between two."""
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return None


@pytest.mark.parametrize("command", [f"guarded({SLEEP})", f"supervised({SLEEP}, 5)"], ids=["guarded", "supervised"])
def test_child_ends_with_parent_that_is_killed(command: str) -> None:
    with parent_of(command) as (parent, output):
        child = int(output.readline())
        parent.kill()
        assert ended(child)


def test_child_of_parent_that_has_ended_does_not_start() -> None:
    command = guarded(["echo", "started"])
    orphan = [*command[:4], "1", *command[5:]]
    done = subprocess.run(orphan, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the parent has ended\n")


def test_interrupt_reaches_child_of_background_process() -> None:
    """A shell has background processes of a script ignore SIGINT, and their children inherit that."""
    with parent_of(f"guarded({SLEEP})", "signal.signal(signal.SIGINT, signal.SIG_IGN)") as (_, output):
        child = int(output.readline())
        os.kill(child, signal.SIGINT)
        assert ended(child)


def test_child_uses_the_cpus_that_it_is_bound_to() -> None:
    cpu = min(os.sched_getaffinity(0))
    shown = [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"]
    assert subprocess.check_output(guarded(shown, {cpu}), text=True) == f"{{{cpu}}}\n"
    done = subprocess.run(guarded(shown, {100_000}), capture_output=True, text=True, check=True)
    assert "CPUs are not parted between the workers" in done.stderr


@pytest.mark.parametrize("code", [0, 1, 7])
def test_supervised_command_passes_on_its_output_and_exit_code(code: int) -> None:
    command = supervised(["sh", "-c", f"echo no model; exit {code}"], 5)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("no model\n", code)


def test_supervised_command_is_asked_to_end_and_then_killed() -> None:
    asked = ["sh", "-c", "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 0.01; done"]
    with subprocess.Popen(supervised(asked, 5), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert (process.stdout.read(), process.wait(_SOON_S)) == ("asked\n", 3)
    stubborn = ["sh", "-c", "trap '' TERM; echo up; exec sleep 60"]
    with subprocess.Popen(supervised(stubborn, 0.1), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(_SOON_S) != 0


def test_command_ends_with_supervisor_that_is_killed() -> None:
    with subprocess.Popen(supervised(SLEEP, 5), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        assert ended(child)


def test_child_of_a_test_worker_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = child_environment({"GPU": "0"}, without=("OMP_",))
    assert environment.keys() ^ os.environ.keys() >= {"PYTEST_XDIST_WORKER", "OMP_NUM_THREADS", "GPU"}
    assert (environment["GPU"], environment["PYTHONUNBUFFERED"]) == ("0", "1")
    assert environment["PATH"] == os.environ["PATH"]
