"""fixtures/sessions/pytest_plugin.py: each suite has its session, and a session without tests writes nothing."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from fixtures.errors import InputError
from fixtures.sessions.pytest_plugin import (
    BENCH,
    EXPORT,
    SERVE,
    begin_sessions,
    names_only,
    remove_empty_storage,
    session_of,
    suites_of,
)
from meta_tests.conftest import ROOT, Ended, Suite, environment


@dataclass(frozen=True)
class _Invocation:
    dir: Path


@dataclass(frozen=True)
class _Config:
    """As much of pytest's configuration as the choice of sessions depends on."""

    args: list[str]
    invocation_params: _Invocation = _Invocation(ROOT)
    option: argparse.Namespace = field(default_factory=argparse.Namespace)


def config(*arguments: str, folder: Path = ROOT, switch: str = "", **given: Any) -> pytest.Config:
    switches = ("help", "version", "markers", "collectonly", "setuponly", "showfixtures", "show_fixtures_per_test")
    option = argparse.Namespace(**{name: name == switch for name in switches}, **given)
    return cast(pytest.Config, _Config(list(arguments), _Invocation(folder), option))


@pytest.mark.parametrize(
    ("arguments", "folder", "expected"),
    [
        (["meta_tests"], ROOT, []),
        (["bench_tests"], ROOT, [BENCH]),
        (["bench_tests/test_latency.py::test_latency[a-b1]"], ROOT, [BENCH]),
        (["serve_tests", "export_tests/"], ROOT, [EXPORT, SERVE]),
        (["."], ROOT, [BENCH, EXPORT, SERVE]),
        ([str(ROOT)], Path("/"), [BENCH, EXPORT, SERVE]),
        (["."], ROOT / "export_tests", [EXPORT]),
        (["../bench_tests"], ROOT / "docs", [BENCH]),
        (["bench_tests"], ROOT / "docs", []),
    ],
)
def test_suites_are_those_that_the_command_line_covers(arguments: list[str], folder: Path, expected: list[Any]) -> None:
    assert suites_of(config(*arguments, folder=folder)) == expected


@pytest.mark.parametrize("switch", ["help", "version", "markers"])
def test_pytest_explaining_itself_has_no_session(switch: str) -> None:
    assert suites_of(config("bench_tests", switch=switch)) == []


def test_two_processes_of_xdist_are_refused() -> None:
    for given in ({"numprocesses": 2}, {"numprocesses": None, "dist": "load"}):
        with pytest.raises(InputError, match=r"processes=several, expected one process.*Leave out -n\."):
            begin_sessions(config("bench_tests", **given))


def test_fixture_of_a_suite_without_a_session_says_what_to_name() -> None:
    without = cast(Any, config())
    object.__setattr__(without, "pluginmanager", pytest.PytestPluginManager())
    with pytest.raises(pytest.UsageError, match=r"bench_tests: path=none, expected its folder or files\. Name "):
        session_of(without, BENCH)


def test_session_without_tests_is_known_by_its_switches() -> None:
    for switch in ("collectonly", "setuponly", "showfixtures", "show_fixtures_per_test"):
        assert names_only(config("bench_tests", switch=switch))
    assert not names_only(config("bench_tests"))


def test_folder_of_pytest_benchmark_is_removed_where_no_run_was_saved(tmp_path: Path) -> None:
    storage = tmp_path / ".benchmarks" / "a_gpu"
    storage.mkdir(parents=True)
    (storage / "0001_saved.json").touch()
    given = config(benchmark_storage=f"file://{storage}")
    remove_empty_storage(given)
    assert storage.exists()
    (storage / "0001_saved.json").unlink()
    remove_empty_storage(given)
    assert list(tmp_path.iterdir()) == []
    remove_empty_storage(config())  # without pytest-benchmark


# --- whole sessions ---


@dataclass(frozen=True)
class AllSuites(Suite):
    """Runs pytest on the whole checkout, or on several suites."""

    tests: tuple[str, ...] = (".",)

    def arguments(self, *arguments: str) -> list[str]:
        """What follows `pytest` on the command line."""
        _, *rest = super().arguments("--onnx-dir", str(self.folder / "onnx"))
        return [*self.tests, *rest, *arguments]


def collected(ended: Ended) -> set[str]:
    """The test folders of which something was collected."""
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return {line.split("/")[0] for line in ended.stdout.splitlines() if "::" in line}


def test_whole_checkout_and_several_suites_at_once_are_collected(
    tmp_path: Path, bundle_root: Path, small_spec: Path
) -> None:
    """Of the tests in meta_tests, those with a parameter that is called `branch`, too, are enough."""
    whole = AllSuites(tmp_path, bundle_root)
    others = ("--ignore-glob=meta_tests/test_[!t]*", "--ignore-glob=meta_tests/test_t[!r]*")
    collect = ("--collect-only", "-q", "--spec", str(small_spec), *others)
    assert collected(whole.run(*collect)) >= {"bench_tests", "export_tests", "serve_tests", "meta_tests"}
    several = replace(whole, tests=("serve_tests", "bench_tests"))
    ended = several.run(*collect, "-k", "midas_small_64-b1")
    assert collected(ended) == {"bench_tests", "serve_tests"}
    assert "bench_tests/test_latency.py::test_latency[midas_small_64-b1-fp32-torch]" in ended.stdout
    assert "serve_tests/test_serving.py::test_reload[midas_small_64-b1-fp32]" in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"small.yaml", "said.out", "said.err"}


@pytest.mark.parametrize(
    ("switch", "tests", "shows"),
    [
        (
            "--setup-plan",
            ("bench_tests", "export_tests", "serve_tests"),
            "test_latency[midas_small_64-b1-fp32-torch] (",
        ),
        ("--setup-only", ("bench_tests",), "test_latency[midas_small_64-b1-fp32-torch] (fixtures used"),
        ("--fixtures", ("bench_tests",), "benchmark -- "),
    ],
    ids=["setup-plan", "setup-only", "fixtures"],
)
def test_session_that_runs_no_test_writes_and_removes_nothing(
    suite: Suite, small_spec: Path, switch: str, tests: tuple[str, ...], shows: str
) -> None:
    json_path = suite.folder / "bench.json"
    json_path.write_text("of an earlier run")
    suites = AllSuites(suite.folder, suite.models_root, tests=tests)
    ended = suites.run(switch, "--spec", str(small_spec), f"--benchmark-json={json_path}", "-k", "b1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert shows in ended.stdout
    assert json_path.read_text() == "of an earlier run"
    assert {path.name for path in suite.folder.iterdir()} == {"bench.json", "small.yaml", "said.out", "said.err"}


def test_test_without_parameters_is_an_error_and_not_skipped(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Plain(Suite):
        def arguments(self, *arguments: str) -> list[str]:
            return ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", *arguments]

    test = tmp_path / "test_pages.py"
    test.write_text("import pytest\n\n\n@pytest.mark.parametrize('page', [])\ndef test_page(page): ...\n")
    ended = Plain(tmp_path, tmp_path).run(str(test))
    assert ended.returncode == pytest.ExitCode.INTERRUPTED
    assert "Empty parameter set in 'test_page'" in ended.stdout


def test_help_needs_no_torch() -> None:
    modules = {"conftest", "bench_tests.conftest", "export_tests.conftest", "serve_tests.conftest"}
    command = [sys.executable, "-c", f"import sys, {', '.join(modules)}; print(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert modules <= imported
    assert not {"torch", "onnxruntime", "tritonclient", "rich"} & imported
