"""The hooks and fixtures of bench_tests; the session does the work."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from fixtures.cases import Case
from fixtures.sessions.pytest_plugin import BENCH, session_of

if TYPE_CHECKING:
    from fixtures.sessions.bench import Bench
    from fixtures.sessions.bench_session import BenchSession


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    _session(metafunc.config).parametrize(metafunc)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A case that did not pass leaves no time in the benchmark JSON."""
    report = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if benchmark is not None and report.outcome != "passed":
        benchmark.has_error = True
    return report


@pytest.fixture(name="case")
def _case(request: pytest.FixtureRequest) -> Case:
    return _session(request.config).begin(request.node, request.param)


@pytest.fixture(name="bench")
def _bench(request: pytest.FixtureRequest) -> Generator[Bench, None, None]:
    session = _session(request.config)
    yield session.bench
    session.between_tests()


def _session(config: pytest.Config) -> BenchSession:
    session: BenchSession = session_of(config, BENCH)
    return session
