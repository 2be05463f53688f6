"""Options of `pytest serve_tests` that are refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.errors import InputError
from fixtures.sessions.options import Options
from fixtures.sessions.serve_session import ServeSession
from fixtures.triton.live import LiveServer
from fixtures.triton.server import Endpoint
from meta_tests.branches import recorded
from meta_tests.served import SERVED_SPEC

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture
def options(tmp_path: Path, bundle_root: Path) -> Options:
    """Of the small spec."""
    spec = tmp_path / "served.yaml"
    spec.write_text(SERVED_SPEC)
    return Options(spec=str(spec), device="cpu", models_root=str(bundle_root), onnx_dir=str(tmp_path / "absent"))


def test_a_thousand_answers_are_checked_by_default(pytestconfig: pytest.Config, options: Options) -> None:
    assert ServeSession.prepare(pytestconfig, options).requests == 1000


@pytest.mark.parametrize("lists", [True, False])
def test_named_server_without_a_fused_file_is_asked_for_none(
    pytestconfig: pytest.Config, options: Options, monkeypatch: pytest.MonkeyPatch, lists: bool
) -> None:
    """Its repository is not here to read, so that its index counts."""
    monkeypatch.setenv("TRITON_HTTP_URL", "localhost:1")
    monkeypatch.setattr(LiveServer, "why_absent", lambda _, model: None if lists else f"no {model}")
    session = ServeSession.prepare(pytestconfig, options)
    monkeypatch.setattr(ServeSession, "live", LiveServer(Endpoint("localhost:1", "localhost:2")))
    assert session.has_fused(recorded()) == lists


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"requests": "0"}, "--requests: value='0', expected 1 to 1000000. Write a number."),
        ({"requests": "1000001"}, "--requests: value='1000001', expected 1 to 1000000. Write a number."),
        ({"requests": "many"}, "--requests: value='many', expected 1 to 1000000. Write a number."),
        ({"model_repository": "absent"}, "--model-repository absent: folder=No such file or directory"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_option_is_refused(
    pytestconfig: pytest.Config, options: Options, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        ServeSession.prepare(pytestconfig, replace(options, **changes))
    assert str(caught.value).startswith(says)
