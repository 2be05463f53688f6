"""The server of the memory pass: it imports beside the session, and is there no longer than it is wanted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from meta_tests.conftest import HANGS_S, ROOT, Suite, environment, wait_until

BEGIN = "from fixtures.measure.fork_server import *; fork_server(); print('begun', flush=True); input()"
END = "; end_fork_server(); print('ended', flush=True); input()"


def servers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The servers that a process has started and that have not ended."""
    return [child for child in psutil.Process(process.pid).children() if _is_a_server(child)]


def _is_a_server(child: psutil.Process) -> bool:
    try:
        return "multiprocessing.forkserver" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:  # of a zombie, too
        return False


def wait_for_a_server(process: subprocess.Popen[str]) -> None:
    """Until the server that a process has started is seen: its command line can be read only a moment later."""
    wait_until(lambda: len(servers_of(process)) == 1)


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=pipe, stdout=pipe, text=True, bufsize=1
    ) as process:
        yield process
        process.communicate("\n")


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    assert any(words in line for line in process.stdout)


def test_it_ends_with_a_run_that_is_killed_while_it_imports() -> None:
    with started([sys.executable, "-c", BEGIN]) as process:
        read_until(process, "begun")
        wait_for_a_server(process)
        (server,) = servers_of(process)
        wait_until(lambda: server.cpu_times().user > 0.5)  # of about five: it is importing
        server.suspend()  # whoever reads what the run says need not wait until all is imported
        process.kill()
        assert psutil.wait_procs([server], timeout=HANGS_S)[1] == []


def test_it_is_ended_where_nobody_wants_it() -> None:
    with started([sys.executable, "-c", BEGIN + END]) as process:
        read_until(process, "begun")
        wait_for_a_server(process)
        for server in servers_of(process):
            server.suspend()
        assert process.stdin is not None
        process.stdin.write("\n")
        read_until(process, "ended")
        wait_until(lambda: not servers_of(process))


def test_a_run_without_a_memory_pass_is_not_disturbed_by_it(suite: Suite, small_spec: Path) -> None:
    arguments = ("--spec", str(small_spec), "--run-id", "r", "-k", "test_latency", "-s")
    with started([sys.executable, "-u", *suite.command(*arguments)[1:]]) as process:
        read_until(process, "loading weights")
        assert not servers_of(process)
    assert process.returncode == 0


def test_a_long_folder_of_temporary_files_is_no_obstacle(suite: Suite, small_spec: Path, tmp_path: Path) -> None:
    """The path of a socket has 107 bytes."""
    folder = tmp_path / ("f" * 100)
    folder.mkdir()
    command = suite.command("--spec", str(small_spec), "--run-id", "r", "-k", "test_memory and b1")
    ended = subprocess.run(
        command, cwd=ROOT, env={**environment(), "TMPDIR": str(folder)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


@pytest.mark.parametrize(
    ("module", "late"),
    [
        # It starts the server, which is to import beside all that the session imports.
        ("conftest", {"torch", "onnxruntime"}),
        # The main module of a worker, which every process of the memory pass imports anew.
        ("fixtures.sessions.worker", {"torch", "pytest"}),
    ],
)
def test_what_comes_first_imports_little(module: str, late: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    ).stdout.split()
    assert module in imported
    assert not late.intersection(imported)
