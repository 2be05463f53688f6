"""fixtures/sessions/progress.py: a folder that takes long shows how far it is, and a quick one shows nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fixtures.sessions.progress import counted_on_terminal

FILES = [Path(f"{index}.png") for index in range(6)]


@pytest.mark.parametrize("seconds_each", [0.1, 3.0], ids=["quick", "slow"])
def test_reading_a_folder_shows_its_progress(
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    seconds_each: float,
) -> None:
    clock = itertools.count(0.0, seconds_each)
    monkeypatch.setattr("fixtures.sessions.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(pytestconfig.pluginmanager, "getplugin", lambda _name: None)  # so that capfd sees it
    assert list(counted_on_terminal(pytestconfig)(FILES, "frames")) == FILES
    shown = capfd.readouterr().out
    assert ("reading frames: " in shown) == (seconds_each == 3.0)
    assert shown.count("of 6") < 6
