"""The hooks and fixtures of serve_tests; the session does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fixtures.sessions.pytest_plugin import SERVE, session_of

if TYPE_CHECKING:
    from fixtures.sessions.serve_session import ServeSession
    from fixtures.triton.branches import ServedBranch


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    _session(metafunc.config).parametrize(metafunc)


@pytest.fixture(name="serving")
def _serving(request: pytest.FixtureRequest) -> ServeSession:
    return _session(request.config)


@pytest.fixture(name="branch")
def _branch(request: pytest.FixtureRequest, serving: ServeSession) -> ServedBranch:
    return serving.branch(request.param)


def _session(config: pytest.Config) -> ServeSession:
    session: ServeSession = session_of(config, SERVE)
    return session
