"""Cases of small specs, which are never measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fixtures.cases import Case, cases_of
from fixtures.spec import load_spec
from meta_tests.conftest import SMALL_SPEC


def cases_of_sizes(tmp_path: Path, sizes: Sequence[int], batches: int = 3) -> list[Case]:
    """Cases of square variants a, b, … of these sizes, each at batches 1, 2, …"""
    entries = [
        f"  - {{name: {name}, family: midas, model: MiDaS_small, height: {size}, width: {size}}}\n"
        for name, size in zip("abcdefgh", sizes, strict=False)
    ]
    path = tmp_path / "spec.yaml"
    head = SMALL_SPEC[: SMALL_SPEC.index("  -")].replace("[1, 2]", str(list(range(1, batches + 1))))
    path.write_text(head + "".join(entries))
    return list(cases_of(load_spec(path)))
