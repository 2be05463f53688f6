"""Fixtures and helpers of several meta tests: a small synthetic bundle, a small spec, the suite as a process."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import psutil
import pytest

from fixtures.measure import fork_server as fork_server_module
from fixtures.measure.fork_server import fork_server
from fixtures.processes import child_environment
from fixtures.sessions.pytest_plugin import suites_of
from fixtures.triton.installation import Installation, NoServerError
from meta_tests.digests import keep_digests
from meta_tests.forked import prepare_session

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

    from meta_tests.served import SmallServer

ROOT = Path(__file__).parent.parent

# Seconds after which a process hangs. A judgment: the slowest sessions that tests run take 60 s on two quiet cores
# (`pytest meta_tests --durations=20`), and a busy machine is three times as slow; what hangs fails in minutes.
HANGS_S = 300.0
# Seconds after which another process will not do what it should. The same judgment for what takes up to 20 s.
COMES_ABOUT_S = 120.0
# CPU seconds of `python -c "import numpy, pydantic, scipy.special"` on the machine where limits of seconds were set.
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


# Sessions of tests are forked from the fork server, which imports more for them.
if "meta_tests.preloaded" not in fork_server_module._PRELOAD:
    fork_server_module._PRELOAD.append("meta_tests.preloaded")


def pytest_configure(config: pytest.Config) -> None:
    """A warning is an error in a session of these tests alone; beside a suite, that suite's warnings are none."""
    if not suites_of(config):
        config.addinivalue_line("filterwarnings", "error")
        config.addinivalue_line("filterwarnings", "ignore:Not saving anything")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """For `--dist loadfile`: files that need the same process or library share a worker."""
    if config.getvalue("dist") != "loadfile":
        return None
    from meta_tests.scheduling import Scheduling  # noqa: PLC0415 (pytest-xdist may be absent)

    return Scheduling(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What has been imported is no garbage; looking through it takes a quarter of a second each time.

    Garbage of the tests themselves is looked for after 10,000 objects instead of 700, which spares those that read
    and write many documents 3 to 15 of 100 CPU seconds.
    """
    if not suites_of(session.config):
        gc.freeze()
        gc.set_threshold(10_000)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Plug-ins that import at the end, and the interpreter itself, look for what refers to an object."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch  # noqa: PLC0415 (two CPU seconds, which the process that hands out the tests is spared)

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU, and torch finds none")


@pytest.fixture(scope="session", autouse=True)
def _kept_operator_table() -> None:
    """Where something of the run may export; what the exporter needs takes a second to import."""
    if "fixtures.export.exporter" in sys.modules:
        from meta_tests.operator_table import keep_operator_table  # noqa: PLC0415

        keep_operator_table()


@pytest.fixture(scope="session", autouse=True)
def _kept_digests() -> None:
    keep_digests()


@pytest.fixture(scope="session")
def bundle_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic models root with MiDaS_small and raft_small; a test may replace files in a copy of it."""
    from meta_tests.bundles import synthetic_bundle  # noqa: PLC0415 (imports torch, as above)

    return synthetic_bundle(tmp_path_factory.mktemp("bundle") / "root", ["MiDaS_small", "raft_small"])


@pytest.fixture
def small_spec(tmp_path: Path) -> Path:
    """A spec of four cases that a CPU measures in seconds."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_SPEC)
    return path


@pytest.fixture(scope="session")
def installation() -> Installation:
    """The environment of `make serve-env`; a test that asks for it is skipped where there is none."""
    try:
        return Installation.find(None)
    except NoServerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def small_server(
    tmp_path_factory: pytest.TempPathFactory, installation: Installation, bundle_root: Path
) -> Iterator[SmallServer]:
    """A real server with the branches of MiDaS_small and raft_small: one for all tests of a process."""
    from meta_tests.served import small_server_in  # noqa: PLC0415 (imports this module)

    with small_server_in(tmp_path_factory.mktemp("served"), installation, bundle_root) as server:
        yield server


@pytest.fixture
def stored_references() -> Iterator[None]:
    """Gates and judges of this process read the outputs of torch modules from the cache."""
    from meta_tests.references import references_kept  # noqa: PLC0415 (what it imports takes seconds)

    with references_kept():
        yield


@pytest.fixture
def one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw of rounding errors instead of four; each evaluates the model again. test_export_gate.py makes all."""
    monkeypatch.setattr("fixtures.export.accuracy._DRAWS", 1)


@pytest.fixture
def own_environment() -> Iterator[None]:
    """The environment variables that a session sets for its process are unset after the test."""
    with mock.patch.dict(os.environ):
        yield


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a process that has ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Suite:
    """Runs `pytest bench_tests` in a process of its own, with its outputs under `folder`."""

    folder: Path
    models_root: Path
    device: str = "cpu"
    variables: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, *arguments: str) -> list[str]:
        """Command line after `pytest`."""
        always = ("bench_tests", "-p", "no:cacheprovider", "--device", self.device, "--out", str(self.folder / "out"))
        return [*always, "--models-root", str(self.models_root), *arguments]

    def command(self, *arguments: str) -> list[str]:
        """Whole command line, for a process that is started without the fork server."""
        return [sys.executable, "-m", "pytest", *self.arguments(*arguments)]

    def start(self, *arguments: str, words: str = "said") -> BaseProcess:
        """Begin to run, in a process forked from one that has imported torch, which takes eight seconds.

        Args:
            words: beginning of the names of the files with its output.
        """
        outputs = (self.folder / f"{words}.out", self.folder / f"{words}.err")
        given = (self.arguments(*arguments), *outputs, self.variables)
        process = fork_server().Process(target=_main, args=given)
        process.start()
        return process

    def ended(self, process: BaseProcess, words: str = "said") -> Ended:
        """Wait for the end of a process that was started."""
        process.join(timeout=HANGS_S)
        stdout, stderr = ((self.folder / f"{words}.{end}").read_text() for end in ("out", "err"))
        if process.exitcode is None:
            process.kill()
            pytest.fail(f"still running after {HANGS_S:g} s: {stdout}")
        return Ended(process.exitcode, stdout, stderr)

    def run(self, *arguments: str) -> Ended:
        """Run to the end."""
        return self.ended(self.start(*arguments))


def _main(arguments: list[str], stdout: Path, stderr: Path, variables: Mapping[str, str] | None = None) -> None:
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    prepare_session({**environment(), **(variables or {})})
    # pytest cannot rewrite the asserts of modules that the fork server has already imported.
    sys.exit(pytest.main(["--assert=plain", *arguments]))


@pytest.fixture
def suite(tmp_path: Path, bundle_root: Path) -> Suite:
    """The suite on the small bundle."""
    return Suite(tmp_path, bundle_root)


def wait_until(holds: Callable[[], bool], seconds: float = COMES_ABOUT_S) -> None:
    """Wait until a condition holds that another process brings about; fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.01)


def children_with(parent: subprocess.Popen[str], words: str) -> list[psutil.Process]:
    """The running children of a process that have some words in their command line."""
    return [child for child in psutil.Process(parent.pid).children() if words in _command_line(child)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended after it was listed; raised for a zombie, too
        return ""


def environment() -> dict[str, str]:
    """Environment variables of this process without those of the suite and of pytest."""
    return child_environment(without=("DP_", "PYTEST_"))


def cpu_seconds(command: Sequence[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command to the end. Returns it and its CPU seconds, which other busy processes do not lengthen."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def slowness() -> float:
    """How many times longer a process takes now than where limits of seconds were set; at least 1."""
    program = "import numpy, pydantic, scipy.special"  # no module of the suite: a slower suite must not move a limit
    return max(1.0, cpu_seconds([sys.executable, "-c", program])[1] / _STARTS_S)
