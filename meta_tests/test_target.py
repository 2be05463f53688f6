"""Triton releases: the limits of their ONNX Runtime, and how a spec names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures import target
from fixtures.errors import InputError
from fixtures.spec import load_spec
from meta_tests.conftest import SMALL_SPEC

RELEASES = [f"{year}.{month:02}" for year in range(24, 27) for month in range(1, 13)]
KNOWN = RELEASES[RELEASES.index("24.08") : RELEASES.index("26.07") + 1]


@pytest.mark.parametrize(
    ("triton", "onnxruntime", "opset", "ir_version"),
    [
        ("24.08", "1.18.1", 21, 10),
        ("24.11", "1.18.1", 21, 10),
        ("24.12", "1.20.1", 21, 10),
        ("25.01", "1.20.1", 21, 10),
        ("25.03", "1.21.0", 22, 10),
        ("25.05", "1.22.0", 22, 10),
        ("25.08", "1.23.0", 23, 11),
        ("26.01", "1.23.0", 23, 11),
        ("26.02", "1.24.0", 25, 13),
        ("26.07", "1.27.0", 26, 13),
    ],
)
def test_release_decides_opset_and_ir_version(triton: str, onnxruntime: str, opset: int, ir_version: int) -> None:
    row = target.target_of(triton)
    assert (row.onnxruntime, row.max_opset, row.max_ir_version) == (onnxruntime, opset, ir_version)


def test_every_month_from_the_oldest_to_the_newest_is_known() -> None:
    assert [triton for triton in RELEASES if target.is_known(triton)] == KNOWN
    assert target.known_range() == f"{KNOWN[0]} to {KNOWN[-1]}"
    assert KNOWN[0] == target.OLDEST


def test_newer_release_takes_every_file_of_an_older_one() -> None:
    rows = [target.target_of(triton) for triton in KNOWN]
    limits = [(row.max_opset, row.max_ir_version) for row in rows]
    assert limits == sorted(limits)
    assert all(row.first <= triton <= row.last for triton, row in zip(KNOWN, rows, strict=True))


@pytest.mark.parametrize("triton", ["24.07", "26.08", "23.01", "99.01", "24.13", "24.00", "24.8", "24.080", "2408", ""])
def test_other_releases_are_unknown(triton: str) -> None:
    assert not target.is_known(triton)


@pytest.mark.parametrize("triton", ["24.08", "25.10", "26.07"])
def test_spec_names_a_release(tmp_path: Path, triton: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SMALL_SPEC + f'target: {{triton: "{triton}"}}\n')
    assert load_spec(path).target.triton == triton


def test_spec_without_a_release_is_for_the_oldest(small_spec: Path) -> None:
    assert load_spec(small_spec).target.triton == target.OLDEST


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{triton: "23.01"}', "target.triton='23.01', expected a Triton release from 24.08 to 26.07."),
        ('{triton: "26.08"}', "target.triton='26.08', expected a Triton release from 24.08 to 26.07."),
        ("{triton: 24.08}", "target.triton=24.08, expected a valid string."),
        ("{triton: 24.10}", "target.triton=24.1, expected a valid string."),
        ("{triton: null}", "target.triton=None, expected a valid string."),
        ("{server: x}", "target.server=an unknown key, expected one of triton."),
        ('{tritn: "24.08"}', "Did you mean 'triton'?"),
        ("24.08", "target=24.08"),
    ],
)
def test_unknown_release_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SMALL_SPEC + f"target: {text}\n")
    with pytest.raises(InputError, match=r"spec\.yaml:10: .*" + re.escape(says)):
        load_spec(path)
