"""What several meta tests stand on: a small synthetic bundle, a small spec, and the suite as a process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import pytest
import torch

from fixtures.measure.fork_server import fork_server
from fixtures.processes import child_environment
from fixtures.sessions.pytest_plugin import suites_of
from meta_tests.bundles import synthetic_bundle
from meta_tests.forked import prepare_session

ROOT = Path(__file__).parent.parent

# A process that takes longer hangs. Far above what any takes, because a machine may be three times as slow as usual.
HANGS_S = 1200.0
# CPU seconds of a process that imports what the reading tools stand on, where limits of seconds were set.
_STARTS_S = 1.2

# Two families at their smallest sizes; a case takes about a second.
SMALL_SPEC = """\
schema_version: 1
name: small
dtype: fp32
runtimes: [torch]
batches: [1, 2]
protocol: {cpu_budget_s: 0.2, cpu_warmup_s: 0}
variants:
  - {name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 96}
  - {name: raft_small_128, family: raft, model: raft_small, height: 128, width: 128}
"""


def pytest_configure(config: pytest.Config) -> None:
    """A warning is an error in a session of these tests alone; beside a suite, that suite's warnings are none."""
    if not suites_of(config):
        config.addinivalue_line("filterwarnings", "error")
        config.addinivalue_line("filterwarnings", "ignore:Not saving anything")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and torch finds none")


@pytest.fixture(scope="session")
def bundle_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic models root with MiDaS_small and raft_small; a test may replace files in a copy of it."""
    return synthetic_bundle(tmp_path_factory.mktemp("bundle") / "root", ["MiDaS_small", "raft_small"])


@pytest.fixture
def small_spec(tmp_path: Path) -> Path:
    """A spec of four cases that a CPU measures in seconds."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_SPEC)
    return path


@pytest.fixture
def own_environment() -> Iterator[None]:
    """The environment variables that a session sets for its process are unset after the test."""
    with mock.patch.dict(os.environ):
        yield


@dataclass(frozen=True)
class Ended:
    """What a person sees of a process that has ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Suite:
    """Runs the suite as a person does, in a process of its own, with its outputs under `folder`."""

    folder: Path
    models_root: Path
    device: str = "cpu"

    def arguments(self, *arguments: str) -> list[str]:
        """What follows `pytest` on the command line."""
        always = ("bench_tests", "-p", "no:cacheprovider", "--device", self.device, "--out", str(self.folder / "out"))
        return [*always, "--models-root", str(self.models_root), *arguments]

    def command(self, *arguments: str) -> list[str]:
        """The whole command line, for a process that is started from nothing."""
        return [sys.executable, "-m", "pytest", *self.arguments(*arguments)]

    def start(self, *arguments: str, words: str = "said") -> BaseProcess:
        """Begin to run, in a process forked from one that has already imported torch: that takes eight seconds.

        Args:
            words: beginning of the names of the files with its output.
        """
        given = (self.arguments(*arguments), self.folder / f"{words}.out", self.folder / f"{words}.err")
        process = fork_server().Process(target=_main, args=given)
        process.start()
        return process

    def ended(self, process: BaseProcess, words: str = "said") -> Ended:
        """Wait for the end of a process that was started."""
        process.join(timeout=HANGS_S)
        stdout, stderr = ((self.folder / f"{words}.{end}").read_text() for end in ("out", "err"))
        if process.exitcode is None:
            process.kill()
            pytest.fail(f"it hangs: {stdout}")
        return Ended(process.exitcode, stdout, stderr)

    def run(self, *arguments: str) -> Ended:
        """Run to the end."""
        return self.ended(self.start(*arguments))


def _main(arguments: list[str], stdout: Path, stderr: Path) -> None:
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    prepare_session(environment())
    # Modules that the server has imported are too late for pytest's rewriting of asserts.
    sys.exit(pytest.main(["--assert=plain", *arguments]))


@pytest.fixture
def suite(tmp_path: Path, bundle_root: Path) -> Suite:
    """The suite on the small bundle."""
    return Suite(tmp_path, bundle_root)


def wait_until(holds: Callable[[], bool], seconds: float = 600) -> None:
    """Wait for what another process is about to do."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.01)


def environment() -> dict[str, str]:
    """The environment of a person who has set nothing."""
    return child_environment(without=("DP_", "PYTEST_"))


def cpu_seconds(command: Sequence[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """A process that has ended, and its seconds on a CPU: whoever else is busy on this machine is not in them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def slowness() -> float:
    """How much longer processes take here and now than where limits of seconds were set; at least 1."""
    program = "import numpy, pydantic, scipy.special"  # nothing of ours: what we make slower must not move a limit
    return max(1.0, cpu_seconds([sys.executable, "-c", program])[1] / _STARTS_S)
