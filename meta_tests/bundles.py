"""Synthetic models roots for tests, made once for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from meta_tests.cache import Recipe, view
from tools.make_bundle import make_bundle


def synthetic_bundle(folder: Path, models: Sequence[str] = (), spec: str | None = None, seed: int = 0) -> Path:
    """A models root at a new `folder`, as `tools.make_bundle` writes it.

    Its files are shared with other tests: a test may replace one, and must not write into it.

    Args:
        models: names as in a spec.
        spec: the text of one, whose variants find their weights in it.
    """

    def make(content: Path) -> None:
        with tempfile.TemporaryDirectory() as beside:
            path = Path(beside) / "spec.yaml"
            path.write_text(spec or "")
            make_bundle(content, seed, list(models), [path] if spec else None)

    given = {"models": list(models), "spec": spec, "seed": seed}
    return view(Recipe("bundle_of_spec" if spec else "bundle", given, ("tools.make_bundle",), make), folder)
