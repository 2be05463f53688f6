"""The suite's side of pytest: options, the `case` parameter, machine info and result hooks. No logic of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fixtures.cases import Case, Export
from fixtures.errors import InputError
from fixtures.measure.fork_server import fork_server
from fixtures.sessions import pytest_plugin
from fixtures.sessions.options import Options
from fixtures.sessions.pytest_plugin import BENCH_TESTS, EXPORT_TESTS, SERVE_TESTS

if TYPE_CHECKING:
    from fixtures.export.gate import Gate
    from fixtures.sessions.bench import Bench
    from fixtures.sessions.bench_session import BenchSession
    from fixtures.sessions.export_session import ExportSession, ParityCase
    from fixtures.sessions.serve_session import ServeSession
    from fixtures.triton.branches import ServedBranch

_SESSION: pytest.StashKey[BenchSession] = pytest.StashKey()
_EXPORTS: pytest.StashKey[ExportSession] = pytest.StashKey()
_SERVING: pytest.StashKey[ServeSession] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pretriton", "measuring and exporting fixed branches")
    group.addoption("--spec", help="YAML spec (default: the one in specs/ for the device)")
    group.addoption("--variants", metavar="NAME[,NAME]", help="only these variants of the spec")
    # No `choices`: pytest would refuse a wrong value itself, in its own words and with its own exit code.
    group.addoption("--device", metavar="auto|cuda|cpu", default="auto")
    group.addoption("--dtype", metavar="fp32|tf32|fp16", help="precision class, instead of the spec's")
    group.addoption("--models-root", help="folder of the checkpoints (default: DP_MODELS_ROOT)")
    group.addoption("--offline", action=argparse.BooleanOptionalAction, default=True, help="refuse the network")
    group.addoption("--frames", metavar="DIR", help="PNG or JPEG files (default: photographs of scikit-image)")
    group.addoption("--audio", metavar="DIR", help="WAV files (default: music that the suite synthesises)")
    group.addoption("--prompts", metavar="FILE", help="text with a prompt a line (default: prompts of the suite)")
    group.addoption("--out", metavar="DIR", default="out", help="where runs are kept (default: out)")
    group.addoption("--run-id", help="name of the run's folder (default: date, device and process)")
    group.addoption("--resume", action="store_true", help="go on with --run-id, or with the newest run")
    group.addoption("--claims", metavar="DIR", help="measure what no other worker has claimed there (tools.run_shards)")
    group.addoption("--onnx-dir", metavar="DIR", default="models/optimized", help="where exported files are published")
    group.addoption("--choice", metavar="FILE", help="export and serve what was chosen (tools.choose_branches)")
    group.addoption("--target-python", metavar="FILE", help="interpreter whose ONNX Runtime has to load the files too")
    group.addoption("--triton-python", metavar="FILE", help="interpreter of the server's environment (make serve-env)")
    group.addoption("--model-repository", metavar="DIR", help="repository to prove (default: one of the spec's files)")
    group.addoption("--requests", metavar="N", default="1000", help="answers to check under load (default: 1000)")
    group.addoption("--perf-csv", metavar="FILE", help="measure served branches under several clients at once, too")


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Bad input ends with one message and exit code 2, wherever it was found."""
    try:
        return (yield)
    except pytest.UsageError as error:
        if not isinstance(error.__cause__, InputError):
            raise
        sys.stderr.write(f"ERROR: {error}\n")
        return 2


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA GPU; skipped, by name, where there is none")
    config.addinivalue_line("markers", "on_cuda: a check of the gate that needs --device cuda")
    config.addinivalue_line("markers", "on_target: a check of the gate that needs --target-python")
    config.addinivalue_line("markers", "on_server: needs a Triton server, one of our own or TRITON_HTTP_URL")
    with pytest_plugin.usage_errors():
        # A session takes seconds to import, which others need not wait for.
        if pytest_plugin.wants(config, BENCH_TESTS):
            pytest_plugin.refuse_xdist(config)
            if not config.option.collectonly:
                fork_server()  # imports beside this process, which is about to import much the same
            from fixtures.sessions.bench_session import BenchSession  # noqa: PLC0415

            config.stash[_SESSION] = BenchSession.prepare(config, _options(config))
        if pytest_plugin.wants(config, EXPORT_TESTS):
            pytest_plugin.refuse_xdist(config)
            from fixtures.sessions.export_session import ExportSession  # noqa: PLC0415

            config.stash[_EXPORTS] = ExportSession.prepare(_options(config))
        if pytest_plugin.wants(config, SERVE_TESTS):
            pytest_plugin.refuse_xdist(config)
            from fixtures.sessions.serve_session import ServeSession  # noqa: PLC0415

            config.stash[_SERVING] = ServeSession.prepare(_options(config))


def pytest_report_header(config: pytest.Config) -> list[str]:
    stash = config.stash
    sessions = (stash.get(_SESSION, None), stash.get(_EXPORTS, None), stash.get(_SERVING, None))
    return [line for session in sessions if session for line in session.header()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = metafunc.config.stash[_SESSION].plan.cases
        metafunc.parametrize("case", [case.id for case in cases], indirect=True)
    if "export" in metafunc.fixturenames:
        exports = metafunc.config.stash[_EXPORTS].exports
        metafunc.parametrize("export", [export.id for export in exports], indirect=True)
    if "parity_case" in metafunc.fixturenames:
        parity_cases = metafunc.config.stash[_EXPORTS].parity_cases
        metafunc.parametrize("parity_case", [case.id for case in parity_cases], indirect=True)
    if "branch" in metafunc.fixturenames and _SERVING in metafunc.config.stash:
        exports = metafunc.config.stash[_SERVING].exports
        metafunc.parametrize("branch", [export.id for export in exports], indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    pytest_plugin.skip_gpu_tests(items)
    with pytest_plugin.usage_errors():
        if session := config.stash.get(_SESSION, None):
            session.select(items)
        if exports := config.stash.get(_EXPORTS, None):
            exports.select(items, collect_only=config.option.collectonly)
        if serving := config.stash.get(_SERVING, None):
            serving.select(items, collect_only=config.option.collectonly)


@pytest.fixture(name="case")
def _case(request: pytest.FixtureRequest) -> Case:
    return request.config.stash[_SESSION].begin(request.node, request.param)


@pytest.fixture(name="bench")
def _bench(request: pytest.FixtureRequest) -> Generator[Bench, None, None]:
    session = request.config.stash[_SESSION]
    yield session.bench
    session.between_tests()


@pytest.fixture(name="export")
def _export(request: pytest.FixtureRequest) -> Export:
    return request.config.stash[_EXPORTS].export(request.param)


@pytest.fixture(name="parity_case")
def _parity_case(request: pytest.FixtureRequest) -> ParityCase:
    return request.config.stash[_EXPORTS].parity_case(request.param)


@pytest.fixture(name="exports")
def _exports(request: pytest.FixtureRequest) -> ExportSession:
    return request.config.stash[_EXPORTS]


@pytest.fixture(name="gate")
def _gate(export: Export, exports: ExportSession) -> Gate:
    return exports.gate(export)


@pytest.fixture(name="serving")
def _serving(request: pytest.FixtureRequest) -> ServeSession:
    return request.config.stash[_SERVING]


@pytest.fixture(name="branch")
def _branch(request: pytest.FixtureRequest, serving: ServeSession) -> ServedBranch:
    return serving.branch(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A case that did not pass leaves no time in the benchmark JSON."""
    report = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if benchmark is not None and report.outcome != "passed":
        benchmark.has_error = True
    return report


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    if session := config.stash.get(_SESSION, None):
        machine_info["pretriton"] = session.environment


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    if session := config.stash.get(_SESSION, None):
        output_json["pretriton"] = session.run_record()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
    """Around pytest-benchmark, a wrapper too, which writes its JSON: whether the run is complete stands in there."""
    if bench_session := session.config.stash.get(_SESSION, None):
        bench_session.finish(int(exitstatus))
    if exports := session.config.stash.get(_EXPORTS, None):
        exports.close()
    if serving := session.config.stash.get(_SERVING, None):
        serving.close()
    result = yield
    if bench_session:
        bench_session.write_json_without_times()
    if hasattr(session.config.option, "benchmark_storage"):
        pytest_plugin.remove_empty_storage(session.config)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if session := terminalreporter.config.stash.get(_SESSION, None):
        session.report(terminalreporter)
    exports = terminalreporter.config.stash.get(_EXPORTS, None)
    if exports and exports.published:
        terminalreporter.section("published")
        for line in exports.report():
            terminalreporter.write_line(line)
    serving = terminalreporter.config.stash.get(_SERVING, None)
    if serving and serving.waterfalls:
        terminalreporter.section("error waterfall of what is served")
        for line in serving.report():
            terminalreporter.write_line(line)


def _options(config: pytest.Config) -> Options:
    return Options(
        spec=config.getoption("--spec"),
        variants=config.getoption("--variants"),
        device=config.getoption("--device"),
        dtype=config.getoption("--dtype"),
        models_root=config.getoption("--models-root"),
        offline=config.getoption("--offline"),
        frames=config.getoption("--frames"),
        audio=config.getoption("--audio"),
        prompts=config.getoption("--prompts"),
        out=_absolute(config, config.getoption("--out")),
        run_id=config.getoption("--run-id"),
        resume=config.getoption("--resume"),
        claims=_absolute(config, config.getoption("--claims")),
        choice=_absolute(config, config.getoption("--choice")),
        onnx_dir=_absolute(config, config.getoption("--onnx-dir")),
        target_python=config.getoption("--target-python"),
        triton_python=config.getoption("--triton-python"),
        perf_csv=config.getoption("--perf-csv"),
        model_repository=config.getoption("--model-repository"),
        requests=config.getoption("--requests"),
    )


def _absolute(config: pytest.Config, path: str | None) -> Any:
    """Of a path that is relative to where the command was typed."""
    return None if path is None else str(Path(config.invocation_params.dir) / path)
