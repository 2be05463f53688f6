"""The hooks and fixtures of export_tests; the session does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fixtures.cases import Export
from fixtures.sessions.pytest_plugin import EXPORT, session_of

if TYPE_CHECKING:
    from fixtures.export.gate import Gate
    from fixtures.sessions.export_session import ExportSession, ParityCase


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    _session(metafunc.config).parametrize(metafunc)


@pytest.fixture(name="exports")
def _exports(request: pytest.FixtureRequest) -> ExportSession:
    return _session(request.config)


@pytest.fixture(name="export")
def _export(request: pytest.FixtureRequest, exports: ExportSession) -> Export:
    return exports.export(request.param)


@pytest.fixture(name="parity_case")
def _parity_case(request: pytest.FixtureRequest, exports: ExportSession) -> ParityCase:
    return exports.parity_case(request.param)


@pytest.fixture(name="gate")
def _gate(export: Export, exports: ExportSession) -> Gate:
    return exports.gate(export)


def _session(config: pytest.Config) -> ExportSession:
    session: ExportSession = session_of(config, EXPORT)
    return session
