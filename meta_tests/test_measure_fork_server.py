"""fixtures.measure.fork_server: it imports beside the session, and ends with it or as soon as it is not needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import psutil
import pytest

from fixtures.measure.fork_server import fork_server
from meta_tests.conftest import ROOT, Suite, _main, children_with, environment, wait_until

ANSWERS_S = 60
BEGIN = "from fixtures.measure.fork_server import *; fork_server(); print('begun', flush=True); input()"
END = "; end_fork_server(); print('ended', flush=True); input()"


def servers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The fork servers that a process has started and that have not ended."""
    return children_with(process, "multiprocessing.forkserver")


@contextmanager
def started(code: str) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A process that starts a fork server and waits, and the server, suspended while it imports."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=pipe, stdout=pipe, text=True) as process:
        read_line(process, "begun")
        # A server's command line can be read only a moment after the server has started.
        wait_until(lambda: len(servers_of(process)) == 1, ANSWERS_S)
        (server,) = servers_of(process)
        wait_until(lambda: server.cpu_times().user > 0.5, ANSWERS_S)  # of about five: it is importing
        server.suspend()
        yield process, server
        process.communicate("\n")


def read_line(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{expected}\n"


def test_server_ends_with_a_run_that_is_killed_while_it_imports() -> None:
    with started(BEGIN) as (process, server):
        process.kill()
        assert psutil.wait_procs([server], timeout=ANSWERS_S)[1] == []


def test_end_fork_server_kills_a_server_that_imports() -> None:
    with started(BEGIN + END) as (process, _):
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        read_line(process, "ended")
        wait_until(lambda: not servers_of(process), ANSWERS_S)


def _session_that_marks_the_end_of_its_server(arguments: list[str], folder: Path) -> None:
    with mock.patch("fixtures.sessions.bench_session.end_fork_server", (folder / "server_ended").touch):
        _main(arguments, folder / "stdout", folder / "stderr")


@pytest.mark.parametrize(("selected", "is_ended"), [("test_latency", True), ("test_memory", False)])
def test_session_ends_the_server_only_without_a_memory_pass(
    suite: Suite, small_spec: Path, selected: str, is_ended: bool
) -> None:
    arguments = suite.arguments("--spec", str(small_spec), "--run-id", "r", "-k", f"{selected} and midas_small_64-b1")
    process = fork_server().Process(target=_session_that_marks_the_end_of_its_server, args=(arguments, suite.folder))
    process.start()
    process.join()
    assert process.exitcode == 0, (suite.folder / "stdout").read_text()
    assert (suite.folder / "server_ended").exists() is is_ended


ANSWER = """
import os
from fixtures.measure import fork_server
fork_server._PRELOAD.clear()
process = fork_server.fork_server().Process(target=os._exit, args=(7,))
process.start()
process.join()
print(process.exitcode)
"""


def test_server_starts_where_the_folder_of_temporary_files_has_a_long_path(tmp_path: Path) -> None:
    """The path of a socket has at most 107 bytes."""
    folder = tmp_path / ("f" * 100)
    folder.mkdir()
    env = {**environment(), "TMPDIR": str(folder)}
    ended = subprocess.run(
        [sys.executable, "-c", ANSWER], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("7\n", "")


@pytest.mark.parametrize(
    ("module", "late"),
    [
        # Starts the server, which imports while the session does.
        ("conftest", {"torch", "onnxruntime"}),
        # The main module of a worker; every process of the memory pass imports it again.
        ("fixtures.sessions.worker", {"torch", "pytest"}),
    ],
)
def test_first_modules_of_a_process_import_neither_torch_nor_pytest(module: str, late: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    ).stdout.split()
    assert module in imported
    assert not late.intersection(imported)
