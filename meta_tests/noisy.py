"""A pytest plugin that warns in every test, as a library does that deprecates something."""

from __future__ import annotations

import warnings

import pytest

MESSAGE = "this library will change"


def pytest_runtest_call(item: pytest.Item) -> None:
    for _ in range(3):
        warnings.warn(MESSAGE, DeprecationWarning, stacklevel=1)
