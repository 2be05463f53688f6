"""pytest's first file: the options, and a session for each suite that the command line covers. No logic of its own."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

from fixtures.errors import InputError
from fixtures.sessions import pytest_plugin
from fixtures.sessions.options import add_options
from fixtures.standard_streams import escape_unencodable


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main() -> Generator[None, Any, Any]:
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
    escape_unencodable()
    with pytest_plugin.usage_errors():
        pytest_plugin.begin_sessions(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    pytest_plugin.remove_empty_storage(config)
